"""Examples in the docstrings of public names."""

import doctest
from typing import Any

import pytest

import fastattn
from fastattn import util

pytestmark = pytest.mark.jit

NAMES = {name: getattr(module, name) for module in (fastattn, util) for name in module.__all__ if name != "reference"}
EXAMPLES = {test.name: test for name, thing in NAMES.items() for test in doctest.DocTestFinder().find(thing, name) if test.examples}


def test_there_are_examples() -> None:
    assert {"SentenceTransformer", "SimilarityFunction", "quantize_embeddings", "semantic_search"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    said: list[Any] = []
    doctest.DocTestRunner().run(EXAMPLES[name], out=said.append, clear_globs=False)
    assert not said, "".join(said)
