"""Numbers of README.md, between two comments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.suite.labels import PEERS, PRECISIONS, Cell, Results, amount, label, named, place, row_named, table
from benchmarks.suite.shapes import MODELS
from benchmarks.suite.summary import quiet

WHOLE = ("encode", "cross-encoder", "start", "accelerate", "resident memory")
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"


def readme_table(results: Results) -> str:
    """Return the numbers of the README: forwards, texts, all comparisons that are lost or short of their mark, and the machine."""
    cells: list[Cell] = results["cells"]
    machine, versions = results["machine"], results["versions"]
    names = ("fastattn", "onnxruntime", "openvino", "ctranslate2", "torch")
    lines: list[str] = []
    for model in MODELS:
        forward = [cell for cell in cells if cell["row"] == "forward" and cell["model"] == model]
        if forward:
            rows = [*_times(names, forward), *(row for precision in PRECISIONS[1:] for row in _lower(cells, model, precision))]
            lines += [f"{model}, forward of (texts, tokens), ms:", ""]
            lines += table(("", *(cell["case"] for cell in forward)), rows)
    whole = [cell for cell in cells if cell["row"].partition(",")[0] in WHOLE]
    lines += _listed(
        "**Whole programs** (2x: the other takes twice the time):",
        [f"{cell['row']}, {cell['case']}: {'; '.join(map(outcome, cell['goals']))}" for cell in whole if cell["goals"]],
    )
    lines += _listed("**Level with another library, or slower** (0.5x: the other takes half the time):", _grouped(cells, is_lost))
    lines += _listed("**Not lost, and short of the mark** that `report.md` sets:", _grouped(cells, is_only_short))
    lines += quiet(cells)
    used = ", ".join(f"{label(name)} {versions[name]}" for name in names if name in versions)
    where = f"{machine['CPU']}, {results['threads']} threads, {_measured(cells)}; {used}; {results['date'][:10]}"
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


def _lower(cells: list[Cell], model: str, precision: str) -> Iterator[list[str]]:
    """Yield our milliseconds in a lower precision and the ratio of the best other in it; nothing if it was not measured."""
    forward = [cell for cell in cells if cell["row"] == row_named("forward", precision) and cell["model"] == model]
    if not forward:
        return
    ours = named("fastattn", precision)
    entries = [cell["times"].get(ours) for cell in forward]
    cosines = next((entry["cosines"] for entry in entries if entry), None)
    about = "" if cosines is None else f" (cosine to float32 {cosines[0]:.4f} / {cosines[1]:.4f})"
    yield [f"{label(ours)}{about}; the best other / it", *(_with_ratio(cell, ours) for cell in forward)]


def _with_ratio(cell: Cell, ours: str) -> str:
    """Format our milliseconds and the ratio of the best other."""
    goal, entry = cell["goals"][0], cell["times"].get(ours)
    ratio = f"**{amount(goal['value'], 'x')}**{'' if goal.get('counted', True) else ', too coarse'}"
    return f"{1e3 * entry['median']:.3g} ({ratio})" if entry else "failed"


def _measured(cells: list[Cell]) -> str:
    """Return the precisions of the run's forwards."""
    found = {cell["row"] for cell in cells}
    others = [precision for precision in PRECISIONS[1:] if row_named("forward", precision) in found]
    return ", ".join(("float32", *others))


def write(results: Results, readme: Path) -> None:
    """Replace the numbers in `readme`; ValueError if it has no place for them."""
    text = readme.read_text("utf-8")
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}\n{END}{after}", "utf-8")
