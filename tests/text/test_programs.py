"""Programs after sentence-transformers' documentation give the same results with the import line changed to ours."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from fastattn.checkpoint.hub import find_model
from tests.support.peer_cases import write_cross_encoder
from tests.support.texts import texts

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("ignore")]

PROGRAMS = sorted((Path(__file__).parents[1] / "data" / "programs").glob("*.py"))
IMPORT = re.compile(r"^from sentence_transformers import (.*)$", re.MULTILINE)
QUERIES = ["How is a file compressed?", "parse an e-mail message", "dates and times"]


def with_our_classes(program: str) -> str:
    """Replace the import line, and only that line."""
    (names,) = IMPORT.findall(program)
    ours = [name for name in names.split(", ") if name != "util"]
    lines = [f"from fastattn import {', '.join(ours)}", *(["from sentence_transformers import util"] if "util" in names else [])]
    return IMPORT.sub("; ".join(lines).replace("; ", "\n"), program)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    corpus = [text for text in texts() if 40 < len(text) < 400 and text.isascii()][:90]
    scorer = write_cross_encoder(tmp_path_factory.mktemp("scorer"), 1)
    return {"corpus": corpus, "queries": QUERIES, "cross_encoder_folder": str(scorer)}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_program(path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
    # Tests have no network: both libraries get the folder in place of the Hub's name.
    program = path.read_text("utf-8").replace('"sentence-transformers/all-MiniLM-L6-v2"', repr(str(find_model())))
    changed = with_our_classes(program)
    assert changed != program
    theirs, ours = (run(code, path, inputs) for code in (program, changed))
    assert ours, "the program found nothing"
    assert_same(ours, theirs)


def run(code: str, path: Path, inputs: dict[str, Any]) -> Any:
    names = dict(inputs)
    exec(compile(code, str(path), "exec"), names)
    return names["results"]


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare results: floats within 1e-5, other values equal."""
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-5)
    else:
        assert ours == theirs
