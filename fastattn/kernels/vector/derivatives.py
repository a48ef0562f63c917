"""Derivatives of the activations on vectors, and their products with a gradient.

NaN stays NaN.  At a kink the derivative is torch's.
"""

from __future__ import annotations

from fastattn.kernels.compile.jit import inline, kernel
from fastattn.kernels.vector.activations import (
    GELU,
    GELU_10,
    GELU_TANH,
    HARDSWISH,
    LAPLACE,
    LEAKY_RELU,
    MISH,
    QUICK_GELU,
    RELU,
    RELU2,
    RELU6,
    SIGMOID,
    SILU,
    SQRT_SOFTPLUS,
    TANH,
    sigmoid_times,
)
from fastattn.kernels.vector.elementary import LOG2_E, exp2, log1p, normal_tail
from fastattn.kernels.vector.simd import (
    absolute,
    fma,
    lanes,
    load,
    load_part,
    maximum,
    square_root,
    store,
    store_part,
    where_less,
)

_INV_SQRT_2PI = 0.3989422804014327


@inline
def step(x, low):  # type: ignore[no-untyped-def]
    """1 where x > 0, else `low`."""
    return where_less(0.0, x, 1.0, where_less(x, 1.0, low, x))


@inline
def sigmoid_slope(x):  # type: ignore[no-untyped-def]
    """Derivative of the sigmoid: e / (1 + e)**2, e = exp(-|x|)."""
    e = exp2(absolute(x), -LOG2_E)
    return e / ((e + 1.0) * (e + 1.0))


@inline
def swish_slope(x, z, slope):  # type: ignore[no-untyped-def]
    """Derivative of x sigmoid(z), `slope` that of z."""
    return fma(x * sigmoid_slope(z), slope, sigmoid_times(1.0, z))


@inline
def gelu_erf_slope(x):  # type: ignore[no-untyped-def]
    """Phi(x) + x phi(x)."""
    u = absolute(x)
    tail = normal_tail(where_less(u, 13.0, u, 13.0))
    return fma(x, exp2(x * x, -0.5 * LOG2_E) * _INV_SQRT_2PI, where_less(x, 0.0, tail, 1.0 - tail))


@inline
def gelu_tanh_slope(x):  # type: ignore[no-untyped-def]
    """Derivative of x sigmoid(z), z = 2 sqrt(2 / pi) (x + 0.044715 x**3)."""
    # Beyond |x| = 64 the sigmoid is 0 or 1 and x**3 would overflow.
    y = maximum(where_less(x, 64.0, x, 64.0), -64.0)
    square = y * y
    z = fma(square, 0.07135481627260025, 1.5957691216057308) * y
    return swish_slope(x, z, fma(square, 3.0 * 0.07135481627260025, 1.5957691216057308))


@inline
def mish_slope(x):  # type: ignore[no-untyped-def]
    """w + x (1 - w**2) sigmoid(x), w = y / (y + d) as in `mish`, whence 1 - w**2 = d (2 y + d) / (y + d)**2."""
    e = exp2(absolute(x), -LOG2_E)
    y = where_less(x, 0.0, e * (e + 2.0), e + e + 1.0)
    d = where_less(x, 0.0, 2.0, (e + e) * e)
    w = y / (y + d)
    return fma(x * (where_less(x, 0.0, e, 1.0) / (e + 1.0)), d / (y + d) * (w + 1.0), w)


@inline
def sqrt_softplus_slope(x):  # type: ignore[no-untyped-def]
    """Sigmoid(x) / (2 sqrt(softplus(x)))."""
    e = exp2(absolute(x), -LOG2_E)
    root = square_root(where_less(x, 0.0, 0.0, x) + log1p(e))
    # Both vanish far below 0.
    root = where_less(root, 1e-30, 1e-30, root)
    return where_less(x, 0.0, e, 1.0) / (e + 1.0) / (root + root)


@inline
def slope_rare(x, kind):  # type: ignore[no-untyped-def]
    """`slope` for the kinds behind SILU."""
    if kind == GELU_10:
        return where_less(10.0, x, 0.0, gelu_erf_slope(x))
    if kind == HARDSWISH:
        return where_less(-3.0, x, where_less(x, 3.0, x / 3.0 + 0.5, 1.0), where_less(x, 0.0, 0.0, x))
    if kind == LAPLACE:
        t = (x - 0.707107) / 0.282095
        return exp2(t * t, -0.5 * LOG2_E) * (_INV_SQRT_2PI / 0.282095)
    if kind == LEAKY_RELU:
        return step(x, 0.01)
    if kind == MISH:
        return mish_slope(x)
    if kind == QUICK_GELU:
        return swish_slope(x, x * 1.702, 1.702)
    if kind == RELU2:
        return where_less(x, 0.0, 0.0, x + x)
    if kind == RELU6:
        return where_less(x, 6.0, step(x, 0.0), where_less(0.0, x, 0.0, x))
    if kind == SIGMOID:
        return sigmoid_slope(x)
    if kind == SQRT_SOFTPLUS:
        return sqrt_softplus_slope(x)
    if kind == TANH:
        # tanh(x) = 2 sigmoid(2 x) - 1.
        return sigmoid_slope(x + x) * 4.0
    return where_less(x, 0.0, 1.0, 1.0)


@inline
def slope(x, kind):  # type: ignore[no-untyped-def]
    """Derivative of the activation with number `kind` of ACTIVATION_KINDS, at most SILU."""
    if kind == GELU:
        return gelu_erf_slope(x)
    if kind == GELU_TANH:
        return gelu_tanh_slope(x)
    if kind == RELU:
        return step(x, 0.0)
    return swish_slope(x, x, 1.0)


@kernel
def slope_rows(m, n, grad, ig, ldg, x, ix, ldx, out, io, ldo, kind):  # type: ignore[no-untyped-def]
    """out[:m, :n] = grad[:m, :n] activation'(x[:m, :n]); `out` may be `grad` or `x`; `kind` is not 0."""
    width = lanes(x)
    if kind > SILU:
        # One vector a step: the code of all kinds stands here once.
        for i in range(m):
            for j in range(0, n, width):
                count = min(width, n - j)
                v = slope_rare(load_part(x, ix + i * ldx + j, count, 0.0), kind)
                store_part(out, io + i * ldo + j, count, v * load_part(grad, ig + i * ldg + j, count, 0.0))
        return
    whole = n - n % width
    for i in range(m):
        a, b, c = ig + i * ldg, ix + i * ldx, io + i * ldo
        for j in range(0, whole, width):
            store(out, c + j, load(grad, a + j) * slope(load(x, b + j), kind))
        if whole < n:
            rest = n - whole
            v = slope(load_part(x, b + whole, rest, 0.0), kind)
            store_part(out, c + whole, rest, load_part(grad, a + whole, rest, 0.0) * v)
