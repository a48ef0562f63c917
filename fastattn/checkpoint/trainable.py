"""A checkpoint whose tensors change: parameters are views of the tensors, which are written back under their own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.checkpoint.heads import StoredHead
from fastattn.checkpoint.lora import LoraAdapter, Product
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.checkpoint.reader import Checkpoint, checkpoint_of
from fastattn.checkpoint.task_adapters import adapter_names
from fastattn.checkpoint.tensor_file import StoredTensor, write_tensors
from fastattn.checkpoint.weights import Entry, Tensors
from fastattn.config import EncoderConfig
from fastattn.parameters import SCHEMA

__all__ = ["TrainableCheckpoint"]

Array = NDArray[np.float32]

# Parameters whose products a LoRA adapter changes unless it names others.
_USUAL = ("attention.query", "attention.value")
# Tasks whose head ends in a product with the vocabulary, which is no module of its own where it is tied.
_OF_WORDS = ("masked-lm", "causal-lm")


class _Kept(Tensors):
    """The tensors of a model folder, of which those that are read are float32 arrays of their own."""

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        super().__init__(folder, files)
        self.kept: dict[str, Array] = {}

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return a tensor of this shape, the same array in each call, which may be changed."""
        found = super().read(name, shape)
        if name not in self.kept:
            self._arrays[name] = self.kept[name] = found = found.copy()
        return found

    def add(self, name: str, array: Array) -> None:
        """Take a tensor that is in no file."""
        self._entries[name] = Entry(Path(self.where), array.shape, "F32", partial(np.asarray, array))

    def change(self, name: str, shape: tuple[int, ...], load: Callable[[], Array]) -> None:
        """Let a tensor be what `load` returns, of float32."""
        super().change(name, shape, load)
        self.kept.pop(name, None)

    def drop(self, *names: str) -> None:
        """Forget tensors."""
        super().drop(*names)
        for name in names:
            self.kept.pop(name, None)

    def stored(self) -> dict[str, StoredTensor]:
        """Return all tensors by name: those that were read in float32, the others as they were."""
        found = {}
        for name, entry in self._entries.items():
            kept = self.kept.get(name)
            found[name] = StoredTensor(entry.load(), entry.dtype) if kept is None else StoredTensor(kept, "F32")
        return found


class _Made(_Kept):
    """Tensors that are in no file yet."""

    def __init__(self, where: Path, arrays: Mapping[str, Array]) -> None:
        self.where, self.kept, self._arrays, self._entries = str(where), {}, {}, {}
        for name, array in arrays.items():
            self.add(name, array)


class TrainableCheckpoint:
    """The encoder, and perhaps the head, of a model folder, to be trained in place.

    Parameters
    ----------
    folder : path
        As for `read_encoder`.
    task : str, optional
        Task of the head that is read too.
    num_labels : int, optional
        Classes of the head; one with random weights takes the place of a head that is missing or has another number.
    seed : int
        Of these weights: normal with standard deviation 0.02, as BERT starts.

    Raises
    ------
    CheckpointError
        The folder is no model, or has parameters that are computed from its tensors, so that they could not be written back.
    """

    def __init__(self, folder: Path, task: str | None = None, num_labels: int | None = None, seed: int = 0) -> None:
        folder = transformer_folder(folder)
        if adapter_names(Settings(folder / "config.json")):
            raise CheckpointError(f"{folder / 'config.json'}: a model with adapters for tasks cannot be trained")
        checkpoint, new = checkpoint_of(folder, _Kept), list[str]()
        if task is not None and num_labels is not None:
            checkpoint, new = _with_head(checkpoint, task, num_labels, seed)
        self._take(folder, checkpoint, task, new)

    @classmethod
    def made(cls, settings: Settings, tensors: Mapping[str, Array], task: str) -> TrainableCheckpoint:
        """Return a checkpoint of settings and tensors that are in no folder."""
        self = cls.__new__(cls)
        self._take(settings.path.parent, Checkpoint(settings, _Made(settings.path.parent, tensors)), task)
        return self

    def _take(self, folder: Path, checkpoint: Checkpoint, task: str | None, new: Sequence[str] = ()) -> None:
        """Read the parameters; new: names of tensors that were made at random for this task."""
        self._checkpoint, self._task, self._new = checkpoint, task, tuple(new)
        self._tensors = cast("_Kept", checkpoint.tensors)
        self.adapter: LoraAdapter | None = None
        stems = checkpoint._stems(checkpoint.names, checkpoint.config.num_layers)
        # Names of the encoder's modules, without a prefix.
        self._inside = {block.name for *_, block in stems}
        self.folder, self.settings = folder, checkpoint.settings.values
        self.config: EncoderConfig = checkpoint.config
        self.parameters: dict[str, Array] = checkpoint.parameters()
        self.head: StoredHead | None = None if task is None else checkpoint.head(task)
        arrays = list(self._tensors.kept.values())
        for name, array in self.parameters.items():
            if not any(np.may_share_memory(array, tensor) for tensor in arrays):
                model_type = checkpoint.settings.values["model_type"]
                raise CheckpointError(
                    f"{folder}: {name} of a {model_type} is computed from its tensors: such a model cannot be trained yet"
                )

    def add_adapter(self, config: LoraConfig) -> None:
        """Let changes of some products learn in place of the tensors; ValueError if there are some already."""
        self._check_for_adapter()
        self.adapter = LoraAdapter(config, self._products(), self._named(), map(self._name_of, self._new))

    def load_adapter(self, folder: Path) -> None:
        """Take over the adapter of a folder of peft."""
        self._check_for_adapter()
        named = self._named()
        others = {self._name_of(stored) for stored in self._tensors.names()} - set(named)
        self.adapter = LoraAdapter.read(folder, self._products(), named, map(self._name_of, self._new), others)

    def write_adapter(self, folder: Path, base: str) -> None:
        """Write the files of the adapter alone; `base` names the model that it changes."""
        if self.adapter is None:
            raise ValueError("the model has no adapter: add_adapter adds one")
        self.adapter.write(folder, base)

    def _check_for_adapter(self) -> None:
        if self.adapter is not None:
            raise ValueError("the model has an adapter already: save it, and load the model that is written to add another")

    def applied(self) -> tuple[dict[str, Array], StoredHead | None]:
        """Return the parameters and the head with the adapter."""
        if self.adapter is None:
            return self.parameters, self.head
        # Layers that share an array share the one that is made of it.
        arrays = {id(array): array for array in self.parameters.values()}
        made = {key: self.adapter.applied(array) for key, array in arrays.items()}
        parameters = {name: made[id(array)] for name, array in self.parameters.items()}
        if self.head is None:
            return parameters, None
        steps = tuple(step._replace(weight=self.adapter.applied(step.weight)) for step in self.head.steps)
        return parameters, self.head._replace(steps=steps)

    def _products(self) -> list[Product]:
        """Return the linear maps; several parameters may be parts of one."""
        checkpoint, found = self._checkpoint, dict[str, Product]()
        for _, stem, _, block in checkpoint._stems(checkpoint.names, self.config.num_layers):
            if SCHEMA[stem].kind == "matrix":
                weight = self._tensors.kept[str(checkpoint.find(f"{block.name}.weight"))]
                name, is_usual = f"{self._own}{block.name}", stem in _USUAL
                found[name] = Product(name, weight, is_usual or (name in found and found[name].is_usual))
        steps, names = [] if self.head is None else list(self.head.steps), self._named()
        for step in steps[:-1] if self._task in _OF_WORDS else steps:
            name = next(name for name, array in names.items() if array is step.weight).removesuffix(".weight")
            found[name] = Product(name, step.weight, False)
        return list(found.values())

    @property
    def _own(self) -> str:
        """What stands before the encoder's names in transformers' class: nothing in that of the encoder alone."""
        return "" if self.head is None else max(self._checkpoint.family.prefixes, key=len)

    def _name_of(self, stored: str) -> str:
        """Return the name that a stored tensor has in transformers' class."""
        checkpoint = self._checkpoint
        name = stored.removeprefix(checkpoint.prefix if stored.startswith(checkpoint.prefix) else checkpoint.wrapper)
        name = f"{name.removesuffix('.beta')}.bias" if name.endswith(".beta") else name
        return f"{self._own}{name}" if name.startswith("pooler.") or name.rpartition(".")[0] in self._inside else name

    def _named(self) -> dict[str, Array]:
        """Return the tensors that are read, by the names that they have in transformers' class."""
        return {self._name_of(stored): array for stored, array in self._tensors.kept.items()}

    def write(self, path: Path) -> None:
        """Write all tensors, as they are now and with the adapter, into one safetensors file."""
        stored = self._tensors.stored()
        if self.adapter is not None:
            stored = {name: StoredTensor(self.adapter.applied(each.array), each.dtype) for name, each in stored.items()}
        write_tensors(path, stored)


def _with_head(checkpoint: Checkpoint, task: str, num_labels: int, seed: int) -> tuple[Checkpoint, list[str]]:
    """Return a checkpoint with a head of so many classes, under the names of transformers' class, and the names of what is new."""
    head, tensors, settings = checkpoint.family.heads(checkpoint.settings).get(task), checkpoint.tensors, checkpoint.settings
    if head is None or not any(step.width == "labels" for step in head.steps):
        raise CheckpointError(f"{tensors.where}: a {checkpoint.family.title} has no head for {task}")
    own = max(checkpoint.family.prefixes, key=len)
    if checkpoint.prefix == "":
        for name in tensors.names():
            tensors.replace(name, own + name)
        checkpoint = Checkpoint(settings, tensors)
    rng, width, new = np.random.default_rng(seed), checkpoint.config.hidden_dim, list[str]()
    for step in head.steps:
        size = num_labels if step.width == "labels" else getattr(checkpoint.config, str(step.width))
        for part, names in checkpoint.step_names(step).items():
            shape = (size, width) if part == "weight" else (size,)
            found = checkpoint.find(*names)
            if found is not None and tensors.shape(found) == shape:
                continue
            # The pooler is a part of the encoder in transformers.
            name = found or (own + names[0] if names[0].startswith("pooler.") else names[0])
            new.append(name)
            array = rng.standard_normal(shape, np.float32) * np.float32(0.02) if part == "weight" else np.zeros(shape, np.float32)
            cast("_Kept", tensors).add(name, np.ones(shape, np.float32) if part == "norm_weight" else array)
        width = size
    if len(settings.values.get("id2label") or {}) != num_labels:
        settings.values["id2label"] = {str(i): f"LABEL_{i}" for i in range(num_labels)}
        settings.values["label2id"] = {f"LABEL_{i}": i for i in range(num_labels)}
    suffix = "".join(part.capitalize() for part in task.split("-"))
    settings.values["architectures"] = [checkpoint.family.model_class.removesuffix("Model") + f"For{suffix}"]
    return checkpoint, new
