"""Vectors as values inside kernels: ``load``, arithmetic, ``store``, at the width of the CPU that compiles them.

A vector has ``lanes(x)`` elements of the dtype of array ``x``.  ``+ - * /`` work between vectors and between a vector and a
scalar.  Nothing here carries a fast-math flag: the instruction sequence fixes every rounding, so an element's result does
not depend on its place in the array.  With the JIT off the same names are NumPy functions (`_simd_python`).
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

I32, I64 = ir.IntType(32), ir.IntType(64)


class Target(NamedTuple):
    """What the kernels need to know of the CPU."""

    name: str
    vector_bytes: int
    registers: int
    fma: bool

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and vectors of the largest product tile whose accumulators fit the registers."""
        return {(32, 64): (14, 2), (16, 32): (6, 2), (32, 16): (12, 2)}.get((self.registers, self.vector_bytes), (6, 2))


_PROBE = """
define <16 x float> @f(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


def _target() -> Target:
    """Ask LLVM what code it makes of sixteen fused multiply-adds on the CPU that Numba compiles for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu="" if name == "generic" else name, features=features)
    code = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in code:
        return Target(name, 64, 32, True)
    if "ymm" in code:
        return Target(name, 32, 16, "vfm" in code)
    if "fmla" in code:
        return Target(name, 16, 32, True)
    return Target(name, 16, 16, False)


TARGET = _target()
# Rows and columns (float32) of the product tile.
TILE_ROWS, _TILE_VECTORS = TARGET.tile
TILE_BYTES = _TILE_VECTORS * TARGET.vector_bytes


class VectorType(types.Type):  # type: ignore[misc]
    """Numba type of a vector of `count` elements of `dtype`."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"vector({dtype} x {count})")


def _element(dtype: Any) -> Any:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_element(fe_type.dtype), fe_type.count))


# Registers of a wide vector: arithmetic with long chains of dependent instructions runs on so many chains in step.
WIDE = 2


def vector_of(array: Any, registers: int = 1) -> VectorType | None:
    """Return the type of a vector of so many registers for an array type, None where there is none."""
    if isinstance(array, types.Array) and array.dtype in (types.float32, types.float64):
        return VectorType(array.dtype, registers * TARGET.vector_bytes // (4 if array.dtype == types.float32 else 8))
    return None


def llvm_vector(vector: VectorType) -> Any:
    """Return the LLVM type of a vector type."""
    return ir.VectorType(_element(vector.dtype), vector.count)


def broadcast(builder: Any, scalar: Any, count: int) -> Any:
    """Emit a vector with `scalar` in every lane."""
    kind = ir.VectorType(scalar.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, count), [0] * count))


def element_pointer(context: Any, builder: Any, array: Any, value: Any, offset: Any) -> Any:
    """Emit a pointer to element `offset` of a C-contiguous array, counted over all axes."""
    data = context.make_array(array)(context, builder, value).data
    return builder.gep(data, [offset])


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Emit a call of an LLVM intrinsic."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def suffix(kind: Any) -> str:
    """Return the name of a vector type as LLVM's intrinsics spell it: v16f32."""
    return f"v{kind.count}{'f32' if isinstance(kind.element, ir.FloatType) else 'f64'}"


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c: fused where the CPU can, so that no target falls back to a library call per lane."""
    op = "fma" if TARGET.fma else "fmuladd"
    return call(builder, f"llvm.{op}.{suffix(a.type)}", a.type, [a, b, c])


def first_lanes(builder: Any, n: Any, count: int) -> Any:
    """Emit the mask of the first `n` lanes; `n` is an i64 in 0..count."""
    steps = ir.Constant(ir.VectorType(I32, count), list(range(count)))
    return builder.icmp_signed(">", broadcast(builder, builder.trunc(n, I32), count), steps)


def load_vector(builder: Any, pointer: Any, kind: Any) -> Any:
    """Emit an unaligned load of a vector."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)


def load_lanes(builder: Any, pointer: Any, kind: Any, mask: Any, other: Any = None) -> Any:
    """Emit a load of the lanes in `mask`, the others `other` or 0; their memory is not touched."""
    other = ir.Constant(kind, [0.0] * kind.count) if other is None else other
    pointer = builder.bitcast(pointer, kind.as_pointer())
    return call(builder, f"llvm.masked.load.{suffix(kind)}.p0", kind, [pointer, I32(4), mask, other])


def store_vector(builder: Any, value: Any, pointer: Any) -> None:
    """Emit an unaligned store of a vector."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def store_lanes(builder: Any, value: Any, pointer: Any, mask: Any) -> None:
    """Emit a store of the lanes in `mask`; the others' memory is not touched."""
    kind = value.type
    pointer = builder.bitcast(pointer, kind.as_pointer())
    call(builder, f"llvm.masked.store.{suffix(kind)}.p0", ir.VoidType(), [value, pointer, I32(4), mask])


def prefetch_line(builder: Any, pointer: Any) -> None:
    """Emit a request for the cache line at an address: a hint, safe anywhere."""
    byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, I32(0), I32(2), I32(1)])


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
    """Return 2**n for float32, where `shifted` = n + 127 + 1.5 * 2**23, n in -126 .. 127; something where it is anything else."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = ir.VectorType(I32, shifted.count)
        bits = builder.shl(builder.bitcast(args[0], whole), ir.Constant(whole, [23] * shifted.count))
        return builder.bitcast(bits, args[0].type)

    return shifted(shifted), codegen


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


def _halve(context: Any, builder: Any, value: Any, combine: Any) -> Any:
    """Combine the halves of a vector until one element is left: a fixed tree."""
    count = value.type.count
    while count > 1:
        count //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        pick = [ir.Constant(ir.VectorType(I32, count), list(range(start, start + count))) for start in (0, count)]
        low, high = (builder.shuffle_vector(value, undefined, p) for p in pick)
        value = combine(low, high)
    return builder.extract_element(value, I32(0))


@intrinsic
def reduce_add(typingctx, v):  # type: ignore[no-untyped-def]
    """Sum of the lanes, halves first: a fixed order."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _halve(context, builder, args[0], builder.fadd)

    return v.dtype(v), codegen


@intrinsic
def reduce_max(typingctx, v):  # type: ignore[no-untyped-def]
    """Greatest lane; a NaN may be lost, as in `maximum`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _halve(context, builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

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
    from fastattn.kernels._simd_python import *  # noqa: F403
