"""Transposition of a square block as wide and high as a vector, in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from fastattn.kernels.vector.emit import I32, I64, element_pointer, llvm_vector, load_vector, store_vector, vector_of
from fastattn.kernels.vector.simd import lanes


@intrinsic
def _transpose_block(typingctx, x, ix, ldx, out, io, ldo):  # type: ignore[no-untyped-def]
    vector = vector_of(out)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind, count = llvm_vector(vector), vector.count
        ix, ldx, io, ldo = (context.cast(builder, args[i], sig.args[i], types.int64) for i in (1, 2, 4, 5))
        source = element_pointer(context, builder, x, args[0], ix)
        target = element_pointer(context, builder, out, args[3], io)
        rows = [load_vector(builder, builder.gep(source, [builder.mul(ldx, I64(i))]), kind) for i in range(count)]
        half = count // 2
        while half:
            # Rows i and i + half exchange the quadrants off the diagonal of every block of 2 half columns.
            low = [c if not c & half else c - half + count for c in range(count)]
            high = [c + half if not c & half else c + count for c in range(count)]
            for i in range(count):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (_pick(builder, a, b, lanes) for lanes in (low, high))
            half //= 2
        for i, row in enumerate(rows):
            store_vector(builder, row, builder.gep(target, [builder.mul(ldo, I64(i))]))
        return context.get_dummy_value()

    return types.void(x, ix, ldx, out, io, ldo), codegen


def _pick(builder: Any, a: Any, b: Any, picked: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(picked)), picked))


def _transpose_block_python(x, ix, ldx, out, io, ldo):  # type: ignore[no-untyped-def]
    for i in range(lanes(out)):
        for j in range(lanes(out)):
            out[io + j * ldo + i] = x[ix + i * ldx + j]


transpose_block = _transpose_block_python if config.DISABLE_JIT else _transpose_block
