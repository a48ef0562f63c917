"""What every chapter of the walkthrough prints with: titles, wrapped lines, rows of values, bars and curves."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

from fastattn.cli.terminal import error_in_eps, output

__all__ = [
    "MOST_TOKENS",
    "VALUES",
    "bars",
    "check_text",
    "curves",
    "equation",
    "error",
    "heading",
    "say",
    "shown",
    "title",
    "values",
    "visible",
    "wrapped",
]

Array = NDArray[Any]

# The longest text: what is shown of it, and computed, stays small.
MOST_TOKENS = 256
# The numbers of a row that are printed.
VALUES = 6
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_BAR = 40
_CURVE_WIDTH, _CURVE_HEIGHT = 33, 5


def check_text(text: str) -> None:
    """Raise ValueError for a text without characters or with too many."""
    if not text:
        raise ValueError("the text is empty: give at least one character")
    if len(text) > MOST_TOKENS:
        raise ValueError(f"text must have at most {MOST_TOKENS} characters, got {len(text)}")


def title(number: int, name: str, meaning: str) -> None:
    """Print the title of a step and what it does."""
    output.print(f"\n{number}  {name}", style="bold cyan", markup=False)
    say(f"{meaning}.")


def heading(name: str) -> None:
    """Print the title of a part of a step."""
    output.print()
    output.print(f"   {name}", style="bold", markup=False)


def say(line: str) -> None:
    """Print a paragraph; one that ends with a line end is followed by an empty line."""
    for part in textwrap.wrap(line, output.width - 3) or [""]:
        output.print(f"   {part}", markup=False)
    if line.endswith("\n"):
        output.print()


def equation(line: str) -> None:
    """Print a line as it is."""
    output.print(f"      {line}", markup=False, no_wrap=True)


def shown(label: str, text: str, truth: str | None = None) -> None:
    """Print a label and a text, cut at the width, with visible spaces and control characters; ^ marks what differs from `truth`."""
    cells = output.width - 3 - len(label) - 2
    line = "".join(map(visible, text))
    output.print(f"   {label}  {set_cell_size(line, cells).rstrip()}", markup=False, no_wrap=True)
    if truth is not None and text != truth:
        marks = "".join((" " if a == b else "^") * cell_len(visible(a)) for a, b in zip(text, truth, strict=True))
        output.print(f"   {' ' * len(label)}  {marks[:cells]}".rstrip(), markup=False, no_wrap=True, style="red")


def error(what: str, result: Array, truth: Array) -> None:
    """Print the distance of a result from the reference."""
    found = error_in_eps(result, truth)
    output.print(f"   {what}: worst error against the reference {found:.2f} eps", markup=False, style="green")


def values(labels: Sequence[str], rows: Array) -> None:
    """Print the first channels of the first rows."""
    width = max(map(len, labels))
    for label, row in zip(labels, rows, strict=False):
        numbers = " ".join(f"{value:8.3f}" for value in row[:VALUES])
        output.print(f"   {label:<{width}} {numbers}{' ...' if len(row) > VALUES else ''}", markup=False)


def wrapped(name: str, items: list[str]) -> None:
    """Print items in columns that fit the width."""
    say(f"{name}:")
    cell = max(map(len, items)) + 2
    each = max(1, (output.width - 6) // cell)
    for start in range(0, len(items), each):
        output.print("      " + "".join(item.ljust(cell) for item in items[start : start + each]).rstrip(), markup=False)


def bars(labels: Sequence[str], probabilities: Sequence[float], marked: int | None = None) -> None:
    """Print a bar for each probability; the marked one is green."""
    for place, (label, value) in enumerate(zip(labels, probabilities, strict=True)):
        bar = "█" * round(value * _BAR)
        style = "green" if place == marked else ""
        output.print(f"      {set_cell_size(label, 2)} {value:6.3f} {bar}".rstrip(), markup=False, style=style)


def curves(losses: Mapping[str, Sequence[float]], high: float) -> None:
    """Draw a curve for each name, all from 0 to `high`, two beside each other."""
    panels = [[f"{name}: {series[0]:.3f} -> {series[-1]:.3f}", *_curve(series, high)] for name, series in losses.items()]
    for start in range(0, len(panels), 2):
        for place, parts in enumerate(zip(*panels[start : start + 2], strict=True)):
            line = "  ".join(part.ljust(_CURVE_WIDTH) for part in parts).rstrip()
            output.print(f"   {line}", markup=False, style="cyan" if place else "bold")
    steps = len(next(iter(losses.values())))
    output.print(f"   (from 0 to {high:.2f}; {steps} steps from left to right)", markup=False)


def _curve(series: Sequence[float], high: float) -> list[str]:
    """Return the lines of a curve: columns of blocks, each as high as the mean loss of its steps."""
    ends = np.linspace(0, len(series), _CURVE_WIDTH + 1).astype(int)
    columns = [float(np.mean(series[start : max(start + 1, stop)])) for start, stop in itertools.pairwise(ends)]
    heights = [round(min(1, max(0, value / high)) * 8 * _CURVE_HEIGHT) for value in columns]
    floors = range(8 * (_CURVE_HEIGHT - 1), -1, -8)
    return ["".join(_EIGHTHS[min(8, max(0, height - floor))] for height in heights) for floor in floors]


def visible(character: str) -> str:
    """Return a printable stand-in for a space or control character; other characters unchanged."""
    if character == " ":
        return "␣"
    return character if character.isprintable() else {"\n": "␤", "\t": "␉"}.get(character, "·")
