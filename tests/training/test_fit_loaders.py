"""What `fit` takes from a DataLoader: labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.training import InputExample, fit, losses
from tests.support.models import write_sentence_model
from tests.training.test_fit import POSITIVES, QUICK, TEXTS, examples, write_reranker

pytestmark = pytest.mark.jit


@pytest.fixture
def model(tmp_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(write_sentence_model(tmp_path / "model")))


@pytest.fixture
def reranker(tmp_path: Path) -> CrossEncoder:
    return write_reranker(tmp_path / "reranker")


@pytest.mark.parametrize("label", [0, 0.0, np.float32(0)])
def test_labels_that_are_all_zero_are_none(label: Any, tmp_path: Path) -> None:
    # AnglELoss would take them for scores, and push the positives away.
    write_sentence_model(tmp_path / "model")
    found = []
    for given in (None, label):
        model = SentenceTransformer(str(tmp_path / "model"))
        rows = [
            InputExample(texts=[a, b, c], label=given)
            for a, b, c in zip(TEXTS, POSITIVES, POSITIVES[1:] + POSITIVES[:1], strict=True)
        ]
        before = margin(model)
        model.fit([(rows, losses.AnglELoss(model))], epochs=2, **QUICK)
        assert margin(model) > before
        found.append(model.encode(TEXTS))
    assert np.array_equal(*found)


def margin(model: SentenceTransformer) -> float:
    """Return by how much texts are nearer to their positives than to others."""
    a, b = (model.encode(texts, normalize_embeddings=True) for texts in (TEXTS, POSITIVES))
    return float((a * b).sum(1).mean() - (a * np.roll(b, -1, 0)).sum(1).mean())


@pytest.mark.parametrize("labels", [[0] * 31 + [1], [[0, 0]] * 32, [np.zeros(2)] * 32])
def test_other_labels_stay(labels: list[Any]) -> None:
    assert "label" in fit._read(examples(labels), "rows", zeros=False).columns


def test_a_cross_encoder_keeps_its_zeros(reranker: CrossEncoder) -> None:
    rows = examples([0.0] * len(TEXTS))
    before = reranker.predict([row.texts for row in rows])  # type: ignore[misc]
    reranker.fit(rows, **QUICK)
    assert reranker.predict([row.texts for row in rows]).mean() < before.mean()  # type: ignore[misc,union-attr]
