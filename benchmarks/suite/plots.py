"""Plots of a run: tokens per second by shape; length, errors, memory and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.suite.labels import LABELS, Cell, Results, label

SHAPES, DETAILS = "tokens.png", "details.png"


def plots(results: Results, folder: Path) -> list[str]:
    """Draw what the run has cells for; return the files' names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    forwards = [cell for cell in results["cells"] if cell["row"] == "forward"]
    if forwards:
        figure = pyplot.figure(figsize=(12.8, 4.2))
        tokens_by_shape(forwards, figure)
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


def tokens_by_shape(cells: list[Cell], figure: Any) -> None:
    """Draw bars of tokens per second for each shape and library, a panel for each model."""
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    axes = figure.subplots(1, len(models), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        chosen = [cell for cell in cells if cell["model"] == model]
        names = [name for name in LABELS if name != "machine" and any(name in cell["times"] for cell in chosen)]
        for place, name in enumerate(names):
            shown = [(i, cell) for i, cell in enumerate(chosen) if name in cell["times"]]
            positions = [i + (place - (len(names) - 1) / 2) * 0.8 / len(names) for i, _ in shown]
            heights = [cell["tokens"] / cell["times"][name]["median"] for _, cell in shown]
            axis.bar(positions, heights, 0.8 / len(names), label=label(name))
        axis.set_xticks(range(len(chosen)), [cell["case"] for cell in chosen])
        axis.set(title=model, xlabel="(texts, tokens of each)", ylabel="tokens/s")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize="small")
    figure.tight_layout(rect=(0, 0.06, 1, 1))


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
