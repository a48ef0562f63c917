"""Long trials of the package's promises: `python -m soak` runs every topic and writes a report.

A topic is a module of this package with a function ``run(scale) -> list[Row]``. `scale` 1.0 is the full length; a smaller scale
runs that share of the length, and 0 the shortest run that still tests the promise. A broken promise is a row with `ok` False,
never an exception.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Row"]


class Row(NamedTuple):
    """Row of the report."""

    what: str
    figure: str  # the measured value with its unit
    goal: str  # the promise; empty if the figure is for information only
    ok: bool
    tried: int = 0
    kind: str = ""  # of the trials counted in `tried`: "calls", "faults" or "inputs"; the report sums each kind
