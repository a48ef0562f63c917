"""`fastattn models`: the lists of the command, of the documentation and of README.md are those of the code."""

import inspect
import re
from pathlib import Path

import fastattn
from fastattn.checkpoint.families import FAMILIES
from fastattn.cli.models import kinds, markdown
from fastattn.config import PRECISIONS
from tests.support.command_line import run


def test_every_family_and_every_class_that_loads_a_folder() -> None:
    text = run("models").stdout
    for name, family in FAMILIES.items():
        assert any(line.split() == [*family.title.split(), name, *["yes"] * 3] for line in text.splitlines()), name
    loaders = [name for name in fastattn.__all__ if hasattr(getattr(fastattn, name), "from_pretrained") or name.endswith("former")]
    named = {name for kind in kinds() for name in kind.classes}
    assert loaders and named >= {*loaders, "CrossEncoder"} and all(name in text for name in named)
    assert all(precision in text for precision in PRECISIONS)


def test_every_class_takes_the_precisions() -> None:
    for kind in kinds():
        for name in kind.classes:
            owner = getattr(fastattn, name)
            load = getattr(owner, "from_pretrained", owner)
            assert "precision" in inspect.signature(load).parameters, name
        assert len(kind.precisions) == len(PRECISIONS)


def test_markdown() -> None:
    shown = run("models", "--markdown").stdout
    assert shown == markdown() + "\n"
    assert "| rerankers | `CrossEncoder` | yes | layers and tables | layers and tables |" in shown
    assert "BERT (`bert`)" in shown


def test_readme_shows_the_same() -> None:
    """Between its marks, what `fastattn models --markdown` prints."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    found = re.search(r"<!-- models:begin -->\n(.*?)\n<!-- models:end -->", readme, re.DOTALL)
    assert found is not None and found[1] == markdown()
