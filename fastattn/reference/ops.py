"""Definitions of the ops in NumPy: the specification against which the kernels are tested.

Shape letters: ``B`` batch, ``T`` tokens, ``C`` hidden, ``H`` heads, ``D`` = C/H, ``F`` feed-forward, ``V`` vocabulary.
In attention ``L`` counts queries, ``S`` keys and ``E`` is the head size of the values.

Arithmetic is done in the dtype of the input, except for float16: it is computed in float32 and rounded once, at the end.
Only arguments that select a formula are checked here; the public ops check the others.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_erf64 = np.vectorize(math.erf, otypes=[np.float64])


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax along one axis, ``exp(x - max x) / sum(exp(x - max x))``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The scores.
    axis : int
        The axis that sums to 1.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. A row that is all -inf, or that holds inf or NaN, gives NaN, as in torch.

    References
    ----------
    Milakov and Gimelshein 2018, arXiv:1805.02867, section 2 (safe softmax).
    """
    wide = widened(x)
    shifted = wide - np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
    numerator = np.exp(shifted)
    result = numerator / np.sum(numerator, axis=axis, keepdims=True)
    return np.asarray(result, dtype=x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    residual: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Layer norm, ``(z - mean z) / sqrt(var z + eps) * weight + bias`` with ``z = x + residual``.

    Mean and (biased) variance are taken over the trailing axes that `weight` has, or over the last axis without a weight.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., C)
        The rows to normalise.
    weight : ndarray, (C,) or several trailing axes of `x`, optional
        The gain.
    bias : ndarray, shape of `weight`, optional
        The shift.
    residual : ndarray, shape of `x`, optional
        Added to `x` first.
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    References
    ----------
    Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3, equation 3.
    """
    z = widened(x) if residual is None else widened(x) + widened(residual)  # (..., C)
    scaled_by = weight if weight is not None else bias
    axes = tuple(range(-1 if scaled_by is None else -scaled_by.ndim, 0))
    count = max(1, math.prod(z.shape[axis] for axis in axes))
    centred = z - np.sum(z, axis=axes, keepdims=True) / count  # (..., C)
    variance = np.sum(centred * centred, axis=axes, keepdims=True) / count  # (..., 1)
    result: Array = centred / np.sqrt(variance + eps)  # (..., C)
    if weight is not None:
        result = result * widened(weight)
    if bias is not None:
        result = result + widened(bias)
    return result.astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def rms_norm(x: Array, weight: Array | None = None, *, residual: Array | None = None, eps: float | None = None) -> Array:
    """RMS norm, ``z / sqrt(mean z^2 + eps) * weight`` with ``z = x + residual``.

    The mean is taken over the trailing axes that `weight` has; over the last axis without one.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., C)
        The rows to normalise.
    weight : ndarray, (C,) or several trailing axes of `x`, optional
        The gain.
    residual : ndarray, shape of `x`, optional
        Added to `x` first.
    eps : float, optional
        Added to the mean of the squares; without it that of the dtype that is computed in, as in torch.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    References
    ----------
    Zhang and Sennrich 2019, arXiv:1910.07467, section 3, equation 4.
    """
    z = widened(x) if residual is None else widened(x) + widened(residual)  # (..., C)
    axes = tuple(range(-1 if weight is None else -weight.ndim, 0))
    count = max(1, math.prod(z.shape[axis] for axis in axes))
    mean = np.sum(z * z, axis=axes, keepdims=True) / count  # (..., 1)
    result: Array = z / np.sqrt(mean + (float(np.finfo(z.dtype).eps) if eps is None else eps))  # (..., C)
    if weight is not None:
        result = result * widened(weight)
    return result.astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """Gaussian error linear unit, ``x Phi(x) = x / 2 (1 + erf(x / sqrt 2))``.

    The tanh form is ``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The input.
    approximate : {"none", "tanh"}
        "none" is the erf form.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `approximate` is neither "none" nor "tanh".

    References
    ----------
    Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    wide = widened(x)
    if approximate == "none":
        gate = 1 + _erf(wide * math.sqrt(0.5))
    elif approximate == "tanh":
        gate = 1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    else:
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    return np.asarray(0.5 * wide * gate, dtype=x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def linear(x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None) -> Array:
    """Product with a weight matrix, ``activation(x weight^T + bias)``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., K)
        The rows.
    weight : ndarray, (M, K)
        One row per output channel, as in torch.
    bias : ndarray, (M,), optional
        Added to each row.
    activation : str, optional
        A name of `ACTIVATIONS`, applied last.

    Returns
    -------
    ndarray, (..., M)
        Dtype of `x`.

    Raises
    ------
    ValueError
        If `activation` is not one of the values above.
    """
    result = widened(x) @ widened(weight).T  # (..., M)
    if bias is not None:
        result = result + widened(bias)
    return activate(result, activation).astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def rotary_embedding(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions, ``x cos + rotate_half(x) sin`` with ``rotate_half((a, b)) = (-b, a)`` for the halves of a row.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., T, D)
        Queries or keys; D is even.
    cos, sin : ndarray, (T, D / 2)
        Tables of the angles, for example of `rotary_tables`; channels i and i + D / 2 turn by the same angle.

    Returns
    -------
    ndarray, (..., T, D)
        Dtype of `x`.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.4.2, equation 34, with channel i + D / 2 in place of the neighbour of i.
    """
    half = x.shape[-1] // 2
    a, b = widened(x[..., :half]), widened(x[..., half:])  # (..., T, D / 2)
    wide_cos, wide_sin = widened(cos), widened(sin)
    return np.concatenate([a * wide_cos - b * wide_sin, b * wide_cos + a * wide_sin], axis=-1).astype(x.dtype)


def widened(x: Array) -> Array:
    """Return `x` in the dtype of the arithmetic: float32 for float16, else its own dtype."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _erf(x: Array) -> Array:
    """Return the error function of `x`, computed in float64 and rounded to the dtype of `x`."""
    return np.asarray(_erf64(x.astype(np.float64)), dtype=x.dtype)


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


# Every activation of `linear`; the sources of the formulas are in its docstring.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_10": lambda x: np.clip(gelu(x), -10, 10),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "laplace": lambda x: (1 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2)))) / 2,
    "leaky_relu": lambda x: np.where(x < 0, x * x.dtype.type(0.01), x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "quick_gelu": lambda x: x * _sigmoid(x * x.dtype.type(1.702)),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid,
    "sqrtsoftplus": lambda x: np.sqrt(_softplus(x)),
    "tanh": np.tanh,
}


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def activate(x: Array, activation: str | None) -> Array:
    """Apply an activation by its name."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return x if activation is None else np.asarray(ACTIVATIONS[activation](x))
