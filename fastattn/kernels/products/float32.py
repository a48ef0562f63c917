"""Products in the dtype of the rows, float32 or float64."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.records import matrix, shifted
from fastattn.kernels.vector.activations import activate_rows
from fastattn.kernels.vector.simd import tile_width
from fastattn.kernels.vector.tile import panel_product

# Products of one chain, a multiple of a panel's columns.  A longer sum is made of such chains and a rest: on MiniLM's weights and
# hidden states the error is then that of a BLAS; chains of 768 have 1.5 to 1.8 times as much.
SUM_BLOCK = 256


@kernel
def chain_columns(w):  # type: ignore[no-untyped-def]
    """Products of a chain."""
    return np.int64(SUM_BLOCK)


@kernel
def prepare(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return the rows a[:m] as `chain_products` takes them: as they are."""
    return a


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
