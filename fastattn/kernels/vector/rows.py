"""Rows of n elements, copied, added and multiplied."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.vector.simd import lanes, load, load_part, store, store_part


@kernel
def add_row(n, x, ix, table, it):  # type: ignore[no-untyped-def]
    """x[:n] += table[:n]."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(x, ix + j, load(x, ix + j) + load(table, it + j))
    if whole < n:
        rest = n - whole
        store_part(x, ix + whole, rest, load_part(x, ix + whole, rest, 0.0) + load_part(table, it + whole, rest, 0.0))


@kernel
def copy_row(n, source, i, x, ix):  # type: ignore[no-untyped-def]
    """x[:n] = source[:n]."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(x, ix + j, load(source, i + j))
    if whole < n:
        store_part(x, ix + whole, n - whole, load_part(source, i + whole, n - whole, 0.0))


@kernel
def multiply_rows(m, n, x, ix, ldx, out, io, ldo):  # type: ignore[no-untyped-def]
    """out[:m, :n] *= x[:m, :n]."""
    width = lanes(x)
    for i in range(m):
        a, o = ix + i * ldx, io + i * ldo
        for j in range(0, n, width):
            count = min(width, n - j)
            store_part(out, o + j, count, load_part(out, o + j, count, 0.0) * load_part(x, a + j, count, 0.0))
