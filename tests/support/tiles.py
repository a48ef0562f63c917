"""Compile the tiles of low precision for a CPU by its name: ``python -m tests.support.tiles CPU DIR``.

The CPU may be of another architecture.  Writes DIR/tiles.o, its assembly tiles.s, and tiles.h, the list of tiles for tiles.c, which
checks their sums where the CPU is emulated.  Nothing is executed here.  docs/develop/cpu.md has the commands.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core.registry import cpu_target

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
ARM_CPUS = ("neoverse", "cortex", "apple")
AMX_CPUS = ("sapphirerapids", "emeraldrapids", "graniterapids")
I64 = ir.IntType(64)


def machine_for(cpu: str) -> Any:
    """Return LLVM's compiler for a CPU, which from here on is the one that the package believes to run on."""
    assert "fastattn.kernels.vector.target" not in sys.modules, "the package has chosen its target"
    # Numba makes its own compiler for the real CPU here, before it hears of the other.
    assert cpu_target.target_context is not None
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(ARM if cpu.startswith(ARM_CPUS) else X86)
    config.CPU_NAME, config.CPU_FEATURES = cpu, ""
    llvm.Target.from_default_triple = lambda: target
    if cpu in AMX_CPUS:
        # Neither a CPU's name nor code that LLVM makes for it tells of AMX.
        from fastattn.kernels.products import kinds

        kinds.TARGET = kinds.TARGET._replace(extensions=kinds.TARGET.extensions | {"amx-int8", "amx-bf16"})
        kinds.amx_permitted = lambda: True
    return target.create_target_machine(cpu=cpu, opt=3, reloc="pic")


def add_tile(module: Any, name: str, kind: Any) -> None:
    """Add the function name(rows, steps, a, lda, b, out) of a kind's tile."""
    from fastattn.kernels.products import tile

    words, number = types.Array(types.float32, 1, "C"), types.int64
    pointer = ir.FloatType().as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, pointer, I64, pointer, pointer]), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    context, zero = cpu_target.target_context, I64(0)

    def array(data: Any) -> Any:
        made = context.make_array(words)(context, builder)
        made.data = data
        return made._getvalue()

    rows, steps, a, lda, b, out = function.args
    signature = (number, number, words, number, number, words, number, number, words, number, number)
    sig, codegen = tile.tile_of(kind)._defn(cpu_target.typing_context, *signature)
    codegen(context, builder, sig, [rows, steps, array(a), zero, lda, array(b), zero, zero, array(out), zero, I64(tile.WIDTH)])
    builder.ret_void()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cpu", help="as LLVM names it: sapphirerapids, neoverse-v1")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, help="rows of the largest tile; default: as many as the CPU's registers hold")
    parser.add_argument("--every", action="store_true", help="also the kinds whose instructions the CPU lacks, as portable code")
    given = parser.parse_args()
    machine = machine_for(given.cpu)
    from fastattn.kernels.products import tile
    from fastattn.kernels.products.kinds import KINDS, is_native

    tile.TILE_ROWS = given.rows or tile.TILE_ROWS
    module, lines = ir.Module("tiles"), []
    for kind in KINDS:
        if not given.every and not is_native(kind):
            continue
        name = f"tile_{kind.precision}_{kind.name}"
        add_tile(module, name, kind)
        semantics = "INT8" if kind.precision == "int8" else kind.name.upper() if is_native(kind) else "WIDEN"
        # The product by AMX cuts rows into blocks itself.
        rows = 3 * tile.TILE_ROWS if kind.name == "amx" and is_native(kind) else tile.TILE_ROWS
        numbers = (rows, tile.WIDTH, kind.group, kind.input_bytes, kind.weight_bytes, int(kind.is_signed))
        lines.append(f"TILE({name}, {semantics}, {', '.join(map(str, numbers))})\n")
    code = llvm.parse_assembly(str(module))
    code.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(code, passes)
    (given.folder / "tiles.s").write_text(machine.emit_assembly(code), "utf-8")
    (given.folder / "tiles.o").write_bytes(machine.emit_object(code))
    (given.folder / "tiles.h").write_text("".join(lines), "utf-8")
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
