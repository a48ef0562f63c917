"""LLVM instructions on vectors, which the intrinsics of `simd` and the tile are made of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from fastattn.kernels.vector.target import TARGET

I32, I64 = ir.IntType(32), ir.IntType(64)


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


def integers(context: Any, builder: Any, sig: Any, args: Any) -> dict[int, Any]:
    """Emit the integers among the arguments of an intrinsic as int64, by their places."""
    return {
        i: context.cast(builder, args[i], kind, types.int64) for i, kind in enumerate(sig.args) if isinstance(kind, types.Integer)
    }


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


def accumulate(builder: Any, rows: int, columns: int, kind: Any, steps: Any, step: Any) -> Any:
    """Emit a loop over `steps`, an i64, that adds to rows x columns vectors in registers, from 0; returns them after it.

    step(k, sums) emits step k and returns the new sums.
    """
    entry, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("store")
    builder.cbranch(builder.icmp_signed(">", steps, I64(0)), loop, after)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(I64(0), entry)
    sums = [[builder.phi(kind) for _ in range(columns)] for _ in range(rows)]
    added = step(k, sums)
    # An empty "convergent" instruction: unrolled by LLVM, the widest tiles would spill their accumulators.
    barrier = builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
    barrier.attributes.add("convergent")
    k_next = builder.add(k, I64(1))
    k.add_incoming(k_next, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, steps), loop, after)

    builder.position_at_end(after)
    totals = [[builder.phi(kind) for _ in range(columns)] for _ in range(rows)]
    zero = ir.Constant(kind, [0 if isinstance(kind.element, ir.IntType) else 0.0] * kind.count)
    for i in range(rows):
        for j in range(columns):
            for phi in (sums[i][j], totals[i][j]):
                phi.add_incoming(zero, entry)
                phi.add_incoming(added[i][j], loop)
    return totals


def halved(builder: Any, value: Any, combine: Any) -> Any:
    """Emit what combines the halves of a vector until one element is left: a fixed tree."""
    count = value.type.count
    while count > 1:
        count //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        pick = [ir.Constant(ir.VectorType(I32, count), list(range(start, start + count))) for start in (0, count)]
        low, high = (builder.shuffle_vector(value, undefined, p) for p in pick)
        value = combine(low, high)
    return builder.extract_element(value, I32(0))


def load_vector(builder: Any, pointer: Any, kind: Any, align: int = 4) -> Any:
    """Emit an unaligned load of a vector."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


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
