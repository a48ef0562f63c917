"""Activations on vectors, and on a block of rows in place: the epilogue of a product."""

from __future__ import annotations

from fastattn.config import ACTIVATIONS
from fastattn.kernels.compile.jit import inline, kernel
from fastattn.kernels.vector.elementary import LOG2_E, exp2, log1p, normal_tail, tanh
from fastattn.kernels.vector.simd import (
    absolute,
    fma,
    lanes,
    load,
    load_part,
    load_wide,
    maximum,
    square_root,
    store,
    store_part,
    where_less,
)
from fastattn.kernels.vector.target import WIDE

# The number by which kernels know an activation; 0 is none.
ACTIVATION_KINDS = {name: kind for kind, name in enumerate((None, *ACTIVATIONS))}
(
    GELU, GELU_TANH, RELU, SILU, GELU_10, HARDSWISH, LAPLACE, LEAKY_RELU, _, MISH, QUICK_GELU, RELU2, RELU6, SIGMOID, SQRT_SOFTPLUS,
    TANH,
) = (ACTIVATION_KINDS[name] for name in ACTIVATIONS)  # fmt: skip


@inline
def gelu_erf(x):  # type: ignore[no-untyped-def]
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|): no cancellation on either side."""
    u = absolute(x)
    # The tail of 13 is below 1e-37: larger arguments are clipped.
    u = where_less(u, 13.0, u, 13.0)
    # x - x is 0, but NaN at -inf, as the product of infinity and 0 in the definition.
    return fma(0.0 - u, normal_tail(u), where_less(x, 0.0, x - x, x))


@inline
def sigmoid_times(x, z):  # type: ignore[no-untyped-def]
    """x / (1 + exp(-z))."""
    e = exp2(absolute(z), -LOG2_E)
    return where_less(z, 0.0, x * e, x) / (e + 1.0)


@inline
def gelu_tanh(x):  # type: ignore[no-untyped-def]
    """x (1 + tanh(z)) / 2 = x / (1 + exp(-2 z)), z = sqrt(2 / pi) (x + 0.044715 x**3)."""
    # Beyond |x| = 64 the factor is 0 or 1 and x**3 would overflow.
    y = maximum(where_less(x, 64.0, x, 64.0), -64.0)
    return sigmoid_times(x, fma(y * y, 0.07135481627260025, 1.5957691216057308) * y)


@inline
def clip(x, low, high):  # type: ignore[no-untyped-def]
    """x between two numbers; a NaN stays."""
    return where_less(x, low, low, where_less(high, x, high, x))


@inline
def mish(x):  # type: ignore[no-untyped-def]
    """x tanh(log(1 + exp(x))) = x y / (y + 2), y = exp(x) (exp(x) + 2)."""
    # With e = exp(-|x|), which does not overflow; for x > 0 both parts of the fraction are multiplied by e**2.
    e = exp2(absolute(x), -LOG2_E)
    y = where_less(x, 0.0, e * (e + 2.0), e + e + 1.0)
    return x * (y / (y + where_less(x, 0.0, 2.0, (e + e) * e)))


@inline
def laplace(x):  # type: ignore[no-untyped-def]
    """Phi((x - mu) / sigma), mu and sigma the fixed numbers of transformers."""
    t = (x - 0.707107) / 0.282095
    u = absolute(t)
    tail = normal_tail(where_less(13.0, u, 13.0, u))
    return where_less(t, 0.0, tail, 1.0 - tail)


@inline
def activate_rare(x, kind):  # type: ignore[no-untyped-def]
    """`activate` for the kinds behind SILU."""
    if kind == GELU_10:
        return clip(gelu_erf(x), -10.0, 10.0)
    if kind == HARDSWISH:
        return x * clip(x + 3.0, 0.0, 6.0) / 6.0
    if kind == LAPLACE:
        return laplace(x)
    if kind == LEAKY_RELU:
        return where_less(x, 0.0, x * 0.01, x)
    if kind == MISH:
        return mish(x)
    if kind == QUICK_GELU:
        return sigmoid_times(x, x * 1.702)
    if kind == RELU2:
        return where_less(x, 0.0, 0.0, x * x)
    if kind == RELU6:
        return clip(x, 0.0, 6.0)
    if kind == SIGMOID:
        return sigmoid_times(1.0, x)
    if kind == SQRT_SOFTPLUS:
        return square_root(where_less(x, 0.0, 0.0, x) + log1p(exp2(absolute(x), -LOG2_E)))
    if kind == TANH:
        return tanh(x)
    return x


@inline
def activate(x, kind):  # type: ignore[no-untyped-def]
    """Apply the activation with number `kind` of ACTIVATION_KINDS, at most SILU, to a vector."""
    if kind == GELU:
        return gelu_erf(x)
    if kind == GELU_TANH:
        return gelu_tanh(x)
    if kind == RELU:
        return where_less(x, 0.0, 0.0, x)
    if kind == SILU:
        return sigmoid_times(x, x)
    return x


@kernel
def activate_rows(m, n, x, ix, ldx, out, io, ldo, kind):  # type: ignore[no-untyped-def]
    """out[:m, :n] = activation(x[:m, :n]); `out` may be `x`."""
    width = lanes(x)
    if kind > SILU:
        # One vector a step: the code of all kinds stands here once.
        for i in range(m):
            for j in range(0, n, width):
                count = min(width, n - j)
                v = activate_rare(load_part(x, ix + i * ldx + j, count, 0.0), kind)
                store_part(out, io + i * ldo + j, count, v)
        return
    whole, wide = n - n % width, n - n % (WIDE * width)
    for i in range(m):
        a, b = ix + i * ldx, io + i * ldo
        for j in range(0, wide, WIDE * width):
            store(out, b + j, activate(load_wide(x, a + j), kind))
        for j in range(wide, whole, width):
            store(out, b + j, activate(load(x, a + j), kind))
        if whole < n:
            store_part(out, b + whole, n - whole, activate(load_part(x, a + whole, n - whole, 0.0), kind))
