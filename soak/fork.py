"""Forked children of a process that has used the kernels, under each threading layer: they work, or raise; no signal, no hang."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from soak import Row
from soak._child import LAYERS, ROOT, Failed, kill_group, missing, run_child

GOAL = "the parent's bits; no signal, no hang"


def children(layer: str, what: str, *arguments: object) -> Row:
    """Run a program that forks, and return the row of its children's exits."""
    name = f"{layer}: {what} {' '.join(map(str, arguments))}".strip()
    with tempfile.TemporaryDirectory() as folder:
        fresh = {"NUMBA_CACHE_DIR": folder} if what == "compiling" else {}
        try:
            found = run_child("_fork_child", what, *arguments, limit=3600, NUMBA_THREADING_LAYER=layer, **fresh)
        except Failed as failure:
            return Row(name, str(failure)[:300], GOAL, False)
    faults = [fault for fault in found["children"] if fault] + found.get("parent", [])
    count = len(found["children"])
    figure = f"{count} children, {len(faults)} faults {faults[:3] if faults else ''}".strip()
    return Row(name, figure, GOAL, not faults, count, "faults")


class Service:
    """Gunicorn with the application preloaded, on a socket of its own."""

    def __init__(self, layer: str, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{self.port}",
            "--timeout", "60", "--log-level", "warning", *options, "soak._service:app",
        ]  # fmt: skip
        environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def ask(self, limit: float = 60) -> tuple[int, bool]:
        """Return the id of the worker that answered, and whether its bits are right."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=limit) as answer:
            worker, good, _ = answer.read().decode().split()
        return int(worker), good == "True"

    def wait(self, limit: float = 120) -> None:
        """Wait for the first answer."""
        end = time.monotonic() + limit
        while True:
            try:
                self.ask()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def close(self) -> str:
        """End gunicorn, and return its log, which names workers that died by a signal or hung."""
        self.process.send_signal(signal.SIGTERM)
        try:
            out, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            kill_group(self.process)
            out, _ = self.process.communicate()
            out += "\ndid not end"
        return out


def served(layer: str, requests: int, *options: str) -> tuple[set[int], int, str]:
    """Return the workers that answered, the number of wrong answers, and gunicorn's complaints."""
    service = Service(layer, *options)
    workers, wrong, said = set(), 0, ""
    try:
        service.wait()
        for _ in range(requests):
            worker, good = service.ask()
            workers.add(worker)
            wrong += not good
    except OSError as error:
        said = f"{type(error).__name__}: {error}; "
        wrong += 1
    lines = [line for line in service.close().splitlines() if "[ERROR]" in line or "[CRITICAL]" in line or "did not end" in line]
    return workers, wrong, said + " ".join(lines)


def run(scale: float) -> list[Row]:
    """Run all trials under each threading layer that can be loaded."""
    rows = []
    count = max(2, round(30 * scale))
    for layer in LAYERS:
        if reason := missing(layer):
            rows.append(Row(layer, reason, "", True))
            continue
        rows += [children(layer, "forks", who, count) for who in ("main", "thread", "busy")]
        rows += [children(layer, "pool", method, count) for method in ("fork", "spawn", "forkserver")]
        rows.append(children(layer, "compiling"))
        if importlib.util.find_spec("torch"):
            rows += [children(layer, "loader"), children(layer, "untouched")]
        if importlib.util.find_spec("gunicorn"):
            for options in ((), ("--threads", "4"), ("--max-requests", "3")):
                workers, wrong, said = served(layer, count, *options)
                name = f"{layer}: gunicorn --preload {' '.join(options)}"
                figure = f"{count} answers of {len(workers)} workers, {wrong} wrong {said}".strip()
                rows.append(Row(name, figure, GOAL, not wrong and not said, count, "calls"))
    return rows
