"""Results as one Markdown report with plots: ``python -m benchmarks.suite.report FOLDER [README]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.suite import readme as numbers
from benchmarks.suite.labels import Cell, Results, amount, duration, label, named, place, table
from benchmarks.suite.plots import plots
from benchmarks.suite.summary import quiet, standing, summary

METHOD = """\
Each library runs in a process of its own with {threads} threads and takes turns with the others; while one has its turn the
others sleep on a pipe. Before anything is timed, its result is checked against the NumPy reference in float64; what fails is
reported and not timed. A call is timed after at least 0.7 s of warm-up, in {rounds} rounds. Times are medians with quartiles;
ratios are taken within a round, so more than 1 is faster than the other. All models are the same float32 checkpoint. A forward
goes from token ids to the last hidden states; OpenVINO is compiled for each shape alone. Behind the tokenizer the peers get
batches of 32 texts sorted by length and padded. Outputs of the elementwise ops and products are allocated beforehand on every
side. The FMA limit is multiply-adds in registers on all cores, the copy bandwidth a memcpy on all cores, both measured in the
same rounds."""

PRECISION = """\
A row named with bfloat16 or int8 has libraries in that precision, and fastattn and sentence-transformers in float32 beside them.
Under a time is the fidelity on real texts: least and mean cosine of the embeddings to float32's. Below the least that the section
Fidelity names, the library is marked, and if it is fastattn, the cell does not count as faster. OpenVINO in int8 is quantised by
NNCF for a transformer, calibrated on 300 other texts of the same kind; ONNX Runtime quantises activations in every call and has a
scale for each output channel of a weight, with the graph as exported and as fused by its optimizer; CTranslate2 quantises when it
loads. A library without instructions for bfloat16 may compute in float32: the table below says what OpenVINO does. The limit of a
precision is fastattn's own tile of products, on numbers in the first-level cache, on all cores."""

GOALS = """\
The developers of fastattn set these goals before they measured, some beyond what any library reaches (twice NumPy's BLAS in a
product of matrices). A goal that is missed says how far the kernels are from it, not that another library is faster: that is the
summary."""


def outcome(goal: Cell) -> str:
    """Format a comparison: the value with its quartiles, and the other library or limit."""
    text = amount(goal["value"], goal["unit"])
    if goal["value"] is not None and goal["low"] != goal["high"]:
        text += f" ({amount(goal['low'], goal['unit'])} to {amount(goal['high'], goal['unit'])})"
    text += f" vs {label(goal['against'])}" if goal["unit"] in ("x", "share") else f" {goal['against']}".removesuffix(" goal")
    text += f" ({goal['note']})" if goal["note"] else ""
    return text if goal.get("counted", True) else f"{text} (**too coarse: not counted**)"


def entry_text(entry: Cell | None) -> str:
    """Format a time, and in lower precision the fidelity: least and mean cosine."""
    text = duration(entry)
    if entry and "cosines" in entry:
        text += f"<br>{' / '.join(f'{value:.5f}' for value in entry['cosines'])}{' **coarse**' if entry['coarse'] else ''}"
    return text


def rate(cell: Cell) -> str:
    """Format fastattn's throughput in this cell."""
    entry = cell["times"].get(named("fastattn", cell.get("precision", "float32")))
    if entry is None:
        return ""
    if "tokens" in cell:
        return f"{cell['tokens'] / entry['median']:,.0f} tokens/s"
    if "flop" in cell:
        return f"{cell['flop'] / entry['median'] / 1e9:.0f} GFLOP/s"
    if "bytes" in cell:
        return f"{cell['bytes'] / entry['median'] / 1e9:.1f} GB/s"
    return ""


def section(row: str, cells: list[Cell]) -> Iterator[str]:
    """Yield a section of the report: a table of the row's cells."""
    title = row.replace("_", " ")
    yield f"## {title[0].upper()}{title[1:]}"
    yield ""
    if row == "product":
        yield from (products(cells), "")
    if row == "fidelity":
        yield from fidelity(cells)
        return
    names = list(dict.fromkeys(name for cell in cells for name in cell["times"] if name != "machine"))
    rates = any(rate(cell) for cell in cells)
    head = ["case", *map(label, names), *(["fastattn does"] if rates else []), "result"]
    yield from table(
        head,
        (
            [
                place(cell),
                *(entry_text(cell["times"].get(name)) for name in names),
                *([rate(cell)] if rates else []),
                "<br>".join(map(outcome, cell["goals"])),
            ]
            for cell in cells
        ),
    )
    for cell in cells:
        for name, reason in cell["failures"].items():
            yield f"{label(name)} failed at {cell['case']} and was not timed: {reason}"
            yield ""
        if "memory" in cell:
            yield from memory(cell)
        if "resident" in cell:
            yield ", ".join(f"{label(name)}: {size / 2**20:.1f} MiB" for name, size in cell["resident"].items())
            yield ""


def fidelity(cells: list[Cell]) -> Iterator[str]:
    """Yield the fidelity of every library in the lower precisions."""
    yield from table(
        ("library", "model, precision and texts", "least cosine", "mean cosine", "rank correlation", ""),
        (
            [label(name), place(cell), *(f"{value:.5f}" for value in found.values()), *verdict(cell, name)]
            for cell in cells
            for name, found in cell["fidelity"].items()
        ),
    )
    for cell in cells:
        least = ", ".join(f"{name} {value:g}" for name, value in cell["least"].items())
        yield f"{place(cell)}: the least is {least}; {'; '.join(map(outcome, cell['goals']))}"
        yield ""
        for name, reason in cell["failures"].items():
            yield f"{label(name)} failed and was not timed: {reason}"
            yield ""


def verdict(cell: Cell, name: str) -> list[str]:
    """Say whether a library's fidelity is that of its precision."""
    if name in cell["failures"]:
        return ["wrong"]
    return ["coarse" if name in cell["coarse"] else "passed"]


def memory(cell: Cell) -> Iterator[str]:
    """Yield the memory peaks of a cell."""
    for name, value in cell["memory"].items():
        if isinstance(value, dict):
            peaks = ", ".join(f"T {tokens}: {size / 2**20:.1f} MiB" for tokens, size in value.items())
            yield f"{label(name)}, peak of one call with its result: {peaks}"
        else:
            yield f"{name} texts: peak of {value / 2**20:.1f} MiB beyond the result and what was held before"
        yield ""


def products(cells: list[Cell]) -> str:
    """Say where `fastattn.linear` loses to NumPy's BLAS, and which of the two products is for what."""
    found = [goal for cell in cells for goal in cell["goals"] if goal["note"] == "fastattn.linear" and goal["value"] is not None]
    slower = sum(standing(goal) == "slower" for goal in found)
    text = "The column fastattn is the product inside the encoder, whose weight was packed once. "
    if found:
        low, high = (amount(pick(goal["value"] for goal in found), "x") for pick in (min, max))
        text += (
            f"`fastattn.linear` packs its weight in every call: {low} to {high} of NumPy's speed, slower in {slower} of "
            f"{len(found)} cells. For a single product in float32 or float64 take NumPy's `x @ weight.T + bias`; take "
            "`fastattn.linear` for float16, for a fused activation, or for the same bits alone and in a batch. "
        )
    return text + "An `Encoder` never packs twice."


def markdown(results: Results, drawn: list[str]) -> str:
    """Return the report in Markdown: summary and plots, the machine, each row's cells, goals."""
    cells: list[Cell] = results["cells"]
    lines = ["# Benchmarks", ""]
    if results["quick"]:
        lines += ["A quick run, to see that everything works: not for publishing.", ""]
    lines += [
        "Time of the best other library over fastattn's, so more than 1x is faster; level: the quartiles of the rounds are on both "
        "sides of 1.",
        "",
    ]
    lines += table(
        ("", "cells", "least", "geometric mean", "most", "fastattn is", "least against"),
        (
            [line.row, str(line.cells), *(amount(x, "x") for x in (line.low, line.mean, line.high)), line.verdict(), line.slowest]
            for line in summary(cells)
        ),
    )
    lines += quiet(cells)
    for name in drawn:
        lines += [f"![{name.partition('.')[0]}]({name})", ""]
    lines += [
        f"Measured {results['date']} in {results['seconds']} s.",
        "",
        "## Method",
        "",
        METHOD.format(**results),
        "",
        PRECISION,
        "",
    ]
    about = [*results["machine"].items(), ("threads of each library", str(results["threads"]))]
    about += [(name, version) for name, version in results["versions"].items()]
    about += [(f"{label(name)}, {key}", value) for name, found in results["facts"].items() for key, value in found.items()]
    lines += table(("machine and versions", ""), ([key, str(value)] for key, value in dict(about).items()))
    lines += ["## Gate", ""]
    lines += table(
        ("library", "model", "error of the hidden states", "limit", ""),
        (
            [label(g["library"]), g["model"], f"{g['error']:.1e}", f"{g['limit']:.0e}", g["reason"] or "passed"]
            for g in results["gates"]
        ),
    )
    lines += [
        "Errors are relative to the largest true value, the worst of two small padded batches. 1e-07 is the rounding of a single "
        "float32; a library with an error above the limit is not timed.",
        "",
    ]
    for row in dict.fromkeys(cell["row"] for cell in cells):
        lines += section(row, [cell for cell in cells if cell["row"] == row])
    return "\n".join([*lines, *goals(cells)])


def goals(cells: list[Cell]) -> Iterator[str]:
    """Yield the appendix: every goal, what was measured, and whether it is met."""
    judged = [(cell, goal) for cell in cells for goal in cell["goals"] if goal["met"] is not None]
    yield from ("## Appendix: goals", "", GOALS, "", f"{sum(goal['met'] for _, goal in judged)} of {len(judged)} are met.", "")
    yield from table(
        ("", "goal", "measured", ""),
        (
            [
                f"{cell['row']}, {place(cell)}",
                f"{'≤' if goal['at_most'] else '≥'} {amount(goal['goal'], goal['unit'])}",
                outcome(goal),
                "met" if goal["met"] else "missed",
            ]
            for cell, goal in judged
        ),
    )


def write(results: Results, folder: Path, readme: Path | None = None) -> None:
    """Write report.md and the plots beside report.json, and the numbers into the README."""
    (folder / "report.md").write_text(markdown(results, plots(results, folder)), "utf-8")
    if readme is not None:
        numbers.write(results, readme)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(
        json.loads((target / "report.json").read_text("utf-8")),
        target,
        Path(sys.argv[2]) if len(sys.argv) > 2 else None,
    )
