"""sentence-transformers' losses on given embeddings, with torch's gradients."""

from __future__ import annotations

import types
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, util
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses.contrastive import SiameseDistanceMetric

from tests.support.loss_cases import Case

Array = NDArray[Any]
LOSSES = types.SimpleNamespace(**{name: getattr(losses, name) for name in losses.__all__ if hasattr(losses, name)})
LOSSES.SiameseDistanceMetric = SiameseDistanceMetric


class Table(torch.nn.Module):
    """A model whose texts are the numbers of rows in a table of embeddings."""

    def __init__(self, rows: Array) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows))
        self.device = torch.device("cpu")

    def __getitem__(self, number: int) -> torch.nn.Module:
        return self

    def get_embedding_dimension(self) -> int:
        return int(self.rows.shape[1])

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": self.rows[features["input_ids"][:, 0]]}


class Scores(CrossEncoder):
    """A CrossEncoder whose pairs are the numbers of rows in a table of logits."""

    def __init__(self, rows: Array) -> None:
        torch.nn.Module.__init__(self)
        self.rows = torch.nn.Parameter(torch.tensor(rows))

    num_labels = property(lambda self: int(self.rows.shape[1]))
    device = property(lambda self: torch.device("cpu"))

    def preprocess(self, pairs: Any, **options: Any) -> dict[str, Any]:
        return {"pairs": torch.arange(len(pairs))}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"scores": self.rows[features["pairs"]]}


def tensor(labels: Array | None) -> Any:
    """Return labels as torch's trainer gives them."""
    return None if labels is None else torch.tensor(labels)


def evaluate(case: Case, columns: list[Array], labels: Array | None, weights: list[Array]) -> tuple[float, list[Array]]:
    """Return the loss and its gradients: at each column, then at the loss's own parameters, which are set to `weights`."""
    count = len(columns[0])
    model = Table(np.concatenate(columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = case.make(LOSSES, model, util)
    own = [each for name, each in loss.named_parameters() if "model" not in name.split(".")]
    assert len(own) == len(weights)
    for parameter, weight in zip(own, weights, strict=True):
        parameter.data = torch.tensor(weight)
    numbers = torch.arange(count * len(columns)).reshape(len(columns), count, 1)
    features = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in numbers]
    value = loss(features, tensor(labels))
    value.backward()
    return value.item(), [*np.split(model.rows.grad.numpy(), len(columns)), *(each.grad.numpy() for each in own)]


def evaluate_scores(make: Any, logits: Array, labels: Array) -> tuple[float, Array]:
    """Return the loss of a CrossEncoder's logits and its gradient."""
    model = Scores(logits)
    value = make(model)([["a"] * len(logits), ["b"] * len(logits)], tensor(labels))
    value.backward()
    return value.item(), model.rows.grad.numpy()
