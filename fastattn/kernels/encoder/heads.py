"""Attention of packed rows, head by head: their queries and keys are normed and turned, then a head's scores and sums."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.encoder.attend import attend_rows, head_words, pack_head, packed_values
from fastattn.kernels.encoder.disentangled import attend_disentangled
from fastattn.kernels.encoder.norms import norm_rows
from fastattn.kernels.ops.rotary_embedding import rotate_rows
from fastattn.kernels.records import STOP, Mask, Scoring, matrix, norm_of, shifted
from fastattn.kernels.vector.simd import tile_width

# Rows of a long sequence that are attended to between two looks at the stop flag.
_HEAD_ROWS = 1024


@kernel
def sequence_of(offsets, row):  # type: ignore[no-untyped-def]
    """The sequence of a packed token, by binary search: np.searchsorted takes a second to compile."""
    s, end = 0, offsets.size - 1
    while end - s > 1:
        middle = (s + end) // 2
        if offsets[middle] <= row:
            s = middle
        else:
            end = middle
    return s


@kernel
def turn_rows(start, stop, batch, sizes, model, at, qkv):  # type: ignore[no-untyped-def]
    """Norm, then turn by their places, the queries and keys of packed tokens start .. stop - 1, which are rows of qkv, in place."""
    offsets, rotary, d = batch.offsets, batch.rotary, sizes.head
    m = stop - start
    if at.query_norm >= 0:
        query_norm = norm_of(model, at.query_norm, at.query_norm_bias)
        for column in range(0, sizes.query, sizes.query_norm):
            part = shifted(qkv, 0, column)
            norm_rows(m, sizes.query_norm, sizes, part, query_norm, model.eps, part)
        key_norm = norm_of(model, at.key_norm, at.key_norm_bias)
        for column in range(sizes.query, sizes.query + sizes.groups * d, sizes.key_norm):
            part = shifted(qkv, 0, column)
            norm_rows(m, sizes.key_norm, sizes, part, key_norm, model.eps, part)
    if rotary.size == 0:
        return
    width = sizes.turned
    table = rotary.size // sizes.rotary_tables * at.rotary
    s = sequence_of(offsets, start)
    row = start
    while row < stop:
        while row >= offsets[s + 1]:
            s += 1
        rows, place = min(stop, offsets[s + 1]) - row, table + (row - offsets[s]) * width
        cos, sin = matrix(rotary, place, width), matrix(rotary, place + width // 2, width)
        for h in range(sizes.heads + sizes.groups):
            part = shifted(qkv, row - start, h * d)
            rotate_rows(rows, width, part, cos, sin, part)
        row += rows


@kernel
def attend_heads(first, last, count, sizes, model, at, batch, qkv, scratch, iw, ctx, counter):  # type: ignore[no-untyped-def]
    """ctx = attention of heads first .. last - 1 of one sequence of packed rows of queries, keys and values.

    count: (tokens, S), where the first S tokens are seen, and the others only see.
    It ends early where counter[STOP] is set.
    """
    tokens, seen = count
    d, shared = sizes.head, sizes.heads // sizes.groups
    relative = batch.relative
    width = tile_width(scratch)
    key_words, value_words = head_words(tokens, d)
    keys, values, own = iw, iw + key_words, iw + key_words + value_words
    scoring = Scoring(model.scale, model.softcap, at.left, at.right)
    distances = 0 if sizes.span else relative.size // sizes.heads
    for h in range(first, last):
        g = h // shared
        q = shifted(qkv, 0, h * d)
        k, v = shifted(qkv, 0, sizes.query + g * d), shifted(qkv, 0, sizes.query + (sizes.groups + g) * d)
        if h == first or h % shared == 0:
            pack_head(model, seen, d, k, v, scratch, (keys, values, own))
        of_keys, of_values = matrix(scratch, keys, width), packed_values(model, seen, d, scratch, values)
        if sizes.span:
            attend_disentangled(
                h, count, sizes, scoring, (model, at.relative_key, at.relative_query, relative),
                q, k, of_keys, of_values, own, shifted(ctx, 0, h * d), counter,
            )  # fmt: skip
            continue
        # The bias of key s for query t lies at the middle of the head's distances + s - t.
        bias = Mask(relative, h * distances + distances // 2, -1, 1)
        for row in range(0, tokens, _HEAD_ROWS):
            if counter[STOP] != 0:
                return
            attend_rows(
                model, (min(_HEAD_ROWS, tokens - row), row), (seen, d, d), shifted(q, row, 0), of_keys, of_values, bias, scoring,
                matrix(scratch, own, 0), shifted(ctx, row, h * d),
            )  # fmt: skip
