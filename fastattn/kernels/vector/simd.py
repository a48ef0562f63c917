"""Vectors as values inside kernels: ``load``, arithmetic, ``store``, at the width of the CPU that compiles them.

A vector has ``lanes(x)`` elements of the dtype of array ``x``.  ``+ - * /`` work between vectors and between a vector and a
scalar.  Nothing here carries a fast-math flag: the instruction sequence fixes every rounding, so an element's result does
not depend on its place in the array.  With the JIT off the same names are NumPy functions (`simd_python`).
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from fastattn.kernels.vector.emit import (
    I32,
    I64,
    VectorType,
    broadcast,
    call,
    element_pointer,
    first_lanes,
    halved,
    llvm_vector,
    load_lanes,
    load_vector,
    multiply_add,
    prefetch_line,
    store_lanes,
    store_vector,
    suffix,
    vector_of,
)
from fastattn.kernels.vector.target import TILE_BYTES, WIDE


def _index(builder: Any, context: Any, kind: Any, value: Any) -> Any:
    return context.cast(builder, value, kind, types.int64)


@intrinsic
def lanes(typingctx, x):  # type: ignore[no-untyped-def]
    """Elements of a vector of the dtype of array `x`, a constant of the compilation."""
    vector = vector_of(x)
    return types.int64(x), lambda context, builder, sig, args: I64(vector.count)


@intrinsic
def tile_width(typingctx, x):  # type: ignore[no-untyped-def]
    """Columns of the product tile for the dtype of array `x`, a constant of the compilation."""
    width = TILE_BYTES // (4 if x.dtype == types.float32 else 8)
    return types.int64(x), lambda context, builder, sig, args: I64(width)


@intrinsic
def load(typingctx, x, i):  # type: ignore[no-untyped-def]
    """Vector of elements i .. i+lanes-1 of the C-contiguous array `x`."""
    vector = vector_of(x)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1]))
        return load_vector(builder, pointer, llvm_vector(vector))

    return vector(x, i), codegen


@intrinsic
def load_wide(typingctx, x, i):  # type: ignore[no-untyped-def]
    """Vector of WIDE * lanes elements of `x` from element i on."""
    vector = vector_of(x, WIDE)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1]))
        return load_vector(builder, pointer, llvm_vector(vector))

    return vector(x, i), codegen


@intrinsic
def load_part(typingctx, x, i, n, fill):  # type: ignore[no-untyped-def]
    """Vector of elements i .. i+n-1, the other lanes `fill`; only these n elements are read."""
    vector = vector_of(x)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = llvm_vector(vector)
        pointer = element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1]))
        mask = first_lanes(builder, _index(builder, context, n, args[2]), vector.count)
        other = broadcast(builder, context.cast(builder, args[3], fill, vector.dtype), vector.count)
        return load_lanes(builder, pointer, kind, mask, other)

    return vector(x, i, n, fill), codegen


@intrinsic
def store(typingctx, x, i, v):  # type: ignore[no-untyped-def]
    """Write vector `v`, wide or not, to the elements of `x` from i on."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        store_vector(builder, args[2], element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1])))
        return context.get_dummy_value()

    return types.void(x, i, v), codegen


@intrinsic
def store_part(typingctx, x, i, n, v):  # type: ignore[no-untyped-def]
    """Write the first n lanes of vector `v` to elements i .. i+n-1 of `x`; nothing else is touched."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1]))
        mask = first_lanes(builder, _index(builder, context, n, args[2]), v.count)
        store_lanes(builder, args[3], pointer, mask)
        return context.get_dummy_value()

    return types.void(x, i, n, v), codegen


@intrinsic
def fill(typingctx, x, value):  # type: ignore[no-untyped-def]
    """Vector of the dtype of array `x` with `value` in every lane."""
    vector = vector_of(x)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return broadcast(builder, context.cast(builder, args[1], value, vector.dtype), vector.count)

    return vector(x, value), codegen


def _coerce(context: Any, builder: Any, vector: VectorType, kind: Any, value: Any) -> Any:
    if isinstance(kind, VectorType):
        return value
    return broadcast(builder, context.cast(builder, value, kind, vector.dtype), vector.count)


def _vector_among(*kinds: Any) -> VectorType | None:
    return next((kind for kind in kinds if isinstance(kind, VectorType)), None)


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c with one rounding (two where the CPU has no fused instruction)."""
    vector = _vector_among(a, b, c)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return multiply_add(builder, *(_coerce(context, builder, vector, k, v) for k, v in zip((a, b, c), args, strict=True)))

    return vector(a, b, c), codegen


@intrinsic
def where_less(typingctx, a, b, x, y):  # type: ignore[no-untyped-def]
    """Return x where a < b, else y; a NaN in a or b selects y."""
    vector = _vector_among(a, b, x, y)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        a_, b_, x_, y_ = (_coerce(context, builder, vector, k, v) for k, v in zip((a, b, x, y), args, strict=True))
        return builder.select(builder.fcmp_ordered("<", a_, b_), x_, y_)

    return vector(a, b, x, y), codegen


@intrinsic
def absolute(typingctx, v):  # type: ignore[no-untyped-def]
    """Return |v|."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return call(builder, f"llvm.fabs.{suffix(args[0].type)}", args[0].type, [args[0]])

    return v(v), codegen


@intrinsic
def square_root(typingctx, v):  # type: ignore[no-untyped-def]
    """Return the square root of each lane."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return call(builder, f"llvm.sqrt.{suffix(args[0].type)}", args[0].type, [args[0]])

    return v(v), codegen


@intrinsic
def power_of_two(typingctx, shifted):  # type: ignore[no-untyped-def]
    """Return 2**n for float32, where `shifted` = n + 127 + 1.5 * 2**23, n in -126 .. 127; undefined outside."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = ir.VectorType(I32, shifted.count)
        bits = builder.shl(builder.bitcast(args[0], whole), ir.Constant(whole, [23] * shifted.count))
        return builder.bitcast(bits, args[0].type)

    return shifted(shifted), codegen


# The bits of sqrt(1/2), and those of a fraction.
_ROOT_HALF, _FRACTION = 0x3F3504F3, 0x7FFFFF


@intrinsic
def exponent(typingctx, v):  # type: ignore[no-untyped-def]
    """Return n, a float32, for v = 2**n m with m in sqrt(1/2) .. sqrt(2); v is positive and normal."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = ir.VectorType(I32, v.count)
        above = builder.sub(builder.bitcast(args[0], whole), ir.Constant(whole, [_ROOT_HALF] * v.count))
        return builder.sitofp(builder.ashr(above, ir.Constant(whole, [23] * v.count)), args[0].type)

    return v(v), codegen


@intrinsic
def significand(typingctx, v):  # type: ignore[no-untyped-def]
    """Return m for v = 2**n m, as `exponent` has n."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = ir.VectorType(I32, v.count)
        base = ir.Constant(whole, [_ROOT_HALF] * v.count)
        above = builder.sub(builder.bitcast(args[0], whole), base)
        fraction = builder.and_(above, ir.Constant(whole, [_FRACTION] * v.count))
        return builder.bitcast(builder.add(fraction, base), args[0].type)

    return v(v), codegen


@intrinsic
def below_float32(typingctx, c):  # type: ignore[no-untyped-def]
    """Return the float64 scalar `c` less its nearest float32."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value = context.cast(builder, args[0], c, types.float64)
        return builder.fsub(value, builder.fpext(builder.fptrunc(value, ir.FloatType()), ir.DoubleType()))

    return types.float64(c), codegen


@intrinsic(prefer_literal=True)
def each_lane(typingctx, v, function):  # type: ignore[no-untyped-def]
    """Apply the C library's function named by the literal string `function` to each lane of a float64 vector."""
    name = function.literal_value

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        element = ir.DoubleType()
        out = args[0]
        for lane in range(v.count):
            y = call(builder, name, element, [builder.extract_element(args[0], I32(lane))])
            out = builder.insert_element(out, y, I32(lane))
        return out

    return v(v, function), codegen


@intrinsic
def reduce_add(typingctx, v):  # type: ignore[no-untyped-def]
    """Sum of the lanes, halves first: a fixed order."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return halved(builder, args[0], builder.fadd)

    return v.dtype(v), codegen


@intrinsic
def reduce_max(typingctx, v):  # type: ignore[no-untyped-def]
    """Greatest lane; a NaN may be lost, as in `maximum`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return halved(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return v.dtype(v), codegen


@intrinsic
def maximum(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Return a where a > b, else b: one instruction; a NaN in `a` gives b, a NaN in `b` gives b."""
    vector = _vector_among(a, b)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        a_, b_ = (_coerce(context, builder, vector, k, v) for k, v in zip((a, b), args, strict=True))
        return builder.select(builder.fcmp_ordered(">", a_, b_), a_, b_)

    return vector(a, b), codegen


@intrinsic
def atomic_next(typingctx, counter, i):  # type: ignore[no-untyped-def]
    """Return element `i` of an int64 array and add one to it, in one step for all threads: hands out work."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, counter, args[0], _index(builder, context, i, args[1]))
        return builder.atomic_rmw("add", pointer, I64(1), "monotonic")

    return types.int64(counter, i), codegen


@intrinsic
def prefetch(typingctx, x, i):  # type: ignore[no-untyped-def]
    """Ask for the cache line of element `i` of `x`: a hint, which may lie outside the array."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        prefetch_line(builder, element_pointer(context, builder, x, args[0], _index(builder, context, i, args[1])))
        return context.get_dummy_value()

    return types.void(x, i), codegen


def _register(op: Any, emit: str) -> None:
    @infer_global(op)
    class _Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            vector = _vector_among(*args)
            if vector is not None and all(a == vector or isinstance(a, types.Number) for a in args):
                return signature(vector, *args)
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_coerce(context, builder, sig.return_type, k, v) for k, v in zip(sig.args, args, strict=True))
        return getattr(builder, emit)(a, b)

    for pair in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(op, *pair)(lower)


for _op, _emit in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _register(_op, _emit)

if config.DISABLE_JIT:
    from fastattn.kernels.vector.simd_python import *  # noqa: F403
