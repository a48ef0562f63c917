"""Reads the configuration of the encoder in a torch module, and its parameters by the names of `fastattn.parameters`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.config import EncoderConfig, Precision

__all__ = ["read_module"]

_SUPPORTED = "an encoder of transformers, torch.nn.TransformerEncoder or TransformerEncoderLayer, or a model that holds one"


def read_module(module: Any, precision: Precision = "float32") -> tuple[EncoderConfig, dict[str, NDArray[np.float32]]]:
    """Return the configuration and float32 copies of the parameters of the only encoder that a torch module is or holds.

    ValueError for float64 parameters of an encoder in another precision than float32.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("reading a torch module needs torch: pip install 'fastattn[torch]'") from error
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}; supported: {_SUPPORTED}")

    def copied(name: str, tensor: Any) -> NDArray[np.float32]:
        if tensor.dtype is torch.float64 and precision != "float32":
            raise ValueError(
                f'precision must be "float32" for float64 weights, got {precision!r}: {name} is float64; call float() on the module'
            )
        # A copy: a view would keep the tensor alive.
        return np.array(tensor.detach().to("cpu", torch.float32).numpy())

    found: list[Any] = []
    reasons: list[str] = []
    _find(module, found, reasons)
    if len(found) != 1:
        held = f"{len(found)} of them" if found else "; ".join(dict.fromkeys(reasons)) or "none"
        raise ValueError(f"{type(module).__name__} must hold one encoder, found {held}; supported: {_SUPPORTED}")
    try:
        config, parameters = found[0].read(copied)
    except Unsupported as reason:
        raise ValueError(f"{type(module).__name__}: {reason}; supported: {_SUPPORTED}") from None
    return config, parameters


def _find(module: Any, found: list[Any], reasons: list[str]) -> None:
    """Collect the outermost encoders, and the reasons why others of a supported kind are not supported."""
    from fastattn.checkpoint.torch_nn import read_stack
    from fastattn.checkpoint.torch_transformers import read_pretrained

    try:
        encoder = read_pretrained(module) or read_stack(module)
    except Unsupported as reason:
        reasons.append(f"{type(module).__name__}: {reason}")
        return
    if encoder is not None:
        found.append(encoder)
    else:
        for child in module.children():
            _find(child, found, reasons)
