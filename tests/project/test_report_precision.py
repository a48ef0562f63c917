"""Report of the suite in bfloat16 and int8: fidelity beside speed, what is too coarse to count, and the names of the libraries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.suite import export, fidelity, peer_worker
from benchmarks.suite.labels import PEERS, label, named, precision_of
from benchmarks.suite.library import exported
from benchmarks.suite.plots import tokens_by_shape
from benchmarks.suite.readme import readme_table
from benchmarks.suite.report import markdown
from benchmarks.suite.session import ENCODERS, faster
from benchmarks.suite.shapes import TINY
from benchmarks.suite.summary import summary
from benchmarks.suite.turns import Timing

FINE, COARSE = (
    {"least cosine": 0.996, "mean cosine": 0.9995, "rank correlation": 0.9991},
    {"least cosine": 0.98, "mean cosine": 0.99},
)


def timing(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, 3, [seconds] * 3, 2.0)


def forward(precision: str, times: dict[str, float], found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the cell of a forward in which our goal is 1.2x."""
    row = "forward" if precision == "float32" else f"forward, {precision}"
    entries: Any = {name: {"median": t, "low": t, "high": t, "calls": 3} for name, t in times.items()}
    cell: dict[str, Any] = {
        "row": row,
        "case": "(1, 16)",
        "model": "minilm-l6",
        "precision": precision,
        "tokens": 16,
        "times": entries,
    }
    cell |= {"failures": {}, "goals": []}
    fidelity.mark(cell, found, precision)
    faster(cell, {name: timing(t) for name, t in times.items()}, 1.2, ENCODERS[precision], named("fastattn", precision))
    return cell


def results(ours: dict[str, float]) -> dict[str, Any]:
    """Return the results of a run with int8 of this fidelity, of a run in which no other passes."""
    found: dict[str, Any] = {"fastattn-int8": ours, "openvino-int8": {**COARSE, "rank correlation": 0.98}}
    cells = [
        forward("float32", {"fastattn": 0.004, "openvino": 0.005}, {}),
        forward("int8", {"fastattn-int8": 0.001, "fastattn": 0.004, "openvino-int8": 0.0015}, found),
    ]
    tested: dict[str, Any] = {
        "row": "fidelity", "case": "int8, 1000 texts", "model": "minilm-l6", "precision": "int8", "times": {}, "failures": {},
        "goals": [], "least": fidelity.LEAST["int8"], "fidelity": found,
        "coarse": [name for name, each in found.items() if fidelity.is_coarse(each, "int8")],
    }  # fmt: skip
    fidelity.goals(tested, "fastattn-int8")
    return {
        "cells": [*cells, tested], "gates": [], "machine": {"CPU": "A CPU"}, "threads": 2, "rounds": 3, "seconds": 1, "facts": {},
        "versions": {"fastattn": "0.1"}, "date": "2026-01-02 10:00", "quick": False,
    }  # fmt: skip


def test_speed_counts_beside_its_fidelity() -> None:
    run = results(FINE)
    plain, low = summary(run["cells"])
    assert (plain.row, low.row, low.verdict(), low.coarse) == ("minilm-l6, forward", "minilm-l6, forward, int8", "faster", 0)
    text = markdown(run, [])
    assert "1 ms (1 to 1)<br>0.99600 / 0.99950 |" in text and "1.5 ms (1.5 to 1.5)<br>0.98000 / 0.99000 **coarse**" in text
    assert "| fastattn, int8 | minilm-l6 int8, 1000 texts | 0.99600 | 0.99950 | 0.99910 | passed |" in text
    assert "| OpenVINO, int8 | minilm-l6 int8, 1000 texts | 0.98000 | 0.99000 | 0.98000 | coarse |" in text
    assert "20.00x vs 1 - mean cosine of OpenVINO, int8" in text and "16,000 tokens/s" in text
    assert "| fastattn, int8 (cosine to float32 0.9960 / 0.9995); the best other / it | 1 (**1.50x**) |" in readme_table(run)
    assert "2 threads, float32, int8;" in readme_table(run)


def test_too_coarse_does_not_count() -> None:
    run = results({**FINE, "mean cosine": 0.9985})
    low = list(summary(run["cells"]))[1]
    assert (low.faster, low.coarse, low.verdict()) == (0, 1, "1 too coarse to count")
    assert [goal["met"] for goal in run["cells"][1]["goals"]] == [False]
    text = markdown(run, [])
    assert "1.50x vs OpenVINO, int8 (**too coarse: not counted**)" in text
    assert "| fastattn, int8 | minilm-l6 int8, 1000 texts | 0.99600 | 0.99850 | 0.99910 | coarse |" in text
    assert "1 (**1.50x**, too coarse) |" in readme_table(run)


def test_a_library_that_is_coarse_is_still_a_rival() -> None:
    cell = forward("int8", {"fastattn-int8": 0.002, "openvino-int8": 0.001}, {"fastattn-int8": FINE, "openvino-int8": COARSE})
    assert [(goal["value"], goal["met"]) for goal in cell["goals"]] == [(0.5, False)]


def test_plot_has_a_panel_for_each_precision() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    figure = tokens_by_shape(results(FINE), pyplot)
    assert [axis.get_title() for axis in figure.axes] == ["minilm-l6, float32", "minilm-l6, int8"]
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    # In the panel of int8, float32 has no bar.
    assert heights == [pytest.approx([4000, 3200]), pytest.approx([16_000, 16 / 0.0015])]
    assert "A CPU, 2 threads" in figure.get_suptitle()
    pyplot.close(figure)


def test_numbers_of_embeddings() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((30, 8)).astype(np.float32)
    same = fidelity.numbers(truth, 3 * truth)
    assert list(same.values()) == pytest.approx([1, 1, 1]) and not fidelity.is_coarse(same, "int8")
    turned = truth.copy()
    turned[4] = [-truth[4, 1], truth[4, 0], *np.zeros(6)]
    found = fidelity.numbers(truth, turned)
    assert found["least cosine"] == pytest.approx(0, abs=1e-6) and found["mean cosine"] == pytest.approx(29 / 30)
    assert fidelity.is_coarse(found, "int8")
    assert not any(fidelity.numbers(truth, wrong)["least cosine"] for wrong in (truth[:5], np.full_like(truth, np.nan)))


@pytest.mark.parametrize("name", [name for precision in ENCODERS for name in ENCODERS[precision]])
def test_names(name: str) -> None:
    assert name in peer_worker.LIBRARIES and name in PEERS and "-" not in label(name)
    assert peer_worker.LIBRARIES[name].partition(":")[2].partition(":")[2] in ("", precision_of(name))
    assert named(name.removesuffix(f"-{precision_of(name)}"), precision_of(name)) == name


def test_an_export_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fails_at_first(model: Any, folder: Path) -> None:
        made.append("two")
        if made.count("two") == 1:
            raise ImportError("no nncf")

    monkeypatch.setattr(export, "write_checkpoint", lambda model, folder: made.append("checkpoint"))
    monkeypatch.setattr(export, "EXPORTS", {"one": lambda model, folder: made.append("one"), "two": fails_at_first})
    export.main(TINY.name, str(tmp_path))
    with pytest.raises(OSError, match="no nncf"):
        exported(tmp_path, "two")
    export.main(TINY.name, str(tmp_path))
    assert made == ["checkpoint", "one", "two", "two"] and exported(tmp_path, "two") == tmp_path / "two"
