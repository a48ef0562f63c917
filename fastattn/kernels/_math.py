"""Exponential, normal tail and tanh on vectors.

float32: polynomials (minimax, fitted for this file), with their error bounds; the tests measure them.
float64: the C library's functions, lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fastattn.kernels._jit import JIT, OPTIONS
from fastattn.kernels._simd import absolute, each_lane, fma, scale_by_power, where_less

LOG2_E = 1.4426950408889634
# Added to a float32 below 2**22 in magnitude, it leaves the nearest integer in the low bits.
_SHIFT = 12582912.0


def _power_f32(d, c):  # type: ignore[no-untyped-def]
    # 2**(n + r), n the nearest integer, |r| <= 1/2; the polynomial's own error is 2e-9.
    shifted = fma(d, c, _SHIFT)
    r = fma(d, c, _SHIFT - shifted)
    p = fma(r, 0.0001534581242594868, 0.0013399932067841291)
    p = fma(p, r, 0.009618489071726799)
    p = fma(p, r, 0.05550328642129898)
    p = fma(p, r, 0.24022646248340607)
    p = fma(p, r, 0.6931471824645996)
    p = fma(p, r, 1.0)
    return scale_by_power(p, shifted)


def _power_f64(d, c):  # type: ignore[no-untyped-def]
    return each_lane(d * c, "llvm.exp2.f64")


def _exp2_f32(d, c):  # type: ignore[no-untyped-def]
    return where_less(fma(d, c, _SHIFT), _SHIFT - 126.0, 0.0, power(d, c))


def _exp2_f64(d, c):  # type: ignore[no-untyped-def]
    return each_lane(d * c, "llvm.exp2.f64")


def _normal_tail_f32(u):  # type: ignore[no-untyped-def]
    # Phi(-u) = 2**-q(u).  Near 0 the relative error is 4e-8; to u = 3, 4e-6 (of a number below 1e-3).
    # In pairs and fours (Estrin): half as long a chain of dependent instructions as term by term.
    u2 = u * u
    u4 = u2 * u2
    low = fma(fma(u, 0.052588727325201035, 0.4591798484325409), u2, fma(u, 1.151107907295227, 1.0))
    middle = fma(
        fma(u, -4.3329036998329684e-05, 0.0001677229010965675),
        u2,
        fma(u, 0.00021973272669129074, -0.0071930005215108395),
    )
    high = fma(
        fma(u, -2.2865138948890973e-10, 1.4480135313021947e-08),
        u2,
        fma(u, -3.822755445526127e-07, 5.4164543143997435e-06),
    )
    q = fma(fma(high, u4, middle), u4, low)
    return power(q, -1.0)


def _normal_tail_f64(u):  # type: ignore[no-untyped-def]
    return each_lane(u * 0.7071067811865476, "erfc") * 0.5


def _tanh_f32(x):  # type: ignore[no-untyped-def]
    # |x| < 0.6: an odd polynomial, error below 1 ulp; above: (1 - e) / (1 + e) with e = exp(-2 |x|), below 2 ulp.
    a = absolute(x)
    e = exp2(a, -2.0 * LOG2_E)
    large = (1.0 - e) / (e + 1.0)
    t = x * x
    p = fma(t, 0.0021597209852188826, -0.008194983936846256)
    p = fma(p, t, 0.02170751430094242)
    p = fma(p, t, -0.053947947919368744)
    p = fma(p, t, 0.13333214819431305)
    p = fma(p, t, -0.3333333134651184)
    return where_less(a, 0.6, fma(p * t, x, x), where_less(x, 0.0, 0.0 - large, large))


def _tanh_f64(x):  # type: ignore[no-untyped-def]
    return each_lane(x, "tanh")


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


power = _by_dtype("power", _power_f32, _power_f64)
power.__doc__ = "2**(d c) for -126 <= d c <= 127; float32 error below 1 ulp. d: vector, c: scalar."
exp2 = _by_dtype("exp2", _exp2_f32, _exp2_f64)
exp2.__doc__ = "2**(d c) for d c <= 127; exactly 0 below -126; float32 error below 1 ulp. d: vector, c: scalar."
normal_tail = _by_dtype("normal_tail", _normal_tail_f32, _normal_tail_f64)
normal_tail.__doc__ = "Phi(-u), the normal distribution's tail, for u >= 0 (float32: for u <= 13)."
tanh = _by_dtype("tanh", _tanh_f32, _tanh_f64)
tanh.__doc__ = "Hyperbolic tangent; float32 error below 2 ulp."
