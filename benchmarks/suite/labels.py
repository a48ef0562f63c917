"""Names of the libraries and precisions, and formats of numbers and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

PRECISIONS = ("float32", "bfloat16", "int8")
# In another precision than float32, a library's name ends with a hyphen and the precision.
LABELS = {
    "fastattn": "fastattn",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-plain": "ONNX Runtime, graph not fused",
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
PEERS = {name + end for name in set(LABELS) - {"fastattn", "accelerated", "machine"} for end in ("", "-bfloat16", "-int8")}
Results = dict[str, Any]
Cell = dict[str, Any]


def precision_of(name: str) -> str:
    """Return the precision that a library's name ends with."""
    end = name.rpartition("-")[2]
    return end if end in PRECISIONS else "float32"


def named(library: str, precision: str) -> str:
    """Return the name of a library in a precision."""
    return library if precision == "float32" else f"{library}-{precision}"


def row_named(row: str, precision: str) -> str:
    """Return the name of a row of the report in a precision."""
    return row if precision == "float32" else f"{row}, {precision}"


def label(name: str) -> str:
    """Return the display name of a library."""
    precision = precision_of(name)
    return LABELS.get(name, name) if precision == "float32" else f"{label(name.removesuffix(f'-{precision}'))}, {precision}"


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
    if unit == "cosine":
        return f"{value:.5f}"
    return f"{value:.2f}x" if unit == "x" else f"{value:.3g} {unit}"


def place(cell: Cell) -> str:
    """Return the cell's model, if any, and its case."""
    return " ".join(filter(None, (cell.get("model"), cell["case"])))
