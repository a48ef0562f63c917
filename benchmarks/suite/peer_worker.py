"""Worker process of a library: ``python -m benchmarks.suite.peer_worker LIBRARY THREADS``.

Requests and answers are lines of JSON.  Between requests the worker sleeps on the pipe, so that a waiting library takes no CPU
time from the measured library.  Requests, by their "do":

    prepare  key, work, arrays (.npz), options   loads; nothing is timed
    check    key, out (.npy)                     runs once and writes the result; answers the seconds
    warm     key, seconds                        runs for so long, to warm threads and caches; answers the last call's seconds
    time     key, calls, wake                    runs untimed for `wake` seconds, then timed; answers seconds a call and CPU seconds
    memory   key                                 runs once; answers the peak in bytes beyond the resident memory before
    resident                                     answers the resident memory in bytes, after what is free was returned
    clear                                        drops all prepared work
    facts                                        answers further facts that decide the speed
"""

from __future__ import annotations

import ctypes
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

# Module, class and, other than float32, precision.
LIBRARIES = {
    "fastattn": "benchmarks.suite.own:Fastattn",
    "fastattn-bfloat16": "benchmarks.suite.own:Fastattn:bfloat16",
    "fastattn-int8": "benchmarks.suite.own:Fastattn:int8",
    "numpy": "benchmarks.suite.own:Reference",
    "torch": "benchmarks.suite.peers:Torch",
    "torch-bfloat16": "benchmarks.suite.peers:Torch:bfloat16",
    "torch-eager": "benchmarks.suite.accelerated:EagerAttention",
    "accelerated": "benchmarks.suite.accelerated:Accelerated",
    "sentence-transformers": "benchmarks.suite.peers:SentenceTransformers",
    "sentence-transformers-bfloat16": "benchmarks.suite.peers:SentenceTransformers:bfloat16",
    "onnxruntime": "benchmarks.suite.peers:OnnxRuntime",
    "onnxruntime-int8": "benchmarks.suite.peers:OnnxRuntime:int8",
    "onnxruntime-plain-int8": "benchmarks.suite.peers:PlainOnnxRuntime:int8",
    "openvino": "benchmarks.suite.peers:OpenVino",
    "openvino-bfloat16": "benchmarks.suite.peers:OpenVino:bfloat16",
    "openvino-int8": "benchmarks.suite.peers:OpenVino:int8",
    "ctranslate2": "benchmarks.suite.peers:CTranslate2",
    "ctranslate2-int8": "benchmarks.suite.peers:CTranslate2:int8",
    "machine": "benchmarks.suite.limits:Limits",
}


def status(field: str) -> int:
    """Return a field of this process's status in bytes: VmRSS is the resident memory, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


class Worker:
    """Library and its prepared calls by key."""

    def __init__(self, name: str, threads: int) -> None:
        import importlib

        module, attribute, *precision = LIBRARIES[name].split(":")
        self.library = getattr(importlib.import_module(module), attribute)(threads, *precision)
        self.runs: dict[str, Run] = {}

    def prepare(self, key: str, work: str, arrays: str | None, options: dict[str, Any]) -> dict[str, Any]:
        """Prepare the call that `key` will run."""
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
        """Run for `seconds`; return the time of the last call."""
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
        """Take a turn: time `calls` calls, after `wake` seconds of untimed calls."""
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
        """Run once; return the peak beyond the resident memory before, result included."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
        before = status("VmRSS")
        start = time.perf_counter()
        self.runs[key]()
        return {"bytes": status("VmHWM") - before, "seconds": time.perf_counter() - start}

    def resident(self) -> dict[str, Any]:
        """Return the resident memory, after the C library has returned what is free."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return {"bytes": status("VmRSS")}

    def clear(self) -> dict[str, Any]:
        """Drop all prepared calls."""
        self.runs.clear()
        gc.collect()
        return {}

    def facts(self) -> dict[str, Any]:
        """Return further facts that decide the speed."""
        return {"facts": self.library.facts()}


def main(name: str, threads: int) -> None:
    """Answer requests until stdin closes."""
    # stdout carries answers only: descriptor 1 now points to stderr, for libraries that print.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    worker: Worker | None = None
    try:
        worker = Worker(name, threads)
        answer({"versions": worker.library.versions()})
    # Foreign libraries raise any exception: the suite reports it and goes on with the others.
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
