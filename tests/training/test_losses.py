"""Losses have sentence-transformers' values and gradients, and their gradients are slopes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn.util
from fastattn.training import losses
from fastattn.training.graph import Parameter, Tensor
from tests.support.loss_cases import CASES, CHANNELS, Case, Model, inputs
from tests.support.slopes import check_slopes

Array = NDArray[Any]
RECORDS = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text("utf-8"))
# Half of the last of the 9 digits that are recorded of gradients.
ROUNDING = 5e-9
NAMES = [case.name for case in CASES]


def a_loss(case: Case) -> Any:
    return case.make(losses, Model(), fastattn.util)


def given(columns: list[Parameter]) -> Any:
    """Return an `embed` whose texts are the numbers of rows."""

    def embed(numbers: Any, part: int | None = None) -> list[Tensor]:
        if part is None:
            return [column * 1.0 for column in columns]
        return [columns[number[0][0]][np.array([each[1] for each in number])] for number in numbers]

    return embed


def texts(columns: list[Parameter]) -> Any:
    return [[(i, row) for row in range(len(column.data))] for i, column in enumerate(columns)]


def step(case: Case, arrays: list[Array], labels: Array | None, weights: list[Array], scale: float = 1.0) -> Any:
    """Return the loss and its gradients by `Loss.step`."""
    loss, columns = a_loss(case), [Parameter(each) for each in arrays]
    own = loss.parameters()
    for parameter, weight in zip(own, weights, strict=True):
        parameter.data = weight
    value = loss.step(given(columns), texts(columns), labels, scale)
    return value, [each.grad for each in (*columns, *own)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_recorded_values_and_gradients(case: Case) -> None:
    record = RECORDS[case.name]
    arrays = [np.array(each).reshape(-1, CHANNELS) for each in record["columns"]]
    labels = None if record["labels"] is None else np.array(record["labels"])
    value, gradients = step(case, arrays, labels, [np.array(each) for each in record["weights"]])
    np.testing.assert_allclose(value, record["value"], rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(gradients, record["gradients"], strict=True):
        np.testing.assert_allclose(ours.ravel(), theirs, rtol=ROUNDING, atol=1e-13)


def test_every_loss_is_recorded() -> None:
    assert list(RECORDS) == NAMES
    made = {type(a_loss(case)).__name__ for case in CASES}
    assert made == {name for name in losses.__all__ if name.endswith("Loss") and name != "Loss"}


# The penalty of hard negatives has no gradient by definition.
SMOOTH = [case for case in CASES if "harder" not in case.name and case.name != "cached"]


@pytest.mark.parametrize("case", SMOOTH, ids=lambda case: case.name)
def test_gradients_are_slopes(case: Case) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        arrays, labels = inputs(case, seed, int(rng.integers(2, 8)))
        loss = a_loss(case)
        own = loss.parameters()
        weights = [each.data.astype(np.float64) for each in own]

        def value(*tensors: Tensor, loss: Any = loss, labels: Any = labels, columns: int = len(arrays)) -> Tensor:
            for i, name in enumerate(("weight", "bias")[: len(tensors) - columns]):
                setattr(loss.classifier if hasattr(loss, "classifier") else loss.projection, name, tensors[columns + i])
            return loss.compute_loss_from_embeddings(list(tensors[:columns]), labels) * 1.0

        check_slopes(value, [*arrays, *weights], rng)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_scale_multiplies_the_gradients_alone(case: Case) -> None:
    arrays, labels = inputs(case, 0, 5)
    weights = [each.data.astype(np.float64) for each in a_loss(case).parameters()]
    value, gradients = step(case, arrays, labels, weights)
    same, scaled = step(case, arrays, labels, weights, 0.25)
    assert value == same
    for one, other in zip(gradients, scaled, strict=True):
        np.testing.assert_allclose(other, one / 4, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_sentence_transformers(case: Case) -> None:
    pytest.importorskip("sentence_transformers")
    from tests.support.peer_losses import evaluate

    for seed in range(100, 105):
        arrays, labels = inputs(case, seed, (1, 2, 5, 7, 16)[seed - 100])
        if len(arrays[0]) == 1 and case.name.startswith("OnlineContrastiveLoss"):
            continue
        arrays = [each.astype(np.float32) for each in arrays]
        labels = labels.astype(np.float32) if labels is not None and labels.dtype.kind == "f" else labels
        weights = [each.data for each in a_loss(case).parameters()]
        theirs, slopes = evaluate(case, arrays, labels, weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, gradients = step(case, arrays, labels, weights)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        for mine, other in zip(gradients, slopes, strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("case", [case for case in CASES if case.name.startswith("ranking")], ids=lambda case: case.name)
def test_settings_are_those_of_sentence_transformers(case: Case) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import util

    from tests.support.peer_losses import LOSSES, Table

    theirs = case.make(LOSSES, Table(np.ones((1, CHANNELS))), util).get_config_dict()
    del theirs["gather_across_devices"]
    assert a_loss(case).get_config_dict() == theirs


def two(rows: int = 3, channels: int = CHANNELS) -> Tensor:
    return Tensor(np.ones((rows, channels), np.float32))


COLUMNS = {
    "cosine": (1, 3),
    "cosent": (1, 3),
    "angle": (1,),
    "ranking": (0, 1),
    "cached": (0, 1),
    "triplet COSINE": (2, 4),
    "ContrastiveLoss COSINE_DISTANCE": (1, 3),
    "OnlineContrastiveLoss COSINE_DISTANCE": (1, 3),
    "softmax": (1, 3),
    "mse": (0,),
    "margin mse": (1, 2),
    "distil": (1, 2),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_a_loss_does_not_take(name: str) -> None:
    case = CASES[NAMES.index(name)]
    for count in COLUMNS[name]:
        with pytest.raises(ValueError, match=rf"{type(a_loss(case)).__name__} expects .* columns of texts, got {count}"):
            a_loss(case).compute_loss_from_embeddings([two()] * count, np.zeros(3))
    with pytest.raises(ValueError, match="embeddings of one shape"):
        a_loss(case).compute_loss_from_embeddings([two()] * (case.columns - 1) + [two(2)], np.zeros(3))


@pytest.mark.parametrize("case", [case for case in CASES if case.labels], ids=lambda case: case.name)
def test_labels_that_a_loss_does_not_take(case: Case) -> None:
    name = type(getattr(a_loss(case), "loss", a_loss(case))).__name__
    columns = [two()] * case.columns
    for labels, message in ((np.zeros((3, 9, 2)), "labels of shape"), (np.zeros(4), "labels of shape"), (["a"] * 3, "are numbers")):
        with pytest.raises(ValueError, match=rf"{name} expects .*{message}"):
            a_loss(case).compute_loss_from_embeddings(columns, labels)  # type: ignore[arg-type]
    if case.name != "angle negatives":
        with pytest.raises(ValueError, match=rf"{name} expects labels, and the dataset has none"):
            a_loss(case).compute_loss_from_embeddings(columns, None)


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, -1, 1], [0, 0.5, 1]])
def test_classes_out_of_range(labels: list[float]) -> None:
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        losses.SoftmaxLoss(Model(), CHANNELS, 3).compute_loss_from_embeddings([two(), two()], np.array(labels))


def test_one_example_without_a_negative_is_told() -> None:
    loss = losses.MultipleNegativesRankingLoss(Model())
    with pytest.warns(UserWarning, match="MultipleNegativesRankingLoss has no negative"):
        assert loss.compute_loss_from_embeddings([two(1), two(1)], None).item() == 0


def test_labels_that_are_not_binary_are_told() -> None:
    for loss in (losses.ContrastiveLoss(Model()), losses.OnlineContrastiveLoss(Model())):
        with pytest.warns(UserWarning, match=r"labels 0 and 1, got also 0\.5"):
            loss.compute_loss_from_embeddings([two(), two()], np.array([0, 1, 0.5]))
