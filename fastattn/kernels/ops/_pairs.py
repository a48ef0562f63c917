"""Packs of numbers rounded to bfloat16, two to a word: what the products of attention and of training read."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._attend import pack_keys
from fastattn.kernels.products.bfloat16 import pair_words, round_pairs
from fastattn.kernels.products.tile import WIDTH
from fastattn.kernels.vector.narrow import bfloat16_pairs
from fastattn.kernels.vector.simd import lanes, load, load_part, store


@kernel
def pack_row_pairs(n, k, x, ix, ldx, room, at, distance, out, io):  # type: ignore[no-untyped-def]
    """Out = a panel (K / 2, W, 2) of n rows of x, at most W; `room` from `at` on takes the rounded rows, so far apart."""
    for i in range(n):
        round_pairs(k, x, ix + i * ldx, room, at + i * distance)
    # A word of two numbers is moved as one.
    pack_keys(n, pair_words(k), room, at, distance, out, io)


@kernel
def pack_column_pairs(first, last, n, k, x, ix, ldx, out, io):  # type: ignore[no-untyped-def]
    """Pairs of rows first .. last - 1 of out = the columns of x (N, K) in panels (ceil(K / W), N / 2, W, 2), padded with zeros."""
    step, size = lanes(x), pair_words(n)
    for pair in range(first, last):
        # Rows behind the last are zeros: none of their numbers is read.
        upper, lower = ix + min(2 * pair, n - 1) * ldx, ix + min(2 * pair + 1, n - 1) * ldx
        has_upper, has_lower = 2 * pair < n, 2 * pair + 1 < n
        for column in range(0, k, WIDTH):
            to = io + (column // WIDTH * size + pair) * WIDTH
            for j in range(0, WIDTH, step):
                at, count = min(column + j, k), min(step, max(0, k - column - j))
                if has_lower and count == step:
                    v = bfloat16_pairs(load(x, upper + at), load(x, lower + at))
                else:
                    one = load_part(x, upper + at, count if has_upper else 0, 0.0)
                    v = bfloat16_pairs(one, load_part(x, lower + at, count if has_lower else 0, 0.0))
                store(out, to + j, v)
