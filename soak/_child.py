"""Child processes for trials that may crash or hang the process."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("tbb", "omp", "workqueue")


@functools.cache
def missing(layer: str) -> str:
    """Return the reason why Numba cannot load a threading layer here; empty if it can."""
    from fastattn.runtime.threads import threading_layer

    threading_layer()  # loads libtbb from its wheel
    name = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}[layer]
    try:
        importlib.import_module(f"numba.np.ufunc.{name}")
    except ImportError as error:
        return f"Numba cannot load the threading layer {layer} here: {error}"
    return ""


class Failed(Exception):
    """Child process ended by a signal, an exit code or the time limit; the message names it and quotes the output."""


def run_child(program: str, *arguments: Any, limit: float = 240, cpus: int | None = None, **environment: Any) -> Any:
    """Run a module of this package and return its last line of output, read as JSON; an object gets its stderr as "stderr"."""
    command = [sys.executable, "-m", f"soak.{program}", *map(str, arguments)]
    if cpus is not None:
        command = [sys.executable, "-c", f"import os, sys; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cpus}]); "
                   "os.execv(sys.argv[1], sys.argv[1:])", *command]  # fmt: skip
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name, value in environment.items():
        if value is None:
            given.pop(name, None)
        else:
            given[name] = str(value)
    child = subprocess.Popen(
        command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        kill_group(child)
        out, err = child.communicate()
        raise Failed(f"{program} {arguments} still ran after {limit:g} s\n{out}{err}") from None
    if child.returncode:
        code = child.returncode
        raise Failed(f"{program} {arguments} ended with {signal.Signals(-code).name if code < 0 else code}\n{out}{err[-3000:]}")
    result = json.loads(out.strip().splitlines()[-1])
    if isinstance(result, dict):
        result["stderr"] = err
    return result


def kill_group(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
