"""One forward: the schedule is chosen by the amount of work, the workspace is kept from call to call."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn._interrupt import interruptible
from fastattn._memory import check_large
from fastattn._packing import Packed
from fastattn.config import EncoderConfig
from fastattn.kernels._arrays import Array, aligned_empty, panels
from fastattn.kernels._attend import scratch_size
from fastattn.kernels._jit import thread_count
from fastattn.kernels._layer import FF_ROWS, ff_stride, tail_scratch
from fastattn.kernels._schedule import STOP, encoder_kernel, latency_steps, run_step, throughput_steps

# Tokens of a chunk: enough rows that streaming the weights costs nothing, few enough that activations stay in the cache.
CHUNK_TOKENS = 128
# Fewer rows a thread than this, and the threads share the columns of the weights, each of which is then read once.
_ROWS_PER_THREAD = 24
# Chunks are handed out where they keep the threads busy for this share of the time, and the steps are shared otherwise.
_BALANCED = 0.8
_FLOP_PER_US = 2e5

# A call of about this many microseconds or more lets the handlers of signals run meanwhile.
_LONG_US = 5e4

_workspace = threading.local()


def _scratch(name: str, size: int) -> Array:
    """Return this thread's array of that name, of at least `size` elements; kept from call to call."""
    array: Array | None = getattr(_workspace, name, None)
    if array is None or array.size < size:
        array = aligned_empty(size, np.float32)
        setattr(_workspace, name, array)
    return array[:size]


def run(
    config: EncoderConfig,
    packed: Packed,
    offsets: NDArray[np.int64],
    inputs: tuple[Array, ...],
    rotary: Array,
    relative: Array,
    mode: int,
    normalize: bool,
    out: Array,
    watch: Callable[[int, int, Array, Array, Array], None] | None = None,
    pending: int = 0,
) -> None:
    """Encode packed sequences into `out`; after each step by rows, `watch` gets (step, layer, x, qkv, relative).

    `pending`: bytes that the caller still needs for its result, and has not written to.
    """
    c, ldh = config.hidden_dim, ff_stride(config.ff_dim)
    lengths = np.diff(offsets)
    n, longest = int(offsets[-1]), int(lengths.max())
    chunks = plan_chunks(lengths)
    sizes = offsets[chunks[1:]] - offsets[chunks[:-1]]
    work_us = flop(config, lengths) / _FLOP_PER_US
    workers = min(thread_count(), max(1, int(work_us / 50)))
    rows_max, blocks = int(sizes.max()), 0
    by_columns = False
    if watch is None and (workers == 1 or balance(sizes, workers) > _BALANCED):
        steps = throughput_steps()
        workers = min(workers, len(sizes))
        width = 0
        per_worker = 2 * rows_max * c + max(3 * rows_max * c + _head_scratch(config, longest), _rows_scratch(config))
    else:
        by_columns = watch is None and n < _ROWS_PER_THREAD * workers
        steps = latency_steps(config.num_layers, by_columns)
        blocks = workers * max(1, round(n / (workers * FF_ROWS)))
        width = n
        gate = n * panels(1, np.float32)[1] if by_columns else 0
        per_worker = max(_head_scratch(config, longest), _rows_scratch(config), gate)
    columns = width if by_columns else 0
    per_worker = -(-per_worker // 16) * 16
    check_large(4 * (5 * width * c + columns * (c + ldh) + workers * per_worker) + pending, "the forward of {} tokens", n)
    x, qkv, ctx = (_scratch(name, width * m) for name, m in (("x", c), ("qkv", 3 * c), ("ctx", c)))
    y, expanded = _scratch("y", columns * c), _scratch("expanded", columns * ldh)
    scratch = _scratch("scratch", workers * per_worker)
    counter = np.zeros(16, np.int64)
    # What is compiled first is Python's own work, which signals interrupt anyway.
    is_long = work_us / workers >= _LONG_US and encoder_kernel.is_compiled()
    call = functools.partial(_interruptibly, counter) if is_long else encoder_kernel
    for part in [steps] if watch is None else np.split(steps, len(steps)):
        call(
            run_step.address(), part, chunks, blocks, rows_max, offsets, packed.dims, inputs, rotary, relative, packed.weights,
            packed.layout, config.layer_norm_eps, mode, normalize, x, qkv, ctx, y, expanded, scratch, counter, out.reshape(-1),
            workers,
        )  # fmt: skip
        if watch is not None:
            watch(int(part[0, 0]), int(part[0, 1]), x, qkv, relative)


def _interruptibly(counter: Array, *arguments: Any) -> None:
    """Call the kernel so that the handlers of signals run meanwhile; where one raises, the kernel ends."""

    def stop() -> None:
        counter[STOP] = 1
        # No work is left to hand out in the step that runs.
        counter[0] = 2**62

    try:
        interruptible(functools.partial(encoder_kernel, *arguments), stop)
    except BaseException:
        # Should the call still be running after all, it keeps this memory to itself.
        _workspace.__dict__.clear()
        raise


def flop(config: EncoderConfig, lengths: NDArray[np.int64]) -> float:
    """Return the multiplications and additions of the products of one forward."""
    c, e, f = config.hidden_dim, config.embedding_dim or 0, config.ff_dim
    row = 2 * (4 * c * c + (3 if config.gated else 2) * c * f)
    local = sum(config.is_local(layer) for layer in range(config.num_layers))
    seen = (config.num_layers - local) * float(np.dot(lengths, lengths))
    if local and config.window is not None:
        seen += local * float(np.dot(lengths, np.minimum(lengths, 2 * config.window + 1)))
    return float(lengths.sum()) * (config.num_layers * row + 2 * c * e) + 4 * c * seen


def _head_scratch(config: EncoderConfig, longest: int) -> int:
    """Elements that a worker needs for a head of the longest sequence."""
    d = config.head_dim
    count, width = panels(longest, np.float32)
    return count * width * d + longest * panels(d, np.float32)[0] * width + scratch_size(0, d, np.float32)


def _rows_scratch(config: EncoderConfig) -> int:
    """Elements that a worker needs for a block of rows: its expansion, or its embedding before the projection."""
    return max(tail_scratch(config.hidden_dim, config.ff_dim), FF_ROWS * (config.embedding_dim or 0))


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
