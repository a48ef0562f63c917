"""The whole encoder over packed sequences, as a list of steps; each step is shared by all threads, in one parallel region.

Throughput: one step.  Each thread takes a chunk of whole sequences through all layers, without a barrier, and the chunk's
activations stay in its cache.  Latency: several steps a layer, each cut by rows, or for few rows by columns of the weights, so
that every weight is read by one thread.  The steps are the same functions in the same order of sums: same bits.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastattn.kernels.compile.address import AddressedKernel
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.encoder.embed import embed_rows
from fastattn.kernels.encoder.layer import (
    FF_B,
    FF_ROWS,
    FF_STRIDE,
    FF_W,
    FINAL_NORM_B,
    FINAL_NORM_W,
    NORM1_B,
    NORM1_W,
    NORM2_B,
    NORM2_W,
    NORM_FIRST,
    OUT_B,
    OUT_W,
    QKV_B,
    QKV_W,
    STOP,
    C,
    F,
    H,
    add_norm,
    attend_heads,
    expand,
    layer_tail,
    norm_of,
    project_qkv,
)
from fastattn.kernels.encoder.pool import pool_rows
from fastattn.kernels.ops.linear import linear_rows
from fastattn.kernels.vector.simd import atomic_next, tile_width

CHUNKS, EMBED_ROWS, HEADS, TAIL_ROWS, QKV_COLUMNS, OUT_COLUMNS, IN_COLUMNS, FF_COLUMNS, FINISH = range(9)
# Rows of a long sequence between two looks at it.
_TAIL_ROWS = 8 * FF_ROWS
_COLUMN_STEPS = (QKV_COLUMNS, HEADS, OUT_COLUMNS, IN_COLUMNS, FF_COLUMNS)


def throughput_steps() -> NDArray[np.int64]:
    """Return the steps (kind, layer) that run chunks of whole sequences."""
    return np.array([[CHUNKS, 0]], np.int64)


def latency_steps(layers: int, by_columns: bool) -> NDArray[np.int64]:
    """Return the steps (kind, layer) that share one batch by rows, or by columns of the weights."""
    kinds = _COLUMN_STEPS if by_columns else (HEADS, TAIL_ROWS)
    body = [(kind, layer) for layer in range(layers) for kind in kinds]
    return np.array([(EMBED_ROWS, 0), *body, (FINISH, 0)], np.int64)


@kernel
def finish_sequences(first, last, offsets, dims, weights, eps, mode, normalise, x, ix, out):  # type: ignore[no-untyped-def]
    """The final norm, then the pooled vectors of sequences first .. last - 1, or their rows, into `out`."""
    c = dims[C]
    origin = offsets[first]
    m = offsets[last] - origin
    if dims[FINAL_NORM_W] >= 0:
        norm_of(m, c, x, ix, weights, dims[FINAL_NORM_W], dims[FINAL_NORM_B], eps, x, ix)
    if mode == 0:
        for j in range(m * c):
            out[origin * c + j] = x[ix + j]
    else:
        for s in range(first, last):
            pool_rows(offsets[s + 1] - offsets[s], c, x, ix + (offsets[s] - origin) * c, mode, normalise, out, s * c)


@kernel
def before_step(step, layer, offsets, dims, weights, layout, eps, mode, normalise, x, ctx, y, out):  # type: ignore[no-untyped-def]
    """What one thread does before a step: the norms that need whole rows, where the steps are cut by columns."""
    c, n = dims[C], offsets[offsets.size - 1]
    at = layout[layer]
    if step == QKV_COLUMNS or (step == FINISH and y.size):
        if step == FINISH or layer > 0:
            before = layout[layout.shape[0] - 1] if step == FINISH else layout[layer - 1]
            add_norm(n, dims, y, 0, weights, before[NORM2_W], before[NORM2_B], eps, x, 0)
        if step == QKV_COLUMNS and dims[NORM_FIRST] and at[NORM1_W] >= 0:
            norm_of(n, c, x, 0, weights, at[NORM1_W], at[NORM1_B], eps, ctx, 0)
    elif step == IN_COLUMNS:
        add_norm(n, dims, y, 0, weights, at[NORM1_W], at[NORM1_B], eps, x, 0)
        if dims[NORM_FIRST] and at[NORM2_W] >= 0:
            norm_of(n, c, x, 0, weights, at[NORM2_W], at[NORM2_B], eps, y, 0)
    if step == FINISH:
        finish_sequences(0, offsets.size - 1, offsets, dims, weights, eps, mode, normalise, x, 0, out)


def _run_step(  # type: ignore[no-untyped-def]
    step, layer, worker, workers, chunks, blocks, rows_max, offsets, dims, inputs, rotary, relative, weights, layout, eps, mode,
    normalise, x, qkv, ctx, y, expanded, scratch, counter, out,
):  # fmt: skip
    """One worker's share of one step; work that is not cut evenly is handed out by `counter`.  Worker -1: what comes before it.

    One function and not one a step: what a function calls is optimised again with it, and these call everything.
    """
    if worker < 0:
        before_step(step, layer, offsets, dims, weights, layout, eps, mode, normalise, x, ctx, y, out)
        return
    c, f, h_all, ldh = dims[C], dims[F], dims[H], dims[FF_STRIDE]
    sequences = offsets.size - 1
    n = offsets[sequences]
    at = layout[layer]
    own = worker * (scratch.size // workers)
    if step == CHUNKS:
        # The worker's own rows: x, ctx, then qkv and a head's scratch, in whose place comes what embedding and the tail need.
        ix, ictx, iqkv = own, own + rows_max * c, own + rows_max * 2 * c
        rest = own + rows_max * 5 * c
        i = atomic_next(counter, 0)
        while i < chunks.size - 1:
            first, last = chunks[i], chunks[i + 1]
            start, stop = offsets[first], offsets[last]
            m = stop - start
            embed_rows(start, stop, offsets, dims, inputs, weights, eps, scratch, iqkv, scratch, ix)
            for inner in range(layout.shape[0]):
                here = layout[inner]
                for row in range(0, m, _TAIL_ROWS):
                    if counter[STOP] != 0:
                        return
                    rows, normed, to = min(_TAIL_ROWS, m - row), ictx + row * c, iqkv + row * 3 * c
                    project_qkv(rows, dims, weights, here, eps, scratch, ix + row * c, scratch, normed, scratch, to)
                for s in range(first, last):
                    row, count = offsets[s] - start, offsets[s + 1] - offsets[s]
                    heads, to = iqkv + row * 3 * c, ictx + row * c
                    attend_heads(0, h_all, count, dims, here, rotary, relative, scratch, heads, scratch, rest, scratch, to, counter)
                for row in range(0, m, _TAIL_ROWS):
                    if counter[STOP] != 0:
                        return
                    rows, start_x, start_ctx = min(_TAIL_ROWS, m - row), ix + row * c, ictx + row * c
                    layer_tail(rows, dims, weights, here, eps, scratch, start_ctx, scratch, iqkv, scratch, start_x)
            finish_sequences(first, last, offsets, dims, weights, eps, mode, normalise, scratch, ix, out)
            i = atomic_next(counter, 0)
    elif step == HEADS:
        i = atomic_next(counter, 0)
        while i < sequences * h_all:
            s, h = i // h_all, i % h_all
            row, count = offsets[s], offsets[s + 1] - offsets[s]
            attend_heads(h, h + 1, count, dims, at, rotary, relative, qkv, row * 3 * c, scratch, own, ctx, row * c, counter)
            i = atomic_next(counter, 0)
    elif step == EMBED_ROWS or step == TAIL_ROWS:
        i = atomic_next(counter, 0)
        while i < blocks:
            row, stop = n * i // blocks, n * (i + 1) // blocks
            following = layer
            if step == EMBED_ROWS:
                embed_rows(row, stop, offsets, dims, inputs, weights, eps, scratch, own, x, row * c)
            else:
                layer_tail(stop - row, dims, weights, at, eps, ctx, row * c, scratch, own, x, row * c)
                following = layer + 1
            if y.size == 0 and following < layout.shape[0]:
                # Nobody else reads these rows of ctx: room for the normed rows.
                project_qkv(stop - row, dims, weights, layout[following], eps, x, row * c, ctx, row * c, qkv, row * 3 * c)
            i = atomic_next(counter, 0)
    else:
        width = tile_width(x)
        columns = 3 * c if step == QKV_COLUMNS else (f if step == IN_COLUMNS else c)
        count = (columns + width - 1) // width
        first, last = count * worker // workers, count * (worker + 1) // workers
        if step == IN_COLUMNS:
            source = y if dims[NORM_FIRST] and at[NORM2_W] >= 0 else x
            expand(n, first, last, dims, weights, at, source, 0, scratch, own, expanded, 0, ldh)
        else:
            k, lda, source, target, w, b = c, c, ctx, y, at[OUT_W], at[OUT_B]
            if step == QKV_COLUMNS:
                source, target, w, b = ctx if dims[NORM_FIRST] and at[NORM1_W] >= 0 else x, qkv, at[QKV_W], at[QKV_B]
            elif step == FF_COLUMNS:
                k, lda, source, w, b = f, ldh, expanded, at[FF_W], at[FF_B]
            linear_rows(n, k, first, last, source, 0, lda, weights, w, weights, b, target, 0, columns, columns, 0)


_WHOLE, _REAL, _TRUTH = types.int64, types.float64, types.boolean
_WHOLES, _REALS, _IDS = types.int64[::1], types.float32[::1], types.int32[::1]
_INPUTS = types.Tuple((_IDS, _IDS, _REALS, _REALS, _REALS, _REALS))
run_step = AddressedKernel(
    _run_step,
    (
        *(_WHOLE,) * 4, _WHOLES, _WHOLE, _WHOLE, _WHOLES, _WHOLES, _INPUTS, _REALS, _REALS, _REALS, types.int64[:, ::1],
        _REAL, _WHOLE, _TRUTH, *(_REALS,) * 6, _WHOLES, _REALS,
    ),
)  # fmt: skip
_call_step = run_step.call


@ParallelKernel
def encoder_kernel(  # type: ignore[no-untyped-def]
    run, steps, chunks, blocks, rows_max, offsets, dims, inputs, rotary, relative, weights, layout, eps, mode, normalise,
    x, qkv, ctx, y, expanded, scratch, counter, out, workers,
):  # fmt: skip
    """Run the steps; `run` is the address of `run_step`.

    chunks: the first sequence of each chunk, and the end; none has more than `rows_max` tokens.  blocks: into how many the rows
    are cut.  inputs: what `sum_tables` takes; rotary, relative: what `attend_heads` does.  x, ctx (N, C) and qkv (N, 3 C) for
    latency; y (N, C) and expanded (N, ff_stride(F)) too where it goes by columns; all empty for throughput.  out (B, C), or
    (N, C) for mode 0.
    """
    for i in range(steps.shape[0]):
        if counter[STOP] != 0:
            break
        step, layer = steps[i, 0], steps[i, 1]
        counter[0] = 0
        # Worker -1 first, then all of them; where there is one, no threads.
        for worker in range(-1, 1 if workers == 1 and step != FINISH else 0):
            _call_step(
                run,
                (
                    step, layer, worker, workers, chunks, blocks, rows_max, offsets, dims, inputs, rotary, relative, weights,
                    layout, eps, mode, normalise, x, qkv, ctx, y, expanded, scratch, counter, out,
                ),
            )  # fmt: skip
        if step != FINISH and workers > 1:
            for w in prange(workers):
                _call_step(
                    run,
                    (
                        step, layer, np.int64(w), workers, chunks, blocks, rows_max, offsets, dims, inputs, rotary, relative,
                        weights, layout, eps, mode, normalise, x, qkv, ctx, y, expanded, scratch, counter, out,
                    ),
                )  # fmt: skip
