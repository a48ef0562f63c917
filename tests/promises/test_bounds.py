"""No kernel touches memory outside its arrays: each runs on arrays that end, and that start, at a guard page."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "fastattn" / "kernels"


@pytest.mark.jit
@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is not there")
def test_arrays_at_the_edge_of_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.guarded"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    last = (run.stderr.strip().splitlines() or ["nothing"])[-1]
    assert run.returncode == 0, f"ended with {run.returncode} in: {last}"
    found = json.loads(run.stdout)
    assert found["cases"] > 4500 and not found["not run"], found


def test_every_kernel_is_looked_for() -> None:
    """The scan of modules in `guarded` finds every kernel in the sources."""
    from tests.support import guarded

    names = set(re.findall(r"@ParallelKernel\ndef (\w+)", "".join(p.read_text("utf-8") for p in KERNELS.rglob("*.py"))))
    assert len(names) > 5 and guarded.all_kernels() >= names


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is not there")
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("write", [True, False])
def test_the_page_is_guarded(behind: bool, write: bool) -> None:
    """Reading or writing one element outside an array hits the guard page and ends the process."""
    step = f"x = Guard({behind}).empty(3); p = x.ctypes.data + {12 if behind else -4}; f = ctypes.c_float.from_address(p); "
    step += "f.value = 1" if write else "f.value"
    command = [sys.executable, "-c", f"import ctypes; from tests.support.guarded import Guard; {step}"]
    run = subprocess.run(command, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert run.returncode < 0


@pytest.mark.jit
@pytest.mark.parametrize("index", [3, -4])
def test_numba_checks_indices_where_it_is_asked_to(index: int) -> None:
    """NUMBA_BOUNDSCHECK, on which `make test-bounds` relies, works despite the kernels' own compiler options."""
    code = "import numpy as np; from fastattn.kernels.compile.jit import kernel; f = kernel(lambda x, i: x[i]); f(np.zeros(3), %d)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_BOUNDSCHECK": "1"}
    run = subprocess.run([sys.executable, "-c", code % index], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1 and "IndexError: index is out of bounds" in run.stderr
