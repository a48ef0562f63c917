"""Report of the suite, the numbers of README.md, what the terminal shows, and the look at the machine before a run."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import RESULTS, ROOT
from benchmarks.suite import __main__ as suite
from benchmarks.suite import busy, report
from benchmarks.suite.plots import plots
from benchmarks.suite.readme import BEGIN, END, is_lost, is_only_short, readme_table
from benchmarks.suite.report import markdown, write
from benchmarks.suite.summary import WARNING, quiet, show, summary


@pytest.fixture(scope="module")
def results() -> Any:
    return json.loads((RESULTS / "report.json").read_text("utf-8"))


def goal(against: str, value: float | None, mark: float | None = None, unit: str = "x", **other: Any) -> dict[str, Any]:
    met = None if mark is None else value is not None and value >= mark
    low = high = value
    return {
        "against": against, "unit": unit, "value": value, "low": low, "high": high, "goal": mark, "at_most": False, "met": met,
        "note": "", **other,
    }  # fmt: skip


def cell(row: str, case: str, *goals: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"row": row, "case": case, "failures": {}, "times": {}, "goals": list(goals), **other}


def shown(*cells: dict[str, Any]) -> str:
    versions = {"fastattn": "0.1", "torch": "2.13", "numpy": "2"}
    return readme_table(
        {"cells": cells, "machine": {"CPU": "A CPU"}, "threads": 3, "versions": versions, "date": "2026-01-02 10:00"}
    )


def test_readme_has_the_numbers_of_the_report(results: Any) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == f"\n{readme_table(results)}\n"


def test_marks_are_nowhere(results: Any) -> None:
    assert not re.search(r"goal|≥|≤|SHORT", readme_table(results))


def test_every_short_and_every_lost_cell_is_counted(results: Any) -> None:
    goals = [goal for cell in results["cells"] for goal in cell["goals"]]
    short = [goal for goal in goals if goal["met"] is False]
    assert len(short) > 20 and all(is_lost(goal) != is_only_short(goal) for goal in short)
    lists = readme_table(results).partition("Level with")[2].partition("The FMA limit of all cores")[0]
    counted = sum(int(number) for number in re.findall(r" in (\d+) cells", lists)) + len(re.findall(r" at ", lists))
    assert counted == sum(map(is_lost, goals)) + sum(map(is_only_short, goals))


def test_lists() -> None:
    text = shown(
        cell("gelu", "1 x 10", goal("torch", 0.9, 1.0)),
        cell("gelu", "2 x 20", goal("torch", 1.2, 1.0), goal("copy bandwidth", 0.5, 0.8, "share")),
        cell("softmax", "1 x 10", goal("torch", 0.5)),
        cell("softmax", "2 x 20", goal("torch", 0.75), goal("onnxruntime", 1.02, low=0.99)),
        cell("encode", "9 texts", goal("openvino", 1.2, 1.3), model="minilm-l6"),
        cell("product", "3 x 4", goal("numpy", 3.0, 2.0), goal("1 thread", 0.5)),
        cell("product", "5 x 6", goal("numpy", None, 2.0)),
    )
    lost = text.partition("Level with")[2].partition("half the time): ")[2]
    assert lost.partition("\n\n")[0].split(" · ") == [
        "gelu: 0.90x vs torch at 1 x 10",
        "softmax: 0.50x to 0.75x vs torch in 2 cells; 1.02x vs ONNX Runtime at 2 x 20",
    ]
    short = text.partition("Not lost")[2].partition("`report.md` sets: ")[2].partition("\n\n")[0]
    assert short.split(" · ") == [
        "gelu: 50 % of the copy bandwidth at 2 x 20",
        "encode: 1.20x vs OpenVINO at minilm-l6 9 texts",
        "product: failed vs NumPy at 5 x 6",
    ]
    assert "Medians on A CPU, 3 threads, float32; fastattn 0.1, torch 2.13; 2026-01-02." in text


@pytest.mark.parametrize(("share", "warned"), [(0.99, False), (0.92, True)])
def test_warning_of_a_disturbed_run(share: float, warned: bool) -> None:
    measured = cell("gelu", "1 x 10", goal("torch", 2.0, 1.0), fma_limit=5e11, cores_got=share)
    text = shown(measured)
    assert "The FMA limit of all cores was 500 GFLOP/s" in text and f"it got {100 * share:.0f} %" in text
    assert ("Other work took the rest" in text) is warned
    assert all(line in text for line in quiet([measured]))


def test_write_replaces_the_block_alone(tmp_path: Path, results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "plots", lambda results, folder: [])
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    write(results, tmp_path, readme)
    assert readme.read_text("utf-8") == f"before\n{BEGIN}\n{readme_table(results)}\n{END}\nafter\n"
    readme.write_text("no block", "utf-8")
    with pytest.raises(ValueError, match=r"has no <!-- numbers:begin --> \.\.\. <!-- numbers:end -->"):
        write(results, tmp_path, readme)


def test_report_opens_with_the_summary_and_ends_with_the_goals(results: Any) -> None:
    text = markdown(results, ["tokens.png", "details.png"])
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[:2] == ["Method", "Gate"] and titles[-1] == "Appendix: goals"
    opening, _, rest = text.partition("## Method")
    assert "| minilm-l6, forward | 6 |" in opening and "tokens.png" in opening and "details.png" in opening
    assert not re.search(r"goal|≥|≤", opening)
    cells, _, appendix = rest.partition("## Appendix: goals")
    assert not re.search(r"goal|≥|≤|SHORT", cells) and "The developers of fastattn set these goals" in appendix
    judged = [goal for cell in results["cells"] for goal in cell["goals"] if goal["met"] is not None]
    assert appendix.count("| met |") == sum(goal["met"] for goal in judged)
    assert appendix.count("| missed |") == sum(not goal["met"] for goal in judged)


def test_summary() -> None:
    cells = [
        cell("gelu", "1 x 10", goal("torch", 2.0)),
        cell("gelu", "2 x 20", goal("onnxruntime", 0.5, 1.0), goal("copy bandwidth", 0.5, 0.8, "share")),
        cell("gelu", "3 x 30", goal("onnxruntime", 1.0, low=0.9, high=1.1)),
        cell("product", "a", goal("numpy", 1.2, 2.0), goal("numpy", 0.4, note="fastattn.linear"), model="minilm-l6"),
        cell("product", "b", goal("numpy", None, 2.0), model="minilm-l6"),
        cell("accelerate", "c", goal("torch", 3.0, note="accelerated")),
    ]
    gelu, packed, linear, accelerated = summary(cells)
    assert gelu[:5] == ("gelu", 3, 1, 1, 1) and gelu.verdict() == "1 faster, 1 level, 1 slower"
    assert (gelu.low, gelu.mean, gelu.high) == pytest.approx((0.5, 1.0, 2.0)) and gelu.slowest == "ONNX Runtime, 2 x 20"
    assert (packed.row, packed.cells, packed.verdict()) == ("product", 1, "faster")
    assert (linear.row, linear.verdict()) == ("product, fastattn.linear", "slower")
    assert accelerated.row == "accelerate"


@pytest.mark.parametrize(("share", "warned"), [(0.99, False), (0.92, True)])
def test_terminal(share: float, warned: bool) -> None:
    measured = cell("gelu", "1 x 10", goal("torch", 2.0, 1.0), fma_limit=5e11, cores_got=share)
    gate = {"library": "openvino", "model": "bert-base", "reason": "error 0.1"}
    page = io.StringIO()
    show({"cells": [measured], "gates": [gate]}, Console(file=page, width=200))
    assert re.search(r"gelu .* 1 .* 2.00x .* 2.00x .* 2.00x .* faster .* torch, 1 x 10", page.getvalue())
    assert "OpenVINO, bert-base: error 0.1" in page.getvalue()
    assert (WARNING in page.getvalue()) is warned


def test_where_linear_loses(results: Any) -> None:
    found = re.search(r"`fastattn.linear` packs its weight in every call: .*slower in (\d+) of (\d+) cells", markdown(results, []))
    assert found and 0 < int(found[1]) <= int(found[2]) == 24


def test_plots(results: Any, tmp_path: Path) -> None:
    assert plots(results, tmp_path) == ["tokens.png", "details.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("tokens.png", "details.png"))
    assert plots({"cells": [], "gates": []}, tmp_path) == []


def test_share_of_cores_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "SECONDS", 0.05)
    assert 0 < busy.share_of_cores(1) <= 1.05
    assert busy.refusal(0.951) == "" and "72 % of the cores' time" in busy.refusal(0.72)


@pytest.mark.parametrize(("options", "starts"), [([], False), (["--anyway"], True)])
def test_a_busy_machine_stops_the_suite(
    options: list[str], starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Started(Exception):
        pass

    def session(*_: Any) -> None:
        raise Started

    monkeypatch.setattr(sys, "argv", ["suite", "--quick", "--out", str(tmp_path), *options])
    monkeypatch.setattr(busy, "share_of_cores", lambda threads: 0.5)
    monkeypatch.setattr(suite, "Session", session)
    monkeypatch.setattr(suite, "WORK", tmp_path)
    if starts:
        with pytest.raises(Started):
            suite.main()
    else:
        assert suite.main() == 2
    assert "This machine is busy: 2 s of work got 50 % of the cores' time" in capsys.readouterr().err
