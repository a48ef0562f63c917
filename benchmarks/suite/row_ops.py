"""Products, attention and the elementwise ops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import shapes
from benchmarks.suite.session import PEER_LIMIT, Session, derived, faster, record, share_of_limit, within
from benchmarks.suite.shapes import Model, normal
from benchmarks.suite.turns import Contender, ratio
from fastattn import reference

# Rows that the gate checks (for attention, of the first head).
GATE_ROWS = 128


def products(session: Session, model: Model, rows: tuple[int, ...]) -> None:
    """Time the products of a layer: the kernel on packed weights, the public op that packs in every call, and NumPy."""
    for name, (k, n) in model.products().items():
        for m in rows:
            arrays = {"x": normal(m, k), "weight": normal(n, k, seed=1)}
            first = lambda result: result[:GATE_ROWS]  # noqa: E731
            truth, gate = derived(reference.linear, (arrays["x"][:GATE_ROWS], arrays["weight"]), {}, first, contracts=True)
            ours = session.worker("fastattn")
            flop = 2 * m * k * n
            cell, times = session.measure(
                "product", f"{name} {m} x {k} x {n}",
                [
                    Contender("fastattn", ours, "product", gate),
                    Contender("fastattn.linear", ours, "linear", gate),
                    Contender("numpy", session.worker("numpy"), "product", within(PEER_LIMIT, truth, first)),
                    session.machine(),
                ],
                arrays, model=model.name, flop=flop,
            )  # fmt: skip
            faster(cell, times, 2.0, ("numpy",))
            faster(cell, times, None, ("numpy",), ours="fastattn.linear")
            share_of_limit(cell, times, 0.92, flop, session.threads)


def attention(session: Session, tokens: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """Time attention of eight heads."""
    heads = shapes.ATTENTION_HEADS
    for size in sizes:
        for count in tokens:
            names = ("query", "key", "value")
            arrays = {name: normal(1, heads, count, size, seed=i) for i, name in enumerate(names)}
            part = (arrays["query"][:, :1, :GATE_ROWS], arrays["key"][:, :1], arrays["value"][:, :1])
            first = lambda result: result[:, :1, :GATE_ROWS]  # noqa: E731
            truth, gate = derived(reference.scaled_dot_product_attention, part, {}, first, contracts=True)
            flop = shapes.attention_flop(heads, count, size)
            cell, times = session.measure(
                "attention", f"T {count}, D {size}",
                [
                    Contender("fastattn", session.worker("fastattn"), "attention", gate),
                    Contender("torch", session.worker("torch"), "attention", within(PEER_LIMIT, truth, first)),
                ],
                arrays, flop=flop,
            )  # fmt: skip
            faster(cell, times, 1.5, ("torch",))


def attention_memory(session: Session, tokens: tuple[int, ...], size: int) -> None:
    """Record the peak memory of a call, result included, each in a new process."""
    held: dict[str, list[int]] = {}
    for library in ("fastattn", "torch"):
        for count in tokens:
            worker = session.fresh_worker(library)
            for length in (16, count):
                path = session.work / "memory.npz"
                np.savez(path, **{n: normal(1, shapes.ATTENTION_HEADS, length, size) for n in ("query", "key", "value")})
                worker.ask("prepare", key="run", work="attention", arrays=str(path), options={})
                used = worker.ask("memory", key="run")["bytes"]
            held.setdefault(library, []).append(used)
            worker.close()
    cell: dict[str, Any] = {
        "row": "attention, peak memory", "case": f"T {tokens[-2]} to {tokens[-1]}, D {size}", "times": {}, "failures": {},
        "goals": [], "memory": {name: dict(zip(tokens, bytes_, strict=True)) for name, bytes_ in held.items()},
    }  # fmt: skip
    session.cells.append(cell)
    growth = held["fastattn"][-1] / held["fastattn"][-2]
    linear = tokens[-1] / tokens[-2]
    record(cell, "linear growth", "x", (growth / linear,) * 3, 1.1, at_most=True, note="1 is linear")


def elementwise(session: Session, sizes: tuple[int, ...]) -> None:
    """Time softmax, layer norm (and of a sum with a residual) and GELU from small to large arrays."""
    beyond = second_level_cache()
    for name, streams in shapes.STREAMS.items():
        op = name.partition(",")[0]
        for elements in sizes:
            rows, length = shapes.rows_of(name, elements)
            arrays = {"x": normal(rows, length)}
            if op == "layer_norm":
                arrays |= {"weight": 1 + normal(length, seed=1) / 8, "bias": normal(length, seed=2) / 8}
            if "residual" in name:
                arrays["residual"] = normal(rows, length, seed=3)
            part = {key: array[:GATE_ROWS] if array.ndim == 2 else array for key, array in arrays.items()}
            options = {key: part.pop(key) for key in ("residual",) if key in part}
            first = lambda result: result[:GATE_ROWS]  # noqa: E731
            truth, gate = derived(getattr(reference, op), tuple(part.values()), options, first, contracts=False)
            loose = within(PEER_LIMIT, truth, first)
            contenders = [
                Contender("fastattn", session.worker("fastattn"), op, gate),
                *(Contender(peer, session.worker(peer), op, loose) for peer in ("torch", "onnxruntime")),
            ]
            traffic = 4 * streams * rows * length
            if 8 * rows * length > beyond:
                contenders.append(Contender("machine", session.worker("machine"), "copy", None))
            cell, times = session.measure(name, f"{rows} x {length}", contenders, arrays, bytes=traffic)
            faster(cell, times, 1.0, ("torch", "onnxruntime"))
            if "machine" in times and "fastattn" in times:
                share = ratio(times["machine"], times["fastattn"])
                value = tuple(x * traffic / (8 * rows * length) for x in share)
                record(cell, "copy bandwidth", "share", (value[0], value[1], value[2]), 0.8)


def second_level_cache() -> int:
    """Return the bytes of all cores' second-level caches together; 2 MiB a core if the system reports none."""
    import os

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    path = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    size = int(path.read_text("utf-8").strip().removesuffix("K")) * 1024 if path.exists() else 2 << 20
    return size * len(cores)
