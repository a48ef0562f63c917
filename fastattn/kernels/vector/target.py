"""The CPU that kernels are compiled for: its vectors, and the tile that its registers hold."""

from __future__ import annotations

from typing import NamedTuple

import llvmlite.binding as llvm
from numba import config


class Target(NamedTuple):
    """What the kernels need to know of the CPU."""

    name: str
    vector_bytes: int
    registers: int
    fma: bool

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and vectors of the largest product tile whose accumulators fit the registers."""
        return {(32, 64): (14, 2), (16, 32): (6, 2), (32, 16): (12, 2)}.get((self.registers, self.vector_bytes), (6, 2))


_PROBE = """
define <16 x float> @f(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


def _target() -> Target:
    """Ask LLVM what code it makes of sixteen fused multiply-adds on the CPU that Numba compiles for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu="" if name == "generic" else name, features=features)
    code = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in code:
        return Target(name, 64, 32, True)
    if "ymm" in code:
        return Target(name, 32, 16, "vfm" in code)
    if "fmla" in code:
        return Target(name, 16, 32, True)
    return Target(name, 16, 16, False)


TARGET = _target()


# Rows and columns (float32) of the product tile.
TILE_ROWS, _TILE_VECTORS = TARGET.tile


TILE_BYTES = _TILE_VECTORS * TARGET.vector_bytes


# Registers of a wide vector: arithmetic with long chains of dependent instructions runs on so many chains in step.
WIDE = 2
