"""A convolution over the tokens of a sequence, beside a layer: one product of each token's row and its neighbours'."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.encoder.heads import sequence_of
from fastattn.kernels.encoder.layer import FF_ROWS
from fastattn.kernels.encoder.norms import residual_norm_rows
from fastattn.kernels.products.pack import room_words
from fastattn.kernels.products.product import prepare_all, products
from fastattn.kernels.records import STOP, matrix, norm_of, shifted, weight_of
from fastattn.kernels.vector.rows import copy_row
from fastattn.kernels.vector.simd import tile_width


def convolution_scratch(c: int, size: int, precision: str) -> int:
    """Elements of scratch that `convolve_rows` needs."""
    return (FF_ROWS + size - 1) * c + room_words(FF_ROWS, size * c, precision) if size else 0


@kernel
def convolve_rows(start, stop, first, batch, sizes, model, at, x, scratch, iw, out, counter):  # type: ignore[no-untyped-def]
    """Rows of out = activation(convolution of x + bias) for packed tokens start .. stop - 1; x has the rows of tokens from `first`.

    Zeros stand around the tokens of a sequence that are seen.  Rows lie end to end, so a row and its neighbours are one row of
    K C numbers: rows at a distance of C overlap, and the convolution is a product with a weight (C, K C).
    It ends early where counter[STOP] is set.
    """
    c, size, offsets = sizes.hidden, sizes.convolution, batch.offsets
    width = tile_width(scratch)
    panels = (0, (c + width - 1) // width)
    weight = weight_of(model, at.convolution, at.convolution_bias, size * c, c, at.convolution_precision)
    around, room = matrix(scratch, iw, c), matrix(scratch, iw + (FF_ROWS + size - 1) * c, 0)
    s = sequence_of(offsets, start)
    row = start
    while row < stop:
        while row >= offsets[s + 1]:
            s += 1
        if counter[STOP] != 0:
            return
        rows = min(FF_ROWS, min(stop, offsets[s + 1]) - row)
        for i in range(rows + size - 1):
            token, to = row + i - size // 2, around.at + i * c
            if offsets[s] <= token < offsets[s] + batch.keys[s]:
                copy_row(c, x.data, x.at + (token - first) * x.ld, scratch, to)
            else:
                for j in range(c):
                    scratch[to + j] = 0.0
        target = shifted(out, row - start, 0)
        products(rows, panels, prepare_all(rows, around, weight, room), weight, target, at.convolution_activation)
        row += rows


@kernel
def add_convolution(m, sizes, model, at, convolved, x):  # type: ignore[no-untyped-def]
    """x = norm(x + convolved) behind a layer, for m rows."""
    norm = norm_of(model, at.convolution_norm, at.convolution_norm_bias)
    residual_norm_rows(m, sizes.hidden, sizes, convolved, x, norm, model.eps, x)
