"""accelerate inside sentence-transformers' SparseEncoder: the encoder runs the kernels, head and pooling stay torch's."""

from pathlib import Path

import numpy as np
import pytest

import fastattn
from tests.support.peer_cases import TEXTS
from tests.support.sparse_cases import METHODS, MODELS

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("ignore")]

# The accelerated parts, and how many of the three methods call one.
PARTS = {"max": ("0.model.bert", 3), "sum": ("0.model.bert", 3), "static queries": ("0.sub_modules.document.0.model.bert", 2)}


@pytest.mark.parametrize("name", PARTS)
def test_sparse_encoder(name: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SparseEncoder(str(MODELS[name](tmp_path)), device="cpu")
    expected = [getattr(model, method)(TEXTS).to_dense().numpy() for method in METHODS]
    assert fastattn.accelerate(model) is model
    for method, rows in zip(METHODS, expected, strict=True):
        found = getattr(model, method)(TEXTS).to_dense().numpy()
        assert np.abs(found - rows).max() <= 1e-5 * np.abs(rows).max()
    part, count = PARTS[name]
    assert fastattn.calls(model) == {part: fastattn.Calls(kernels=count, fallbacks={})}
