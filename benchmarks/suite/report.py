"""Results as one Markdown report, a plot, and the table of the README: ``python -m benchmarks.suite.report FOLDER [README]``."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.suite.shapes import MODELS

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
# Share of the cores' time that the FMA limit must get; below this share, other processes disturbed the run.
QUIET = 0.95
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"
Results = dict[str, Any]
Cell = dict[str, Any]

METHOD = """\
Each library runs in a process of its own with {threads} threads and takes turns with the others; while one has its turn the
others sleep on a pipe. Before anything is timed, its result is checked against the NumPy reference in float64; what fails is
reported and not timed. A call is timed after at least 0.7 s of warm-up, in {rounds} rounds. Times are medians with quartiles;
ratios are taken within a round, so more than 1 is faster than the other. All models are the same float32 checkpoint. A forward
goes from token ids to the last hidden states; OpenVINO is compiled for each shape alone. Behind the tokenizer the peers get
batches of 32 texts sorted by length and padded. Outputs of the elementwise ops and products are allocated beforehand on every
side. The FMA limit is multiply-adds in registers on all cores, the copy bandwidth a memcpy on all cores, both measured in the
same rounds."""


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


def duration(entry: dict[str, Any] | None) -> str:
    """Format a median and its quartiles in s, ms or µs."""
    if entry is None:
        return ""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if entry["median"] * f >= 1), (1e6, "µs"))
    median, low, high = (f"{entry[key] * factor:.3g}" for key in ("median", "low", "high"))
    return f"{median} {unit} ({low} to {high})"


def amount(value: float | None, unit: str) -> str:
    """Format a ratio, share or quantity."""
    if value is None:
        return "failed"
    if unit == "share":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}x" if unit == "x" else f"{value:.3g} {unit}"


def verdict(goal: Cell) -> str:
    """Format a comparison: the value, the other library or limit, and the goal."""
    text = f"{amount(goal['value'], goal['unit'])}"
    if goal["value"] is not None and goal["low"] != goal["high"]:
        text += f" ({amount(goal['low'], goal['unit'])} to {amount(goal['high'], goal['unit'])})"
    text += f" vs {label(goal['against'])}" if goal["unit"] in ("x", "share") else f" {goal['against']}".replace(" goal", "")
    if goal["goal"] is not None:
        text += f", goal {'≤' if goal['at_most'] else '≥'} {amount(goal['goal'], goal['unit'])}"
    if goal["note"]:
        text += f" ({goal['note']})"
    return f"**SHORT** {text}" if goal["met"] is False else text


def place(cell: Cell) -> str:
    """Return the cell's model, if any, and its case."""
    return " ".join(filter(None, (cell.get("model"), cell["case"])))


def rate(cell: Cell) -> str:
    """Format fastattn's throughput in this cell."""
    entry = cell["times"].get("fastattn")
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
    names = list(dict.fromkeys(name for cell in cells for name in cell["times"] if name != "machine"))
    rates = any(rate(cell) for cell in cells)
    head = ["case", *map(label, names), *(["fastattn does"] if rates else []), "result"]
    yield from table(
        head,
        (
            [
                place(cell),
                *(duration(cell["times"].get(name)) for name in names),
                *([rate(cell)] if rates else []),
                "<br>".join(map(verdict, cell["goals"])),
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


def memory(cell: Cell) -> Iterator[str]:
    """Yield the memory peaks of a cell."""
    for name, value in cell["memory"].items():
        if isinstance(value, dict):
            peaks = ", ".join(f"T {tokens}: {size / 2**20:.1f} MiB" for tokens, size in value.items())
            yield f"{label(name)}, peak of one call with its result: {peaks}"
        else:
            yield f"{name} texts: peak of {value / 2**20:.1f} MiB beyond the result and what was held before"
        yield ""


def markdown(results: Results) -> str:
    """Return the report in Markdown."""
    cells: list[Cell] = results["cells"]
    goals = [(cell, goal) for cell in cells for goal in cell["goals"]]
    short = [(cell, goal) for cell, goal in goals if goal["met"] is False]
    judged = sum(goal["met"] is not None for _, goal in goals)
    lines = ["# Benchmarks", ""]
    if results["quick"]:
        lines += ["A quick run, to see that everything works: not for publishing.", ""]
    lines += [METHOD.format(**results), ""]
    lines += [f"{judged - len(short)} of {judged} goals are met; measured {results['date']} in {results['seconds']} s.", ""]
    lines += quiet(cells)
    about = [*results["machine"].items(), ("threads of each library", str(results["threads"]))]
    about += [(name, version) for name, version in results["versions"].items()]
    about += [(f"{label(name)}, {key}", value) for name, found in results["facts"].items() for key, value in found.items()]
    lines += table(("machine and versions", ""), ([key, str(value)] for key, value in dict(about).items()))
    lines += ["## Cells that fall short", ""]
    lines += [f"- {cell['row']}, {place(cell)}: {verdict(goal).removeprefix('**SHORT** ')}" for cell, goal in short]
    lines += ["" if short else "None.", "## Gate", ""]
    lines += table(
        ("library", "model", "error of the hidden states", "limit", ""),
        (
            [label(g["library"]), g["model"], f"{g['error']:.1e}", f"{g['limit']:.0e}", g["reason"] or "passed"]
            for g in results["gates"]
        ),
    )
    lines += ["Errors are relative to the largest true value, the worst of two small padded batches.", ""]
    for row in dict.fromkeys(cell["row"] for cell in cells):
        lines += section(row, [cell for cell in cells if cell["row"] == row])
    if any(cell["row"] == "forward" for cell in cells):
        lines += ["![tokens per second by shape](tokens.png)", ""]
    return "\n".join(lines)


def quiet(cells: list[Cell]) -> Iterator[str]:
    """Yield the FMA limits of the run, and a warning if other processes took part of the cores' time."""
    measured = [cell for cell in cells if "fma_limit" in cell]
    if measured:
        limits = [cell["fma_limit"] / 1e9 for cell in measured]
        share = statistics.mean(cell["cores_got"] for cell in measured)
        yield (
            f"The FMA limit of all cores was {statistics.median(limits):.0f} GFLOP/s, from {min(limits):.0f} to {max(limits):.0f} "
            f"in the run; it got {100 * share:.0f} % of the cores' time."
        )
        if share < QUIET:
            yield "**Other work took the rest: these numbers say little. Measure again on a quiet machine.**"
        yield ""


def readme_table(results: Results) -> str:
    """Return the numbers of the README: forwards, texts, all comparisons that are lost or short of their mark, and the machine."""
    cells: list[Cell] = results["cells"]
    machine, versions = results["machine"], results["versions"]
    names = ("fastattn", "onnxruntime", "openvino", "ctranslate2", "torch")
    lines: list[str] = []
    for model in MODELS:
        forward = [cell for cell in cells if cell["row"] == "forward" and cell["model"] == model]
        if forward:
            lines += [f"{model}, forward of (texts, tokens), ms:", ""]
            lines += table(("", *(cell["case"] for cell in forward)), _times(names, forward))
    whole = [cell for cell in cells if cell["row"] in ("encode", "start", "accelerate")]
    lines += _listed(
        "**Whole programs** (2x: the other takes twice the time):",
        [f"{cell['row']}, {cell['case']}: {'; '.join(map(outcome, cell['goals']))}" for cell in whole],
    )
    lines += _listed("**Level with another library, or slower** (0.5x: the other takes half the time):", _grouped(cells, is_lost))
    lines += _listed("**Not lost, and short of the mark** that `report.md` sets:", _grouped(cells, is_only_short))
    lines += quiet(cells)
    used = ", ".join(f"{label(name)} {versions[name]}" for name in names if name in versions)
    where = f"{machine['CPU']}, {results['threads']} threads, float32; {used}; {results['date'][:10]}"
    return "\n".join([*lines, f"Medians on {where}.", "All cells with quartiles and marks: `benchmarks/results/report.md`."])


def is_lost(goal: Cell) -> bool:
    """Tell whether another library is level, within the quartiles, or ahead."""
    return goal["against"] in PEERS and goal["unit"] == "x" and goal["low"] is not None and round(goal["low"], 2) <= 1


def is_only_short(goal: Cell) -> bool:
    """Tell whether a comparison misses its mark and yet is not lost."""
    return goal["met"] is False and not is_lost(goal)


def outcome(goal: Cell) -> str:
    """Format a comparison without its mark and quartiles."""
    if goal["unit"] in ("x", "share"):
        return f"{amount(goal['value'], goal['unit'])} {'of the' if goal['unit'] == 'share' else 'vs'} {label(goal['against'])}"
    return f"{amount(goal['value'], goal['unit'])} {goal['against']}".removesuffix(" goal")


def _grouped(cells: list[Cell], chosen: Callable[[Cell], bool]) -> list[str]:
    """Return a line for each row of the report: the range of its chosen comparisons with each other library or limit."""
    lines = []
    for row in dict.fromkeys(cell["row"] for cell in cells):
        pairs = [(cell, goal) for cell in cells if cell["row"] == row for goal in cell["goals"]]
        parts = []
        for against, note in dict.fromkeys((goal["against"], goal["note"]) for _, goal in pairs if chosen(goal)):
            found = [(cell, goal) for cell, goal in pairs if chosen(goal) and (goal["against"], goal["note"]) == (against, note)]
            least, most = (pick((goal for _, goal in found), key=_value) for pick in (min, max))
            unit = least["unit"]
            low, high = amount(least["value"], unit), amount(most["value"], unit)
            extent = outcome(most) if low == high else f"{low} to {outcome(most)}"
            where = f"at {place(found[0][0])}" if len(found) == 1 else f"in {len(found)} cells"
            parts.append(f"{extent}{f' ({note})' if note else ''} {where}")
        if parts:
            lines.append(f"{row}: {'; '.join(parts)}")
    return lines


def _value(goal: Cell) -> float:
    return -math.inf if goal["value"] is None else float(goal["value"])


def _listed(title: str, items: list[str]) -> Iterator[str]:
    """Yield a title and its items as one paragraph, which keeps the README short; nothing without items."""
    if items:
        yield from (f"{title} {' · '.join(items)}", "")


def _times(names: Iterable[str], cells: list[Cell]) -> Iterator[list[str]]:
    """Yield each library's milliseconds, then the ratio of the best other library to fastattn."""
    for name in names:
        entries = [cell["times"].get(name) for cell in cells]
        yield [label(name), *(f"{1e3 * entry['median']:.3g}" if entry else "failed" for entry in entries)]
    yield ["**the best other / fastattn**", *(f"**{amount(cell['goals'][0]['value'], 'x')}**" for cell in cells)]


def plot(results: Results, path: Path) -> None:
    """Draw tokens per second by shape for each library."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    forward = [cell for cell in results["cells"] if cell["row"] == "forward"]
    models = list(dict.fromkeys(cell["model"] for cell in forward))
    figure, axes = pyplot.subplots(1, len(models), figsize=(6.4 * len(models), 4.2), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        cells = [cell for cell in forward if cell["model"] == model]
        names = [name for name in LABELS if name != "machine" and any(name in cell["times"] for cell in cells)]
        for place, name in enumerate(names):
            shown = [(i, cell) for i, cell in enumerate(cells) if name in cell["times"]]
            positions = [i + (place - (len(names) - 1) / 2) * 0.8 / len(names) for i, _ in shown]
            heights = [cell["tokens"] / cell["times"][name]["median"] for _, cell in shown]
            axis.bar(positions, heights, 0.8 / len(names), label=label(name))
        axis.set_xticks(range(len(cells)), [cell["case"] for cell in cells])
        axis.set(title=model, xlabel="(texts, tokens of each)", ylabel="tokens/s")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize="small")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(results: Results, folder: Path, readme: Path | None = None) -> None:
    """Write report.md and tokens.png beside report.json, and the numbers into the README."""
    (folder / "report.md").write_text(markdown(results), "utf-8")
    if any(cell["row"] == "forward" for cell in results["cells"]):
        plot(results, folder / "tokens.png")
    if readme is not None:
        text = readme.read_text("utf-8")
        before, found, rest = text.partition(BEGIN)
        _, closed, after = rest.partition(END)
        if not found or not closed:
            raise ValueError(f"{readme} has no {BEGIN} ... {END}")
        readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(
        json.loads((target / "report.json").read_text("utf-8")),
        target,
        Path(sys.argv[2]) if len(sys.argv) > 2 else None,
    )
