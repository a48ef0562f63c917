"""Names of the libraries, and formats of numbers and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

LABELS = {
    "fastattn": "fastattn",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ctranslate2": "CTranslate2",
    "torch": "torch",
    "torch-eager": "torch, attention op by op",
    "accelerated": "torch, accelerated",
    "sentence-transformers": "sentence-transformers",
    "numpy": "NumPy",
    "machine": "machine",
}
# Libraries other than this package.
PEERS = set(LABELS) - {"fastattn", "accelerated", "machine"}
Results = dict[str, Any]
Cell = dict[str, Any]


def label(name: str) -> str:
    """Return the display name of a library."""
    return LABELS.get(name, name)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; all columns but the first are right-aligned."""
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|---|{'---:|' * (len(names) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def duration(entry: dict[str, Any] | None, quartiles: bool = True) -> str:
    """Format a median, and its quartiles, in s, ms or µs."""
    if entry is None:
        return ""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if entry["median"] * f >= 1), (1e6, "µs"))
    median, low, high = (f"{entry[key] * factor:.3g}" for key in ("median", "low", "high"))
    return f"{median} {unit} ({low} to {high})" if quartiles else f"{median} {unit}"


def amount(value: float | None, unit: str) -> str:
    """Format a ratio, share or quantity."""
    if value is None:
        return "failed"
    if unit == "share":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}x" if unit == "x" else f"{value:.3g} {unit}"


def place(cell: Cell) -> str:
    """Return the cell's model, if any, and its case."""
    return " ".join(filter(None, (cell.get("model"), cell["case"])))
