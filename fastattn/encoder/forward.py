"""One forward: the schedule is chosen by the amount of work, the workspace is kept from call to call."""

from __future__ import annotations

import functools
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packing import Packed
from fastattn.kernels.encoder.attend import head_scratch
from fastattn.kernels.encoder.convolution import convolution_scratch
from fastattn.kernels.encoder.disentangled import disentangled_scratch
from fastattn.kernels.encoder.layer import FF_ROWS, experts_scratch, ff_stride, tail_scratch
from fastattn.kernels.encoder.schedule import encoder_kernel, latency_steps, step_address, throughput_steps
from fastattn.kernels.ops._arrays import Array, panels
from fastattn.kernels.products.pack import precision_of, room_words
from fastattn.kernels.records import STOP, Batch, Model, Plan, Result, Workspace
from fastattn.layer_config import convolution_of, experts_of
from fastattn.runtime.interrupt import interruptible
from fastattn.runtime.memory import aligned_empty, check_large
from fastattn.runtime.threads import thread_count

# Tokens of a chunk: enough rows that streaming the weights costs nothing, few enough that activations stay in the cache.
CHUNK_TOKENS = 128
# Fewer rows a thread than this, and the threads share the columns of the weights, each of which is then read once.
_ROWS_PER_THREAD = 24
# Chunks are handed out where they keep the threads busy for this share of the time, and the steps are shared otherwise.
_BALANCED = 0.8
_FLOP_PER_US = 2e5

# A call of about this many microseconds or more lets the handlers of signals run meanwhile.
_LONG_US = 5e4

# Arrays of up to this many bytes are kept by their thread from call to call.
_KEPT = 2**28
_workspace = threading.local()


def _scratch(name: str, size: int) -> Array:
    """Take this thread's array of that name, or a new one where there is none of at least `size` elements.

    The buffer is removed from the thread's store while in use, so a nested call (from a signal handler) allocates its own.
    """
    array: Array | None = _workspace.__dict__.pop(name, None)
    return aligned_empty(size, np.float32) if array is None or array.size < size else array


def _to_allocate(sizes: dict[str, int]) -> int:
    """Elements of new memory that arrays of these sizes take, beside what this thread has."""
    held = _workspace.__dict__
    return sum(max(0, size - held[name].size) if name in held else size for name, size in sizes.items())


R = TypeVar("R")
Record = Callable[[int, int, Array, Array, Array], None]


def run(
    config: EncoderConfig,
    packed: Packed,
    batch: Batch,
    result: Result,
    record: Record | None = None,
    reserved_bytes: int = 0,
) -> None:
    """Encode a batch into the result; after each step by rows, `record` gets (step, layer, x, qkv, relative).

    `reserved_bytes`: memory that the caller still needs for its result, and has not written to.
    """
    lengths = np.diff(batch.offsets)
    microseconds = flop(config, lengths) / _FLOP_PER_US
    precision = precision_of(packed.matrices)
    plan, needed = _plan(config, precision, batch.offsets, lengths, microseconds, by_rows=record is not None)
    check_large(4 * _to_allocate(needed) + reserved_bytes, "the forward of {} tokens", int(batch.offsets[-1]))
    arrays = {name: _scratch(name, size) for name, size in needed.items()}
    work = Workspace(**{name: array[: needed[name]] for name, array in arrays.items()}, counter=np.zeros(16, np.int64))
    model = Model(
        packed.matrices,
        packed.vectors,
        packed.tokens,
        packed.token_types,
        packed.layout,
        packed.sizes,
        eps=config.layer_norm_eps,
        scale=_widths(config).scale,
        softcap=config.softcap or 0.0,
    )
    for steps in [plan.steps] if record is None else np.split(plan.steps, len(plan.steps)):
        _launch(microseconds / plan.workers, plan._replace(steps=steps), batch, model, work, result)
        if record is not None:
            record(int(steps[0, 0]), int(steps[0, 1]), work.x, work.qkv, batch.relative)
    for name, array in arrays.items():
        if array.nbytes <= _KEPT:
            setattr(_workspace, name, array)


def _plan(
    config: EncoderConfig,
    precision: str,
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    microseconds: float,
    *,
    by_rows: bool,
) -> tuple[Plan, dict[str, int]]:
    """Choose the schedule; return it with the elements that each array of the workspace needs."""
    c, n, longest = config.hidden_dim, int(offsets[-1]), int(lengths.max())
    widths = _widths(config)
    wide = widths.wide
    chunks = plan_chunks(lengths)
    sizes = offsets[chunks[1:]] - offsets[chunks[:-1]]
    workers = min(thread_count(), max(1, int(microseconds / 50)))
    rows_max, blocks, rows, columns = int(sizes.max()), 0, 0, 0
    scratch = _rows_scratch(config, precision)
    if not by_rows and (workers == 1 or balance(sizes, workers) > _BALANCED):
        steps = throughput_steps()
        workers = min(workers, len(sizes))
        beside_qkv = max(_head_scratch(config, longest), room_words(FF_ROWS, wide, precision))
        scratch = rows_max * ((2 if widths.convolution else 1) * c + wide) + max(rows_max * widths.qkv + beside_qkv, scratch)
    else:
        # Which expert's columns a row needs is known row by row; a convolution is a step of its own, by rows.
        by_columns = not by_rows and n < _ROWS_PER_THREAD * workers and not widths.experts and not widths.convolution
        steps = latency_steps(config.num_layers, by_columns, widths.convolved)
        blocks = workers * max(1, round(n / (workers * FF_ROWS)))
        rows, columns = n, n if by_columns else 0
        # A gate's product takes a panel of all rows; each worker prepares all rows.
        prepared = room_words(columns, max(wide, config.ff_dim), precision) if by_columns else room_words(FF_ROWS, wide, precision)
        scratch = max(_head_scratch(config, longest), scratch, columns * panels(1, np.float32)[1] + prepared)
    needed = {
        "x": rows * c,
        "qkv": rows * widths.qkv,
        "ctx": rows * wide,
        "y": columns * c,
        "expanded": columns * ff_stride(config.ff_dim),
        "convolved": rows * c if widths.convolution else 0,
        "scratch": workers * (-(-scratch // 16) * 16),
    }
    return Plan(steps, chunks, blocks, rows_max, workers), needed


def _launch(us: float, plan: Plan, batch: Batch, model: Model, work: Workspace, result: Result) -> None:
    """Call the kernel, which takes about `us` microseconds; an exception of a signal's handler ends a long call."""
    step = step_address(model)
    records = [tuple(record) for record in (plan, batch, model, work, result)]
    if us < _LONG_US:
        encoder_kernel(step, *records)
        return
    counter = work.counter

    def stop() -> None:
        counter[STOP] = 1
        # No work is left to hand out in the step that runs.
        counter[0] = 2**62

    interruptible(lambda: encoder_kernel.unless(lambda: counter[STOP] != 0, step, *records), stop)


def flop(config: EncoderConfig, lengths: NDArray[np.int64]) -> float:
    """Return the multiplications and additions of the products of one forward."""
    c, e, f, widths = config.hidden_dim, config.embedding_dim or 0, config.ff_dim, _widths(config)
    row = 2 * (c * (widths.qkv + widths.query) + (3 if config.gated else 2) * widths.networks * c * f)
    seen = sum(count * float(np.dot(lengths, np.minimum(lengths, keys))) for keys, count in _keys_seen(config).items())
    # Disentangled scores: queries and keys with at most 2 S distances.
    beside = 2 * len(config.disentangled) * float(np.dot(lengths, np.minimum(2 * lengths, 2 * config.disentangled_span)))
    scores = 4 * seen + config.num_layers * beside
    outside = 2 * c * e + len(widths.convolved) * 2 * widths.convolution * c * c
    return float(lengths.sum()) * (config.num_layers * row + outside) + widths.query * scores


def _once(make: Callable[[EncoderConfig], R]) -> Callable[[EncoderConfig], R]:
    """Keep what follows from a configuration in the configuration: to look it up by value takes as long as a short call."""

    @functools.wraps(make)
    def kept(config: EncoderConfig) -> R:
        found = vars(config).get(make.__name__)
        if found is None:
            # Into `__dict__`: the dataclass is frozen, and compares its fields alone.
            found = vars(config)[make.__name__] = make(config)
        return cast("R", found)

    return kept


class _Widths(NamedTuple):
    """What follows from a configuration: `wide` is the greater of C and H D, `scale` the factor of the scores.

    `experts`: of a layer that has any, or 0; `networks`: feed-forward networks that a token takes, in the mean layer;
    `convolution`: tokens that a convolution spans, or 0, and `convolved`: the layers that have one.
    """

    query: int
    qkv: int
    head: int
    wide: int
    scale: float
    experts: int
    networks: float
    convolution: int
    convolved: tuple[int, ...]


@_once
def _widths(config: EncoderConfig) -> _Widths:
    """Return the widths of a configuration, which every call of the encoder needs."""
    query, d = config.query_dim, config.head_dim
    scale = 1.0 / d**0.5 if config.attention_scale is None else config.attention_scale
    taken = [1 if layer.experts is None else layer.experts[1] for layer in config.layers or ()]
    networks = sum(taken) / len(taken) if taken else 1.0
    convolved = tuple(i for i, layer in enumerate(config.layers or ()) if layer.convolution is not None)
    return _Widths(
        query, config.qkv_dim, d, max(config.hidden_dim, query), scale, experts_of(config.layers), networks,
        convolution_of(config.layers), convolved,
    )  # fmt: skip


@_once
def _keys_seen(config: EncoderConfig) -> dict[float, int]:
    """Return how many layers have tokens that see so many keys at most."""
    windows = (config.layer(index).window for index in range(config.num_layers))
    return dict(Counter(math.inf if left is None else left + 1 + (left if right is None else right) for left, right in windows))


def _head_scratch(config: EncoderConfig, longest: int) -> int:
    """Elements that a worker needs for a head of the longest sequence."""
    beside = disentangled_scratch(longest, config.disentangled_span, panels(longest, np.float32)[1])
    return head_scratch(longest, _widths(config).head) + beside


def _rows_scratch(config: EncoderConfig, precision: str) -> int:
    """Elements that a worker needs for a block of rows: its expansion, or its embedding before the projection."""
    e = config.embedding_dim or 0
    widths = _widths(config)
    tail = tail_scratch(config.hidden_dim, widths.wide, config.ff_dim, precision)
    tail += experts_scratch(config.hidden_dim, widths.experts)
    convolution = convolution_scratch(config.hidden_dim, widths.convolution, precision)
    return max(tail, FF_ROWS * e + room_words(FF_ROWS, e, precision), convolution)


def plan_chunks(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first sequence of each chunk, and the end: neighbours together up to CHUNK_TOKENS tokens, never part of one."""
    starts, tokens = [0], 0
    for i, count in enumerate(lengths.tolist()):
        if tokens and tokens + count > CHUNK_TOKENS:
            starts.append(i)
            tokens = 0
        tokens += count
    return np.array([*starts, len(lengths)], np.int64)


def balance(sizes: NDArray[np.int64], workers: int) -> float:
    """Return the share of the time that `workers` work, where each takes the next chunk when it is free."""
    if len(sizes) > 16 * workers:
        return 1.0
    busy = [0] * workers
    for size in sizes.tolist():
        least = busy.index(min(busy))
        busy[least] += size
    return sum(busy) / (workers * max(busy)) if max(busy) else 1.0
