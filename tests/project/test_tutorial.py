"""Tutorial: it prints the expected results, is also a notebook, and differs from sentence-transformers' code by one import."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.jit

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "examples" / "tutorial.py"
SOURCE = TUTORIAL.read_text(encoding="utf-8")
OURS = "from fastattn import SentenceTransformer\n"
THEIRS = "from sentence_transformers import SentenceTransformer\n"
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def run(folder: Path, *arguments: str, strict: bool = True) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *(["-W", "error"] if strict else []), *arguments]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    assert not strict or not found.stderr.replace("compiling kernels for this CPU, once (up to a minute)\n", "")
    return found.stdout


def cells() -> list[tuple[bool, str]]:
    """Return (is prose, text) of each cell; the text before the first cell is the script's docstring."""
    parts = re.split(r"^# %%(.*)\n", SOURCE, flags=re.MULTILINE)
    return [("[markdown]" in kind, text) for kind, text in zip(parts[1::2], parts[2::2], strict=True)]


def test_runs_and_finds(tmp_path: Path) -> None:
    said = run(tmp_path, str(TUTORIAL))
    count = int(re.match(r"(\d+) texts, for example\n", said).group(1))  # type: ignore[union-attr]
    assert count > 500
    assert f"{count} texts became vectors of 384 numbers: float32 ({count}, 384)" in said
    # question: text that must be among its hits
    for question, hit in (("hide the password", "getpass."), ("the RAM", "tracemalloc."), ("every few seconds", "threading.Timer")):
        assert hit in re.search(rf"^\? .*{question}.*\n((?:  .*\n)+)", said, re.MULTILINE).group(1)  # type: ignore[union-attr]
    pairs = re.findall(r"^  (\d\.\d\d)  ([\w.]+): .*\n {8}([\w.]+): .*$", said, re.MULTILINE)
    assert len(pairs) == 5
    assert all(a.split(".")[0] != b.split(".")[0] and 0.6 < float(score) <= 1 for score, a, b in pairs)
    assert [float(pair[0]) for pair in pairs] == sorted((float(pair[0]) for pair in pairs), reverse=True)
    assert sum(map(int, re.findall(r"^ +(\d+) texts: ", said, re.MULTILINE))) == count
    assert "the same bits as in the batch? True" in said
    assert float(re.search(r"the worst of them is ([\d.]+) eps away", said).group(1)) < 30  # type: ignore[union-attr]
    assert "Tokens: [CLS] The cat sat on the mat because it was tired . [SEP]" in said
    assert "'it' finds 'cat' in layer 3, head 1: 0.49" in said
    made = sorted(path.name for path in (tmp_path / "tutorial-output").iterdir())
    assert made == (["attention-it.png", "attention.png"] if HAS_MATPLOTLIB else []) + ["vectors.npy"]
    assert ("not drawn: drawing needs matplotlib" in said) == (not HAS_MATPLOTLIB)


def test_is_a_notebook() -> None:
    """Prose cells hold only comments, and each code cell parses by itself."""
    ast.parse(SOURCE)
    assert [is_prose for is_prose, _ in cells()] == [True, False] * (len(cells()) // 2) + [True]
    for is_prose, text in cells():
        if is_prose:
            assert all(line.startswith("#") for line in text.split("\n") if line), text
        else:
            assert ast.parse(text).body
    titles = re.findall(r"^# #+ (.*)$", SOURCE, re.MULTILINE)
    shown = ["Search", "Pairs that say the same", "Groups", "Saving", "Trust", "Attention"]
    assert titles == ["Texts by their meaning", "One line to change", *shown, "From here"]


def test_one_import_is_all_that_changes(tmp_path: Path) -> None:
    """With the import changed back, sentence-transformers prints the same, up to the parts about this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
    from fastattn.checkpoint.hub import find_model

    assert SOURCE.count(OURS) == 1
    part = SOURCE[: SOURCE.index("# ## Saving")].replace('"all-MiniLM-L6-v2"', repr(str(find_model())))
    (tmp_path / "ours.py").write_text(part, encoding="utf-8")
    (tmp_path / "theirs.py").write_text(part.replace(OURS, THEIRS), encoding="utf-8")
    ours, theirs = run(tmp_path, "ours.py"), run(tmp_path, "theirs.py", strict=False)
    assert ours.count("\n") > 40
    # Scores are compared with a tolerance: the last digit may round differently.
    number = re.compile(r"\d\.\d\d")
    assert number.sub("#", ours) == number.sub("#", theirs)
    for a, b in zip(number.findall(ours), number.findall(theirs), strict=True):
        assert abs(float(a) - float(b)) < 0.015
