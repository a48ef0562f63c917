"""Finds the modules that can be accelerated, and the class of their new forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.checkpoint.torch_nn import check_attention, overrides, read_stack
from fastattn.checkpoint.torch_transformers import read_pretrained, shapes
from fastattn.config import Precision
from fastattn.pytorch.forward import Forward
from fastattn.pytorch.nn_forwards import AttentionForward, StackForward
from fastattn.pytorch.transformers_forward import PretrainedForward


def kind_of(module: Any) -> type[Forward] | None:
    """Return the class that replaces this module's forward; `Unsupported` for a supported kind of module with unsupported parts."""
    if (pretrained := read_pretrained(module)) is not None:
        pretrained.read(shapes)
        return PretrainedForward
    if read_stack(module) is not None:
        return StackForward
    if overrides(module, nn.MultiheadAttention, "forward") is False:
        check_attention(module)
        return AttentionForward
    return None


def find_forwards(module: Any, found: list[tuple[Any, type[Forward]]], left: list[str]) -> None:
    """Collect the outermost modules that can be accelerated, and the reasons why others of a supported kind cannot."""
    if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
        left.append(
            f"{type(module).__name__}: it is compiled, and torch.compile uses the original forward; "
            "accelerate the module that was given to torch.compile"
        )
        return
    try:
        kind = kind_of(module)
    except Unsupported as reason:
        left.append(f"{type(module).__name__}: {reason}")
        kind = None
    if kind is None:
        for child in module.children():
            find_forwards(child, found, left)
    elif all(part is not module for part, _ in found):
        found.append((module, kind))


def check_dtypes(module: Any, precision: Precision) -> None:
    """Raise ValueError for weights that are not float32, of which the kernels of another precision would never run."""
    if precision == "float32":
        return
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"precision {precision!r} needs float32 weights, got {dtype} in {type(module).__name__}'s {name}: "
                "call float() on the module first"
            )
