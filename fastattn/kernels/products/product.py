"""Products of rows with packed weights in the precision of the weights: prepare the rows once, then multiply."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import by_dtype, kernel
from fastattn.kernels.products import bfloat16, float32, int8

_PRECISIONS = {np.float32: float32, np.float64: float32, np.uint16: bfloat16, np.int8: int8}


@by_dtype({dtype: precision.chain_columns for dtype, precision in _PRECISIONS.items()}, "w")
def chain_columns(w):  # type: ignore[no-untyped-def]
    """Into chains of how many products the sums of a weight are cut; chain i begins at a multiple."""


@by_dtype({dtype: precision.prepare for dtype, precision in _PRECISIONS.items()} | {np.float64: float32.same_rows}, "w")
def prepare(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return rows a[:m] as products with `w` take them; they have the columns of chains[0] .. chains[1] - 1 of k.

    In low precision the rows come to lie in `room`, and in float32 if they share a set of the cache where they are.
    """


@by_dtype({dtype: precision.chain_products for dtype, precision in _PRECISIONS.items()}, "w")
def chain_products(m, chains, panels, a, w, c, kind):  # type: ignore[no-untyped-def]
    """c[:m] = activation(a weight^T + bias), for prepared rows, the columns of panels[0] .. panels[1] - 1, some chains of k.

    The first chain brings the bias, the others add to c.  The activation follows the last of these chains: `kind` is 0 where more
    of them are to come.
    """


@kernel
def chains_of(w):  # type: ignore[no-untyped-def]
    """Into how many chains the sums of a weight are cut."""
    columns = chain_columns(w)
    return max(1, (w.k + columns - 1) // columns)


@kernel
def prepare_all(m, a, w, room):  # type: ignore[no-untyped-def]
    """`prepare` of all chains."""
    return prepare(m, (np.int64(0), chains_of(w)), a, w, room)


@kernel
def products(m, panels, a, w, c, kind):  # type: ignore[no-untyped-def]
    """`chain_products` of all chains: the whole sums."""
    chain_products(m, (np.int64(0), chains_of(w)), panels, a, w, c, kind)
