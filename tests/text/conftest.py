"""Fixtures of a small sentence model: its folder, and the model read from there."""

from pathlib import Path

import pytest

from fastattn import SentenceTransformer
from tests.support.models import write_sentence_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder)
