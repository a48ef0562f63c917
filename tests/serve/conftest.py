"""Fixtures of the service tests: small models of the three kinds, and a service of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from fastattn.serve.models import Served

from tests.support.models import C, bert_tensors, write_bert, write_json, write_sentence_model, write_typed_tokenizer
from tests.support.sparse_cases import splade, write_sparse


def write_reranker(folder: Path) -> Path:
    """Write a classifier of one label, as transformers does."""
    rng = np.random.default_rng(3)
    tensors = {f"bert.{name}": array for name, array in bert_tensors().items()}
    tensors |= {"classifier.weight": rng.standard_normal((1, C), np.float32), "classifier.bias": rng.standard_normal(1, np.float32)}
    write_bert(folder, tensors, architectures=["BertForSequenceClassification"], id2label={"0": "LABEL_0"})
    write_typed_tokenizer(folder)
    return folder


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of each kind; the embedder has a prompt."""
    root = tmp_path_factory.mktemp("served")
    embedder = write_sentence_model(root / "embedder", normalize=True)
    write_json(embedder / "config_sentence_transformers.json", {"prompts": {"query": "query : "}})
    return {
        "embedder": embedder,
        "reranker": write_reranker(root / "reranker"),
        "sparse": write_sparse(root / "sparse", splade(pooling_strategy="max")),
    }


@pytest.fixture(scope="package")
def models(folders: dict[str, Path]) -> list[Served]:
    from fastattn.serve.models import load

    return [load(str(folder)) for folder in folders.values()]


@pytest.fixture
def client(models: list[Served]) -> Iterator[TestClient]:
    from starlette.testclient import TestClient

    from fastattn.serve.app import application
    from fastattn.serve.service import Service

    with TestClient(application(Service(models))) as found:
        yield found


@pytest.fixture
def limited(models: list[Served]) -> Iterator[Any]:
    """Return a function that makes a client of a service with other limits, or a key."""
    from starlette.testclient import TestClient

    from fastattn.serve.app import application
    from fastattn.serve.service import Limits, Service

    opened = []

    def make(key: str | None = None, **limits: Any) -> TestClient:
        client = TestClient(application(Service(models, Limits(**limits)), key))
        opened.append(client)
        return client.__enter__()

    yield make
    for client in opened:
        client.__exit__()
