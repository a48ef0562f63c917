"""NaN stays in its row, denormal numbers cost no time, bits never vary, and errors are compared with the peers'."""

from __future__ import annotations

from pathlib import Path

from soak import Row, _error_table
from soak._denormals import slowdown
from soak._digest import LAYERS, digest, elsewhere
from soak._poison import failures

ROOT = Path(__file__).resolve().parents[1]


def run(scale: float) -> list[Row]:
    """Run all trials; scale 1 sweeps every float32 and a million rows, and rewrites `benchmarks/results/errors.md`."""
    return [*poison(scale), *denormals(scale), *identity(scale), *errors(scale)]


def poison(scale: float) -> list[Row]:
    """Put NaN and infinity in one sequence, row or head, and compare the others' bits."""
    tried, failed = failures(max(1, round(100 * scale)))
    figure = f"{tried:,} cases, {len(failed)} kinds of failure" + "".join(f"; {what}" for what in failed[:5])
    return [Row("NaN and infinity stay in their own sequence, row and head", figure, "no failure", not failed, tried, "inputs")]


def denormals(scale: float) -> list[Row]:
    """Time each op with denormal numbers."""
    found = slowdown(max(4.0, 60 * scale))
    return [Row(f"{name} with denormal numbers, time", f"{ratio:.2f}x", "<= 1.5x", ratio <= 1.5) for name, ratio in found.items()]


def identity(scale: float) -> list[Row]:
    """Compare bits between runs, processes, threading layers and thread counts."""
    here = digest()
    runs = max(2, round(20 * scale))
    rows = [Row(f"the same bits, {runs} runs", "the same", "the same", all(digest() == here for _ in range(runs)))]
    for layer in LAYERS:
        for threads in (1, 2) if scale < 1 else (1, 2, 2, 2, 3, 8):
            found, used = elsewhere(layer, threads)
            same = found == here and used == layer
            what = f"the same bits, another process, {layer}, {threads} threads"
            rows.append(Row(what, "the same" if same else f"{used}: {found[:200]}", "the same", same))
    return rows


def errors(scale: float) -> list[Row]:
    """Sweep the functions, and at full length write the table of errors."""
    measured = _error_table.measure(scale if scale == 1 else max(scale * 0.1, 1e-5))
    if scale == 1:
        _error_table.write(measured, ROOT / "benchmarks" / "results")
    return _error_table.verdicts(measured)
