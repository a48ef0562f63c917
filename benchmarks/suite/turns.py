"""Measurement: a worker process for each library, the gate, and turns.

A contender is timed only after it has passed its gate in this run.  Libraries take turns within a cell, so that a change of the
machine's speed affects all of them; ratios are taken within a round.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT

Array = NDArray[Any]

WARM_SECONDS = 0.7
# Warm-up of a new process: its threads can share one core for a second before the scheduler spreads them.
FIRST_WARM_SECONDS = 2.5
TURN_SECONDS = 0.2
MOST_CALLS = 200
# Untimed calls at the start of a turn: threads wake and caches fill after the sleep on the pipe.  A call of LONG_SECONDS or more
# needs none.
WAKE_SECONDS = 0.03
LONG_SECONDS = 0.5
# Seconds without an answer after which a worker is killed.
PATIENCE_SECONDS = 1200
# Prefixes of environment variables that override a library's own choice of threads or kernels.
_FOREIGN = ("OPENBLAS_", "OMP_", "MKL_", "GOTO_", "BLIS_", "KMP_", "NUMBA_NUM_THREADS", "TOKENIZERS_PARALLELISM")


class WorkerError(RuntimeError):
    """Request that a worker could not fulfil."""


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a worker: the libraries' own defaults, and the Hub offline."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **changes}


class Worker:
    """Library in a process of its own."""

    def __init__(self, library: str, threads: int, log: Path, **changes: str) -> None:
        self.library = library
        self.versions: dict[str, str] | None = None
        self.warm = False
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.suite.peer_worker", library, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=environment(**changes),
            text=True,
        )

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def _answer(self) -> dict[str, Any]:
        stream = self._process.stdout
        watch = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        watch.start()
        line = stream.readline() if stream is not None else ""
        watch.cancel()
        if not line:
            raise WorkerError(f"the process ended with code {self._process.wait()}")
        content: dict[str, Any] = json.loads(line)
        if "error" in content:
            self._log.write(content.get("trace", "").encode())
            self._log.flush()
            raise WorkerError(content["error"])
        return content

    def start(self) -> None:
        """Wait until the library is imported."""
        if self.versions is None:
            self.versions = self._answer()["versions"]

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.start()
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError("the process has ended") from None
        return self._answer()

    def close(self) -> None:
        """Close the process's stdin, wait for its end, and kill it after 20 seconds."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Contender(NamedTuple):
    """Work of a library in a cell; the gate raises AssertionError for a wrong result."""

    name: str
    worker: Worker
    work: str
    gate: Callable[[Array], None] | None
    options: Mapping[str, Any] = {}


class Timing(NamedTuple):
    """Seconds of a call: median and quartiles over all calls, and the median of each round; `cores` is the mean of busy cores."""

    median: float
    low: float
    high: float
    calls: int
    rounds: list[float]
    cores: float


class Turn(NamedTuple):
    """Seconds of each call, and CPU seconds of all cores together."""

    seconds: list[float]
    cpu: float


class Measured(NamedTuple):
    """Timings and failures of a cell's contenders, by name."""

    timings: dict[str, Timing]
    failures: dict[str, str]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles around it."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return float(median), float(low), float(high)


def in_turns(contenders: list[Contender], arrays: Mapping[str, Array] | None, rounds: int) -> Measured:
    """Prepare, gate, warm up and time every contender; a failing contender is reported and not timed."""
    failures: dict[str, str] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = None
        if arrays is not None:
            inputs = f"{folder}/inputs.npz"
            np.savez(inputs, **dict(arrays))
        for one in contenders:
            try:
                one.worker.ask("prepare", key=one.name, work=one.work, arrays=inputs, options=dict(one.options))
                first = one.worker.ask("check", key=one.name, out=f"{folder}/out.npy")["seconds"]
                if one.gate is not None:
                    one.gate(np.load(f"{folder}/out.npy"))
            except (WorkerError, AssertionError) as error:
                failures[one.name] = f"{type(error).__name__}: {error}"
                continue
            seconds[one.name] = first
    running = [one for one in contenders if one.name in seconds]
    taken: dict[str, list[Turn]] = {one.name: [] for one in running}
    for number in range(-1, rounds):
        # The order alternates, so that no contender always runs after the same other.
        for one in running if number % 2 == 0 else running[::-1]:
            if one.name in failures:
                continue
            try:
                if number >= 0:
                    taken[one.name].append(turn(one, seconds[one.name]))
                    continue
                if seconds[one.name] >= 2 * WARM_SECONDS:
                    # Time a second call: the first call, for the gate, may have compiled.
                    seconds[one.name] = one.worker.ask("warm", key=one.name, seconds=0)["seconds"]
                if seconds[one.name] < 2 * WARM_SECONDS:
                    long = WARM_SECONDS if one.worker.warm else FIRST_WARM_SECONDS
                    seconds[one.name] = one.worker.ask("warm", key=one.name, seconds=long)["seconds"]
                    one.worker.warm = True
            except WorkerError as error:
                failures[one.name] = f"{type(error).__name__}: {error}"
                del taken[one.name]
    for worker in {id(one.worker): one.worker for one in contenders}.values():
        with contextlib.suppress(WorkerError):
            worker.ask("clear")
    return Measured({name: timing(turns) for name, turns in taken.items()}, failures)


def turn(one: Contender, expected: float) -> Turn:
    """Time a contender's calls of one turn."""
    calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / expected)))
    wake = WAKE_SECONDS if expected < LONG_SECONDS else 0
    return Turn(**one.worker.ask("time", key=one.name, calls=calls, wake=wake))


def timing(turns: list[Turn]) -> Timing:
    """Summarise the calls of all turns."""
    every = [seconds for turn in turns for seconds in turn.seconds]
    cores = sum(turn.cpu for turn in turns) / sum(every)
    return Timing(*quartiles(every), len(every), [statistics.median(turn.seconds) for turn in turns], cores)


def ratio(theirs: Timing, ours: Timing) -> tuple[float, float, float]:
    """Return the ratio of their time to ours, round by round: median and quartiles."""
    return quartiles([a / b for a, b in zip(theirs.rounds, ours.rounds, strict=True)])
