"""Reads the encoder in a torch module: its configuration and its parameters, under the names that `Encoder` uses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn._fallback import Unsupported
from fastattn.config import EncoderConfig

__all__ = ["SUPPORTED", "read_module"]

Array = NDArray[Any]
Read = Callable[[str, Any], Array]

SUPPORTED = (
    "the encoders of transformers (BertModel), alone or inside another model; torch.nn.TransformerEncoder; "
    "torch.nn.TransformerEncoderLayer"
)


def read_module(module: Any) -> tuple[EncoderConfig, dict[str, NDArray[np.float32]]]:
    """Read the one encoder that a torch module is or holds, in evaluation mode, into float32 copies.

    Parameters
    ----------
    module : torch.nn.Module
        A ``torch.nn.TransformerEncoder`` or ``TransformerEncoderLayer``, an encoder of transformers, or a model with one of
        them inside.

    Returns
    -------
    config : EncoderConfig
        The sizes and choices.
    parameters : dict of str to float32 ndarray
        Copies, whatever dtype and device the module has.

    Raises
    ------
    ImportError
        torch is not installed.
    TypeError
        `module` is not a torch module.
    ValueError
        It holds no encoder of a supported kind, or several.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("reading a torch module needs torch: pip install 'fastattn[torch]'") from error
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}; supported: {SUPPORTED}")
    found: list[Any] = []
    reasons: list[str] = []
    _find(module, found, reasons)
    if len(found) != 1:
        held = f"{len(found)} encoders" if found else "; ".join(reasons) or "no encoder"
        raise ValueError(f"{type(module).__name__} must hold one encoder, found {held}; supported: {SUPPORTED}")

    def copied(name: str, tensor: Any) -> Array:
        # Not a view: that would keep the tensor.
        return np.array(tensor.detach().to("cpu", torch.float32).numpy(), np.float32)

    stack = found[0]
    if stack.norm is not None:
        raise ValueError(f"{type(module).__name__}: a final {type(stack.norm).__name__} of its own kind is not supported")
    return stack.config, stack.parameters(copied)
