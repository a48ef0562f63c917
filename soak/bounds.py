"""Memory bounds: every kernel on arrays next to a guard page, and every scalar index of the kernels checked by Numba."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from soak import Row

__all__ = ["run"]

ROOT = Path(__file__).parent.parent
_OPS = tuple(path.stem for path in sorted((ROOT / "fastattn" / "kernels" / "ops").glob("[!_]*.py")))


def _guarded() -> Row:
    what, goal = "kernels between pages without access", "every kernel run, no signal"
    child = _child(["-m", "tests.support.guarded"], {})
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["nothing"])[-1]
        return Row(what, f"ended with {child.returncode} in {last}", goal, False)
    found = json.loads(child.stdout)
    missing = ", ".join(found["not run"])
    figure = f"{found['cases']:,} cases" + (f", not run: {missing}" if missing else "")
    return Row(what, figure, goal, not missing, found["cases"], "inputs")


def _checked() -> Row:
    tests = [f"tests/kernels/test_{name}.py" for name in _OPS]
    tests += ["tests/encoder/test_encoder.py", "tests/encoder/test_blocks.py"]
    with tempfile.TemporaryDirectory() as cache:
        child = _child(["-m", "pytest", "-q", *tests], {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache})
    last = (child.stdout.strip().splitlines() or ["nothing"])[-1]
    return Row("op and encoder tests with NUMBA_BOUNDSCHECK=1", last, "all pass", child.returncode == 0)


def _child(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def run(scale: float = 1.0) -> list[Row]:
    """Run both checks, at any `scale` in full."""
    return [_guarded(), _checked()]
