"""A mixture of experts: the feed-forward network of a layer that is several, of which each row takes those that a router finds."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops.softmax import scale_row, softmax_rows
from fastattn.kernels.products.product import chain_columns, chain_products, chains_of, prepare, prepare_all, products
from fastattn.kernels.records import matrix, shifted, weight_of
from fastattn.kernels.vector.rows import add_row, copy_row
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, tile_width

# The weight of an expert that a row does not take.
_LEFT = np.float32(-1.0)


@kernel
def dot_row(n, x, ix, y, iy):  # type: ignore[no-untyped-def]
    """The sum of x[j] y[j] over n elements."""
    width = lanes(x)
    whole = n - n % width
    total, other = fill(x, 0.0), fill(x, 0.0)
    for j in range(0, whole, width):
        total, other = other, fma(load(x, ix + j), load(y, iy + j), total)
    if whole < n:
        total = fma(load_part(x, ix + whole, n - whole, 0.0), load_part(y, iy + whole, n - whole, 0.0), total)
    return reduce_add(total + other)


@kernel
def route(m, c, model, at, x, logits, weights):  # type: ignore[no-untyped-def]
    """weights (m, E) = softmax of the router's logits of m rows of x, where an expert is among a row's `top_k`, else _LEFT.

    Of equal ones the first are taken.
    """
    vectors, count = model.vectors, at.experts
    for i in range(m):
        for e in range(count):
            dot = dot_row(c, x.data, x.at + i * x.ld, vectors, at.router + e * c)
            logits.data[logits.at + i * count + e] = dot + vectors[at.router_bias + e]
    softmax_rows(m, count, logits.data, logits.at, weights.data, weights.at)
    for i in range(m):
        p = weights.at + i * count
        for e in range(count):
            logits.data[logits.at + e] = weights.data[p + e]
        for e in range(count):
            mine, before = logits.data[logits.at + e], 0
            for k in range(count):
                other = logits.data[logits.at + k]
                if other > mine or (other == mine and k < e):
                    before += 1
            if before >= at.top_k:
                weights.data[p + e] = _LEFT


@kernel
def mix_experts(m, sizes, model, at, x, own, expanded, room, chain_room, y):  # type: ignore[no-untyped-def]
    """y = the bias, and the outputs of each row's experts times their weights, in the order of the experts, for m rows of x.

    own: room for 2 m rows of C and 2 m of E; expanded: for m rows of a chain; room, chain_room: for m prepared rows.
    """
    c, f, count = sizes.hidden, sizes.ff, at.experts
    width = tile_width(x.data)
    c_panels = (c + width - 1) // width
    rows, out = matrix(own.data, own.at, c), matrix(own.data, own.at + m * c, c)
    weights = matrix(own.data, own.at + 2 * m * c, count)
    route(m, c, model, at, x, matrix(own.data, weights.at + m * count, count), weights)
    for i in range(m):
        copy_row(c, model.vectors, at.experts_bias, y.data, y.at + i * y.ld)
    for e in range(count):
        taken = 0
        for i in range(m):
            if weights.data[weights.at + i * count + e] != _LEFT:
                copy_row(c, x.data, x.at + i * x.ld, rows.data, rows.at + taken * c)
                taken += 1
        if taken == 0:
            continue
        up = weight_of(model, at.up + e * at.up_stride, at.up_bias + e * at.up_bias_stride, c, f, at.up_precision)
        down = weight_of(model, at.down + e * at.down_stride, at.down_bias + e * at.down_bias_stride, f, c, at.down_precision)
        source = prepare_all(taken, rows, up, room)
        columns = chain_columns(down)
        for chain in range(chains_of(down)):
            first = chain * columns // width
            last = (min(f, (chain + 1) * columns) + width - 1) // width
            products(taken, (first, last), source, up, shifted(expanded, 0, -first * width), sizes.activation)
            part = prepare(taken, (chain, chain + 1), expanded, down, chain_room)
            chain_products(taken, (chain, chain + 1), (0, c_panels), part, down, out, 0)
        taken = 0
        for i in range(m):
            weight = weights.data[weights.at + i * count + e]
            if weight != _LEFT:
                scale_row(c, out.data, out.at + taken * c, out.data, out.at + taken * c, weight)
                add_row(c, y.data, y.at + i * y.ld, out.data, out.at + taken * c)
                taken += 1
