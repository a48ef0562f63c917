"""Limits of the machine, measured in the same run: throughput of products in each precision and copy bandwidth, of all cores."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from benchmarks.suite.library import Array, Arrays, Library, Run
from fastattn.kernels.compile.jit import ParallelKernel, prange
from fastattn.kernels.vector.emit import I64, broadcast, call, element_pointer, llvm_vector, multiply_add, store_vector, vector_of
from fastattn.kernels.vector.target import TARGET, TILE_ROWS
from fastattn.runtime.threads import thread_count

# Independent sums: the number that the product's tile keeps in registers.
SUMS = TILE_ROWS * TARGET.tile[1]
LANES = TARGET.vector_bytes // 4
STEPS = 1_000_000


@intrinsic
def _multiply_adds(typingctx, steps, x, i):  # type: ignore[no-untyped-def]
    """Compute `SUMS` sums of `steps` vector FMAs in registers, factors x[i] and x[i + 1]; store the total at x[i + 32 ..]."""
    vector = vector_of(x)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = llvm_vector(vector)
        stop, at = (context.cast(builder, value, t, types.int64) for value, t in zip(args[::2], sig.args[::2], strict=True))
        pointer = element_pointer(context, builder, x, args[1], at)
        a, b = (broadcast(builder, builder.load(builder.gep(pointer, [I64(j)])), vector.count) for j in (0, 1))
        entry, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(I64)
        k.add_incoming(I64(0), entry)
        sums = [builder.phi(kind) for _ in range(SUMS)]
        following = [multiply_add(builder, a, b, total) for total in sums]
        for j, (total, new) in enumerate(zip(sums, following, strict=True)):
            # Start values differ: LLVM would merge equal sums into one.
            total.add_incoming(ir.Constant(kind, [float(j)] * vector.count), entry)
            total.add_incoming(new, loop)
        k_next = builder.add(k, I64(1))
        k.add_incoming(k_next, loop)
        builder.cbranch(builder.icmp_signed("<", k_next, stop), loop, after)
        builder.position_at_end(after)
        total = following[0]
        for new in following[1:]:
            total = builder.fadd(total, new)
        store_vector(builder, total, builder.gep(pointer, [I64(32)]))
        return context.get_dummy_value()

    return types.void(steps, x, i), codegen


@intrinsic
def _copy(typingctx, target, source, start, count):  # type: ignore[no-untyped-def]
    """Copy elements start .. start + count - 1 with the C library's memcpy."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        first, number = (context.cast(builder, v, t, types.int64) for v, t in zip(args[2:], sig.args[2:], strict=True))
        to, of = (
            builder.bitcast(element_pointer(context, builder, t, v, first), ir.IntType(8).as_pointer())
            for v, t in zip(args[:2], sig.args[:2], strict=True)
        )
        size = builder.mul(number, I64(4))
        call(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [to, of, size, ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(target, source, start, count), codegen


@ParallelKernel
def fma_kernel(steps, x, stride, workers):  # type: ignore[no-untyped-def]
    """Run FMAs on every core."""
    for worker in prange(workers):
        _multiply_adds(steps, x, np.int64(worker) * stride)


@ParallelKernel
def copy_kernel(target, source, workers):  # type: ignore[no-untyped-def]
    """Copy an array, an equal part by each thread."""
    for worker in prange(workers):
        w = np.int64(worker)
        start = source.size * w // workers
        _copy(target, source, start, source.size * (w + 1) // workers - start)


class Limits(Library):
    """Machine as a contender."""

    def products(self, arrays: Arrays, precision: str) -> Run:
        """Prepare products on all cores, in float32 FMAs in registers; a call makes `flop_of_call` operations."""
        workers = thread_count()
        if workers != self.threads:
            raise ValueError(f"{workers} threads instead of {self.threads}")
        if precision != "float32":
            from benchmarks.suite import low_limits

            return low_limits.products(precision, workers)
        stride = 64
        x = np.full(stride * self.threads, 1e-6, np.float32)

        def run() -> Array:
            fma_kernel(STEPS, x, stride, workers)
            return x

        return run

    def copy(self, arrays: Arrays) -> Run:
        """Prepare a copy of an array by all cores."""
        source = arrays["x"].reshape(-1)
        target = np.empty_like(source)
        workers = thread_count()

        def run() -> Array:
            copy_kernel(target, source, workers)
            return target

        return run


def flop_of_call(precision: str, threads: int) -> int:
    """Count the multiplications and additions in a call of `Limits.products`."""
    if precision != "float32":
        from benchmarks.suite import low_limits

        return low_limits.FLOP[precision] * threads
    return 2 * STEPS * SUMS * LANES * threads
