"""A snapshot of a torch module, which notices that its parts, parameters or hooks changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastattn.pytorch.arrays import PLAIN

# Modules that compute the same in training and evaluation mode; a new module starts in training mode.
_MODELESS = {nn.ModuleList, nn.Sequential, nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Identity}
_MODELESS |= {nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh}
# The attributes of these modules that change the result.
_OPTIONS = ("eps", "normalized_shape", "approximate", "max_norm")
# Attributes of every module; parameters, submodules and hooks among them are compared one by one.
_STATE = frozenset(nn.Module().__dict__)
# Elements of each parameter that are compared in every call: a fused optimiser or `.data` writes without a new version number.
# Those of a matrix lie on its diagonal: a write to a 32nd of its rows or columns that are neighbours, or to more, shows.
_SAMPLES = 32


class Snapshot:
    """The submodules, parameters, options and hooks of a module at one moment."""

    def __init__(self, root: Any) -> None:
        modules = list(root.modules())
        self._modes = [module.__dict__ for module in modules if type(module) not in _MODELESS]
        self._dicts = [module.__dict__ for module in modules[1:]] + [module._modules for module in modules]
        self._counts = list(map(len, self._dicts))
        # Submodules; sizes, options and functions; replaced forwards, but the root's own, which is the accelerated forward.
        self._items = [(module._modules, *item) for module in modules for item in module._modules.items()]
        self._items += [
            (module.__dict__, key, value)
            for module in modules
            for key, value in module.__dict__.items()
            if key not in _STATE and not (key == "forward" and module is root)
            if type(module) not in _MODELESS or key in _OPTIONS
        ]
        self._tensors = [_record(module._parameters, key) for module in modules for key in module._parameters]
        self.parameters = [record[2] for record in self._tensors if record[2] is not None]
        shared = torch.nn.modules.module
        self._hooks = [shared._global_forward_hooks, shared._global_forward_pre_hooks]
        self._hooks += [hooks for m in modules[1:] for hooks in (m._forward_hooks, m._forward_pre_hooks)]

    def training(self) -> bool:
        """Tell whether the module or a submodule is in training mode."""
        return any(state["training"] for state in self._modes)

    def hooks(self) -> Iterator[Any]:
        """Yield torch's global hooks and those of the submodules."""
        if any(self._hooks):
            for hooks in self._hooks:
                yield from hooks.values()

    def unchanged(self) -> bool:
        """Tell whether submodules and parameters are the same; of a parameter's values a few samples are compared."""
        if list(map(len, self._dicts)) != self._counts:
            return False
        for items, key, value in self._items:
            if items.get(key) is not value:
                return False
        for slots, key, tensor, version, pointer, view, sample in self._tensors:
            if slots.get(key) is not tensor:
                return False
            if (
                (pointer is not None and tensor.data_ptr() != pointer)
                or (version is not None and tensor._version != version)
                or (view is not None and view.tobytes() != sample)
            ):
                return False
        return True


def _record(slots: Any, key: str) -> tuple[Any, ...]:
    """Return a parameter's dict and key, the parameter, its version, its address, a view of samples, and their bytes."""
    tensor = slots[key]
    if type(tensor) not in PLAIN or tensor.device.type != "cpu":
        return slots, key, tensor, None, None, None, b""
    version = None if tensor.is_inference() else tensor._version
    view = None
    if tensor.dtype is torch.float32 and tensor.numel() and tensor.is_contiguous():
        view = _diagonal(tensor.detach().numpy())
    return slots, key, tensor, version, tensor.data_ptr(), view, b"" if view is None else view.tobytes()


def _diagonal(x: Any) -> Any:
    """Return a view of elements at even distances along all axes at once, at least `_SAMPLES` where there are so many."""
    rows = x.reshape(len(x), -1)
    if rows.shape[1] == 1 or len(rows) < _SAMPLES:
        return x.reshape(-1)[:: max(1, x.size // _SAMPLES)]
    height, width = len(rows) // _SAMPLES, rows.shape[1] // _SAMPLES
    return x.reshape(-1)[:: height * rows.shape[1] + width]
