"""Narrow numbers in memory: words of 4 bytes that hold bytes, 16-bit numbers or bfloat16, and vectors of float32 made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastattn.kernels.vector.emit import I32, I64, call, element_pointer, llvm_vector, load_vector, vector_of
from fastattn.kernels.vector.target import TARGET

_I8 = ir.IntType(8)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type bfloat, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()


@intrinsic
def _words(typingctx, x):  # type: ignore[no-untyped-def]
    """Return the memory of a C-contiguous array, which counts no references here, as float32."""
    kind = types.Array(types.float32, 1, "C")

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        source, out = context.make_array(x)(context, builder, args[0]), context.make_array(kind)(context, builder)
        count = builder.udiv(builder.mul(source.nitems, source.itemsize), I64(4))
        context.populate_array(
            out,
            data=builder.bitcast(source.data, ir.FloatType().as_pointer()),
            shape=cgutils.pack_array(builder, [count]),
            strides=cgutils.pack_array(builder, [I64(4)]),
            itemsize=I64(4),
            meminfo=None,
        )
        return out._getvalue()

    return kind(x), codegen


@intrinsic
def _load_whole(typingctx, x, i):  # type: ignore[no-untyped-def]
    """Vector of the int32 numbers in words i .. i+lanes-1, as float32."""
    vector = vector_of(x)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, x, args[0], context.cast(builder, args[1], i, types.int64))
        whole = load_vector(builder, pointer, ir.VectorType(I32, vector.count))
        return builder.sitofp(whole, llvm_vector(vector))

    return vector(x, i), codegen


def _low_bits(builder: Any, whole: Any, bits: int) -> Any:
    """Emit the low bits of whole numbers."""
    return builder.trunc(whole, ir.VectorType(ir.IntType(bits), whole.type.count))


def _store_narrow(context: Any, builder: Any, sig: Any, args: Any, narrow: Any) -> Any:
    """Emit the store of narrow whole numbers, from byte args[2] behind word args[1] of array args[0] on."""
    word, byte = (context.cast(builder, args[i], sig.args[i], types.int64) for i in (1, 2))
    pointer = builder.bitcast(element_pointer(context, builder, sig.args[0], args[0], word), _I8.as_pointer())
    place = builder.bitcast(builder.gep(pointer, [byte]), narrow.type.as_pointer())
    builder.store(narrow, place, align=1)
    return context.get_dummy_value()


@intrinsic
def _store_bytes(typingctx, x, i, byte, v):  # type: ignore[no-untyped-def]
    """Write a vector of whole numbers as bytes, from that byte behind word i on."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = builder.fptosi(args[3], ir.VectorType(I32, v.count))
        return _store_narrow(context, builder, sig, args, _low_bits(builder, whole, 8))

    return types.void(x, i, byte, v), codegen


@intrinsic
def _store_shorts(typingctx, x, i, byte, v):  # type: ignore[no-untyped-def]
    """Write a vector of whole numbers as 16-bit numbers, from that byte behind word i on."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        whole = builder.fptosi(args[3], ir.VectorType(I32, v.count))
        return _store_narrow(context, builder, sig, args, _low_bits(builder, whole, 16))

    return types.void(x, i, byte, v), codegen


def _bfloat16_bits(builder: Any, value: Any) -> Any:
    """Emit the 32 bits of each float32 rounded to bfloat16, ties to even; a NaN stays one."""
    kind = ir.VectorType(I32, value.type.count)

    def constant(number: int) -> Any:
        return ir.Constant(kind, [number] * kind.count)

    bits = builder.bitcast(value, kind)
    even = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.add(builder.add(bits, constant(0x7FFF)), even)
    quiet = builder.or_(bits, constant(0x400000))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.and_(builder.select(is_nan, quiet, rounded), constant(-65536))


@intrinsic
def _store_bfloat16(typingctx, x, i, byte, v):  # type: ignore[no-untyped-def]
    """Write a vector, rounded to bfloat16, from that byte behind word i on.

    The CPU's own instruction makes zeros of denormals, which its products take for zeros too.
    """

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        if "avx512bf16" in TARGET.extensions and v.count >= 8:
            name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * v.count}"
            halves = call(builder, name, ir.VectorType(BFLOAT, v.count), [args[3]])
            shorts = builder.bitcast(halves, ir.VectorType(ir.IntType(16), v.count))
            return _store_narrow(context, builder, sig, args, shorts)
        bits = builder.lshr(_bfloat16_bits(builder, args[3]), ir.Constant(ir.VectorType(I32, v.count), [16] * v.count))
        return _store_narrow(context, builder, sig, args, _low_bits(builder, bits, 16))

    return types.void(x, i, byte, v), codegen


@intrinsic
def _round_bfloat16(typingctx, v):  # type: ignore[no-untyped-def]
    """Round each float32 of a vector to bfloat16."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(_bfloat16_bits(builder, args[0]), args[0].type)

    return v(v), codegen


@intrinsic
def _bfloat16_pairs(typingctx, first, second):  # type: ignore[no-untyped-def]
    """Return words that hold two bfloat16: a number of `first`, rounded, in the lower half, and one of `second`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        low = builder.lshr(_bfloat16_bits(builder, args[0]), ir.Constant(ir.VectorType(I32, first.count), [16] * first.count))
        return builder.bitcast(builder.or_(low, _bfloat16_bits(builder, args[1])), args[0].type)

    return first(first, second), codegen


@intrinsic
def _load_narrow(typingctx, like, x, i):  # type: ignore[no-untyped-def]
    """Vector, as wide as those of `like`, of elements i .. i+lanes-1 of an array of int8, or of bfloat16 as uint16, as float32."""
    vector = vector_of(like)
    bits = 8 if x.dtype == types.int8 else 16

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer = element_pointer(context, builder, x, args[1], context.cast(builder, args[2], i, types.int64))
        narrow = load_vector(builder, pointer, ir.VectorType(ir.IntType(bits), vector.count), align=bits // 8)
        wide = ir.VectorType(I32, vector.count)
        if bits == 8:
            return builder.sitofp(builder.sext(narrow, wide), llvm_vector(vector))
        return builder.bitcast(builder.shl(builder.zext(narrow, wide), ir.Constant(wide, [16] * vector.count)), llvm_vector(vector))

    return vector(like, x, i), codegen


@intrinsic
def _widened(typingctx, half):  # type: ignore[no-untyped-def]
    """Return the bfloat16 with these 16 bits as a float32."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        bits = builder.shl(builder.zext(args[0], I32), I32(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(half), codegen


def _words_python(x: Any) -> Any:
    return x.view(np.float32)


def _load_whole_python(x: Any, i: int) -> Any:
    from fastattn.kernels.vector.simd_python import load

    return load(x, i).view(np.int32).astype(np.float32)


def _store_python(x: Any, i: int, byte: int, narrow: Any) -> None:
    target, start = x.view(np.uint8), 4 * i + byte
    if start < 0 or start + narrow.nbytes > target.size:
        raise IndexError(f"bytes {start} to {start + narrow.nbytes} of {target.size}")
    target[start : start + narrow.nbytes] = narrow.view(np.uint8)


def _store_bytes_python(x: Any, i: int, byte: int, v: Any) -> None:
    _store_python(x, i, byte, v.astype(np.int32).astype(np.uint8))


def _store_shorts_python(x: Any, i: int, byte: int, v: Any) -> None:
    _store_python(x, i, byte, v.astype(np.int16))


def bfloat16_halves(x: Any) -> Any:
    """Return the upper halves of a NumPy array of float32, rounded to nearest even, as uint16; a NaN stays one."""
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (np.where(np.isnan(x), bits | np.uint32(0x400000), rounded) >> np.uint32(16)).astype(np.uint16)


def widened_halves(halves: Any) -> Any:
    """Return the float32 with these upper halves, a NumPy array of uint16."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _round_bfloat16_python(v: Any) -> Any:
    return widened_halves(bfloat16_halves(v))


def _bfloat16_pairs_python(first: Any, second: Any) -> Any:
    return np.stack([bfloat16_halves(first), bfloat16_halves(second)], axis=1).view(np.float32)[:, 0]


def _store_bfloat16_python(x: Any, i: int, byte: int, v: Any) -> None:
    _store_python(x, i, byte, bfloat16_halves(v))


def _load_narrow_python(like: Any, x: Any, i: int) -> Any:
    from fastattn.kernels.vector.simd_python import lanes

    part = x[i : i + lanes(like)]
    return part.astype(np.float32) if x.dtype == np.int8 else widened_halves(part)


def _widened_python(half: Any) -> Any:
    return widened_halves(np.array([half], np.uint16))[0]


if config.DISABLE_JIT:
    words, load_whole, store_bytes, store_shorts = _words_python, _load_whole_python, _store_bytes_python, _store_shorts_python
    store_bfloat16, round_bfloat16, widened, load_narrow = (
        _store_bfloat16_python, _round_bfloat16_python, _widened_python, _load_narrow_python,
    )  # fmt: skip
    bfloat16_pairs = _bfloat16_pairs_python
else:
    words, load_whole, store_bytes, store_shorts = _words, _load_whole, _store_bytes, _store_shorts
    store_bfloat16, round_bfloat16, widened, load_narrow = _store_bfloat16, _round_bfloat16, _widened, _load_narrow
    bfloat16_pairs = _bfloat16_pairs
