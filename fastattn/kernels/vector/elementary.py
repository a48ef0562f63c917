"""Exponential, normal tail, tanh and log1p on vectors.

float32: polynomials (minimax, fitted for this file), with their error bounds; the tests measure them.
float64: the C library's functions, lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fastattn.kernels.compile.jit import JIT, OPTIONS, inline
from fastattn.kernels.vector.simd import (
    absolute,
    below_float32,
    each_lane,
    exponent,
    fma,
    power_of_two,
    significand,
    where_less,
)

LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# The sum with a float32 below 2**22 in magnitude has the nearest integer in its low bits, with the exponent's bias.
_SHIFT = 12582912.0 + 127.0


def _from_fraction_f32(r, shifted):  # type: ignore[no-untyped-def]
    # 2**(n + r), |r| <= 1/2; the polynomial's own error is 2e-9.
    p = fma(r, 0.0001534581242594868, 0.0013399932067841291)
    p = fma(p, r, 0.009618489071726799)
    p = fma(p, r, 0.05550328642129898)
    p = fma(p, r, 0.24022646248340607)
    p = fma(p, r, 0.6931471824645996)
    # Scaling is a product: a sum of exponents would turn some NaNs into numbers.
    scale = power_of_two(shifted)
    return fma(p * scale, r, scale)


_from_fraction = inline(_from_fraction_f32)


def _exp2_f32(d, c):  # type: ignore[no-untyped-def]
    shifted = fma(d, c, _SHIFT)
    # The float32 rounding error of c, times d, reaches 1e-6: it is added back.
    r = fma(d, below_float32(c), fma(d, c, _SHIFT - shifted))
    return where_less(shifted, _SHIFT - 126.0, 0.0, _from_fraction(r, shifted))


def _exp2_f64(d, c):  # type: ignore[no-untyped-def]
    return each_lane(d * c, "llvm.exp2.f64")


def _normal_tail_f32(u):  # type: ignore[no-untyped-def]
    # Phi(-u) = 2**(u h(u) - 1).  The product with u is not rounded, and the 1 is in the exponent: little is lost near 0.
    # The polynomial's error, relative: 2e-8 to u = 2, 1e-6 to 3, 1e-5 to 4, 7e-4 to 5; a fifth at 13, of 1e-38.
    # In pairs and fours (Estrin): half as long a chain of dependent instructions as term by term.
    u2 = u * u
    u4 = u2 * u2
    low = fma(fma(u, 0.006933457683771849, -0.05243916064500809), u2, fma(u, -0.459219753742218, -1.15110445022583))
    middle = fma(fma(u, -1.2772071386280004e-05, 8.346490358235314e-05), u2, fma(u, -0.000295995210763067, 2.1329718947527e-05))
    high = fma(u2, 1.1191333415538907e-09, fma(u, -5.563023464105754e-08, 1.1456660331532476e-06))
    h = fma(fma(high, u4, middle), u4, low)
    shifted = fma(u, h, _SHIFT - 1.0)
    return _from_fraction(fma(u, h, _SHIFT - 1.0 - shifted), shifted)


def _normal_tail_f64(u):  # type: ignore[no-untyped-def]
    return each_lane(u * 0.7071067811865476, "erfc") * 0.5


def _tanh_f32(x):  # type: ignore[no-untyped-def]
    # |x| < 1: an odd polynomial; above: 1 - 2 e / (1 + e) with e = exp(-2 |x|).  Both below 1.1 ulp.
    a = absolute(x)
    e = exp2(a, -2.0 * LOG2_E)
    large = 1.0 - (e + e) / (e + 1.0)
    t = x * x
    p = fma(t, 0.00011620864097494632, -0.0008212039829231799)
    p = fma(p, t, 0.0030481235589832067)
    p = fma(p, t, -0.008571074344217777)
    p = fma(p, t, 0.021774355322122574)
    p = fma(p, t, -0.0539507158100605)
    p = fma(p, t, 0.13333174586296082)
    p = fma(p, t, -0.333333283662796)
    return where_less(a, 1.0, fma(p * t, x, x), where_less(x, 0.0, 0.0 - large, large))


def _tanh_f64(x):  # type: ignore[no-untyped-def]
    return each_lane(x, "tanh")


def _log1p_f32(x):  # type: ignore[no-untyped-def]
    # 1 + x = 2**n (1 + f).  log(1 + f) = 2 artanh(s), s = f / (f + 2), |s| <= 0.172: the rest of the series to s**9 is 2e-9.
    u = x + 1.0
    f = significand(u) - 1.0
    s = f / (f + 2.0)
    t = s * s
    p = fma(t, 2.0 / 9, 2.0 / 7)
    p = fma(p, t, 2.0 / 5)
    p = fma(p, t, 2.0 / 3)
    # 2 s is f - f s, of which f is exact; what the rounding of 1 + x lost is added back.
    lost = (x - (u - 1.0)) / u
    y = fma(exponent(u), _LN2, f - fma(s, f - p * t, 0.0 - lost))
    return where_less(x, np.inf, y, x)


def _log1p_f64(x):  # type: ignore[no-untyped-def]
    return each_lane(x, "log1p")


def _by_dtype(name: str, f32: Callable[..., Any], f64: Callable[..., Any]) -> Callable[..., Any]:
    """One function of vectors that runs `f32` or `f64` by the dtype of its first argument."""

    def choose(*args: Any) -> Any:
        return (f32 if args[0].dtype == np.float32 else f64)(*args)

    choose.__name__ = choose.__qualname__ = name
    if JIT:

        def chosen(*args: Any) -> Any:
            return f32 if args[0].dtype == types.float32 else f64

        overload(choose, strict=False, jit_options={**OPTIONS, "_nrt": False, "forceinline": True})(chosen)
    return choose


exp2 = _by_dtype("exp2", _exp2_f32, _exp2_f64)
exp2.__doc__ = "2**(d c) for d c <= 127; exactly 0 below -126.5; float32 error below 1.1 ulp, c in float64. d: vector, c: scalar."
normal_tail = _by_dtype("normal_tail", _normal_tail_f32, _normal_tail_f64)
normal_tail.__doc__ = "Phi(-u), the normal distribution's tail, for u >= 0 (float32: for u <= 13)."
tanh = _by_dtype("tanh", _tanh_f32, _tanh_f64)
tanh.__doc__ = "Hyperbolic tangent; float32 error below 2 ulp."
log1p = _by_dtype("log1p", _log1p_f32, _log1p_f64)
log1p.__doc__ = "log(1 + x) for x >= 0; float32 error below 1.1 ulp; NaN stays."
