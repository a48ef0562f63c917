"""The microkernel of a low precision: a tile of sums, its accumulators in registers while k runs.

``sums[m, W] = A[m, K] B[K, W]``, W two vectors wide, of one chain of K.  A word of 4 bytes holds a step's numbers of a row of A.
Of int8 the sums are int32; of bfloat16 they are float32, k upwards, whatever m is.  All offsets and distances count words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from fastattn.kernels.products.amx import BLOCK_ROWS, STEP_GROUPS, emit_amx
from fastattn.kernels.products.kinds import BFLOAT16, INT8, Kind, is_native
from fastattn.kernels.vector.emit import (
    I32,
    I64,
    accumulate,
    broadcast,
    call,
    element_pointer,
    integers,
    load_vector,
    multiply_add,
    prefetch_line,
    store_vector,
)
from fastattn.kernels.vector.narrow import BFLOAT, widened_halves
from fastattn.kernels.vector.target import TARGET, TILE_BYTES, TILE_ROWS

_VECTORS = TARGET.tile[1]
# Elements of 4 bytes in a vector, and columns of a tile.
_LANES, WIDTH = TARGET.vector_bytes // 4, TILE_BYTES // 4
_WHOLE, _REAL = ir.VectorType(I32, _LANES), ir.VectorType(ir.FloatType(), _LANES)
Step = Callable[[Any, Kind, Any, Any, Any], Any]


def _constant(value: int) -> Any:
    return ir.Constant(_WHOLE, [value] * _LANES)


def _field(builder: Any, words: Any, bits: int, index: int, *, signed: bool) -> Any:
    """Emit field `index` of so many bits of each word, widened to 32 bits."""
    top = builder.shl(words, _constant(32 - bits * (index + 1)))
    return (builder.ashr if signed else builder.lshr)(top, _constant(32 - bits))


def _dot_bytes(builder: Any, kind: Kind, a: Any, b: Any, total: Any) -> Any:
    """Emit total + the sum of four products of bytes a lane."""
    if not is_native(kind):
        for i in range(4):
            x = _field(builder, a, 8, i, signed=kind.is_signed)
            total = builder.add(total, builder.mul(x, _field(builder, b, 8, i, signed=True)))
        return total
    if kind.name == "vnni":
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{8 * TARGET.vector_bytes}", _WHOLE, [total, a, b])
    # usdot takes unsigned bytes, then signed ones; sdot takes signed ones.
    first, second = (builder.bitcast(v, ir.VectorType(ir.IntType(8), 4 * _LANES)) for v in (a, b))
    return call(builder, f"llvm.aarch64.neon.{kind.name}.v4i32.v16i8", _WHOLE, [total, first, second])


def _dot_shorts(builder: Any, kind: Kind, a: Any, b: Any, total: Any) -> Any:
    """Emit total + the sum of two products of 16-bit numbers a lane: LLVM makes one instruction of the products and their sum."""
    wide = ir.VectorType(I32, 2 * _LANES)
    shorts = ir.VectorType(ir.IntType(16), 2 * _LANES)
    products = builder.mul(builder.sext(builder.bitcast(a, shorts), wide), builder.sext(b, wide))
    undefined = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, undefined, ir.Constant(_WHOLE, list(range(start, 2 * _LANES, 2)))) for start in (0, 1)
    )
    return builder.add(total, builder.add(even, odd))


def _dot_bfloat16(builder: Any, kind: Kind, a: Any, b: Any, total: Any) -> Any:
    """Emit total + the sum of two products of bfloat16 a lane."""
    if not is_native(kind):
        for i in (0, 1):
            x, y = (builder.bitcast(builder.shl(_field(builder, v, 16, i, signed=False), _constant(16)), _REAL) for v in (a, b))
            total = multiply_add(builder, x, y, total)
        return total
    if kind.name == "dot":
        return call(builder, f"llvm.x86.avx512bf16.dpbf16ps.{8 * TARGET.vector_bytes}", _REAL, [total, a, b])
    pairs = [builder.bitcast(v, ir.VectorType(BFLOAT, 2 * _LANES)) for v in (a, b)]
    return call(builder, "llvm.aarch64.neon.bfdot.v4f32.v8bf16", _REAL, [total, *pairs])


def _widened(builder: Any, b: Any, i: int) -> Any:
    """Emit the first or the second bfloat16 of each word as float32."""
    bits = builder.shl(b, _constant(16)) if i == 0 else builder.and_(b, _constant(-65536))
    return builder.bitcast(bits, _REAL)


def _multiply_widened(builder: Any, kind: Kind, a: Any, b: Any, total: Any) -> Any:
    """Emit total + a product of float32 a lane; `b` was widened by `_column`."""
    return multiply_add(builder, builder.bitcast(a, _REAL), b, total)


def _step_of(kind: Kind) -> Step:
    if kind.precision == "bfloat16":
        return _multiply_widened if kind.name == "widen" else _dot_bfloat16
    return _dot_shorts if kind.input_bytes == 2 else _dot_bytes


def most_rows(kind: Kind) -> int:
    """Return the rows of the largest tile of a kind."""
    return BLOCK_ROWS if _has_tile_registers(kind) else TILE_ROWS


def _has_tile_registers(kind: Kind) -> bool:
    return kind.name == "amx" and is_native(kind)


def tile_of(kind: Kind) -> Any:
    """Return the intrinsic tile(m, steps, a, ia, lda, b, ib, ahead, out, io, ldo): out (m, W) = the sums of `steps` groups of k."""

    @intrinsic
    def tile(typingctx, m, steps, a, ia, lda, b, ib, ahead, out, io, ldo):  # type: ignore[no-untyped-def]
        sig = types.void(m, steps, a, ia, lda, b, ib, ahead, out, io, ldo)

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            number = integers(context, builder, sig, args)
            ap, bp, op = (
                builder.bitcast(element_pointer(context, builder, sig.args[i], args[i], number[i + 1]), I32.as_pointer())
                for i in (2, 5, 8)
            )
            if _has_tile_registers(kind):
                groups = builder.and_(builder.add(number[1], I64(STEP_GROUPS - 1)), I64(-STEP_GROUPS))
                lda, ldo = (builder.mul(number[i], I64(4)) for i in (4, 10))
                emit_amx(builder, kind.precision, number[0], groups, ap, lda, bp, I64(4 * WIDTH), op, ldo)
                return context.get_dummy_value()
            done = builder.append_basic_block("done")
            switch = builder.switch(number[0], done)
            for rows in range(1, TILE_ROWS + 1):
                start = builder.append_basic_block(f"rows{rows}")
                switch.add_case(I64(rows), start)
                builder.position_at_end(start)
                sums = _accumulate(builder, kind, rows, number[1], (ap, number[4]), (bp, number[7]))
                for i in range(rows):
                    row = builder.gep(op, [builder.mul(number[10], I64(i))])
                    for j in range(_VECTORS):
                        store_vector(builder, sums[i][j], builder.gep(row, [I64(j * _LANES)]))
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return sig, codegen

    return tile


def _accumulate(builder: Any, kind: Kind, rows: int, steps: Any, a: Any, b: Any) -> Any:
    """Emit the loop over the steps of k for a number of rows; returns the sums after it."""
    a_words, b_words = kind.group * kind.input_bytes // 4, kind.group * kind.weight_bytes * WIDTH // 4
    a_rows = [builder.gep(a[0], [builder.mul(a[1], I64(i))]) for i in range(rows)]

    def step(k: Any, acc: Any) -> Any:
        b_row = builder.gep(b[0], [builder.mul(k, I64(b_words))])
        prefetch_line(builder, builder.gep(b_row, [b[1]]))
        sums = [list(row) for row in acc]
        for part in range(a_words):
            columns = [_column(builder, kind, b_row, j, part) for j in range(_VECTORS)]
            for i in range(rows):
                place = builder.gep(a_rows[i], [builder.add(builder.mul(k, I64(a_words)), I64(part))])
                word = broadcast(builder, builder.load(place, align=4), _LANES)
                for j in range(_VECTORS):
                    sums[i][j] = _step_of(kind)(builder, kind, word, columns[j], sums[i][j])
        return sums

    return accumulate(builder, rows, _VECTORS, _WHOLE if kind.precision == "int8" else _REAL, steps, step)


def _column(builder: Any, kind: Kind, b_row: Any, j: int, part: int) -> Any:
    """Emit vector j of a step's row of a panel, as the step's instruction takes it."""
    if kind.name == "i16":
        narrow = ir.VectorType(ir.IntType(8), 2 * _LANES)
        place = builder.gep(builder.bitcast(b_row, ir.IntType(8).as_pointer()), [I64(2 * j * _LANES)])
        return builder.sext(load_vector(builder, place, narrow, align=1), ir.VectorType(ir.IntType(16), 2 * _LANES))
    column = load_vector(builder, builder.gep(b_row, [I64(j * _LANES)]), _WHOLE)
    return _widened(builder, column, part) if kind.name == "widen" else column


def _tile_python(kind: Kind) -> Any:
    """Return `tile_of` as a Python function."""

    def tile(m, steps, a, ia, lda, b, ib, ahead, out, io, ldo):  # type: ignore[no-untyped-def]
        count = steps * kind.group
        if kind.precision == "int8":
            weights = _slice(b, ib, count * WIDTH // 4).view(np.int8).reshape(-1, WIDTH, kind.group)
            level = np.int16 if kind.input_bytes == 2 else np.int8 if kind.is_signed else np.uint8
        else:
            weights = _slice(b, ib, count * WIDTH // 2).view(np.uint16).reshape(-1, WIDTH, kind.group)
        weights = weights.transpose(0, 2, 1).reshape(count, WIDTH)
        for i in range(m):
            row = _slice(a, ia + i * lda, count * kind.input_bytes // 4)
            target = _slice(out, io + i * ldo, WIDTH)
            if kind.precision == "int8":
                target[:] = (row.view(level).astype(np.int32) @ weights.astype(np.int32)).astype(np.int32).view(np.float32)
                continue
            wide = row if kind.input_bytes == 4 else widened_halves(row.view(np.uint16))
            total = np.zeros(WIDTH, np.float32)
            with np.errstate(all="ignore"):
                for x, w in zip(wide, widened_halves(weights), strict=True):
                    total = (np.float64(x) * w.astype(np.float64) + total).astype(np.float32)
            target[:] = total

    return tile


def _slice(x: Any, at: int, size: int) -> Any:
    if at < 0 or at + size > x.size:
        raise IndexError(f"words {at} to {at + size} of {x.size}")
    return x[at : at + size]


int8_tile, bfloat16_tile = (_tile_python(kind) if config.DISABLE_JIT else tile_of(kind) for kind in (INT8, BFLOAT16))
