"""The product by Intel AMX: blocks of 32 rows and 32 columns in four tile registers, 16 x 16 each.

A tile register holds 16 rows of 64 bytes.  A step takes 64 bytes of each row of A and multiplies them with 16 rows of a panel of B.
Integers are exact; a pair of bfloat16 products is summed apart for each step, with denormals flushed to zero.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from fastattn.kernels.vector.emit import I64, call

__all__ = ["BLOCK_ROWS", "STEP_GROUPS", "emit_amx"]

# Rows that one pass over a panel of B computes, and groups of four bytes that one step takes.
BLOCK_ROWS = 32
STEP_GROUPS = 16

_PRODUCT = {"int8": "llvm.x86.tdpbusd", "bfloat16": "llvm.x86.tdpbf16ps"}
_TILE_ROWS = 16
_ROW_BYTES = 64
_I8, _I16 = ir.IntType(8), ir.IntType(16)
# Tile registers: 0 to 3 accumulate, two for each half of the rows; then the halves of A, and those of B.
_SUMS, _A, _B = ((0, 1), (2, 3)), (4, 5), (6, 7)
# The configuration, 64 bytes: the palette, then the bytes of a row of each register from 16 and the rows of each from 48.
_CONFIG_BYTES, _PALETTE, _WIDTHS_AT, _ROWS_AT = 64, 1, 16, 48


def emit_amx(
    builder: Any, precision: str, rows: Any, k_groups: Any, a: Any, lda_bytes: Any, b: Any, ldb_bytes: Any, out: Any, ldo_bytes: Any
) -> None:
    """Emit the product of one panel: ``out[rows, 32] = A[rows, k] B[k, 32]`` in int32 or float32, k one chain.

    `rows` is any i64; `k_groups`, an i64, is the number of groups of four bytes of a row, a multiple of `STEP_GROUPS`: the panel
    is padded with zeros, and so are A's rows of bfloat16; bytes of A behind its columns may be any.  A row of the panel has 32
    columns of four bytes.  `out` is written from row 0 on, whole rows of 32 words.  The tile registers are configured here and
    released at the end: no other code finds them in use.
    """
    a, b, out = (builder.bitcast(pointer, _I8.as_pointer()) for pointer in (a, b, out))
    config = cgutils.alloca_once(builder, ir.ArrayType(_I8, _CONFIG_BYTES))
    config = builder.bitcast(config, _I8.as_pointer())
    with cgutils.for_range_slice(builder, I64(0), rows, I64(BLOCK_ROWS), I64) as (row, _):
        left = builder.sub(rows, row)
        is_whole = builder.icmp_signed(">=", left, I64(BLOCK_ROWS))
        left = builder.select(is_whole, I64(BLOCK_ROWS), left)
        is_first = builder.icmp_signed("==", row, I64(0))
        with builder.if_then(builder.or_(is_first, builder.not_(is_whole))):
            _configure(builder, config, left)
        block = (builder.gep(a, [builder.mul(row, lda_bytes)]), lda_bytes)
        target = (builder.gep(out, [builder.mul(row, ldo_bytes)]), ldo_bytes)
        with builder.if_else(builder.icmp_signed(">", left, I64(_TILE_ROWS))) as (both, first):
            with both:
                _block(builder, precision, 2, k_groups, block, (b, ldb_bytes), target)
            with first:
                _block(builder, precision, 1, k_groups, block, (b, ldb_bytes), target)
    call(builder, "llvm.x86.tilerelease", ir.VoidType(), [])


def _configure(builder: Any, config: Any, rows: Any) -> None:
    """Emit the configuration for a number of rows, 1 to 32: only the registers of A and of the sums depend on it."""
    words = builder.bitcast(config, I64.as_pointer())
    for i in range(_CONFIG_BYTES // 8):
        builder.store(I64(_PALETTE if i == 0 else 0), builder.gep(words, [I64(i)]), align=1)
    is_more = builder.icmp_signed(">", rows, I64(_TILE_ROWS))
    first = builder.select(is_more, I64(_TILE_ROWS), rows)
    # A register without rows is not allowed: up to 16 rows, the second half has as many and is not used.
    second = builder.select(is_more, builder.sub(rows, I64(_TILE_ROWS)), first)
    for tiles, height in (((*_SUMS[0], _A[0]), first), ((*_SUMS[1], _A[1]), second), (_B, I64(_TILE_ROWS))):
        for tile in tiles:
            width = builder.bitcast(builder.gep(config, [I64(_WIDTHS_AT + 2 * tile)]), _I16.as_pointer())
            builder.store(_I16(_ROW_BYTES), width, align=1)
            builder.store(builder.trunc(height, _I8), builder.gep(config, [I64(_ROWS_AT + tile)]), align=1)
    call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), [config])


def _block(builder: Any, precision: str, halves: int, k_groups: Any, a: Any, b: Any, out: Any) -> None:
    """Emit the sums of a block over k, and their stores: 16 or 32 rows, of which the configuration takes fewer."""
    nothing = ir.VoidType()
    for tile in (tile for half in _SUMS[:halves] for tile in half):
        call(builder, "llvm.x86.tilezero", nothing, [_I8(tile)])
    with cgutils.for_range_slice(builder, I64(0), k_groups, I64(STEP_GROUPS), I64) as (k, _):
        panel = builder.gep(b[0], [builder.mul(k, b[1])])
        for j, tile in enumerate(_B):
            _move(builder, "llvm.x86.tileloadd64", tile, builder.gep(panel, [I64(j * _ROW_BYTES)]), b[1])
        for half in range(halves):
            column = builder.gep(_half(builder, a, half), [builder.mul(k, I64(4))])
            _move(builder, "llvm.x86.tileloadd64", _A[half], column, a[1])
            for j, tile in enumerate(_B):
                call(builder, _PRODUCT[precision], nothing, [_I8(_SUMS[half][j]), _I8(_A[half]), _I8(tile)])
    for half in range(halves):
        for j in range(2):
            target = builder.gep(_half(builder, out, half), [I64(j * _ROW_BYTES)])
            _move(builder, "llvm.x86.tilestored64", _SUMS[half][j], target, out[1])


def _half(builder: Any, matrix: Any, half: int) -> Any:
    """Return the pointer to row 0 or row 16 of a matrix with a distance of rows in bytes."""
    return builder.gep(matrix[0], [builder.mul(matrix[1], I64(half * _TILE_ROWS))])


def _move(builder: Any, name: str, tile: int, pointer: Any, distance: Any) -> None:
    call(builder, name, ir.VoidType(), [_I8(tile), pointer, distance])
