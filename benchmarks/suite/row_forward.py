"""Forward of whole encoders, in each precision, against the peers and the limit of the arithmetic; one thread against all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.suite.fidelity import fidelity, mark
from benchmarks.suite.labels import named, precision_of, row_named
from benchmarks.suite.session import ENCODERS, ONNX_RUNTIME, EncoderGate, Session, faster, is_counted, record, share_of_limit
from benchmarks.suite.shapes import MINILM, REFERENCE_FLOP, Model
from benchmarks.suite.turns import Contender, ratio

LIMIT_FROM_TOKENS = 128


class Goals(NamedTuple):
    """What a precision must reach: over the best other, in the geometric mean, of the limit, over our float32 at some shapes."""

    best: float
    mean: float | None
    limit: float | None
    own: dict[tuple[int, int], float]


LARGE = (32, 128)
GOALS = {
    "float32": Goals(1.1, 1.2, 0.88, {}),
    "bfloat16": Goals(1.15, None, 0.75, {}),
    "int8": Goals(1.2, 1.3, None, {(1, 16): 1.5, LARGE: 2.6}),
}
OVER_ONNX_RUNTIME = 1.8


def forward(session: Session, model: Model, shapes: tuple[tuple[int, int], ...], precision: str = "float32") -> None:
    """Time a forward at each shape; no padding, and every library gets a mask of ones."""
    folder = session.exports(model)
    gate, goals = EncoderGate(folder), GOALS[precision]
    ours, peers = named("fastattn", precision), ENCODERS[precision]
    if precision == "float32":
        found, admitted = {}, gate.admit(session, model, folder, ("fastattn", *peers, "numpy"))
    else:
        found = fidelity(session, model, precision)
        admitted = ("fastattn", *(name for name in (ours, *peers) if name in found))
    best: list[float] = []
    for batch, tokens in shapes:
        flop = model.flop(batch, tokens)
        arrays = gate.batch((tokens,) * batch)
        checks = gate.first_sequence(arrays)
        libraries = [name for name in admitted if name != "numpy" or flop < REFERENCE_FLOP]
        contenders = [
            Contender(name, session.worker(name), "forward", checks[precision_of(name)], {"folder": str(folder)})
            for name in libraries
        ]
        cell, times = session.measure(
            row_named("forward", precision), f"({batch}, {tokens})", [*contenders, session.machine(precision)], arrays,
            model=model.name, precision=precision, flop=flop, tokens=batch * tokens,
        )  # fmt: skip
        mark(cell, found, precision)
        faster(cell, times, goals.best, peers, ours)
        best.append(cell["goals"][-1]["value"] or math.nan)
        if precision == "int8" and (batch, tokens) == LARGE:
            faster(cell, times, OVER_ONNX_RUNTIME, ONNX_RUNTIME, ours, "ONNX Runtime")
        if precision != "float32":
            over_own = ratio(times["fastattn"], times[ours]) if ours in times and "fastattn" in times else None
            record(cell, "our float32", "x", over_own, goals.own.get((batch, tokens), 1.0), counted=is_counted(cell, ours))
        if batch * tokens >= LIMIT_FROM_TOKENS:
            judged = precision == "float32" or (batch, tokens) == LARGE
            share_of_limit(cell, times, goals.limit if judged else None, flop, session.threads, ours)
    mean = float(np.exp(np.mean(np.log(best))))
    cell = {"row": row_named("forward", precision) + ", geometric mean", "case": "all shapes", "model": model.name}
    cell |= {"times": {}, "failures": {}, "goals": []}
    session.cells.append(cell)
    value = None if math.isnan(mean) else (mean, min(best), max(best))
    goal = goals.mean if model is MINILM or precision != "float32" else None
    record(cell, "the best of each", "x", value, goal, note="between the least and the greatest ratio")


def threads(session: Session) -> None:
    """Time a forward with one thread and with two."""
    folder: Path = session.exports(MINILM)
    gate = EncoderGate(folder)
    batch, tokens = 32, 128
    arrays = gate.batch((tokens,) * batch)
    check = gate.first_sequence(arrays)["float32"]
    counts = (1, min(2, session.threads))
    workers = {count: session.fresh_worker("fastattn", count, NUMBA_NUM_THREADS=str(count)) for count in counts}
    contenders = [
        Contender(f"fastattn on {count}", worker, "forward", check, {"folder": str(folder)}) for count, worker in workers.items()
    ]
    cell, times = session.measure(
        "1 thread to 2", f"({batch}, {tokens})", contenders, arrays,
        model=MINILM.name, flop=MINILM.flop(batch, tokens), tokens=batch * tokens,
    )  # fmt: skip
    for worker in workers.values():
        worker.close()
    one, two = (times.get(f"fastattn on {count}") for count in (1, 2))
    if session.threads < 2:
        record(cell, "1 thread", "x", None, None, note="this machine has one core")
    else:
        record(cell, "1 thread", "x", ratio(one, two) if one and two else None, 1.9)
