"""The measuring side: a process for each library, the gate, and turns.

Nothing is timed that did not pass the gate in this run.  Libraries take turns, one cell after another, so that a change of
the machine's speed meets all of them; ratios are taken within a round.
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
# The first time in a process: new threads can sit on one core for a second.
FIRST_WARM_SECONDS = 2.5
TURN_SECONDS = 0.2
MOST_CALLS = 200
# After its sleep on the pipe a library gets this long, untimed, for its threads to wake and its caches to fill; a call
# of more than LONG_SECONDS does not notice.
WAKE_SECONDS = 0.03
LONG_SECONDS = 0.5
# A library that has not answered by then is ended.
PATIENCE_SECONDS = 1200
# Settings that would change the threads or the kernels that a library chooses by itself.
_FOREIGN = ("OPENBLAS_", "OMP_", "MKL_", "GOTO_", "BLIS_", "KMP_", "NUMBA_NUM_THREADS", "TOKENIZERS_PARALLELISM")


class WorkerError(RuntimeError):
    """A library could not do what it was asked for."""


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a measured process: the libraries' own defaults, and nothing from the network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **changes}


class Worker:
    """A library in a process of its own."""

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
        """Whether the process is gone."""
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
        """Let the process end."""
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
    """A piece of work as one library does it; the gate raises AssertionError for a wrong result."""

    name: str
    worker: Worker
    work: str
    gate: Callable[[Array], None] | None
    options: Mapping[str, Any] = {}


class Timing(NamedTuple):
    """Seconds of a call: the median and quartiles of all, and the median of each round; how many cores were busy for it."""

    median: float
    low: float
    high: float
    calls: int
    rounds: list[float]
    cores: float


class Turn(NamedTuple):
    """Seconds of each call, and of all cores together."""

    seconds: list[float]
    cpu: float


class Measured(NamedTuple):
    """What became of the contenders of one cell, by their names."""

    timings: dict[str, Timing]
    failures: dict[str, str]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles around it."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return float(median), float(low), float(high)


def in_turns(contenders: list[Contender], arrays: Mapping[str, Array] | None, rounds: int) -> Measured:
    """Prepare, gate, warm up and time every contender; one that fails is reported and not timed."""
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
        # Every other round backwards: nobody always follows the same one.
        for one in running if number % 2 == 0 else running[::-1]:
            if one.name in failures:
                continue
            try:
                if number >= 0:
                    taken[one.name].append(turn(one, seconds[one.name]))
                    continue
                if seconds[one.name] >= 2 * WARM_SECONDS:
                    # The first call, which the gate saw, may have compiled.
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
    """Let a contender take its turn."""
    calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / expected)))
    wake = WAKE_SECONDS if expected < LONG_SECONDS else 0
    return Turn(**one.worker.ask("time", key=one.name, calls=calls, wake=wake))


def timing(turns: list[Turn]) -> Timing:
    """Summarise the calls of all turns."""
    every = [seconds for turn in turns for seconds in turn.seconds]
    cores = sum(turn.cpu for turn in turns) / sum(every)
    return Timing(*quartiles(every), len(every), [statistics.median(turn.seconds) for turn in turns], cores)


def ratio(theirs: Timing, ours: Timing) -> tuple[float, float, float]:
    """Return how many times as long theirs takes, round by round: median and quartiles."""
    return quartiles([a / b for a, b in zip(theirs.rounds, ours.rounds, strict=True)])
