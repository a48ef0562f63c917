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
    # Instructions beyond float32's, under LLVM's names of the features: "avx512vnni" stands for AVX-VNNI too.
    extensions: frozenset[str] = frozenset()

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

# Sums of products of bytes, and a rounding to bfloat16: LLVM makes one instruction of each where the CPU has it.  Asking for the
# instruction itself would end the process where it is lacking.
_EXTENSIONS = """
define i32 @mixed(<16 x i8> %a, <16 x i8> %b) {
  %x = zext <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %m = mul <16 x i32> %x, %y
  %r = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %m)
  ret i32 %r
}
define i32 @signed(<16 x i8> %a, <16 x i8> %b) {
  %x = sext <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %m = mul <16 x i32> %x, %y
  %r = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %m)
  ret i32 %r
}
define <8 x bfloat> @rounded(<8 x float> %a) {
  %r = fptrunc <8 x float> %a to <8 x bfloat>
  ret <8 x bfloat> %r
}
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
"""
# By the beginning of a line of assembly.  "{vex}" before vpdpbusd is AVX-VNNI; before vcvtneps2bf16 it is AVX-NE-CONVERT, which has
# no products.
_INSTRUCTIONS = {
    "vpdpbusd": "avx512vnni",
    "{vex} vpdpbusd": "avx512vnni",
    "vcvtneps2bf16": "avx512bf16",
    "usdot": "i8mm",
    "sdot": "dotprod",
    "bfcvtn": "bf16",
}


# Older versions of LLVM were not tried with types of bfloat16.
_LEAST_LLVM = 20


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
    # Tiles are as wide as two vectors of 64 bytes; a name or features that the user chose are not all of the host's.
    may_have_tiles = "zmm" in code and not config.CPU_NAME and config.CPU_FEATURES is None
    extensions = _extensions(machine, may_have_tiles=may_have_tiles)
    if "zmm" in code:
        return Target(name, 64, 32, True, extensions)
    if "ymm" in code:
        return Target(name, 32, 16, "vfm" in code, extensions)
    if "fmla" in code:
        return Target(name, 16, 32, True, extensions)
    return Target(name, 16, 16, False, extensions)


def _extensions(machine: llvm.TargetMachine, *, may_have_tiles: bool) -> frozenset[str]:
    """Return which of the extensions that products use the target has."""
    if llvm.llvm_version_info[0] < _LEAST_LLVM:
        return frozenset()
    lines = [" ".join(line.split()) for line in machine.emit_assembly(llvm.parse_assembly(_EXTENSIONS)).splitlines()]
    found = {feature for instruction, feature in _INSTRUCTIONS.items() if any(line.startswith(instruction) for line in lines)}
    # No portable code becomes an instruction on tiles; the name of a CPU does not tell whether the kernel grants them.
    host = llvm.get_host_cpu_features() if may_have_tiles else {}
    return frozenset(found | {name for name in ("amx-int8", "amx-bf16") if host.get(name) and host.get("amx-tile")})


TARGET = _target()


# Rows and columns (float32) of the product tile.
TILE_ROWS, _TILE_VECTORS = TARGET.tile


TILE_BYTES = _TILE_VECTORS * TARGET.vector_bytes


# Registers of a wide vector: arithmetic with long chains of dependent instructions runs on so many chains in step.
WIDE = 2
