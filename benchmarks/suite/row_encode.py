"""Texts to vectors: against the peers, and for many texts."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.suite.fidelity import embedding_gate, libraries, mark, token_rows, write_texts
from benchmarks.suite.labels import precision_of, row_named
from benchmarks.suite.session import Session, faster, record
from benchmarks.suite.shapes import MINILM, Model
from benchmarks.suite.turns import Contender, quartiles

# Rounds for cells whose round takes minutes.
LONG_ROUNDS = 3
# Bytes by which memory beyond texts and result may grow from the small corpus to the large corpus.
FLAT_BYTES = 16 << 20
# Our speed over sentence-transformers' in float32, and over the best other's in the precision.
GOALS: dict[str, tuple[float | None, float | None]] = {"float32": (3.0, 1.3), "bfloat16": (None, None), "int8": (7.0, 1.4)}


def encode(session: Session, count: int, precision: str = "float32", model: Model = MINILM) -> None:
    """Time `encode` on real texts of mixed length: our precision, our float32, sentence-transformers and the peers."""
    folder = session.exports(model)
    texts, path = write_texts(session, count)
    check = embedding_gate(folder, texts)
    options = {"folder": str(folder), "texts": str(path)}
    ours, peers, every, found = libraries(session, model, precision)
    contenders = [
        Contender(name, session.worker(name), "encode", check if precision_of(name) == "float32" else None, options)
        for name in every
    ]
    tokens = sum(map(len, token_rows(folder, texts)))
    cell, times = session.measure(
        row_named("encode", precision), f"{count} texts", contenders, rounds=LONG_ROUNDS,
        model=model.name, precision=precision, tokens=tokens,
    )  # fmt: skip
    mark(cell, found, precision)
    over_torch, over_best = GOALS[precision]
    faster(cell, times, over_torch, ("sentence-transformers",), ours)
    faster(cell, times, over_best, peers, ours)


def many_texts(session: Session, small: int, large: int) -> None:
    """Compare throughput and peak memory at a small corpus and at a large corpus, which repeats the same texts."""
    folder = session.exports(MINILM)
    worker = session.fresh_worker("fastattn")
    runs: dict[int, list[float]] = {small: [], large: []}
    beyond: dict[int, int] = {}
    for count in (small, large):
        texts, path = write_texts(session, count)
        options = {"folder": str(folder), "texts": str(path)}
        worker.ask("prepare", key=str(count), work="encode", arrays=None, options=options)
        if count == small:
            # Warm up first: workspaces and kernels must not count as the small corpus's memory.
            worker.ask("warm", key=str(count), seconds=1.0)
            tokens = sum(map(len, token_rows(folder, texts)))
        used = worker.ask("memory", key=str(count))
        beyond[count] = used["bytes"] - count * 4 * MINILM.hidden
        runs[count].append(used["seconds"])
        for _ in range(LONG_ROUNDS if count == small else 0):
            runs[small] += worker.ask("time", key=str(small), calls=1, wake=0)["seconds"]
    # The small corpus again: a change of the machine's speed during the large corpus shows here.
    for _ in range(LONG_ROUNDS):
        runs[small] += worker.ask("time", key=str(small), calls=1, wake=0)["seconds"]
    worker.close()
    cell: dict[str, Any] = {
        "row": "many texts", "case": f"{large} texts against {small}", "model": MINILM.name, "failures": {}, "goals": [],
        "times": {f"fastattn, {count} texts": timing_entry(taken) for count, taken in runs.items()},
        "tokens": tokens, "memory": beyond,
    }  # fmt: skip
    session.cells.append(cell)
    middle, low, high = quartiles([seconds * large / small / runs[large][0] for seconds in runs[small]])
    record(cell, f"tokens/s at {small} texts", "x", (middle, low, high), 0.95)
    growth = (beyond[large] - beyond[small]) / 2**20
    record(cell, "peak memory beyond result and texts, growth", "MiB", (growth,) * 3, FLAT_BYTES / 2**20, at_most=True)
    sys.stderr.write(f"many texts: {middle:.3f} of the rate, memory beyond the result {growth:+.1f} MiB\n")


def timing_entry(seconds: list[float]) -> dict[str, Any]:
    """Return the entry of a cell for the times of single calls."""
    median, low, high = quartiles(seconds)
    return {"median": median, "low": low, "high": high, "calls": len(seconds)}
