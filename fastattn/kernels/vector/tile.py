"""The microkernel: a tile of the product, its accumulators in registers while k runs.

``C[m, W] = A[m, K] B[K, W] + add`` with W two vectors wide.  One multiply-add per k and element, k upwards, whatever m is: an
element's bits do not depend on how the rows are cut into tiles.  A is read element by element (no row beyond m), B in
whole vectors, and of `add` and C only the first n columns are touched.
"""

from __future__ import annotations

from typing import Any

from numba import config, types
from numba.extending import intrinsic

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.vector.emit import (
    I64,
    accumulate,
    broadcast,
    element_pointer,
    first_lanes,
    integers,
    llvm_vector,
    load_lanes,
    load_vector,
    multiply_add,
    prefetch_line,
    store_lanes,
    store_vector,
    vector_of,
)
from fastattn.kernels.vector.simd import lanes
from fastattn.kernels.vector.target import TARGET, TILE_ROWS

_VECTORS = TARGET.tile[1]


@intrinsic
def _tile(typingctx, m, k_end, a, ia, lda, b, ib, ldb, ahead, add, ii, ldi, c, ic, ldc, n):  # type: ignore[no-untyped-def]
    vector = vector_of(c)
    sig = types.void(m, k_end, a, ia, lda, b, ib, ldb, ahead, add, ii, ldi, c, ic, ldc, n)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind, count = llvm_vector(vector), vector.count
        number = integers(context, builder, sig, args)
        ap, bp, ip, cp = (element_pointer(context, builder, sig.args[i], args[i], number[i + 1]) for i in (2, 5, 9, 12))
        k_stop, lda, ldb, ahead, ldi, ldc, n = (number[i] for i in (1, 4, 7, 8, 11, 14, 15))
        done = builder.append_basic_block("done")
        switch = builder.switch(number[0], done)
        for rows in range(1, TILE_ROWS + 1):
            start = builder.append_basic_block(f"rows{rows}")
            switch.add_case(I64(rows), start)
            builder.position_at_end(start)
            acc = _accumulate(builder, rows, kind, k_stop, (ap, lda), (bp, ldb, ahead))
            whole, part = builder.append_basic_block("whole"), builder.append_basic_block("part")
            builder.cbranch(builder.icmp_signed(">=", n, I64(_VECTORS * count)), whole, part)
            builder.position_at_end(whole)
            summands = _places(builder, rows, count, ip, ldi)
            for (i, j, pointer), (_, _, add_pointer) in zip(_places(builder, rows, count, cp, ldc), summands, strict=True):
                store_vector(builder, builder.fadd(acc[i][j], load_vector(builder, add_pointer, kind)), pointer)
            builder.branch(done)
            builder.position_at_end(part)
            masks = [first_lanes(builder, _clip(builder, builder.sub(n, I64(j * count)), count), count) for j in range(_VECTORS)]
            summands = _places(builder, rows, count, ip, ldi)
            for (i, j, pointer), (_, _, add_pointer) in zip(_places(builder, rows, count, cp, ldc), summands, strict=True):
                total = builder.fadd(acc[i][j], load_lanes(builder, add_pointer, kind, masks[j]))
                store_lanes(builder, total, pointer, masks[j])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return sig, codegen


def _clip(builder: Any, value: Any, top: int) -> Any:
    low = builder.select(builder.icmp_signed("<", value, I64(0)), I64(0), value)
    return builder.select(builder.icmp_signed(">", low, I64(top)), I64(top), low)


def _places(builder: Any, rows: int, count: int, pointer: Any, stride: Any) -> Any:
    for i in range(rows):
        row = builder.gep(pointer, [builder.mul(stride, I64(i))])
        for j in range(_VECTORS):
            yield i, j, builder.gep(row, [I64(j * count)])


def _accumulate(builder: Any, rows: int, kind: Any, k_stop: Any, a: Any, b: Any) -> Any:
    """Emit the loop over k for a number of rows; returns the accumulators after it."""
    count = kind.count
    a_rows = [builder.gep(a[0], [builder.mul(a[1], I64(i))]) for i in range(rows)]

    def step(k: Any, acc: Any) -> Any:
        b_row = builder.gep(b[0], [builder.mul(k, b[1])])
        columns = [load_vector(builder, builder.gep(b_row, [I64(j * count)]), kind) for j in range(_VECTORS)]
        prefetch_line(builder, builder.gep(b_row, [b[2]]))
        after_k = []
        for i in range(rows):
            x = broadcast(builder, builder.load(builder.gep(a_rows[i], [k])), count)
            after_k.append([multiply_add(builder, x, columns[j], acc[i][j]) for j in range(_VECTORS)])
        return after_k

    return accumulate(builder, rows, _VECTORS, kind, k_stop, step)


def _tile_python(m, k_end, a, ia, lda, b, ib, ldb, ahead, add, ii, ldi, c, ic, ldc, n):  # type: ignore[no-untyped-def]
    from fastattn.kernels.vector.simd_python import fill, fma, lanes, load, load_part, store_part

    width = lanes(c)
    flat = a.reshape(-1)
    for i in range(m):
        for j in range(_VECTORS):
            acc = fill(c, 0.0)
            for k in range(k_end):
                acc = fma(flat[ia + i * lda + k], load(b, ib + k * ldb + j * width), acc)
            count = max(0, min(width, n - j * width))
            store_part(c, ic + i * ldc + j * width, count, acc + load_part(add, ii + i * ldi + j * width, count, 0.0))


tile = _tile_python if config.DISABLE_JIT else _tile


@kernel
def panel_product(m, k, a, b, ahead, add, c, n):  # type: ignore[no-untyped-def]
    """C[:m, :n] = A[:m, :k] B[:k, :n] + add for one panel of B, n at most two vectors; rows are cut into nearly equal tiles.

    `add` with row distance 0 is a bias; `c` itself, the product so far.
    The panel that starts `ahead` elements behind B is prefetched; 0 for none.
    """
    tiles = (m + TILE_ROWS - 1) // TILE_ROWS
    line = lanes(c.data) if ahead else 0
    # One division for all tiles: of few steps, a tile takes hardly longer than one.
    least = m // max(tiles, 1)
    larger = m - least * tiles
    done = 0
    for t in range(tiles):
        rows = least + 1 if t < larger else least
        # The panel that comes next is asked for once: every other line by the first tile, the rest by the second.
        distance = ahead + t * line if t < 2 else 0
        tile(
            rows, k, a.data, a.at + done * a.ld, a.ld, b.data, b.at, b.ld, distance,
            add.data, add.at + done * add.ld, add.ld, c.data, c.at + done * c.ld, c.ld, n,
        )  # fmt: skip
        done += rows
