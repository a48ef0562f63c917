"""From the start of a process to the first embedding, and the memory of a loaded model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.suite.corpus import corpus
from benchmarks.suite.labels import label, named, precision_of
from benchmarks.suite.row_encode import timing_entry
from benchmarks.suite.session import Session, record
from benchmarks.suite.shapes import MINILM, TINY, Model
from benchmarks.suite.turns import Turn, WorkerError, environment, quartiles, ratio, timing

FIRST = (
    "from {module} import SentenceTransformer; print(SentenceTransformer({folder!r}{options}).encode({texts!r}).shape, flush=True)"
)
# Seconds to the first embedding and to compile all, in float32, and by how much more in another precision.
WARM, COLD = 0.7, 20.0
MORE_WARM, MORE_COLD = 0.1, 8.0
# Share of float32's memory.
LEAN = {"bfloat16": None, "int8": 0.35}


def start(session: Session, precisions: tuple[str, ...], *, cold: bool, model: Model = MINILM) -> None:
    """Time from the start of a process to the first embedding: warm cache and cold compile, and sentence-transformers."""
    checkpoint = str(session.exports(model) / "checkpoint")
    codes = {
        named("fastattn", precision): {
            "module": "fastattn",
            "options": "" if precision == "float32" else f", precision={precision!r}",
        }
        for precision in precisions
    }
    codes["sentence-transformers"] = {"module": "sentence_transformers", "options": ""}
    taken: dict[str, list[float]] = {name: [] for name in codes}
    failures: dict[str, str] = {}
    # The first round, which may compile, is not counted.
    for number in range(-1, session.rounds):
        for name, given in codes.items():
            if name not in failures:
                try:
                    seconds = first_embedding(FIRST.format(**given, folder=checkpoint, texts="Hello world"))
                    taken[name] += [seconds] if number >= 0 else []
                except WorkerError as error:
                    failures[name] = str(error)
    times = {name: timing([Turn([seconds], 0) for seconds in runs]) for name, runs in taken.items() if name not in failures}
    cell: dict[str, Any] = {
        "row": "start", "case": "process start to first embedding, warm cache", "model": model.name,
        "failures": failures, "goals": [], "times": {name: timing_entry(taken[name]) for name in times},
    }  # fmt: skip
    session.cells.append(cell)
    if "fastattn" in times:
        own = times["fastattn"]
        record(cell, "goal", "s", (own.median, own.low, own.high), WARM, at_most=True)
        if "sentence-transformers" in times:
            record(cell, "sentence-transformers", "x", ratio(times["sentence-transformers"], own), None)
        for name, other in times.items():
            if precision_of(name) != "float32":
                more = quartiles([a - b for a, b in zip(other.rounds, own.rounds, strict=True)])
                record(cell, f"more in {precision_of(name)}", "s", more, MORE_WARM, at_most=True)
    sys.stderr.write(f"start: {', '.join(f'{label(name)} {t.median:.3g}' for name, t in times.items())} s\n")
    if cold:
        del codes["sentence-transformers"]
        compile_all(session, codes, checkpoint, model)


def compile_all(session: Session, codes: dict[str, dict[str, str]], checkpoint: str, model: Model) -> None:
    """Time the cold compile of all that embedding needs, in each precision."""
    cell: dict[str, Any] = {
        "row": "start", "case": "cold compile of all of encode", "model": model.name, "failures": {}, "goals": [], "times": {},
    }  # fmt: skip
    session.cells.append(cell)
    found: dict[str, float] = {}
    for name, given in codes.items():
        # One text, then 64: both schedules of the encoder compile.
        both = "; ".join(FIRST.format(**given, folder=checkpoint, texts=texts) for texts in ("Hello world", corpus(64)))
        with tempfile.TemporaryDirectory() as cache:
            try:
                found[name] = first_embedding(both, NUMBA_CACHE_DIR=cache)
            except WorkerError as error:
                cell["failures"][name] = str(error)
                continue
        cell["times"][name] = timing_entry([found[name]])
        if name == "fastattn":
            record(cell, "goal", "s", (found[name],) * 3, COLD, at_most=True)
        elif "fastattn" in found:
            record(cell, f"more in {precision_of(name)}", "s", (found[name] - found["fastattn"],) * 3, MORE_COLD, at_most=True)
    sys.stderr.write(f"cold compile: {', '.join(f'{label(name)} {seconds:.3g}' for name, seconds in found.items())} s\n")


def resident(session: Session, precisions: tuple[str, ...], model: Model = MINILM) -> None:
    """Record the resident memory that a loaded encoder adds to a process that has run another, small encoder."""
    cell: dict[str, Any] = {
        "row": "resident memory", "case": "a loaded encoder", "model": model.name, "times": {}, "failures": {}, "goals": [],
        "resident": {},
    }  # fmt: skip
    session.cells.append(cell)
    held: dict[str, int] = cell["resident"]
    ids = np.full((1, 16), 1000)
    inputs = session.work / "resident.npz"
    np.savez(inputs, ids=ids, mask=np.ones_like(ids))
    for precision in precisions:
        name = named("fastattn", precision)
        worker = session.fresh_worker(name)
        try:
            sizes = []
            for key, one in (("small", TINY), ("model", model)):
                folder = str(session.exports(one))
                worker.ask("prepare", key=key, work="forward", arrays=str(inputs), options={"folder": folder})
                worker.ask("check", key=key, out=str(session.work / "resident.npy"))
                sizes.append(worker.ask("resident")["bytes"])
            held[name] = sizes[1] - sizes[0]
        except WorkerError as error:
            cell["failures"][name] = str(error)
        worker.close()
        # A tiny encoder may add no page.
        if name in held and name != "fastattn" and held.get("fastattn"):
            share = held[name] / held["fastattn"]
            record(cell, f"float32 memory, in {precision}", "share", (share,) * 3, LEAN[precision], at_most=True)
    sys.stderr.write(f"resident memory: {', '.join(f'{label(name)} {size / 2**20:.1f}' for name, size in held.items())} MiB\n")


def first_embedding(code: str, **changes: str) -> float:
    """Run code in a new process; return the seconds until its last line of output."""
    with tempfile.TemporaryFile("w+") as errors:
        before = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment(**changes), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        seconds = 0.0
        for _ in process.stdout or ():
            seconds = time.perf_counter() - before
        if process.wait() or not seconds:
            errors.seek(0)
            raise WorkerError((errors.read().strip().splitlines() or ["no message"])[-1])
    return seconds
