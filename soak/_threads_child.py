"""Concurrent Python threads: ``hammer THREADS CALLS [before|after]``, ``compile THREADS [all]``, ``idle``, ``cost CALLS``."""

from __future__ import annotations

import importlib
import json
import locale
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from soak._work import TEXTS, Array, all_calls, op_calls, results


def in_threads(count: int, body: Callable[[int], None]) -> list[str]:
    """Run `body` in threads that begin together, and return the exceptions."""
    gate, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        gate.wait()
        try:
            body(number)
        except BaseException as error:
            errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def settings() -> dict[str, str]:
    """Settings of the process that a call could change."""
    return {
        "thread mask": str(numba.get_num_threads()),
        "start method": str(multiprocessing.get_start_method(allow_none=True)),
        "numpy errors": str(np.geterr()),
        "warnings": str(warnings.filters),
        "environment": str(sorted(os.environ.items())),
        "signal handlers": str([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]),
        "locale": str(locale.setlocale(locale.LC_ALL)),
        "threads": str(threading.active_count()),
        "folder": os.getcwd(),
        "print options": str(np.get_printoptions()),
    }


def hammer(threads: int, calls: int, torch: str = "") -> dict[str, Any]:
    from fastattn import SentenceTransformer
    from fastattn.runtime.threads import threading_layer

    if torch == "before":
        multiply()
    elif torch:
        importlib.import_module("torch")  # the import may change settings, and so precedes `settings()`
    # libtbb first: `settings` reads the thread mask, and numba would start its threads without libtbb.
    threading_layer()
    before, work = settings(), all_calls()
    model = SentenceTransformer(local_files_only=True)
    work["encode, watched"] = lambda: model.encode(TEXTS)
    model_settings = tokenizer_settings(model)
    expected = results(work)
    if torch == "after":
        multiply()
    names, wrong, made, masks = sorted(work), [], [0] * threads, set()

    def body(number: int) -> None:
        chosen = random.Random(number)
        for _ in range(calls):
            name = chosen.choice(names)
            if work[name]().tobytes() != expected[name]:
                wrong.append(name)
            made[number] += 1
            masks.add(numba.get_num_threads())
            if torch and made[number] % 10 == 0:
                multiply()

    began = time.perf_counter()
    errors = in_threads(threads, body)
    seconds = time.perf_counter() - began
    after = settings()
    changed = [name for name in before if before[name] != after[name]]
    if model_settings != tokenizer_settings(model):
        changed.append("tokenizer")
    # Each thread has a mask of its own.
    if masks != {numba.config.NUMBA_NUM_THREADS}:
        changed.append("thread mask")
    # torch keeps its own threads alive
    changed = [name for name in changed if not (torch and name == "threads")]
    return {
        "layer": numba.threading_layer(),
        "calls": sum(made),
        "wrong": wrong,
        "errors": errors,
        "changed": changed,
        "seconds": seconds,
    }


def tokenizer_settings(model: Any) -> str:
    backend = model.tokenizer.backend_tokenizer
    return str((backend.padding, backend.truncation, model.max_seq_length, model.tokenizer.model_max_length))


def multiply() -> None:
    """Multiply in torch, which starts torch's threads."""
    import torch

    x = torch.ones(256, 256)
    assert float((x @ x)[0, 0]) == 256


def compile_at_once(threads: int, everything: bool) -> dict[str, Any]:
    """Start threads whose first calls compile, some the same kernel and some different kernels."""
    calls = all_calls() if everything else {name: call for name, call in op_calls().items() if name in CHEAP}
    names = sorted(calls)
    found: list[dict[str, Array]] = [{} for _ in range(threads)]

    def body(number: int) -> None:
        for i in range(len(names)):
            name = names[(number // 2 + i) % len(names)]
            found[number][name] = calls[name]()

    errors = in_threads(threads, body)
    wrong = [name for name in names if any(f.get(name, np.empty(0)).tobytes() != calls[name]().tobytes() for f in found)]
    return {"errors": errors, "wrong": wrong}


CHEAP = ("softmax", "softmax, few", "rotary_embedding", "gelu")


def idle() -> dict[str, Any]:
    """Measure the CPU time of the idle process, after calls of every kind."""
    from fastattn.runtime.threads import thread_count, threading_layer

    results(all_calls())
    time.sleep(0.3)
    began = time.process_time()
    time.sleep(2.0)
    spent = time.process_time() - began
    return {"layer": threading_layer(), "threads": thread_count(), "idle": spent, "processes": len(os.listdir("/proc/self/task"))}


def cost(calls: int) -> dict[str, Any]:
    """Measure CPU time and wall time of the calls, the minimum of several runs."""
    from fastattn.runtime.threads import thread_count

    work = all_calls()
    results(work)
    cpu, wall = [], []
    for _ in range(calls):
        began = time.process_time(), time.perf_counter()
        results(work)
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return {"threads": thread_count(), "cpu": min(cpu), "wall": min(wall)}


def main(what: str, *arguments: str) -> dict[str, Any]:
    if what == "hammer":
        return hammer(int(arguments[0]), int(arguments[1]), *arguments[2:])
    if what == "compile":
        return compile_at_once(int(arguments[0]), "all" in arguments)
    return idle() if what == "idle" else cost(int(arguments[0]))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
