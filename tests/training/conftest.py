"""Fixtures of small models that learn: a sentence model and a cross-encoder, read from folders of their own."""

from pathlib import Path

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from tests.support.models import C, bert_tensors, write_bert, write_sentence_model, write_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(write_sentence_model(tmp_path / "model")))


@pytest.fixture
def reranker(tmp_path: Path) -> CrossEncoder:
    folder, rng = tmp_path / "reranker", np.random.default_rng(1)
    head = {"classifier.weight": rng.standard_normal((1, C), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    tensors = {f"bert.{name}": array for name, array in bert_tensors().items()} | head
    write_bert(folder, tensors, architectures=["BertForSequenceClassification"], num_labels=1)
    write_tokenizer(folder)
    return CrossEncoder(str(folder))
