"""The whole encoder over packed sequences, as a list of steps; each step is shared by all threads, in one parallel region.

Throughput: one step.  Each thread takes a chunk of whole sequences through all layers, without a barrier, and the chunk's
activations stay in its cache.  Latency: several steps a layer, each cut by rows, or for few rows by columns of the weights, so
that every weight is read by one thread.  The steps are the same functions in the same order of sums: same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import from_dtype
from numpy.typing import NDArray

from fastattn.kernels.compile.address import AddressedKernel
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.encoder.convolution import add_convolution, convolve_rows
from fastattn.kernels.encoder.embed import embed_rows
from fastattn.kernels.encoder.heads import attend_heads, turn_rows
from fastattn.kernels.encoder.layer import FF_ROWS, expand, layer_tail, project_qkv
from fastattn.kernels.encoder.norms import add_sublayer, norm_rows
from fastattn.kernels.encoder.pool import pool_rows
from fastattn.kernels.products.product import prepare_all, products
from fastattn.kernels.records import (
    STOP,
    Batch,
    Model,
    Plan,
    Result,
    Workspace,
    layer_of,
    matrix,
    norm_of,
    shifted,
    sizes_of,
    weight_of,
)
from fastattn.kernels.vector.simd import atomic_next, tile_width

CHUNKS, EMBED_ROWS, HEADS, TAIL_ROWS, QKV_COLUMNS, OUT_COLUMNS, IN_COLUMNS, FF_COLUMNS, FINISH, CONVOLVE = range(10)
# Rows of a long sequence between two looks at the stop flag.
_TAIL_ROWS = 8 * FF_ROWS
_COLUMN_STEPS = (QKV_COLUMNS, HEADS, OUT_COLUMNS, IN_COLUMNS, FF_COLUMNS)


def throughput_steps() -> NDArray[np.int64]:
    """Return the steps (kind, layer) that run chunks of whole sequences."""
    return np.array([[CHUNKS, 0]], np.int64)


def latency_steps(layers: int, by_columns: bool, convolved: Collection[int] = ()) -> NDArray[np.int64]:
    """Return the steps (kind, layer) that share one batch by rows, or by columns of the weights; `convolved`: layers by rows."""
    kinds = _COLUMN_STEPS if by_columns else (HEADS, CONVOLVE, TAIL_ROWS)
    body = [(kind, layer) for layer in range(layers) for kind in kinds if kind != CONVOLVE or layer in convolved]
    return np.array([(EMBED_ROWS, 0), *body, (FINISH, 0)], np.int64)


@kernel
def finish_sequences(first, last, batch, sizes, model, x, result):  # type: ignore[no-untyped-def]
    """The final norm, then the pooled vectors of sequences first .. last - 1, or their rows, into the result."""
    offsets, out, c = batch.offsets, result.out, sizes.hidden
    origin = offsets[first]
    m = offsets[last] - origin
    if sizes.final_norm >= 0:
        norm_rows(m, c, sizes, x, norm_of(model, sizes.final_norm, sizes.final_norm_bias), model.eps, x)
    if result.pooling == 0:
        for j in range(m * c):
            out[origin * c + j] = x.data[x.at + j]
    else:
        for s in range(first, last):
            rows = shifted(x, offsets[s] - origin, 0)
            pool_rows(offsets[s + 1] - offsets[s], 0, c, rows, result.pooling, result.normalize, out, s * c)


@kernel
def before_step(step, layer, batch, sizes, model, work, result):  # type: ignore[no-untyped-def]
    """One thread's work before a step: what needs whole rows, norms and turns, where the steps are cut by columns."""
    c, n, layout = sizes.hidden, batch.offsets[batch.offsets.size - 1], model.layout
    at = layer_of(layout, layer)
    x, y = matrix(work.x, 0, c), matrix(work.y, 0, c)
    if step == QKV_COLUMNS or (step == FINISH and work.y.size):
        if step == FINISH or layer > 0:
            before = layer_of(layout, layout.shape[0] - 1 if step == FINISH else layer - 1)
            add_sublayer(
                n, sizes, model, y, before.ff_norm, before.ff_norm_bias, before.norm2, before.norm2_bias, x
            )  # fmt: skip
        if step == QKV_COLUMNS and sizes.norm_first and at.norm1 >= 0:
            norm = norm_of(model, at.norm1, at.norm1_bias)
            norm_rows(n, c, sizes, x, norm, model.eps, matrix(work.ctx, 0, sizes.wide))
    elif step == HEADS and work.y.size:
        turn_rows(0, n, batch, sizes, model, at, matrix(work.qkv, 0, sizes.qkv))
    elif step == IN_COLUMNS:
        add_sublayer(n, sizes, model, y, at.out_norm, at.out_norm_bias, at.norm1, at.norm1_bias, x)
        if sizes.norm_first and at.norm2 >= 0:
            norm_rows(n, c, sizes, x, norm_of(model, at.norm2, at.norm2_bias), model.eps, y)
    if step == FINISH:
        finish_sequences(0, batch.offsets.size - 1, batch, sizes, model, x, result)


def _run_step(step, layer, worker, plan, batch, model, work, result):  # type: ignore[no-untyped-def]
    """One worker's share of one step; work that is not cut evenly is handed out by the counter.  Worker -1: `before_step`.

    plan ... result: records as plain tuples.
    All steps share one function: split up, LLVM would compile the kernels that they call once per step.
    """
    plan, batch, model, work, result = Plan(*plan), Batch(*batch), Model(*model), Workspace(*work), Result(*result)
    sizes = sizes_of(model.sizes)
    if worker < 0:
        before_step(step, layer, batch, sizes, model, work, result)
        return
    c, heads, offsets, layout = sizes.hidden, sizes.heads, batch.offsets, model.layout
    scratch, counter = work.scratch, work.counter
    sequences = offsets.size - 1
    n = offsets[sequences]
    at = layer_of(layout, layer)
    own = worker * (scratch.size // plan.workers)
    if step == CHUNKS:
        # The worker's own rows: x, ctx, a convolution's, then qkv and a head's scratch, in whose place comes what embedding and the
        # tail need.
        x, ctx = matrix(scratch, own, c), matrix(scratch, own + plan.rows_max * c, sizes.wide)
        convolved = matrix(scratch, ctx.at + plan.rows_max * sizes.wide, c)
        qkv = matrix(scratch, convolved.at + (plan.rows_max * c if sizes.convolution > 0 else 0), sizes.qkv)
        rest = qkv.at + plan.rows_max * sizes.qkv
        i = atomic_next(counter, 0)
        while i < plan.chunks.size - 1:
            first, last = plan.chunks[i], plan.chunks[i + 1]
            start, stop = offsets[first], offsets[last]
            embed_rows(start, stop, batch, sizes, model, scratch, qkv.at, x)
            for inner in range(layout.shape[0]):
                here = layer_of(layout, inner)
                for row in range(0, stop - start, _TAIL_ROWS):
                    if counter[STOP] != 0:
                        return
                    rows = min(_TAIL_ROWS, stop - start - row)
                    project_qkv(
                        rows, sizes, model, here, shifted(x, row, 0), shifted(ctx, row, 0), matrix(scratch, rest, 0),
                        shifted(qkv, row, 0),
                    )  # fmt: skip
                    turn_rows(start + row, start + row + rows, batch, sizes, model, here, shifted(qkv, row, 0))
                for s in range(first, last):
                    row, tokens = offsets[s] - start, offsets[s + 1] - offsets[s]
                    attend_heads(
                        0, heads, (tokens, batch.keys[s]), sizes, model, here, batch, shifted(qkv, row, 0), scratch, rest,
                        shifted(ctx, row, 0), counter,
                    )  # fmt: skip
                if here.convolution >= 0:
                    convolve_rows(start, stop, start, batch, sizes, model, here, x, scratch, qkv.at, convolved, counter)
                for row in range(0, stop - start, _TAIL_ROWS):
                    if counter[STOP] != 0:
                        return
                    rows = min(_TAIL_ROWS, stop - start - row)
                    layer_tail(rows, sizes, model, here, shifted(ctx, row, 0), scratch, qkv.at, shifted(x, row, 0))
                    if here.convolution >= 0:
                        add_convolution(rows, sizes, model, here, shifted(convolved, row, 0), shifted(x, row, 0))
            finish_sequences(first, last, batch, sizes, model, x, result)
            i = atomic_next(counter, 0)
        return
    x, ctx = matrix(work.x, 0, c), matrix(work.ctx, 0, sizes.wide)
    qkv, y = matrix(work.qkv, 0, sizes.qkv), matrix(work.y, 0, c)
    if step == HEADS:
        i = atomic_next(counter, 0)
        while i < sequences * heads:
            s, h = i // heads, i % heads
            row, tokens = offsets[s], offsets[s + 1] - offsets[s]
            attend_heads(
                h, h + 1, (tokens, batch.keys[s]), sizes, model, at, batch, shifted(qkv, row, 0), scratch, own,
                shifted(ctx, row, 0), counter,
            )  # fmt: skip
            i = atomic_next(counter, 0)
    elif step == EMBED_ROWS or step == TAIL_ROWS or step == CONVOLVE:
        i = atomic_next(counter, 0)
        while i < plan.blocks:
            row, stop = n * i // plan.blocks, n * (i + 1) // plan.blocks
            rows, here, to = stop - row, shifted(x, row, 0), shifted(ctx, row, 0)
            beside = shifted(matrix(work.convolved, 0, c), row, 0)
            following = layer
            if step == CONVOLVE:
                convolve_rows(row, stop, 0, batch, sizes, model, at, x, scratch, own, beside, counter)
                following = layout.shape[0]
            elif step == EMBED_ROWS:
                embed_rows(row, stop, batch, sizes, model, scratch, own, here)
            else:
                layer_tail(rows, sizes, model, at, to, scratch, own, here)
                if at.convolution >= 0:
                    add_convolution(rows, sizes, model, at, beside, here)
                following = layer + 1
            if work.y.size == 0 and following < layout.shape[0]:
                # Nobody else reads these rows of ctx: room for the normed rows.
                then = layer_of(layout, following)
                project_qkv(rows, sizes, model, then, here, to, matrix(scratch, own, 0), shifted(qkv, row, 0))
                turn_rows(row, stop, batch, sizes, model, then, shifted(qkv, row, 0))
            i = atomic_next(counter, 0)
    else:
        width = tile_width(work.x)
        columns = sizes.qkv if step == QKV_COLUMNS else (sizes.ff if step == IN_COLUMNS else c)
        count = (columns + width - 1) // width
        shared = (count * worker // plan.workers, count * (worker + 1) // plan.workers)
        expanded = matrix(work.expanded, 0, sizes.ff_stride)
        # Few rows: each worker prepares all of them, behind the panel that a gate takes.
        room = matrix(scratch, own + n * width, 0)
        if step == IN_COLUMNS:
            source = y if sizes.norm_first and at.norm2 >= 0 else x
            weight = weight_of(model, at.up, at.up_bias, c, sizes.ff, at.up_precision)
            prepared = prepare_all(n, source, weight, room)
            expand(n, shared, sizes, model, at, prepared, matrix(scratch, own, width), expanded)
        else:
            source, target, weight = ctx, y, weight_of(model, at.out, at.out_bias, sizes.query, c, at.out_precision)
            if step == QKV_COLUMNS:
                source = ctx if sizes.norm_first and at.norm1 >= 0 else x
                target, weight = qkv, weight_of(model, at.qkv, at.qkv_bias, c, sizes.qkv, at.qkv_precision)
            elif step == FF_COLUMNS:
                source, weight = expanded, weight_of(model, at.down, at.down_bias, sizes.ff, c, at.down_precision)
            products(n, shared, prepare_all(n, source, weight, room), weight, target, 0)


_WHOLE = types.int64
_WHOLES, _REALS, _IDS = types.int64[::1], types.float32[::1], types.int32[::1]
_ROWS = types.int64[:, ::1]
run_step = AddressedKernel(
    _run_step,
    (
        _WHOLE,
        _WHOLE,
        _WHOLE,
        types.Tuple(Plan(steps=_ROWS, chunks=_WHOLES, blocks=_WHOLE, rows_max=_WHOLE, workers=_WHOLE)),
        types.Tuple(Batch(_WHOLES, _WHOLES, _IDS, _IDS, input_embeds=_REALS, positions=_REALS, rotary=_REALS, relative=_REALS)),
        # The model's, by the dtypes of its matrices and tokens.
        None,
        types.Tuple(Workspace(*(_REALS,) * 7, counter=_WHOLES)),
        types.Tuple(Result(_REALS, pooling=_WHOLE, normalize=types.boolean)),
    ),
)
_call_step = run_step.call


def step_address(model: Model) -> Any:
    """Return the address of `run_step` for the dtypes of a model's matrices and token embeddings."""
    return run_step.address(_model_type(model.matrices.dtype, model.tokens.dtype))


@functools.cache
def _model_type(matrices: np.dtype[Any], tokens: np.dtype[Any]) -> Any:
    """Return Numba's type of a model; making one takes tens of microseconds."""
    arrays = [types.Array(from_dtype(dtype), 1, "C") for dtype in (matrices, tokens)]
    real = types.float64
    kind = Model(
        arrays[0], _REALS, tokens=arrays[1], token_types=_REALS, layout=_ROWS, sizes=_WHOLES, eps=real, scale=real, softcap=real
    )
    return types.Tuple(kind)


@ParallelKernel
def encoder_kernel(run, plan, batch, model, work, result):  # type: ignore[no-untyped-def]
    """Run the steps of the plan; `run` is the address of `run_step`, the others are records as plain tuples."""
    # By place: a record made here would count the references of all its arrays.
    steps, workers, counter = plan[0], plan[4], work[7]
    for i in range(steps.shape[0]):
        if counter[STOP] != 0:
            break
        step, layer = steps[i, 0], steps[i, 1]
        counter[0] = 0
        # Worker -1 first, then all of them; where there is one, no threads.
        for worker in range(-1, 1 if workers == 1 and step != FINISH else 0):
            _call_step(run, (step, layer, worker, plan, batch, model, work, result))
        if step != FINISH and workers > 1:
            for w in prange(workers):
                _call_step(run, (step, layer, np.int64(w), plan, batch, model, work, result))
