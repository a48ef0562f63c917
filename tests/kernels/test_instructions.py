"""Each kind of product in low precision is compiled to its instruction, and to no instruction that the CPU lacks."""

import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.jit,
    pytest.mark.skipif(llvm.llvm_version_info[0] < 20, reason="the package uses no instruction for low precision there"),
]

# Tiles of a CPU and the instruction that computes them.
INT8_512, BFLOAT16_512 = r"vpdpbusd\s.*zmm", r"vdpbf16ps\s.*zmm"
X86_512 = {"int8_vnni": INT8_512, "bfloat16_dot": BFLOAT16_512}
INSTRUCTIONS = {
    "sapphirerapids": {"int8_amx": r"tdpbusd\s", "bfloat16_amx": r"tdpbf16ps\s", **X86_512},
    "znver4": X86_512,
    "cooperlake": X86_512,
    "icelake-server": {"int8_vnni": INT8_512},
    "alderlake": {"int8_vnni": r"\{vex\}\s+vpdpbusd\s.*ymm"},
    # It rounds to bfloat16 (AVX-NE-CONVERT), and has no products of them.
    "arrowlake": {"int8_vnni": r"\{vex\}\s+vpdpbusd\s.*ymm"},
    "haswell": {},
    "neoverse-v1": {"int8_usdot": r"usdot\s", "int8_sdot": r"\bsdot\s", "bfloat16_bfdot": r"bfdot\s"},
}
# What every x86 CPU has.
X86 = {"int8_i16": r"v?pmaddwd\s|vpdpwssd\s", "bfloat16_widen": r"vfmadd231ps\s"}
SPECIAL = r"\s(?:vpdp\w+|vdpbf16ps|tdp\w+|ldtilecfg|usdot|sdot|bfdot)\s|zmm"


def tiles(cpu: str, folder: Path, *options: str) -> dict[str, str]:
    """Return the assembly of a CPU's tiles of two rows by name: compiled in a process of its own, which LLVM may abort."""
    command = [sys.executable, "-m", "tests.support.tiles", cpu, str(folder), "--rows", "2", *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, (run.returncode, run.stderr[-2000:])
    parts = re.split(r"^tile_(\w+):", (folder / "tiles.s").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("cpu", INSTRUCTIONS)
def test_kinds_of_a_cpu(cpu: str, tmp_path: Path) -> None:
    found = tiles(cpu, tmp_path)
    wanted = INSTRUCTIONS[cpu] if cpu == "neoverse-v1" else {**INSTRUCTIONS[cpu], **X86}
    assert set(found) >= set(wanted)
    assert set(found) <= {*wanted, *X86}
    for name, pattern in wanted.items():
        assert re.search(pattern, found[name]), name


def test_every_kind_compiles_where_its_instruction_is_lacking(tmp_path: Path) -> None:
    found = tiles("haswell", tmp_path, "--every")
    assert {"int8_vnni", "int8_usdot", "int8_sdot", "bfloat16_dot", "bfloat16_bfdot"} <= set(found)
    assert not re.findall(SPECIAL, "".join(found.values()))
