"""Fixtures of the command tests: a model and a file of texts."""

from pathlib import Path

import pytest

from tests.support.command_line import LINES
from tests.support.models import write_sentence_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_sentence_model(tmp_path_factory.mktemp("model"), normalize=True))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join([LINES[0], "", "  ", *LINES[1:]]) + "\n", encoding="utf-8")
    return str(path)
