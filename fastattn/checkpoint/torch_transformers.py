"""Reads encoders of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.families import FAMILIES, Settings
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.reader import encoder_of
from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.checkpoint.torch_nn import patched
from fastattn.checkpoint.weights import Tensors
from fastattn.config import EncoderConfig

Array = NDArray[Any]
Read = Callable[[str, Any], Array]

_CLASSES = {family.model_class for family in FAMILIES.values()}
# Model types whose forward runs as many layers as the configuration says: of layers that share weights, or at most.
_COUNTED_BY_CONFIG = {"albert"}
_CUT_BY_CONFIG = {"nomic_bert"}
# A submodule of another class than these and the model's own may compute something else.
_PARTS = (
    nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout, nn.ModuleList, nn.Identity, nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU,
    nn.Conv1d,
)  # fmt: skip


class _ModuleTensors(Tensors):
    """The parameters of a module, in place of a folder's tensors."""

    def __init__(self, module: nn.Module, read: Read) -> None:
        self.where = type(module).__name__
        self._parameters = dict(module.named_parameters(remove_duplicate=False))
        self._read = read
        self._kept: dict[str, Array] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parameters

    def names(self) -> list[str]:
        return list(self._parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._parameters[name].shape)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if self.shape(name) != shape:
            raise CheckpointError(f"{self.where}: tensor {name!r} has shape {self.shape(name)}, expected {shape}")
        if name not in self._kept:
            self._kept[name] = self._read(name, self._parameters[name])
        return self._kept[name]


class Pretrained(NamedTuple):
    """An encoder of transformers that an `Encoder` computes."""

    module: Any

    def read(self, read: Read) -> tuple[EncoderConfig, dict[str, Array]]:
        """Return the configuration and the parameters under the encoder's names, each as `read` gives it."""
        name = type(self.module).__name__
        try:
            settings = Settings(Path(f"{name}.config"), self.module.config.to_dict())
            tensors = _ModuleTensors(self.module, read)
            _take_layers(settings, self.module, tensors.names())
            return encoder_of(settings, tensors)
        except CheckpointError as error:
            raise Unsupported(str(error)) from None


def read_pretrained(module: Any) -> Pretrained | None:
    """Return an encoder of transformers; None for any other module.

    Raises `Unsupported` if an `Encoder` does not compute one of its submodules.
    """
    classes: list[Any] = [base for base in type(module).__mro__ if base.__name__ in _CLASSES]
    base = next((base for base in classes if base.__module__.startswith("transformers.models.")), None)
    if base is None:
        return None
    if type(module).forward is not base.forward or patched(module, "forward"):
        raise Unsupported(f"it has a forward of its own, not {base.__name__}'s")
    for name, part in list(module.named_modules())[1:]:
        own = type(part).__module__ in (base.__module__, "transformers.activations")
        if not own and type(part) not in _PARTS:
            raise Unsupported(f"{name} is a {type(part).__module__}.{type(part).__name__}")
        if patched(part, "forward"):
            raise Unsupported(f"the forward of {name} was replaced")
        if isinstance(part, nn.Embedding) and part.max_norm is not None:
            raise Unsupported(f"{name} has max_norm")
    return Pretrained(module)


def _take_layers(settings: Settings, module: Any, names: list[str]) -> None:
    """Set the number and the kinds of layers to the module's, which runs all it has: some may have been cut off or appended."""
    values, model_type = settings.values, settings.values.get("model_type")
    key = "n_layers" if "n_layers" in values else "num_hidden_layers"
    if model_type not in FAMILIES or model_type in _COUNTED_BY_CONFIG:
        return
    prefixes = [alternative.layer for alternative in FAMILIES[model_type].names]
    there = [i for i in range(len(names)) if any(name.startswith(layer(settings, i)) for layer in prefixes for name in names)]
    count = max(there, default=-1) + 1
    if count and (model_type not in _CUT_BY_CONFIG or count < settings.size(key)):
        values[key] = count
    kinds = [getattr(layer, "attention_type", None) for layer in getattr(module, "layers", ())]
    if isinstance(values.get("layer_types"), list) and None not in kinds:
        values["layer_types"] = kinds


def shapes(name: str, tensor: Any) -> Array:
    """Return zeros of the tensor's shape: a `Read` for checks of names and shapes."""
    return np.zeros(tuple(tensor.shape), np.float32)
