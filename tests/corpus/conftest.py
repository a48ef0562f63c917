"""Fixtures of the corpus tests: a small model, and texts of several kinds."""

from pathlib import Path

import pytest

from fastattn import SentenceTransformer
from tests.support.models import write_sentence_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("corpus-model"))


@pytest.fixture(scope="session")
def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder)


@pytest.fixture
def texts() -> list[str]:
    """Return texts of which each is another one."""
    words = "the a cat dog sat on mat query".split()
    return [" ".join(words[(i // 8**k) % 8] for k in range(3)) + f" w{i % 27}" for i in range(200)]
