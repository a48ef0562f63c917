"""Forked children of a process that has used the kernels: ``forks WHO COUNT``, ``pool METHOD COUNT``, ``compiling``, ``loader``."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from soak._work import Array, all_calls, encoder_calls, op_calls, results

_LIMIT = 45.0
WORK: dict[str, Callable[[], Array]] = {}
EXPECTED: dict[str, bytes] = {}


def wrong() -> list[str]:
    """Names of the calls whose bits differ from the parent's."""
    return [name for name, call in WORK.items() if call().tobytes() != EXPECTED[name]]


def forked(depth: int) -> str:
    """Fork `depth` processes deep, run every call in each child, and return the first child's exit as `fate` names it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 2 if wrong() else 0
            if depth > 1 and code == 0:
                code = 3 if forked(depth - 1) else 0
        finally:
            os._exit(code)
    return fate(pid)


def fate(pid: int) -> str:
    """Wait for a child and return its signal, exit code or "hang"; "" if it exited with 0."""
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


def forks(who: str, count: int) -> list[str]:
    """Fork from the main thread, from another thread, or while other threads call the kernels."""
    if who == "main":
        return [forked(2) for _ in range(count)]
    if who == "thread":
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(forked(2) for _ in range(count)))
        thread.start()
        thread.join()
        return found
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            wrong()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        return [forked(2) for _ in range(count)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def pooled(method: str, count: int) -> list[str]:
    """Results from a `multiprocessing` pool; under "spawn" and "forkserver" the workers have none of the parent's memory."""
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        answers = [pool.apply_async(worker_bits) for _ in range(count)]
        found = [answer.get(timeout=_LIMIT * 2) for answer in answers]
    return ["" if bits == EXPECTED else str([name for name in bits if bits[name] != EXPECTED[name]]) for bits in found]


def worker_bits() -> dict[str, bytes]:
    return results(WORK or all_calls())


def compiling() -> list[str]:
    """Fork while another thread compiles, and compile in the child too."""
    calls = op_calls()
    WORK.update({name: calls[name] for name in ("softmax", "gelu")})
    begun = threading.Event()

    def compile_one() -> None:
        begun.set()
        calls["softmax"]()

    thread = threading.Thread(target=compile_one)
    thread.start()
    begun.wait()
    found = []
    for pause in (0.05, 0.4):
        time.sleep(pause)
        pid = os.fork()
        if pid == 0:
            for name in WORK:
                WORK[name]()
            os._exit(0)
        found.append(fate(pid))
    thread.join()
    return found


def loader() -> list[str]:
    """Results from workers of a torch DataLoader, forked after torch and the kernels have started their threads."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    x = torch.ones(256, 256)
    (x @ x).sum()

    class Embedded(Dataset[str]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> str:
            return ",".join(wrong())

    # Two rounds: the second set of workers is forked after the first set has ended.
    return [item for _ in range(2) for batch in DataLoader(Embedded(), num_workers=2, timeout=_LIMIT) for item in batch]


def main(what: str, *arguments: str) -> dict[str, Any]:
    if what == "compiling":
        return {"children": compiling()}
    if what == "untouched":
        # Only torch has run in the parent.
        import torch

        x = torch.ones(512, 512)
        (x @ x).sum()
        calls = op_calls()
        pid = os.fork()
        if pid == 0:
            calls["linear"](), calls["scaled_dot_product_attention"]()
            os._exit(0)
        return {"children": [fate(pid)]}
    WORK.update({**op_calls(), **encoder_calls()} if what == "loader" else all_calls())
    EXPECTED.update(results(WORK))
    if what == "loader":
        found = loader()
    else:
        found = (forks if what == "forks" else pooled)(arguments[0], int(arguments[1]))
    import numba

    return {"layer": numba.threading_layer(), "children": found, "parent": wrong()}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
