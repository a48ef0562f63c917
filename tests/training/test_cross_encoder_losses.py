"""Losses of a CrossEncoder's logits are torch's, and their gradients are slopes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn.training import cross_encoder_losses as losses
from fastattn.training.graph import Parameter, Tensor
from tests.support.slopes import check_slopes

Array = NDArray[Any]
ROWS, CLASSES = 6, 4
Labels = Callable[[np.random.Generator], Array]


def model(labels: int) -> Any:
    return SimpleNamespace(num_labels=labels)


def chances(rng: np.random.Generator) -> Array:
    return rng.integers(0, 9, ROWS) / 8


def classes(rng: np.random.Generator) -> Array:
    return rng.integers(0, CLASSES, ROWS)


def ignored(rng: np.random.Generator) -> Array:
    return np.append(rng.integers(0, CLASSES, ROWS - 2), [-100, -100])


def distributions(rng: np.random.Generator) -> Array:
    rows = np.abs(rng.standard_normal((ROWS, CLASSES)))
    return rows / rows.sum(axis=1, keepdims=True)


WEIGHT = [0.5, 2.0, 1.0, 0.25]
# Class, options, number of logits, labels.
CASES: dict[str, tuple[str, dict[str, Any], int, Labels]] = {
    "binary": ("BinaryCrossEntropyLoss", {}, 1, chances),
    "binary positive": ("BinaryCrossEntropyLoss", {"pos_weight": 3.0}, 1, chances),
    "binary sum": ("BinaryCrossEntropyLoss", {"reduction": "sum"}, 1, chances),
    "binary weight": ("BinaryCrossEntropyLoss", {"weight": [1, 2, 3, 4, 5, 6.0]}, 1, chances),
    "binary sigmoid": ("BinaryCrossEntropyLoss", {"activation_fn": "Sigmoid"}, 1, chances),
    "classes": ("CrossEntropyLoss", {}, CLASSES, classes),
    "classes column": ("CrossEntropyLoss", {}, CLASSES, lambda rng: classes(rng)[:, None]),
    "classes weight": ("CrossEntropyLoss", {"weight": WEIGHT}, CLASSES, classes),
    "classes ignored": ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.25}, CLASSES, ignored),
    "classes smooth": ("CrossEntropyLoss", {"label_smoothing": 0.25}, CLASSES, classes),
    "classes sum": ("CrossEntropyLoss", {"reduction": "sum", "activation_fn": "Tanh"}, CLASSES, classes),
    "probabilities": ("CrossEntropyLoss", {}, CLASSES, distributions),
    "probabilities weight": ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.25}, CLASSES, distributions),
    "mse": ("MSELoss", {}, 1, chances),
    "mse sigmoid": ("MSELoss", {"activation_fn": "Sigmoid", "reduction": "sum"}, 1, chances),
}


def a_loss(name: str) -> Any:
    kind, options, labels, _ = CASES[name]
    return getattr(losses, kind)(model(labels), **options)


@pytest.mark.parametrize("name", CASES)
def test_slopes(name: str) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        logits, labels = 3 * rng.standard_normal((ROWS, CASES[name][2])), CASES[name][3](rng)
        check_slopes(lambda x, labels=labels: a_loss(name).compute_loss_from_embeddings([x], labels), [logits], rng)


@pytest.mark.parametrize("name", CASES)
def test_sentence_transformers(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers.cross_encoder import losses as theirs

    from tests.support.peer_losses import evaluate_scores

    kind, options, count, some = CASES[name]
    converted = {
        key: torch.tensor(value)
        if key in ("weight", "pos_weight")
        else getattr(torch.nn, value)()
        if key == "activation_fn"
        else value
        for key, value in options.items()
    }
    rng = np.random.default_rng(0)
    logits, labels = (3 * rng.standard_normal((ROWS, count))).astype(np.float32), some(rng)
    labels = labels.astype(np.float32) if labels.dtype.kind == "f" else labels
    value, gradient = evaluate_scores(lambda given: getattr(theirs, kind)(given, **converted), logits, labels)
    leaf = Parameter(logits)
    ours = a_loss(name).step(lambda columns: [leaf * 1.0], [], labels)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-5, atol=1e-6)
    assert leaf.grad is not None
    assert leaf.grad.dtype == np.float32


def test_definitions() -> None:
    x, y = np.array([[0.5], [-2.0], [800.0]]), np.array([1.0, 0.0, 1.0])
    binary = losses.BinaryCrossEntropyLoss(model(1), pos_weight=2)
    wanted = (2 * np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-2.0)) + 0) / 3
    assert binary.compute_loss_from_embeddings([Tensor(x)], y).item() == pytest.approx(wanted)
    logits, labels = np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 900.0]]), np.array([0, 2])
    wanted = (np.log(np.exp([1, 2, 0]).sum()) - 1) / 2
    assert losses.CrossEntropyLoss(model(3)).compute_loss_from_embeddings([Tensor(logits)], labels).item() == pytest.approx(wanted)
    # Weights 2, 3, 5; three quarters of the label are spread over the classes, each with its own weight.
    smooth = losses.CrossEntropyLoss(model(3), weight=[2, 3, 5], label_smoothing=0.75)
    surprise = np.log(np.exp([1, 2, 0]).sum()) - np.array([1.0, 2.0, 0.0])
    wanted = (0.25 * 3 * surprise[1] + 0.25 * (surprise @ [2, 3, 5])) / 3
    assert smooth.compute_loss_from_embeddings([Tensor(logits[:1])], np.array([1])).item() == pytest.approx(wanted)
    assert losses.MSELoss(model(1)).compute_loss_from_embeddings([Tensor(x[:2])], y[:2]).item() == pytest.approx((0.25 + 4) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.MSELoss(object()), "expects a CrossEncoder, got object"),
        (lambda: losses.MSELoss(model(3)), "num_labels 1, got 3"),
        (lambda: losses.BinaryCrossEntropyLoss(model(2)), "num_labels 1, got 2"),
        (lambda: losses.MSELoss(model(1), "Softsign"), "activation_fn must be"),
        (lambda: losses.MSELoss(model(1), reduction="none"), "reduction must be"),  # type: ignore[arg-type]
        (lambda: losses.CrossEntropyLoss(model(3), label_smoothing=2), "label_smoothing must be"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), r"whole numbers from 0 to 2 for 3 classes, got \[3\]"),
        (np.array([0, -1]), "whole numbers"),
        (np.array([0.5, 1]), "whole numbers"),
        (np.array([0, 1, 2]), "labels of shape"),
        (None, "the dataset has none"),
    ],
)
def test_bad_labels(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.CrossEntropyLoss(model(3)).compute_loss_from_embeddings([Tensor(np.zeros((2, 3)))], labels)


def test_bad_logits() -> None:
    for embeddings in ([np.zeros((2, 2))], [np.zeros(2)], [np.zeros((2, 1))] * 2, []):
        with pytest.raises(ValueError, match="expects the logits of pairs"):
            losses.MSELoss(model(1)).compute_loss_from_embeddings([Tensor(each) for each in embeddings], np.zeros(2))
    with pytest.raises(ValueError, match="weight must have shape"):
        losses.CrossEntropyLoss(model(3), weight=[1.0]).compute_loss_from_embeddings([Tensor(np.zeros((2, 3)))], np.zeros(2, int))


def test_settings() -> None:
    assert losses.BinaryCrossEntropyLoss(model(1), pos_weight=2).get_config_dict() == {
        "activation_fn": "Identity",
        "pos_weight": 2.0,
    }
    assert losses.MSELoss(model(1), lambda x: x).get_config_dict() == {"activation_fn": "<lambda>"}
