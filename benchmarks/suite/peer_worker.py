"""One library in a process of its own: ``python -m benchmarks.suite.peer_worker LIBRARY THREADS``.

Reads one JSON request a line, answers with one JSON line, and otherwise sleeps on the pipe, so that a library whose turn
it is not takes no time from the others.  Requests, by their "do":

    prepare  key, work, arrays (.npz), options   loads; nothing is timed
    check    key, out (.npy)                     runs once and writes the result; seconds of that run
    warm     key, seconds                        runs until the thread pool and the clock have settled; of the last run
    time     key, calls, wake                    a turn, after that many seconds untimed; of each call, and of all cores
    memory   key                                 bytes that one run needs beyond what was there before it
    clear                                        forgets what was prepared
    facts                                        what else decides the speed
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.library import Run

LIBRARIES = {
    "fastattn": "benchmarks.suite.own:Fastattn",
    "numpy": "benchmarks.suite.own:Reference",
    "torch": "benchmarks.suite.peers:Torch",
    "torch-eager": "benchmarks.suite.accelerated:EagerAttention",
    "accelerated": "benchmarks.suite.accelerated:Accelerated",
    "sentence-transformers": "benchmarks.suite.peers:SentenceTransformers",
    "onnxruntime": "benchmarks.suite.peers:OnnxRuntime",
    "openvino": "benchmarks.suite.peers:OpenVino",
    "ctranslate2": "benchmarks.suite.peers:CTranslate2",
    "machine": "benchmarks.suite.limits:Limits",
}


def status(field: str) -> int:
    """Bytes of a field of this process's status: VmRSS is held now, VmHWM was held at most."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


class Worker:
    """Holds the library and what was prepared."""

    def __init__(self, name: str, threads: int) -> None:
        import importlib

        module, _, attribute = LIBRARIES[name].partition(":")
        self.library = getattr(importlib.import_module(module), attribute)(threads)
        self.runs: dict[str, Run] = {}

    def prepare(self, key: str, work: str, arrays: str | None, options: dict[str, Any]) -> dict[str, Any]:
        """Load what a key will run."""
        given = {}
        if arrays is not None:
            with np.load(arrays) as file:
                given = dict(file)
        if not hasattr(self.library, work):
            raise NotImplementedError(f"has no {work}")
        self.runs[key] = getattr(self.library, work)(given, **options)
        return {}

    def check(self, key: str, out: str) -> dict[str, Any]:
        """Run once and write the result."""
        start = time.perf_counter()
        result = self.runs[key]()
        seconds = time.perf_counter() - start
        np.save(out, result)
        return {"seconds": seconds}

    def warm(self, key: str, seconds: float) -> dict[str, Any]:
        """Run for a while; returns the time of the last call."""
        run, took = self.runs[key], 0.0
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            run()
            now = time.perf_counter()
            took = now - start
            if now >= end:
                return {"seconds": took}

    def time(self, key: str, calls: int, wake: float) -> dict[str, Any]:
        """Take one turn."""
        run, clock = self.runs[key], time.perf_counter
        if wake:
            self.warm(key, wake)
        gc.disable()
        cpu = time.process_time()
        stamps = [clock()]
        for _ in range(calls):
            run()
            stamps.append(clock())
        cpu = time.process_time() - cpu
        gc.enable()
        return {"seconds": [after - before for before, after in itertools.pairwise(stamps)], "cpu": cpu}

    def memory(self, key: str) -> dict[str, Any]:
        """Run once; the peak above what was held before, result included."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
        before = status("VmRSS")
        start = time.perf_counter()
        self.runs[key]()
        return {"bytes": status("VmHWM") - before, "seconds": time.perf_counter() - start}

    def clear(self) -> dict[str, Any]:
        """Forget what was prepared."""
        self.runs.clear()
        gc.collect()
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what else decides the speed."""
        return {"facts": self.library.facts()}


def main(name: str, threads: int) -> None:
    """Answer requests until the pipe closes."""
    # Whatever a library prints goes to stderr: standard output carries answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    worker: Worker | None = None
    try:
        worker = Worker(name, threads)
        answer({"versions": worker.library.versions()})
    # What a foreign library raises is not known; the suite reports it and goes on with the others.
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        return
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            answer(getattr(worker, do)(**request))
        except Exception as error:  # as above
            answer({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
