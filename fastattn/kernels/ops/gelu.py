"""GELU."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, prange
from fastattn.kernels.ops._arrays import F, check_out, finish, float_array, kernel_out, workers_for, working
from fastattn.kernels.vector.activations import ACTIVATION_KINDS, activate_rows

_FORMS = {"none": ACTIVATION_KINDS["gelu"], "tanh": ACTIVATION_KINDS["gelu_tanh"]}


@ParallelKernel
def gelu_kernel(x, out, kind, workers):  # type: ignore[no-untyped-def]
    """out = activation(x), both flat; `kind` is a number of ACTIVATION_KINDS."""
    n = x.size
    if workers == 1:
        activate_rows(1, n, x, 0, n, out, 0, n, kind)
    else:
        # Cuts fall on cache lines, so no two threads write to the same one.
        for part in prange(workers):
            w = np.int64(part)
            start = n * w // workers // 16 * 16
            stop = n if w + 1 == workers else n * (w + 1) // workers // 16 * 16
            activate_rows(1, stop - start, x, start, n, out, start, n, kind)


def gelu(x: NDArray[F], *, approximate: Literal["none", "tanh"] = "none", out: NDArray[F] | None = None) -> NDArray[F]:
    """Gaussian error linear unit, element by element.

    none: x Phi(x) = x (1 + erf(x / sqrt(2))) / 2
    tanh: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2

    Parameters
    ----------
    x : float32, float64 or float16, any shape and strides
    approximate : "none" or "tanh"
        The erf form, or the tanh form.
    out : array of the shape and dtype of `x`, optional
        Written and returned.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        `x` is not a float array, or `out` has another dtype.
    ValueError
        `approximate` is neither form, or `out` has another shape.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Traffic 2 * size elements.  float32 error below 2.1 ulp for x > 0, below 3 for x > -1; below that it grows as the values vanish.

    References
    ----------
    Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2.  Definition: fastattn.reference.gelu.
    """
    x = float_array("x", x)
    if approximate not in _FORMS:
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    check_out(out, x.shape, x.dtype)
    work = working(x)
    result = kernel_out(out, x.shape, work, work)
    gelu_kernel(work.reshape(-1), result.reshape(-1), _FORMS[approximate], workers_for(work.nbytes / 1e4, work.size // 64))
    return finish(result, out, x.dtype)


__all__ = ["gelu"]
