"""Reads the encoder in a torch module: its configuration and its parameters, under the names that `Encoder` uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.config import EncoderConfig

__all__ = ["read_module"]

_SUPPORTED = "an encoder of transformers, torch.nn.TransformerEncoder or TransformerEncoderLayer, or a model that holds one"


def read_module(module: Any) -> tuple[EncoderConfig, dict[str, NDArray[np.float32]]]:
    """Read the one encoder that a torch module is or holds, into float32 copies.

    Parameters
    ----------
    module : torch.nn.Module
        A ``torch.nn.TransformerEncoder`` or ``TransformerEncoderLayer``, an encoder of transformers, or a model with one of
        them inside, of any dtype and on any device.

    Returns
    -------
    config : EncoderConfig
        The sizes and choices.
    parameters : dict of str to float32 ndarray
        Copies: nothing keeps the module.

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
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}; supported: {_SUPPORTED}")

    def copied(name: str, tensor: Any) -> NDArray[np.float32]:
        # A view would keep the tensor.
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
    """Collect the outermost encoders, and why others like them are not supported."""
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
