"""GELU of the feed-forward expansion, both forms."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ELEMENTS, STREAMS, normal, rows_of


@providers
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_gelu(benchmark: Any, elements: int, approximate: str, provider: str) -> None:
    rows, length = rows_of("gelu", elements)
    benchmark.group = f"gelu {approximate} {rows} x {length}"
    traffic = 4 * STREAMS["gelu"] * rows * length
    time_op(benchmark, provider, "gelu", normal(rows, length), approximate=approximate, traffic=traffic)
