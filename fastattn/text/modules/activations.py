"""Activation functions by the names that torch has for them, in NumPy."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops.gelu import gelu
from fastattn.kernels.ops.softmax import softmax

__all__ = ["TORCH_ACTIVATIONS", "Activation", "NamedActivation", "activation_name", "find_activation", "resolve_activation"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]
Activation = Callable[[Array], Array]


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, np.float32(1)) / (1 + small))


def _softplus(x: Array) -> Array:
    # torch returns x itself above 20.
    return np.asarray(np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))))


def _elu(x: Array, scale: float = 1.0, negative: float = 1.0) -> Array:
    return np.asarray(np.where(x > 0, np.float32(scale) * x, np.float32(negative) * np.expm1(np.minimum(x, 0))))


# Activation classes of torch.nn with their default arguments, by class name.
TORCH_ACTIVATIONS: dict[str, Activation] = {
    "CELU": _elu,
    "ELU": _elu,
    "GELU": lambda x: np.asarray(gelu(x)),
    "Hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / np.float32(6),
    "Hardswish": lambda x: x * (np.clip(x + 3, 0, 6) / np.float32(6)),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": lambda x: np.where(x < 0, np.float32(0.01) * x, x),
    "LogSigmoid": lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: _elu(x, 1.0507009873554805, 1.0507009873554805 * 1.6732632423543772),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softmax": lambda x: np.asarray(softmax(x)),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": lambda x: np.tanh(x),
    "Tanhshrink": lambda x: x - np.tanh(x),
}


class NamedActivation(str):
    """An activation by its name in `TORCH_ACTIVATIONS`: a str that can be called, with an array or a tensor."""

    __slots__ = ()

    def __call__(self, x: Any) -> Any:
        """Apply the function."""
        if type(x).__module__.partition(".")[0] == "torch":
            return sys.modules["torch"].from_numpy(np.asarray(self(x.detach().float().numpy())))
        return TORCH_ACTIVATIONS[self](np.asarray(x, np.float32))

    def __repr__(self) -> str:
        """Show the torch module that it stands for."""
        return f"{self}()"


def find_activation(name: str, default: str) -> str:
    """Return the key in `TORCH_ACTIVATIONS` of torch's dotted name; any other name becomes `default`, with a warning."""
    module, _, kind = name.rpartition(".")
    if kind in TORCH_ACTIVATIONS and (module.startswith("torch.nn") and "functional" not in module):
        return kind
    if not name.startswith("torch."):
        logger.warning("activation function %r is not torch's, and no code is loaded by its name; %s is used", name, default)
        return default
    raise ValueError(f"activation function {name!r} is not supported; supported: {', '.join(TORCH_ACTIVATIONS)} of torch.nn")


def activation_name(function: Any) -> str:
    """Return the dotted name of an activation, as ``config.json`` stores it."""
    if isinstance(function, str):
        linear = function == "Identity"
        return f"torch.nn.modules.{'linear' if linear else 'activation'}.{function}" if function in TORCH_ACTIVATIONS else function
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def resolve_activation(function: Any) -> Activation:
    """Return an activation, given as a name, a function or a torch module, as a function of arrays."""
    if isinstance(function, str):
        if function in TORCH_ACTIVATIONS:
            return TORCH_ACTIVATIONS[function]
        if not function.startswith("torch."):
            raise ValueError(
                f"activation function {function!r} is not supported; supported: {', '.join(TORCH_ACTIVATIONS)} of torch.nn"
            )
        return TORCH_ACTIVATIONS[find_activation(function, "Identity")]
    if not callable(function):
        raise TypeError(f"an activation function must be callable or a name, got {type(function).__name__}")
    torch = sys.modules.get("torch")
    theirs = str(getattr(function, "__module__", None)).partition(".")[0] == "torch"
    if torch is None or not (theirs or isinstance(function, torch.nn.Module)):
        return lambda x: np.asarray(function(x))

    def on_tensor(x: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(function(torch.from_numpy(x)).numpy())

    return on_tensor
