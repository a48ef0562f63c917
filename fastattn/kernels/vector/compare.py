"""Sums over two rows of vectors, for a few rows of each side at once: products, squares and differences, in registers.

A sum has the lanes of one vector as partial sums, in the order of the elements, and then the tree of `reduce_add`: its bits depend
on its two rows alone, whatever rows are beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from fastattn.kernels.vector.emit import (
    I64,
    accumulate,
    call,
    element_pointer,
    first_lanes,
    halved,
    integers,
    llvm_vector,
    load_lanes,
    load_vector,
    multiply_add,
    prefetch_line,
    suffix,
    vector_of,
)

__all__ = ["Sums", "differing_bits", "sums_of"]


# Bytes ahead of the rows that are asked for.
_AHEAD = 8192


def _product(builder: Any, x: Any, y: Any, total: Any) -> Any:
    return multiply_add(builder, x, y, total)


def _squared_difference(builder: Any, x: Any, y: Any, total: Any) -> Any:
    difference = builder.fsub(x, y)
    return multiply_add(builder, difference, difference, total)


def _difference(builder: Any, x: Any, y: Any, total: Any) -> Any:
    difference = builder.fsub(x, y)
    return builder.fadd(total, call(builder, f"llvm.fabs.{suffix(difference.type)}", difference.type, [difference]))


class Sums(NamedTuple):
    """Sums that are computed together: their term, the rows of each side, and whether the squares of x are summed too."""

    term: str
    rows: int
    columns: int
    squares: bool = False


def _loader(builder: Any, x: Any, table: Any, kind: Any, n: Any) -> Callable[..., Any]:
    """Return what emits a vector of each of some rows of x, an array of floats, or of levels whose meaning is in a table."""
    if isinstance(x.dtype, types.Float):
        return lambda rows, place: [load_vector(builder, builder.gep(row, [place]), kind) for row in rows]
    narrow, wide = ir.VectorType(ir.IntType(8), kind.count), ir.VectorType(ir.IntType(32), kind.count)

    def levels(rows: Any, place: Any) -> list[Any]:
        step, first = (load_vector(builder, builder.gep(table, [builder.add(place, of)]), kind) for of in (I64(0), n))
        found = []
        for row in rows:
            level = builder.sext(load_vector(builder, builder.gep(row, [place]), narrow, align=1), wide)
            found.append(multiply_add(builder, builder.sitofp(level, kind), step, first))
        return found

    return levels


def _compiled(sums: Sums) -> Any:
    rows, columns = sums.rows, sums.columns
    term = {"product": _product, "squared difference": _squared_difference, "difference": _difference}[sums.term]

    @intrinsic
    def compute(typingctx, n, x, ix, ldx, table, y, iy, ldy, out, io, ldo):  # type: ignore[no-untyped-def]
        vector = vector_of(out)
        sig = types.void(n, x, ix, ldx, table, y, iy, ldy, out, io, ldo)

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            kind, count = llvm_vector(vector), vector.count
            number = integers(context, builder, sig, args)
            xp, yp, op = (element_pointer(context, builder, sig.args[i], args[i], number[i + 1]) for i in (1, 5, 8))
            meaning = element_pointer(context, builder, sig.args[4], args[4], I64(0))
            x_rows = [builder.gep(xp, [builder.mul(number[3], I64(i))]) for i in range(rows)]
            y_rows = [builder.gep(yp, [builder.mul(number[7], I64(j))]) for j in range(columns)]
            is_float = isinstance(sig.args[1].dtype, types.Float)
            load = _loader(builder, sig.args[1], meaning, kind, number[0])

            def added(totals: Any, ones: list[Any], others: list[Any]) -> Any:
                return [
                    [
                        *(term(builder, one, other, totals[i][j]) for j, other in enumerate(others)),
                        *([_product(builder, one, one, totals[i][columns])] if sums.squares else []),
                    ]
                    for i, one in enumerate(ones)
                ]

            steps = builder.sdiv(number[0], I64(count))
            whole = builder.mul(steps, I64(count))

            mask = first_lanes(builder, builder.sub(number[0], whole), count)
            ahead = _AHEAD * 8 // sig.args[1].dtype.bitwidth

            def emit(part: list[Any]) -> Any:
                """Emit the sums of some rows; return them."""

                def step(k: Any, totals: Any) -> Any:
                    place = builder.mul(k, I64(count))
                    others = [load_vector(builder, builder.gep(row, [place]), kind) for row in y_rows]
                    if columns == 1:
                        for row in part:
                            prefetch_line(builder, builder.gep(row, [builder.add(place, I64(ahead))]))
                    return added(totals, load(part, place), others)

                totals = accumulate(builder, len(part), columns + sums.squares, kind, steps, step)
                if not is_float:
                    return totals
                # Without a lane in the mask no memory is touched, and zeros are added.
                rest = [[load_lanes(builder, builder.gep(row, [whole]), kind, mask) for row in side] for side in (part, y_rows)]
                return added(totals, *rest)

            # Floats for one query are read from memory, fastest in its order; levels take arithmetic, so rows are in step.
            totals = [emit([row])[0] for row in x_rows] if is_float and columns == 1 else emit(x_rows)
            for i in range(rows):
                for j in range(columns + sums.squares):
                    place = builder.add(builder.mul(number[10], I64(j)), I64(i))
                    builder.store(halved(builder, totals[i][j], builder.fadd), builder.gep(op, [place]))
            return context.get_dummy_value()

        return sig, codegen

    return compute


def _in_python(sums: Sums) -> Any:
    from fastattn.kernels.vector.simd_python import absolute, fill, fma, lanes, load_part, reduce_add

    def added(total: Any, x: Any, y: Any) -> Any:
        if sums.term == "product":
            return fma(x, y, total)
        return total + absolute(x - y) if sums.term == "difference" else fma(x - y, x - y, total)

    def compute(n, x, ix, ldx, table, y, iy, ldy, out, io, ldo):  # type: ignore[no-untyped-def]
        width = lanes(out)
        with np.errstate(all="ignore"):
            for i in range(sums.rows):
                totals = [fill(out, 0.0) for _ in range(sums.columns + sums.squares)]
                for k in range(0, n, width):
                    part = min(width, n - k)
                    row = load_part(x, ix + i * ldx + k, part, 0)
                    if x.dtype != out.dtype:
                        row = fma(row[:width].astype(out.dtype), load_part(table, k, part, 0.0), load_part(table, n + k, part, 0.0))
                    for j in range(sums.columns):
                        totals[j] = added(totals[j], row, load_part(y, iy + j * ldy + k, part, 0.0))
                    if sums.squares:
                        totals[-1] = fma(row, row, totals[-1])
                for j, total in enumerate(totals):
                    out[io + j * ldo + i] = reduce_add(total)

    return compute


def sums_of(sums: Sums) -> Any:
    """Return ``compute(n, x, ix, ldx, table, y, iy, ldy, out, io, ldo)``: out[j, i] = a sum over x[i, :n] and y[j, :n].

    Terms: "product", "squared difference", "difference" (its absolute value).  The sums of squares are one more row of out.
    x is of floats, or of levels, int8: x = level * table[k] + table[n + k]; then n is a multiple of the lanes.
    """
    return (_in_python if config.DISABLE_JIT else _compiled)(sums)


@intrinsic
def _differing_bits(typingctx, like, x, ix, y, iy):  # type: ignore[no-untyped-def]
    """Count the bits in which the integer at byte ix of x differs from that at byte iy of y; it is as long as `like`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = ir.IntType(like.bitwidth)

        def word(i: int) -> Any:
            place = context.cast(builder, args[i + 1], sig.args[i + 1], types.int64)
            pointer = element_pointer(context, builder, sig.args[i], args[i], place)
            return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)

        found = call(builder, f"llvm.ctpop.i{like.bitwidth}", kind, [builder.xor(word(1), word(3))])
        return found if like.bitwidth == I64.width else builder.zext(found, I64)

    return types.int64(like, x, ix, y, iy), codegen


def _differing_bits_in_python(like: Any, x: Any, ix: int, y: Any, iy: int) -> int:
    size = like.itemsize
    if ix < 0 or iy < 0 or ix + size > x.size or iy + size > y.size:
        raise IndexError(f"bytes {ix} and {iy} of arrays of {x.size} and {y.size}")
    return int(np.unpackbits(x[ix : ix + size] ^ y[iy : iy + size]).sum())


differing_bits = _differing_bits_in_python if config.DISABLE_JIT else _differing_bits
