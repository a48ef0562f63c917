"""Runner of the long trials: a topic that dies or hangs is a row of the report, and the others still run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from soak import __main__ as runner

TOPICS = {
    "threads": (
        "from soak import Row\ndef run(scale):\n    return [Row('a', 'b', 'c', True, 7, 'calls'), Row('d|', 'e', 'f', scale > 0)]\n"
    ),
    "fork": "import os\ndef run(scale):\n    os.kill(os.getpid(), 9)\n",
    "memory": "def run(scale):\n    raise ValueError('no such thing')\n",
    "quota": "import time\ndef run(scale):\n    time.sleep(60)\n",
    "bounds": "import sys\ndef run(scale):\n    sys.exit(3)\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the runner, with test topics only."""
    (tmp_path / "soak").mkdir()
    for name in ("__init__.py", "__main__.py", "_report.py"):
        shutil.copy(runner.ROOT / "soak" / name, tmp_path / "soak" / name)
    for name, source in TOPICS.items():
        (tmp_path / "soak" / f"{name}.py").write_text(source, "utf-8")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "topics", lambda: list(TOPICS))
    return tmp_path


def rows(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = json.loads((root / ".soak" / "report.json").read_text("utf-8"))
    return {topic["topic"]: [(row["what"], row["figure"], row["ok"]) for row in topic["rows"]] for topic in found["topics"]}


def test_a_topic_that_fails_is_a_row(root: Path) -> None:
    assert runner.main(["--scale", "0", "--limit", "4"]) == 1
    assert rows(root) == {
        "threads": [("a", "b", True), ("d|", "e", False)],
        "fork": [("the trial itself", "ended by SIGKILL", False)],
        "memory": [("the trial itself", "ValueError: no such thing", False)],
        "quota": [("the trial itself", "still running after 4 s", False)],
        "bounds": [("the trial itself", "SystemExit: 3", False)],
    }
    report = (root / ".soak" / "report.md").read_text("utf-8")
    assert "6 trials, 5 not as promised" in report and "7 calls under load" in report and "| d\\| | e | f | **no** |" in report


def test_a_topic_is_tried_again_in_the_same_report(root: Path) -> None:
    assert runner.main(["--scale", "0.5", "--only", "threads"]) == 0
    assert runner.main(["--scale", "0.5", "--only", "fork"]) == 1
    (root / "soak" / "fork.py").write_text(TOPICS["threads"], "utf-8")
    assert runner.main(["--scale", "0.5", "--only", "fork"]) == 0
    assert list(rows(root)) == ["threads", "fork"]
    # A report of another scale is discarded.
    assert runner.main(["--scale", "0.6", "--only", "fork"]) == 0
    assert list(rows(root)) == ["fork"]


@pytest.mark.parametrize("arguments", [["--scale", "2"], ["--scale", "-1"], ["--only", "thread"]])
def test_arguments(arguments: list[str], root: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(arguments)
    assert ended.value.code == 2 and not (root / ".soak").exists()
