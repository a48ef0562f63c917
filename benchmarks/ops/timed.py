"""Gate and timing of an op for pytest-benchmark: the kernel must agree with the reference before either is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import fastattn
from benchmarks.suite.library import Array
from benchmarks.suite.turns import WARM_SECONDS
from fastattn import reference
from tests.support.gradients import check_gradients
from tests.support.tolerance import check

providers = pytest.mark.parametrize("provider", ["fastattn", "reference"])


def time_op(
    benchmark: Any, provider: str, op: str, *arrays: Array, flop: int | None = None, traffic: int | None = None, **options: Any
) -> None:
    """Check ``fastattn.<op>`` against the reference, then time the kernel or the reference."""
    check(op, *arrays, **options)
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    time_call(benchmark, lambda: getattr(module, op)(*arrays, **options), flop=flop, traffic=traffic)


def time_gradients(benchmark: Any, provider: str, op: str, *args: Any, traffic: int, **options: Any) -> None:
    """Check each gradient of ``fastattn.<op>`` against the reference, then time the kernel or the reference."""
    check_gradients(op, *args, orders=1, **options)
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    time_call(benchmark, lambda: getattr(module, op)(*args, **options), traffic=traffic)


def time_call(benchmark: Any, call: Callable[[], Any], *, flop: int | None = None, traffic: int | None = None) -> None:
    """Time a call after a warm-up of the threads; GFLOP/s and GB/s, from the counts given, go to ``extra_info``."""
    end = time.perf_counter() + WARM_SECONDS
    while benchmark.enabled and time.perf_counter() < end:
        call()
    benchmark(call)
    if benchmark.stats is not None:
        for amount, unit in ((flop, "GFLOP/s"), (traffic, "GB/s")):
            if amount is not None:
                benchmark.extra_info[unit] = round(amount / benchmark.stats.stats.median / 1e9, 2)
