"""Texts to vectors: against the peers, for many texts, and from the start of a process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.suite.corpus import corpus
from benchmarks.suite.library import MAX_TOKENS, Array
from benchmarks.suite.session import EMBEDDING_LIMIT, ENCODERS, EncoderGate, Session, faster, record
from benchmarks.suite.shapes import MINILM
from benchmarks.suite.turns import Contender, Turn, WorkerError, environment, quartiles, ratio, timing

GATE_TEXTS = 16
# Rounds for cells whose round takes minutes.
LONG_ROUNDS = 3
# Bytes by which memory beyond texts and result may grow from the small corpus to the large corpus.
FLAT_BYTES = 16 << 20


def write_texts(session: Session, count: int) -> tuple[list[str], Path]:
    """Return texts, and their file for the workers."""
    texts = corpus(count)
    path = session.work / f"texts-{count}.json"
    path.write_text(json.dumps(texts), "utf-8")
    return texts, path


def token_rows(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, truncated to the model's limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def embedding_gate(folder: Path, texts: list[str]) -> Callable[[Array], None]:
    """Return the gate: the first embeddings must equal the reference's mean-pooled hidden states at unit length."""
    gate, truth = EncoderGate(folder), []
    for row in token_rows(folder, texts[:GATE_TEXTS]):
        ids = np.array([row])
        mean = gate.hidden(ids, np.ones_like(ids))[0].mean(axis=0)
        truth.append(mean / np.linalg.norm(mean))
    expected = np.array(truth)

    def check(result: Array) -> None:
        shape = (len(texts), expected.shape[1])
        if result.shape != shape or not np.isfinite(result).all():
            raise AssertionError(f"embeddings of shape {result.shape} instead of {shape}, or not finite")
        error = float(np.abs(result[:GATE_TEXTS] - expected).max())
        if not error <= EMBEDDING_LIMIT:
            raise AssertionError(f"error {error:.2g}; the limit is {EMBEDDING_LIMIT:.0e}")

    return check


def encode(session: Session, count: int) -> None:
    """Time `encode` on real texts of mixed length."""
    folder = session.exports(MINILM)
    texts, path = write_texts(session, count)
    check = embedding_gate(folder, texts)
    options = {"folder": str(folder), "texts": str(path)}
    # torch is measured through sentence-transformers.
    peers = tuple(name for name in ENCODERS if name != "torch")
    names = ("fastattn", "sentence-transformers", *peers)
    contenders = [Contender(name, session.worker(name), "encode", check, options) for name in names]
    tokens = sum(map(len, token_rows(folder, texts)))
    cell, times = session.measure("encode", f"{count} texts", contenders, rounds=LONG_ROUNDS, model=MINILM.name, tokens=tokens)
    faster(cell, times, 3.0, ("sentence-transformers",))
    faster(cell, times, 1.3, peers)


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


FIRST = "from {module} import SentenceTransformer; print(SentenceTransformer({folder!r}).encode({texts!r}).shape, flush=True)"


def start(session: Session, *, cold: bool) -> None:
    """Time from the start of a process to the first embedding: warm cache, cold compile, and sentence-transformers."""
    checkpoint = str(session.exports(MINILM) / "checkpoint")
    ours = FIRST.format(module="fastattn", folder=checkpoint, texts="Hello world")
    theirs = FIRST.format(module="sentence_transformers", folder=checkpoint, texts="Hello world")
    taken: dict[str, list[float]] = {"fastattn": [], "sentence-transformers": []}
    failures: dict[str, str] = {}
    first_embedding(ours)
    for _ in range(session.rounds):
        for name, code in (("fastattn", ours), ("sentence-transformers", theirs)):
            if name not in failures:
                try:
                    taken[name].append(first_embedding(code))
                except WorkerError as error:
                    failures[name] = str(error)
    times = {name: timing([Turn([seconds], 0) for seconds in runs]) for name, runs in taken.items() if name not in failures}
    cell: dict[str, Any] = {
        "row": "start", "case": "process start to first embedding, warm cache", "model": MINILM.name,
        "failures": failures, "goals": [], "times": {name: timing_entry(taken[name]) for name in times},
    }  # fmt: skip
    session.cells.append(cell)
    if "fastattn" in times:
        own = times["fastattn"]
        record(cell, "goal", "s", (own.median, own.low, own.high), 0.7, at_most=True)
    if len(times) == 2:
        record(cell, "sentence-transformers", "x", ratio(times["sentence-transformers"], times["fastattn"]), None)
    if cold:
        # One text, then 64: both schedules of the encoder compile.
        both = ours + "; " + FIRST.format(module="fastattn", folder=checkpoint, texts=corpus(64))
        with tempfile.TemporaryDirectory() as cache:
            seconds = first_embedding(both, NUMBA_CACHE_DIR=cache)
        cell = {**cell, "case": "cold compile of all of encode", "failures": {}, "goals": []}
        cell["times"] = {"fastattn": timing_entry([seconds])}
        session.cells.append(cell)
        record(cell, "goal", "s", (seconds,) * 3, 20.0, at_most=True)
    shown = ", ".join(f"{name} {t.median:.3g}" for name, t in times.items())
    sys.stderr.write(f"start: {shown}{f', cold {seconds:.3g}' if cold else ''} s\n")


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
