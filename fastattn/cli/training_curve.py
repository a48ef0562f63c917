"""The loss of a run: as a line of blocks in the terminal, and drawn by matplotlib, which comes with the extra ``viz``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.runtime.files import replacing

__all__ = ["check_plot", "curve", "draw_curve", "sparkline"]

_SUFFIXES = (".png", ".svg", ".pdf")
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def curve(history: Sequence[Mapping[str, Any]], name: str = "loss") -> tuple[list[int], list[float]]:
    """Return the steps and values of a metric in a log."""
    entries = [(int(entry["step"]), float(entry[name])) for entry in history if name in entry]
    return [step for step, _ in entries], [value for _, value in entries]


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Return values as blocks from the least to the greatest; more than `width` values are averaged."""
    parts = np.array_split(np.asarray(values, np.float64), min(width, len(values))) if len(values) else []
    means = [float(part.mean()) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low
    if not math.isfinite(span):
        return ""
    return "".join(_BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1)) if span else 0] for mean in means)


def check_plot(path: Path) -> None:
    """Raise if matplotlib is missing or a picture has another suffix; called before the work begins."""
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"--plot: cannot draw {path.suffix or 'a file without a suffix'}; supported: {', '.join(_SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--plot needs matplotlib ({error}): pip install 'fastattn[viz]'") from error


def draw_curve(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write a picture of the loss, and of that on the evaluation data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        steps, values = curve(history, name)
        if values:
            axes.plot(steps, values, marker="o" if len(values) == 1 or name == "eval_loss" else None, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150)
