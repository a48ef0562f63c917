"""Kernels compiled for other CPU targets: run if this CPU can run their code, otherwise only compiled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from numba import config

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "fastattn" / "kernels" / "ops").glob("[!_]*.py"))


def at_the_edges(stem: str) -> str:
    """Return the test of an op at sizes around the tile's edges; all its tests if none has that name."""
    path = f"tests/kernels/test_{stem}.py"
    found = re.search(r"^def (test_(?:row_lengths|lengths|sizes))\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)
    return f"{path}::{found[1]}" if found else path


# Tests of every kernel, and of the encoder in both schedules.
SELECTED = [
    *map(at_the_edges, STEMS),
    "tests/encoder/test_encoder.py::test_matches_reference",
    "tests/encoder/test_encoder.py::test_bits_do_not_depend_on_batch_order_threads_or_schedule",
]

pytestmark = pytest.mark.jit


def runs_here(target: str) -> bool:
    features = llvm.get_host_cpu_features()
    return {"haswell": "avx2", "x86-64-v2": "sse4.2", "icelake-server": "avx512vnni"}[target] in [
        n for n, on in features.items() if on
    ]


@pytest.mark.parametrize("target", ["haswell", "x86-64-v2", "icelake-server"])
@pytest.mark.skipif(bool(config.CPU_NAME), reason="this is that run")
def test_compiled_for(target: str, tmp_path: Path) -> None:
    if not runs_here(target):
        pytest.skip(f"this CPU cannot run code for {target}")
    environment = {**os.environ, "NUMBA_CPU_NAME": target, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *SELECTED]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_generic_code_compiles_for_aarch64(tmp_path: Path) -> None:
    """The IR for a generic CPU has no x86 intrinsic, and compiles for aarch64."""
    numba = {"NUMBA_CPU_NAME": "generic", "NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **numba, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.generic_ir", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine()
    files = sorted(tmp_path.glob("*.ll"))
    assert {f.stem for f in files} >= {f"{stem}_kernel" for stem in ("encoder", *STEMS)}
    for file in files:
        text = file.read_text()
        assert "llvm.x86" not in text and ".x86." not in text, file.stem
        lines = [line for line in text.splitlines() if not line.startswith(("target triple", "target datalayout"))]
        assert machine.emit_assembly(llvm.parse_assembly("\n".join(lines))), file.stem
