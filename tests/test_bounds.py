"""No kernel touches memory outside its arrays: each runs on arrays that end, and that start, at a page without access."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.jit
@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is not there")
def test_arrays_at_the_edge_of_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "guarded.py")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, env=environment, check=False)
    last = (run.stderr.strip().splitlines() or ["nothing"])[-1]
    assert run.returncode == 0, f"ended with {run.returncode} in: {last}"
    assert int(run.stdout) > 600
