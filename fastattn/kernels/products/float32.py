"""Products in the dtype of the rows, float32 or float64."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.records import matrix, shifted
from fastattn.kernels.vector.activations import activate_rows
from fastattn.kernels.vector.rows import copy_row
from fastattn.kernels.vector.simd import tile_width
from fastattn.kernels.vector.tile import panel_product

# Products of one chain, a multiple of a panel's columns.  A longer sum is made of such chains and a rest: on MiniLM's weights and
# hidden states the error is then that of a BLAS; chains of 768 have 1.5 to 1.8 times as much.
SUM_BLOCK = 256
# Rows a multiple of 4 KiB apart lie in one set of the first-level cache, which has eight or twelve ways: those of a tile would take
# each other's place at every step of k.  Copied, a network of 1024 channels takes 0.9 of the time (Zen 4).
_APART = 1024
_LINE = 16


@kernel
def chain_columns(w):  # type: ignore[no-untyped-def]
    """Products of a chain."""
    return np.int64(SUM_BLOCK)


def room(rows: int, k: int) -> int:
    """Elements of the room that `prepare` needs for rows of at most `k` columns."""
    return rows * (k + _LINE) if k >= _APART else 0


@kernel
def same_rows(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return the rows a[:m] as they are."""
    return a


@kernel
def prepare(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return the rows a[:m] as `chain_products` takes them: as they are, or in `room` where they share a set of the cache."""
    columns = min(chains[1] * SUM_BLOCK, w.k) - chains[0] * SUM_BLOCK
    if a.ld % _APART != 0 or columns < _APART:
        return a
    out = matrix(room.data, room.at, columns + _LINE)
    for i in range(m):
        copy_row(columns, a.data, a.at + i * a.ld, out.data, out.at + i * out.ld)
    return out


@kernel
def chain_products(m, chains, panels, a, w, c, kind):  # type: ignore[no-untyped-def]
    """c[:m] = activation(a[:m] weight^T + bias) for the columns of panels[0] .. panels[1] - 1 and chains[0] .. chains[1] - 1 of k.

    The first chain brings the bias, the others add to c.
    """
    width = tile_width(c.data)
    for p in range(panels[0], panels[1]):
        column = p * width
        columns = min(width, w.n - column)
        to = shifted(c, 0, column)
        for chain in range(chains[0], chains[1]):
            begin = chain * SUM_BLOCK
            count = min(SUM_BLOCK, w.k - begin)
            panel = matrix(w.panels, w.at + column * w.k + begin * width, width)
            # One call for both: the product's code is long, and each call is compiled anew.
            add = to if chain else matrix(w.bias, w.bias_at + column, 0)
            source = shifted(a, 0, begin - chains[0] * SUM_BLOCK)
            panel_product(m, count, source, panel, w.k * width, add, to, columns)
        if kind:
            activate_rows(m, columns, c.data, to.at, c.ld, c.data, to.at, c.ld, kind)
