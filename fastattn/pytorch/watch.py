"""Between torch and NumPy: tensors as arrays of the same memory, and what a module consists of, to notice its changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.torch_errors import Unfit

Array = NDArray[Any]

_PLAIN = (torch.Tensor, torch.nn.Parameter)
IDS = (torch.int64, torch.int32)
FLOATS = (torch.float32,)
# What computes the same in training mode; a part that is made anew is in that mode at first.
_MODELESS = {nn.ModuleList, nn.Sequential, nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Identity}
_MODELESS |= {nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh}
# What of these parts changes the result.
_OPTIONS = ("eps", "normalized_shape", "approximate", "max_norm")
# What every module has: parameters, parts and hooks are looked at one by one.
_STATE = frozenset(nn.Module().__dict__)
# Elements of each parameter that are compared in every call: what an optimiser or `.data` writes shows in no counter.
_SAMPLES = 4


def array(name: str, x: Any, dtypes: tuple[Any, ...] = FLOATS) -> Array:
    """Return a tensor's memory as an array; `Unfit` for what the kernels do not take."""
    if type(x) not in _PLAIN:
        raise Unfit(f"{name} is a {type(x).__name__}, not a plain tensor")
    if x.device.type != "cpu":
        raise Unfit(f"{name} is on the device {x.device}: the kernels run on the CPU")
    if x.dtype not in dtypes:
        raise Unfit(f"{name} is {_short(x.dtype)}: the kernels take {' or '.join(map(_short, dtypes))}")
    if x.layout is not torch.strided or x.is_nested:
        raise Unfit(f"{name} is a nested or sparse tensor")
    found: Array = x.detach().resolve_neg().numpy()
    return found


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


class Watch:
    """What a module consists of at one moment."""

    def __init__(self, root: Any) -> None:
        modules = list(root.modules())
        self._modes = [module.__dict__ for module in modules if type(module) not in _MODELESS]
        self._dicts = [module.__dict__ for module in modules[1:]] + [module._modules for module in modules]
        self._counts = list(map(len, self._dicts))
        # Parts; and sizes, options and functions, or a forward that was replaced.  The root's own forward is the one that asks.
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
        """Tell whether the module or a part of it is in training mode."""
        return any(state["training"] for state in self._modes)

    def hooks(self) -> Iterator[Any]:
        """Yield the hooks of the module's parts."""
        if any(self._hooks):
            for hooks in self._hooks:
                yield from hooks.values()

    def unchanged(self) -> bool:
        """Tell whether the module has the same parts, with the same parameters, as far as a few elements show."""
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
    """Return where a parameter stands, the parameter, its version, its address, and some of its elements."""
    tensor = slots[key]
    if type(tensor) not in _PLAIN or tensor.device.type != "cpu":
        return slots, key, tensor, None, None, None, b""
    version = None if tensor.is_inference() else tensor._version
    view = None
    if tensor.dtype is torch.float32 and tensor.numel() and tensor.is_contiguous():
        view = tensor.detach().numpy().reshape(-1)[:: max(1, tensor.numel() // _SAMPLES)]
    return slots, key, tensor, version, tensor.data_ptr(), view, b"" if view is None else view.tobytes()
