"""Forward of whole encoders against the peers and the FMA limit; one thread against all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.suite.session import ENCODERS, EncoderGate, Session, faster, record, share_of_limit
from benchmarks.suite.shapes import MINILM, REFERENCE_FLOP, Model
from benchmarks.suite.turns import Contender, ratio

LIMIT_FROM_TOKENS = 128


def forward(session: Session, model: Model, shapes: tuple[tuple[int, int], ...]) -> None:
    """Time a forward at each shape; no padding, and every library gets a mask of ones."""
    folder = session.exports(model)
    gate = EncoderGate(folder)
    admitted = gate.admit(session, model, folder, ("fastattn", *ENCODERS, "numpy"))
    best: list[float] = []
    for batch, tokens in shapes:
        flop = model.flop(batch, tokens)
        arrays = gate.batch((tokens,) * batch)
        check = gate.first_sequence(arrays)
        libraries = [name for name in admitted if name != "numpy" or flop < REFERENCE_FLOP]
        contenders = [Contender(name, session.worker(name), "forward", check, {"folder": str(folder)}) for name in libraries]
        cell, times = session.measure(
            "forward", f"({batch}, {tokens})", [*contenders, session.machine()], arrays,
            model=model.name, flop=flop, tokens=batch * tokens,
        )  # fmt: skip
        faster(cell, times, 1.1, ENCODERS)
        best.append(cell["goals"][-1]["value"] or math.nan)
        if batch * tokens >= LIMIT_FROM_TOKENS:
            share_of_limit(cell, times, 0.88, flop, session.threads)
    if model is MINILM:
        mean = float(np.exp(np.mean(np.log(best))))
        value = None if math.isnan(mean) else (mean, min(best), max(best))
        cell = {"row": "forward, geometric mean", "case": "all shapes", "model": model.name}
        cell |= {"times": {}, "failures": {}, "goals": []}
        session.cells.append(cell)
        record(cell, "the best of each", "x", value, 1.2, note="between the least and the greatest ratio")


def threads(session: Session) -> None:
    """Time a forward with one thread and with two."""
    folder: Path = session.exports(MINILM)
    gate = EncoderGate(folder)
    batch, tokens = 32, 128
    arrays = gate.batch((tokens,) * batch)
    check = gate.first_sequence(arrays)
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
