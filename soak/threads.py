"""Concurrency: sixteen Python threads run every call at once, or compile every kernel at once, under each threading layer."""

from __future__ import annotations

import importlib.util
import tempfile

from soak import Row
from soak._child import LAYERS, Failed, missing, run_child


def hammer(layer: str, threads: int, calls: int, torch: str = "") -> Row:
    """Run every call from many threads, in a process of its own."""
    what = f"{layer}: {threads} threads x {calls} calls{f', torch imported {torch}' if torch else ''}"
    goal = "no crash, no wrong bit, nothing changed"
    try:
        found = run_child(
            "_threads_child", "hammer", threads, calls, *filter(None, [torch]), limit=3600, NUMBA_THREADING_LAYER=layer
        )
    except Failed as failure:
        return Row(what, str(failure)[:300], goal, False)
    faults = [*found["errors"], *found["wrong"], *found["changed"]]
    figure = f"{found['calls']} calls in {found['seconds']:.0f} s, {len(faults)} faults{': ' + str(faults[:3]) if faults else ''}"
    good = not faults and found["layer"] == layer and found["calls"] == threads * calls
    return Row(what, figure, goal, good, found["calls"], "calls")


def compiling(layer: str) -> Row:
    """Compile every kernel from many threads, in a process of its own with an empty cache folder."""
    what, goal = f"{layer}: 16 threads whose first calls compile everything", "no crash, no wrong bit"
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = run_child(
                "_threads_child", "compile", 16, "all", limit=1200, NUMBA_THREADING_LAYER=layer, NUMBA_CACHE_DIR=folder
            )
        except Failed as failure:
            return Row(what, str(failure)[:300], goal, False)
    faults = [*found["errors"], *found["wrong"]]
    return Row(what, f"{len(faults)} faults {faults[:3] if faults else ''}".strip(), goal, not faults)


def run(scale: float) -> list[Row]:
    """Run all trials under each threading layer that can be loaded."""
    rows = []
    for layer in LAYERS:
        if reason := missing(layer):
            rows.append(Row(layer, reason, "", True))
            continue
        rows.append(hammer(layer, 16, max(5, round(200 * scale))))
        if scale > 0.5:
            rows.append(compiling(layer))
        if importlib.util.find_spec("torch"):
            rows += [hammer(layer, 16, max(5, round(50 * scale)), torch) for torch in ("before", "after")]
    return rows
