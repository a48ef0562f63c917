"""Notebook of learning: its cells run in order on the public API alone, and the models in it learn."""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples" / "learning.ipynb").read_text(encoding="utf-8"))


def code() -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_is_a_notebook_without_outputs() -> None:
    assert NOTEBOOK["nbformat"] == 4
    cells = NOTEBOOK["cells"]
    assert {cell["cell_type"] for cell in cells} == {"markdown", "code"}
    assert cells[0]["cell_type"] == cells[-1]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert all("".join(cell["source"]).strip() for cell in cells)


def test_imports_the_public_names_alone() -> None:
    import fastattn
    from fastattn import training

    public = {"fastattn": set(fastattn.__all__), "fastattn.training": set(training.__all__)}
    for node in ast.walk(ast.parse("\n".join(code()))):
        if isinstance(node, ast.Import):
            assert {name.name for name in node.names} <= {"itertools", "math", "numpy"}
        elif isinstance(node, ast.ImportFrom):
            assert {name.name for name in node.names} <= public[node.module or ""]


@pytest.mark.jit
def test_runs_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for place, cell in enumerate(code()):
        exec(compile(cell, f"learning.ipynb, code cell {place}", "exec"), names)
    said = capsys.readouterr().out
    assert len(said.splitlines()) > 30
    by_hand, kernel = map(float, re.search(r"loss by hand ([\d.]+), cross_entropy ([\d.]+)", said).groups())  # type: ignore[union-attr]
    assert by_hand == pytest.approx(kernel, abs=2e-6)
    assert float(re.search(r"greatest difference (\S+)", said).group(1)) < 1e-8  # type: ignore[union-attr]
    assert set(names["curves"]) == {"SGD", "momentum", "RMSprop", "Adam"}
    for losses in names["curves"].values():
        # The loss of a guess at first, below a tenth of it at the end.
        assert losses[-1] < 0.1 * math.log(names["V"]) < losses[0]
    steps = names["first_steps"]
    assert steps["SGD"] == steps["momentum"] < 0.02
    assert steps["RMSprop"] == pytest.approx(0.01, rel=1e-3)
    assert steps["Adam"] == pytest.approx(0.001, rel=1e-3)
    for losses in names["prediction"].values():
        assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert names["sum_forward"] == pytest.approx(1, abs=1e-4)
    assert names["sum_both"] > 1.2
    assert names["back"] == names["TEXT"]
    with_positions, without = names["order"]["with positions"][-1], names["order"]["without"][-1]
    # A loss below the floor would be a leak of the order; 0.02 is what 150 steps leave.
    assert with_positions < 0.02 < names["floor"] - 1e-4 < without < names["floor"] + 0.02
