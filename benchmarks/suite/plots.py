"""Plots of a run: tokens per second by shape and precision; length, errors, memory and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.suite.labels import LABELS, PRECISIONS, Cell, Results, label, named, row_named

SHAPES, DETAILS = "tokens.png", "details.png"
# Precisions by the row of the report that has the forwards.
FORWARDS = {row_named("forward", precision): precision for precision in PRECISIONS}


def plots(results: Results, folder: Path) -> list[str]:
    """Draw what the run has cells for; return the files' names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    if any(cell["row"] in FORWARDS for cell in results["cells"]):
        figure = tokens_by_shape(results, pyplot)
        figure.savefig(folder / SHAPES, dpi=120)
        pyplot.close(figure)
        drawn.append(SHAPES)
    panels = [(panel, cells) for panel, cells in detail_cells(results) if cells]
    if panels:
        figure, axes = pyplot.subplots(1, len(panels), figsize=(4.4 * len(panels), 4), squeeze=False, layout="constrained")
        for axis, (panel, cells) in zip(axes[0], panels, strict=True):
            panel(cells, axis)
        figure.savefig(folder / DETAILS, dpi=120)
        pyplot.close(figure)
        drawn.append(DETAILS)
    return drawn


def detail_cells(results: Results) -> list[tuple[Any, list[Cell]]]:
    """Return the panels of the second plot, each with its cells."""
    cells = results["cells"]
    return [
        (attention_by_length, [cell for cell in cells if cell["row"] == "attention"]),
        (errors, [gate for gate in results["gates"] if gate["error"] > 0]),
        (memory_by_length, [cell for cell in cells if cell["row"] == "attention, peak memory"]),
        (tokens_by_threads, [cell for cell in cells if cell["row"] == "1 thread to 2" and len(cell["times"]) == 2]),
    ]


def tokens_by_shape(results: Results, pyplot: Any) -> Any:
    """Return bars of tokens per second for each shape and library: a row of panels for each model, a column for each precision."""
    cells = [cell for cell in results["cells"] if cell["row"] in FORWARDS]
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    found = [row for row in FORWARDS if any(cell["row"] == row for cell in cells)]
    figure, axes = pyplot.subplots(
        len(models), len(found), figsize=(6.4 if len(found) == 1 else 4.4 * len(found), 0.8 + 3 * len(models)),
        squeeze=False, sharey="row", layout="constrained",
    )  # fmt: skip
    # A library has one colour in all precisions.
    colours = {name: f"C{i}" for i, name in enumerate(name for name in LABELS if name != "machine")}
    shown: dict[str, Any] = {}
    for (row, model), axis in zip(((row, model) for model in models for row in found), axes.flat, strict=True):
        chosen = [cell for cell in cells if (cell["row"], cell["model"]) == (row, model)]
        libraries = [name for name in LABELS if any(named(name, FORWARDS[row]) in cell["times"] for cell in chosen)]
        libraries = [name for name in libraries if name != "machine"]
        for place, library in enumerate(libraries):
            name = named(library, FORWARDS[row])
            having = [(i, cell) for i, cell in enumerate(chosen) if name in cell["times"]]
            positions = [i + (place - (len(libraries) - 1) / 2) * 0.8 / len(libraries) for i, _ in having]
            heights = [cell["tokens"] / cell["times"][name]["median"] for _, cell in having]
            shown[label(library)] = axis.bar(positions, heights, 0.8 / len(libraries), color=colours[library])
        axis.set_xticks(range(len(chosen)), [cell["case"] for cell in chosen], fontsize="small")
        axis.set_title(f"{model}, {FORWARDS[row]}")
    figure.supylabel("tokens/s")
    figure.suptitle(f"Forward of (texts, tokens of each) on {results['machine']['CPU']}, {results['threads']} threads")
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown), fontsize="small")
    return figure


def attention_by_length(cells: list[Cell], axis: Any) -> None:
    """Draw the tokens per second of attention by length, a line for each library and head width."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for cell in cells:
        length, width = (int(part.split()[1]) for part in cell["case"].split(", "))
        for name, entry in cell["times"].items():
            lines.setdefault(f"{label(name)}, D {width}", []).append((length, length / entry["median"]))
    for name, points in lines.items():
        axis.loglog(*zip(*points, strict=True), marker="o", label=name)
    axis.set(title="attention, 8 heads", xlabel="tokens T", ylabel="tokens/s")
    axis.legend(fontsize="small")


def errors(gates: list[Cell], axis: Any) -> None:
    """Draw the largest error of the hidden states of each library and model."""
    models = list(dict.fromkeys(gate["model"] for gate in gates))
    libraries = list(dict.fromkeys(gate["library"] for gate in gates))
    for place, model in enumerate(models):
        found = {gate["library"]: gate["error"] for gate in gates if gate["model"] == model}
        shown = [(i + (place - (len(models) - 1) / 2) * 0.8 / len(models), found[x]) for i, x in enumerate(libraries) if x in found]
        axis.barh(*zip(*shown, strict=True), 0.8 / len(models), label=model)
    axis.set_yticks(range(len(libraries)), [label(library) for library in libraries])
    axis.set(title="error of the hidden states", xlabel="largest error / largest value")
    axis.legend(fontsize="small")


def memory_by_length(cells: list[Cell], axis: Any) -> None:
    """Draw the peak memory of a call of attention by length."""
    for name, sizes in cells[0]["memory"].items():
        axis.loglog([int(tokens) for tokens in sizes], [size / 2**20 for size in sizes.values()], marker="o", label=label(name))
    axis.set(title="attention, peak memory of a call", xlabel="tokens T", ylabel="MiB, result included")
    axis.legend(fontsize="small")


def tokens_by_threads(cells: list[Cell], axis: Any) -> None:
    """Draw the tokens per second on one thread and on two."""
    cell = cells[0]
    names = list(cell["times"])
    axis.bar([name.rpartition(" ")[2] for name in names], [cell["tokens"] / cell["times"][name]["median"] for name in names], 0.5)
    axis.set(title=f"{cell['model']} {cell['case']}", xlabel="threads", ylabel="tokens/s")
