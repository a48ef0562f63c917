"""Gradient of an activation, GELU among them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.config import ACTIVATIONS
from fastattn.kernels.backward._arrays import with_grad
from fastattn.kernels.compile.jit import ParallelKernel, prange
from fastattn.kernels.ops._arrays import Array, F, check_room, finish, kernel_out, workers_for, working
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.kernels.vector.derivatives import slope_rows

_FORMS = {"none": "gelu", "tanh": "gelu_tanh"}


@ParallelKernel
def activation_backward_kernel(grad, x, out, kind, workers):  # type: ignore[no-untyped-def]
    """out = grad activation'(x), all flat; `kind` is a number of ACTIVATION_KINDS."""
    n = x.size
    if workers == 1:
        slope_rows(1, n, grad, 0, n, x, 0, n, out, 0, n, kind)
    else:
        # Cuts fall on cache lines, so no two threads write to the same one.
        for part in prange(workers):
            w = np.int64(part)
            start = n * w // workers // 16 * 16
            stop = n if w + 1 == workers else n * (w + 1) // workers // 16 * 16
            slope_rows(1, stop - start, grad, start, n, x, start, n, out, start, n, kind)


def activation_rows_backward(grad: Array, x: Array, activation: str, out: Array) -> None:
    """Run the kernel on contiguous arrays of one shape and dtype; `out` may be `grad` or `x`."""
    if activation == "linear":
        out[...] = grad
        return
    workers = workers_for(x.nbytes / 7e3, x.size // 64)
    activation_backward_kernel(grad.reshape(-1), x.reshape(-1), out.reshape(-1), ACTIVATION_KINDS[activation], workers)


def activation_backward(grad: NDArray[F], x: NDArray[F], activation: str) -> NDArray[F]:
    """Gradient of an activation: grad_x = grad activation'(x), element by element.

    Parameters
    ----------
    grad : float32, float64 or float16, any shape and strides
        Gradient of the result.
    x : array of the shape and dtype of `grad`
        The value before the activation.
    activation : str
        A name that `EncoderConfig` takes.

    Returns
    -------
    array of the shape and dtype of `x`
        Gradient of `x`.

    Raises
    ------
    TypeError
        `x` or `grad` is not a float array, or their dtypes differ.
    ValueError
        The shapes differ, or the activation is unknown.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    A NaN in `x` gives NaN ("linear" alone does not read `x`).  At a kink the derivative is torch's: 0 for "relu", "relu6" and
    "hardswish" at -3, 0.01 for "leaky_relu".  Traffic 3 * size elements.

    References
    ----------
    The formulas of fastattn.linear's activations, differentiated.  Definition: fastattn.reference.activation_backward.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r:.50}")
    return _backward(grad, x, activation)


def gelu_backward(grad: NDArray[F], x: NDArray[F], *, approximate: Literal["none", "tanh"] = "none") -> NDArray[F]:
    """Gradient of GELU, element by element; phi is the density of the normal distribution.

    none: grad_x = grad (Phi(x) + x phi(x))
    tanh: grad_x = grad ((1 + t) / 2 + x (1 - t**2) / 2 z'), t = tanh(z), z = sqrt(2 / pi) (x + 0.044715 x**3)

    Parameters
    ----------
    grad : float32, float64 or float16, any shape and strides
        Gradient of the result.
    x : array of the shape and dtype of `grad`
        The value before GELU.
    approximate : "none" or "tanh"
        The erf form, or the tanh form.

    Returns
    -------
    array of the shape and dtype of `x`
        Gradient of `x`.

    Raises
    ------
    TypeError
        `x` or `grad` is not a float array, or their dtypes differ.
    ValueError
        The shapes differ, or `approximate` is neither form.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Traffic 3 * size elements.  Infinity gives NaN, as in torch.

    References
    ----------
    Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2, differentiated.  Definition: fastattn.reference.gelu_backward.
    """
    if approximate not in _FORMS:
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return _backward(grad, x, _FORMS[approximate])


def _backward(grad: Any, x: Any, activation: str) -> Array:
    grad, x = with_grad(grad, "x", x)
    check_room(x.shape, None, x, grad)
    work, wide = working(x), working(grad)
    result = kernel_out(None, x.shape, work)
    activation_rows_backward(wide, work, activation, result)
    return finish(result, None, x.dtype)


__all__ = ["activation_backward", "gelu_backward"]
