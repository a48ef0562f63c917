"""Summary of a run: how often and by how much fastattn is faster, level or slower, and whether other work disturbed the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.suite.labels import PEERS, Cell, Results, amount, label

# Share of the cores' time that the FMA limit must get; below this share, other processes disturbed the run.
QUIET = 0.95
WARNING = "Other work took the rest: these numbers say little. Measure again on a quiet machine."


class Line(NamedTuple):
    """Comparisons of a row with the best other library of each cell."""

    row: str
    cells: int
    faster: int
    level: int
    slower: int
    coarse: int  # not counted: the fidelity is below the least of the precision
    low: float
    mean: float
    high: float
    slowest: str  # the library and case of the least ratio

    def verdict(self) -> str:
        """Say what most of the cells are."""
        if self.faster == self.cells:
            return "faster"
        if self.slower == self.cells:
            return "slower"
        counts = (("faster", self.faster), ("level", self.level), ("slower", self.slower), ("too coarse to count", self.coarse))
        return ", ".join(f"{count} {name}" for name, count in counts if count)


def against_a_peer(goal: Cell) -> bool:
    """Tell whether a comparison is the ratio to another library, and was measured."""
    return goal["against"] in PEERS and goal["unit"] == "x" and goal["value"] is not None


def standing(goal: Cell) -> str:
    """Return ``coarse``, ``faster``, ``slower``, or ``level`` where the quartiles of the ratio are on both sides of 1."""
    if not goal.get("counted", True):
        return "coarse"
    if round(goal["low"], 2) > 1:
        return "faster"
    return "slower" if round(goal["high"], 2) < 1 else "level"


def summary(cells: list[Cell]) -> Iterator[Line]:
    """Yield a line for each row of the report and each thing compared in it."""
    groups: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in cells:
        for goal in filter(against_a_peer, cell["goals"]):
            # The note names what is compared: `accelerated` in its own row, `fastattn.linear` beside the packed product.
            row = cell["row"] if goal["note"] in ("", "accelerated") else f"{cell['row']}, {goal['note']}"
            by_model = row.partition(",")[0] in ("forward", "cross-encoder")
            groups.setdefault(f"{cell['model']}, {row}" if by_model else row, []).append((cell, goal))
    for row, pairs in groups.items():
        counts = [standing(goal) for _, goal in pairs]
        values = [float(goal["value"]) for _, goal in pairs]
        cell, least = min(pairs, key=lambda pair: float(pair[1]["value"]))
        mean = math.exp(statistics.fmean(map(math.log, values)))
        found = [counts.count(name) for name in ("faster", "level", "slower", "coarse")]
        yield Line(row, len(pairs), *found, min(values), mean, max(values), f"{label(least['against'])}, {cell['case']}")


def cores_got(cells: list[Cell]) -> float | None:
    """Return the share of the cores' time that the FMA limit got; None where it was not measured."""
    measured = [cell["cores_got"] for cell in cells if "cores_got" in cell]
    return statistics.mean(measured) if measured else None


def quiet(cells: list[Cell]) -> Iterator[str]:
    """Yield the FMA limits of the run, and a warning if other processes took part of the cores' time."""
    measured = [cell for cell in cells if "fma_limit" in cell]
    if measured:
        limits = [cell["fma_limit"] / 1e9 for cell in measured]
        share = cores_got(measured) or 0.0
        yield (
            f"The FMA limit of all cores was {statistics.median(limits):.0f} GFLOP/s, from {min(limits):.0f} to {max(limits):.0f} "
            f"in the run; it got {100 * share:.0f} % of the cores' time."
        )
        if share < QUIET:
            yield f"**{WARNING}**"
        yield ""


def show(results: Results, console: Console) -> None:
    """Print the summary as a table, then the warning of a disturbed run."""
    table = Table(
        "", "cells", "least", "mean", "most", "fastattn is", "least against", title="Speed: time of the best other / ours"
    )
    for column in table.columns[1:5]:
        column.justify = "right"
    for line in summary(results["cells"]):
        ratios = (amount(value, "x") for value in (line.low, line.mean, line.high))
        style = "green" if line.faster == line.cells else "red" if line.slower else "yellow"
        table.add_row(line.row, str(line.cells), *ratios, f"[{style}]{line.verdict()}[/]", line.slowest)
    console.print(table)
    wrong = [f"{label(gate['library'])}, {gate['model']}: {gate['reason']}" for gate in results["gates"] if gate["reason"]]
    for text in wrong:
        console.print(f"[red]wrong result, not timed:[/] {text}", highlight=False)
    share = cores_got(results["cells"])
    if share is not None and share < QUIET:
        console.print(f"[red]Disturbed:[/] the run got {100 * share:.0f} % of the cores' time. {WARNING}", highlight=False)
