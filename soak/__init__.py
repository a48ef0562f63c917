"""Long trials of what the package promises: `python -m soak` runs every topic and writes a report.

A topic is a module of this package with a function ``run(scale) -> list[Row]``. `scale` 1.0 is the full length; a smaller one
runs that part of it, and 0 the shortest run that still means something. A topic raises nothing for a promise that does not hold:
that is a row with `ok` False.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Row"]


class Row(NamedTuple):
    """One line of the report."""

    what: str
    figure: str  # what was measured, with its unit
    goal: str  # what is promised; empty where the figure is for information
    ok: bool
    tried: int = 0
    kind: str = ""  # of what was tried: "calls", "faults" or "inputs", which the report adds up
