"""Tensors as arrays of the same memory."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import NotAccelerated

Array = NDArray[Any]

PLAIN = (torch.Tensor, torch.nn.Parameter)
IDS = (torch.int64, torch.int32)
FLOATS = (torch.float32,)


def array(name: str, x: Any, dtypes: tuple[Any, ...] = FLOATS) -> Array:
    """Return a tensor's memory as an array; `NotAccelerated` for tensors that the kernels do not support."""
    if type(x) not in PLAIN:
        raise NotAccelerated(f"{name} is a {type(x).__name__}, not a plain tensor")
    if x.device.type != "cpu":
        raise NotAccelerated(f"{name} is on the device {x.device}: the kernels run on the CPU")
    if x.dtype not in dtypes:
        raise NotAccelerated(f"{name} is {_short(x.dtype)}: the kernels take {' or '.join(map(_short, dtypes))}")
    if x.layout is not torch.strided or x.is_nested:
        raise NotAccelerated(f"{name} is a nested or sparse tensor")
    found: Array = x.detach().resolve_neg().numpy()
    return found


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
