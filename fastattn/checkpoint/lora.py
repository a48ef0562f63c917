"""A LoRA adapter: changes ``s B A`` that learn while a checkpoint's weights stay (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.adapter import PREFIX, low_rank, own_names, read_adapter
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.checkpoint.tensor_file import StoredTensor, write_tensors
from fastattn.checkpoint.weights import ADAPTER_FILES
from fastattn.runtime.files import write_json
from fastattn.runtime.rounding import rounding

__all__ = ["LoraAdapter", "LowRank", "Product", "adapter_folder"]

Array = NDArray[np.float32]


class Product(NamedTuple):
    """A linear map: the name of its module in transformers' class, its weight, and whether it makes queries or values."""

    name: str
    weight: Array
    is_usual: bool


class LowRank(NamedTuple):
    """The change of a product: weight + scale b a, with a (r, C_in) and b (C_out, r)."""

    name: str
    weight: Array
    a: Array
    b: Array
    scale: float


class LoraAdapter:
    """Changes of some products, and tensors that learn as a whole.

    products, tensors: of the model, by the names that they have in transformers' class; `tensors` that learn are changed in place.
    made: names of tensors that were made at random, which learn as a whole too.
    """

    def __init__(
        self, config: LoraConfig, products: Sequence[Product], tensors: Mapping[str, Array], made: Iterable[str] = ()
    ) -> None:
        self.config = config
        self._saved = list(dict.fromkeys([*config.saved_of(tensors), *made]))
        rng = np.random.default_rng(config.seed)
        named = {product.name: product for product in products}
        chosen = config.chosen({product.name: product.is_usual for product in products}, self._saved)
        self.changes = [_begun(named[name], config, rng) for name in chosen]
        learned = [name for name in tensors if name in self._saved or self._is_learned_bias(name)]
        # By name in transformers' class.
        self.whole = {name: tensors[name] for name in learned}

    def _is_learned_bias(self, name: str) -> bool:
        """Tell whether a tensor is a bias that learns."""
        module, _, part = name.rpartition(".")
        return part == "bias" and (self.config.bias == "all" or (self.config.bias == "lora_only" and self._changes(module)))

    def _changes(self, module: str) -> bool:
        return any(change.name == module for change in self.changes)

    @classmethod
    def read(
        cls,
        folder: Path,
        products: Sequence[Product],
        tensors: Mapping[str, Array],
        made: Iterable[str],
        others: Container[str],
    ) -> LoraAdapter:
        """Return the adapter of a folder of peft, without its changes of tensors with which nothing is computed, `others`."""
        found = read_adapter(folder)
        if is_table := [module for module, is_table in found.pairs if is_table]:
            raise CheckpointError(f"{found.where}: changes the table {is_table[0]!r}, which an adapter that learns cannot")
        names = [product.name for product in products]
        pairs = {
            _own(module, names, found.where): pair for (module, _), pair in found.pairs.items() if f"{module}.weight" not in others
        }
        whole = {_own(name, list(tensors), found.where): array for name, array in found.whole.items() if name not in others}
        # The products are those of the file, whatever its settings name.
        left_out = {"target_modules": list(pairs), "exclude_modules": None, "layers_to_transform": None}
        saved = sorted({name.rpartition(".")[0] for name in whole if not name.endswith(".bias") or f"{name[:-5]}.weight" in whole})
        try:
            config = LoraConfig.of({**found.settings.values, **left_out, "modules_to_save": saved or None, "task_type": None})
            adapter = cls(config, products, tensors, [name for name in made if name.rpartition(".")[0] not in pairs])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{found.settings.path}: {error}") from error
        taken = [
            (f"{change.name}: {letter}", mine, given)
            for change in adapter.changes
            for mine, given, letter in zip((change.a, change.b), pairs[change.name], "AB", strict=True)
        ]
        taken += [(name, tensors[name], array) for name, array in whole.items()]
        for name, mine, given in taken:
            if mine.shape != given.shape:
                raise CheckpointError(f"{found.where}: {name} has shape {given.shape}, expected {mine.shape}")
        for _, mine, given in taken:
            mine[...] = given
        adapter.config.task_type = found.settings.values.get("task_type")
        return adapter

    def change_of(self, array: Array) -> tuple[LowRank, slice] | None:
        """Return the change of a weight, and the rows of it that the weight has."""
        for change in self.changes:
            if array.ndim == 2 and np.may_share_memory(array, change.weight):
                first = (_place(array) - _place(change.weight)) // change.weight.strides[0]
                return change, slice(first, first + len(array))
        return None

    def learns(self, array: Array) -> bool:
        """Tell whether a parameter of the model learns as a whole."""
        return any(np.may_share_memory(array, other) for other in self.whole.values())

    @rounding()
    def applied(self, array: Array) -> Array:
        """Return a weight, or a part of one, with its change; the array itself if it has none."""
        found = self.change_of(array)
        if found is None:
            return array
        change, rows = found
        return np.asarray(array + low_rank(change.a, change.b[rows], change.scale))

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays by the names that peft's files have."""
        found = {}
        for change in self.changes:
            found[f"{PREFIX}{change.name}.lora_A.weight"] = change.a
            found[f"{PREFIX}{change.name}.lora_B.weight"] = change.b
        for name, array in self.whole.items():
            module, _, part = name.rpartition(".")
            found[f"{PREFIX}{module}{'.base_layer' if self._changes(module) else ''}.{part}"] = array
        return found

    def write(self, folder: Path, base: str | None) -> None:
        """Write the files of an adapter of peft."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / ADAPTER_FILES[1], {name: StoredTensor(array, "F32") for name, array in self.state_dict().items()})
        settings: dict[str, Any] = self.config.to_dict()
        for name in ("exclude_modules", "layers_to_transform", "seed"):
            del settings[name]
        settings |= {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "inference_mode": True,
            # Whole names: in peft an end may fit modules that are not computed here.
            "target_modules": [change.name for change in self.changes],
            "modules_to_save": sorted({name.rpartition(".")[0] for name in self._saved}) or None,
        }
        write_json(folder / ADAPTER_FILES[0], settings)


def adapter_folder(name: str | os.PathLike[str]) -> Path:
    """Return the folder of an adapter: a local one, or that of a name on the Hugging Face Hub."""
    folder = find_model(name)
    if not (folder / ADAPTER_FILES[0]).is_file():
        raise FileNotFoundError(f"{folder}: no adapter of peft: there is no {ADAPTER_FILES[0]}")
    return folder


def _begun(product: Product, config: LoraConfig, rng: np.random.Generator) -> LowRank:
    """Return a change as learning begins."""
    rank, (outputs, inputs), start = config.rank_of(product.name), product.weight.shape, config.init_lora_weights
    if start == "gaussian":
        a = rng.standard_normal((rank, inputs), np.float32) / np.float32(rank)
    else:
        # Kaiming's uniform distribution with a = sqrt(5): the bound is sqrt(6 / ((1 + a^2) C_in)).
        a = _uniform(rng, (rank, inputs))
    b = np.zeros((outputs, rank), np.float32) if start else _uniform(rng, (outputs, rank))
    return LowRank(product.name, product.weight, a, b, config.scale_of(product.name))


def _uniform(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return numbers from -1 to 1 divided by the root of the columns."""
    return np.asarray((2 * rng.random(shape, np.float32) - 1) * np.float32(1 / math.sqrt(shape[1])))


def _own(name: str, names: Sequence[str], where: str) -> str:
    """Return the model's name for one of an adapter."""
    found = own_names(name, names)
    if len(found) != 1:
        raise CheckpointError(f"{where}: adapts {name!r}, and the model has {', '.join(found) or 'no such product'}")
    return found[0]


def _place(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
