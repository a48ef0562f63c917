"""Backward of the ops on single elements, and dropout with its random numbers."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import _erf, _sigmoid, _softplus, widened

Array: TypeAlias = NDArray[Any]


def _sech2(x: Array) -> Array:
    """1 - tanh(x)^2, without its cancellation."""
    return np.asarray(1 / np.cosh(x) ** 2)


def _gelu(x: Array) -> Array:
    return np.asarray((1 + _erf(x * math.sqrt(0.5))) / 2 + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def _gelu_tanh(x: Array) -> Array:
    a = math.sqrt(2 / math.pi)
    z = a * (x + 0.044715 * x**3)
    return np.asarray((1 + np.tanh(z)) / 2 + x * _sech2(z) / 2 * a * (1 + 3 * 0.044715 * x**2))


def _swish(x: Array, beta: Any = 1) -> Array:
    z = x * beta
    return np.asarray(_sigmoid(z) * (1 + z * _sigmoid(-z)))


def _mish(x: Array) -> Array:
    y = _softplus(x)
    return np.asarray(np.tanh(y) + x * _sech2(y) * _sigmoid(x))


def _step(x: Array, low: float = 0.0) -> Array:
    """Return 1 where x > 0, else `low`; NaN stays."""
    return np.where(np.isnan(x), x, np.where(x > 0, x.dtype.type(1), x.dtype.type(low)))


def _sqrtsoftplus(x: Array) -> Array:
    root = np.sqrt(_softplus(x))
    return np.where(root == 0, 0, _sigmoid(x) / (2 * root))


# Derivative of each of `ACTIVATIONS`.  NaN stays NaN.  At the kinks of relu, leaky_relu, relu6 and hardswish it is torch's.
DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _step,
    "silu": _swish,
    "gelu_10": lambda x: np.where(x > 10, 0, _gelu(x)),
    "hardswish": lambda x: np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + x.dtype.type(0.5))),
    "laplace": lambda x: np.exp(-(((x - 0.707107) / 0.282095) ** 2) / 2) / (0.282095 * math.sqrt(2 * math.pi)),
    "leaky_relu": lambda x: _step(x, 0.01),
    "linear": np.ones_like,
    "mish": _mish,
    "quick_gelu": lambda x: _swish(x, x.dtype.type(1.702)),
    "relu2": lambda x: 2 * np.maximum(x, 0),
    "relu6": lambda x: np.where(x >= 6, 0, _step(x)),
    "sigmoid": lambda x: _sigmoid(x) * _sigmoid(-x),
    "sqrtsoftplus": _sqrtsoftplus,
    "tanh": _sech2,
}


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def activation_backward(grad: Array, x: Array, activation: str) -> Array:
    """Gradient of an activation, ``grad activation'(x)``.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, any shape
        Gradient of the result.
    x : ndarray, shape of `grad`
        The value before the activation.
    activation : str
        A name of `ACTIVATIONS`.

    Returns
    -------
    ndarray
        Gradient of `x`: its shape and dtype.

    Raises
    ------
    ValueError
        If `activation` is none of these names.

    References
    ----------
    The formulas of `linear`'s activations, differentiated.
    """
    if activation not in DERIVATIVES:
        raise ValueError(f"activation must be one of {', '.join(DERIVATIVES)}, got {activation!r}")
    return np.asarray(widened(grad) * DERIVATIVES[activation](widened(x)), dtype=grad.dtype)


def gelu_backward(grad: Array, x: Array, *, approximate: str = "none") -> Array:
    """Gradient of GELU, ``grad (Phi(x) + x phi(x))``, phi the density of the normal distribution.

    Of the tanh form ``grad ((1 + t) / 2 + x (1 - t^2) / 2 z')`` with ``t = tanh(z)``, ``z = sqrt(2 / pi) (x + 0.044715 x^3)``.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, any shape
        Gradient of the result.
    x : ndarray, shape of `grad`
        The value before GELU.
    approximate : {"none", "tanh"}
        "none" is the erf form.

    Returns
    -------
    ndarray
        Gradient of `x`: its shape and dtype.

    Raises
    ------
    ValueError
        If `approximate` is neither "none" nor "tanh".

    References
    ----------
    Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2, differentiated.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    return activation_backward(grad, x, "gelu" if approximate == "none" else "gelu_tanh")


@np.errstate(over="ignore", under="ignore")
def dropout(x: Array, p: float, seed: int, offset: int = 0) -> Array:
    """Dropout, ``x / (1 - p)`` where ``u >= p``, else 0, u uniform in [0, 1): element i has u = word(offset + i) / 2^32.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The input.
    p : float
        Probability that an element is dropped; 1 drops all.
    seed : int
        Key of the random numbers, 64 bits.
    offset : int
        Place of the first element in the sequence of random words.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    References
    ----------
    Srivastava et al. 2014, JMLR 15, section 4, scaled in training; Salmon et al. 2011, doi:10.1145/2063384.2063405.
    """
    words = philox((offset + np.arange(x.size, dtype=np.uint64)) >> np.uint64(2), seed)  # (size, 4)
    word = words[np.arange(x.size), (offset + np.arange(x.size)) % 4].reshape(x.shape)
    wide = widened(x)
    scale = wide.dtype.type(0 if p == 1 else 1 / (1 - p))
    return np.asarray(np.where(word >= round(p * 2**32), wide * scale, 0), dtype=x.dtype)


def dropout_backward(grad: Array, p: float, seed: int, offset: int = 0) -> Array:
    """Gradient of dropout: the same mask again.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, any shape
        Gradient of the result.
    p : float
        Probability that an element was dropped.
    seed : int
        Key of the random numbers.
    offset : int
        Place of the first element in the sequence of random words.

    Returns
    -------
    ndarray
        Shape and dtype of `grad`.

    References
    ----------
    Srivastava et al. 2014, JMLR 15, section 4.
    """
    return dropout(grad, p, seed, offset)


def philox(counter: Array, seed: int) -> Array:
    """Return the four 32-bit words of Philox 4x32-10 for each 64-bit counter; its upper 64 bits are 0.

    Parameters
    ----------
    counter : ndarray of uint64, (N,), or (N, 4) with the four 32-bit words of each counter
    seed : int
        The 64-bit key.

    Returns
    -------
    ndarray of uint64, (N, 4)
        Each below 2^32.

    References
    ----------
    Salmon et al. 2011, doi:10.1145/2063384.2063405, section 3.3 and table 2.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    zero = np.zeros(len(counter), np.uint64)
    a, b, c, d = counter.T if counter.ndim == 2 else (counter & low, counter >> half, zero, zero)
    for turn in range(10):
        first = np.uint64((seed + turn * 0x9E3779B9) & 0xFFFFFFFF)
        second = np.uint64(((seed >> 32) + turn * 0xBB67AE85) & 0xFFFFFFFF)
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (q >> half) ^ b ^ first, q & low, (p >> half) ^ d ^ second, p & low
    return np.stack([a, b, c, d], axis=-1)
