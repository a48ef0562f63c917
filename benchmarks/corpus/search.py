"""Exact search in a million rows, one query, beside NumPy's product and `argpartition`, and beside a pass that only reads.

python -m benchmarks.corpus.search [--rows 1000000] [--width 384] [--rounds 7]; OMP_NUM_THREADS sets the threads of both sides.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.suite.library import Array
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.vector.simd import fill, lanes, load, reduce_add
from fastattn.runtime.threads import thread_count
from fastattn.text.nearest import Rescoring, nearest, pieces_of
from fastattn.text.quantization import quantize_embeddings

_SUMS = 4


@kernel
def sum_part(x, start, stop):  # type: ignore[no-untyped-def]
    """Sum of elements start .. stop - 1, but for a rest: four sums in turns, as fast as memory gives them."""
    width = lanes(x)
    a, b, c, d = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
    for j in range(start, stop - _SUMS * width + 1, _SUMS * width):
        a, b = a + load(x, j), b + load(x, j + width)
        c, d = c + load(x, j + 2 * width), d + load(x, j + 3 * width)
    return reduce_add((a + b) + (c + d))


@ParallelKernel
def read_kernel(x, out, workers):  # type: ignore[no-untyped-def]
    """Read an array, an equal part by each thread."""
    for worker in prange(workers):
        w = np.int64(worker)
        out[w] = sum_part(x, x.size * w // workers, x.size * (w + 1) // workers)


def by_numpy(query: Array, rows: Array, top_k: int) -> Array:
    """Return the best rows by NumPy's product, the best first."""
    scores = rows @ query
    best = np.argpartition(-scores, top_k)[:top_k]
    return best[np.argsort(-scores[best])]


def contenders(count: int, width: int, top_k: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return what is timed: the bytes that it reads, and the call; exact ones are checked against NumPy."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rng.standard_normal((1, width)).astype(np.float32)
    ranges = np.stack([rows.min(axis=0), rows.max(axis=0)])
    starts = range(0, count, 50_000)
    levels = np.concatenate([quantize_embeddings(rows[i : i + 50_000], "int8", ranges) for i in starts])
    signs = np.concatenate([quantize_embeddings(rows[i : i + 50_000], "ubinary") for i in starts])
    flat, sums = rows.reshape(-1), np.zeros(256, np.float32)

    def search(given: Array, name: str, *more: Any) -> Callable[[], Any]:
        return lambda: nearest(queries, pieces_of(given), top_k, name, *more)

    # All rows have length 1: both similarities have the same order.
    for name in ("dot", "cosine"):
        if not np.array_equal(search(rows, name)().rows[0], by_numpy(queries[0], rows, top_k)):
            raise ValueError(f"{name}: other rows than NumPy's")
    return {
        "NumPy float32, argpartition": (rows.nbytes, lambda: by_numpy(queries[0], rows, top_k)),
        "read alone, float32": (rows.nbytes, lambda: read_kernel(flat, sums, thread_count())),
        "float32, dot": (rows.nbytes, search(rows, "dot")),
        "float32, cosine": (rows.nbytes, search(rows, "cosine")),
        "int8, dot": (levels.nbytes, search(levels, "dot", ranges)),
        "int8, cosine": (levels.nbytes, search(levels, "cosine", ranges)),
        "int8, rescored by float32": (levels.nbytes, search(levels, "dot", ranges, Rescoring(4, rows))),
        "signs, rescored": (signs.nbytes, search(signs, "dot", None, Rescoring())),
        "signs, rescored by float32": (signs.nbytes, search(signs, "dot", None, Rescoring(4, rows))),
    }


def main() -> None:
    """Print the least wall and CPU time of each, in turns, and what they are to NumPy's and to the bandwidth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    calls = contenders(given.rows, given.width, given.top_k)
    best = {name: [float("inf")] * 2 for name in calls}
    for _ in range(given.rounds):
        for name, (_, call) in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    first, second = list(best.values())[:2]
    bandwidth = calls["read alone, float32"][0] / second[1]
    print(f"{thread_count()} threads; least of {given.rounds} rounds")
    print("| | wall, ms | CPU, ms | NumPy / this, by CPU | GB/s of CPU time | of the read |\n|---|---:|---:|---:|---:|---:|")
    for name, (wall, cpu) in best.items():
        rate = calls[name][0] / cpu
        figures = f"{wall * 1e3:.1f} | {cpu * 1e3:.1f} | {first[1] / cpu:.2f}x | {rate / 1e9:.1f} | {rate / bandwidth:.0%}"
        print(f"| {name} | {figures} |")


if __name__ == "__main__":
    main()
