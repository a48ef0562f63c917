"""Activations on vectors, and on a block of rows in place: the epilogue of a product."""

from __future__ import annotations

from fastattn.config import ACTIVATIONS
from fastattn.kernels.compile.jit import inline, kernel
from fastattn.kernels.vector.elementary import LOG2_E, exp2, normal_tail
from fastattn.kernels.vector.simd import absolute, fma, lanes, load, load_part, load_wide, maximum, store, store_part, where_less
from fastattn.kernels.vector.target import WIDE

# The number by which kernels know an activation; 0 is none.
ACTIVATION_KINDS = {name: kind for kind, name in enumerate((None, *ACTIVATIONS))}
GELU, GELU_TANH, RELU, SILU = (ACTIVATION_KINDS[name] for name in ("gelu", "gelu_tanh", "relu", "silu"))


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
def activate(x, kind):  # type: ignore[no-untyped-def]
    """Apply the activation with number `kind` of ACTIVATION_KINDS to a vector."""
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
    whole, wide = n - n % width, n - n % (WIDE * width)
    for i in range(m):
        a, b = ix + i * ldx, io + i * ldo
        for j in range(0, wide, WIDE * width):
            store(out, b + j, activate(load_wide(x, a + j), kind))
        for j in range(wide, whole, width):
            store(out, b + j, activate(load(x, a + j), kind))
        if whole < n:
            store_part(out, b + whole, n - whole, activate(load_part(x, a + whole, n - whole, 0.0), kind))
