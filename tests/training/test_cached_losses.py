"""A gradient cache has the gradients of the whole batch, and the memory of a mini-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn.training import losses
from fastattn.training.arithmetic import tanh
from fastattn.training.graph import Parameter, Tensor
from tests.support.loss_cases import CHANNELS, Model

Array = NDArray[Any]
ROWS, COLUMNS = 7, 3


class Encoder:
    """tanh(x W) with dropout, of texts that are lists of one vector's numbers."""

    def __init__(self, dropout: bool, wide: int = 0) -> None:
        rng = np.random.default_rng(wide)
        self.weight = Parameter(rng.standard_normal((4, CHANNELS)))
        self.texts = [[list(row) for row in rng.standard_normal((ROWS, 4))] for _ in range(COLUMNS)]
        self.dropout = dropout
        self.calls: list[tuple[int | None, int]] = []

    def __call__(self, columns: Any, part: int | None = None) -> list[Tensor]:
        self.calls.append((part, sum(map(len, columns))))
        out = [tanh(Tensor(np.array(texts)) @ self.weight) for texts in columns]
        if self.dropout and part is not None:
            out = [each * self.mask(part, len(each.data)) for each in out]
        return out

    def mask(self, part: int, rows: int) -> Array:
        return (np.random.default_rng(part).random((rows, CHANNELS)) < 0.8) / 0.8


def step(loss: Any, encoder: Any, scale: float = 1.0) -> tuple[float, Array]:
    value = loss.step(encoder, encoder.texts, None, scale)
    assert encoder.weight.grad is not None
    return value, encoder.weight.grad


OPTIONS: dict[str, Any] = {"scale": 3.0, "directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")}


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8])
@pytest.mark.parametrize("around", [False, True], ids=["alone", "matryoshka"])
def test_gradients_are_those_of_the_whole_batch(size: int, around: bool) -> None:
    def wrapped(loss: Any) -> Any:
        return losses.MatryoshkaLoss(Model(), loss, [6, 4, 1], [1, 0.5, 2]) if around else loss

    whole = step(wrapped(losses.MultipleNegativesRankingLoss(Model(), **OPTIONS)), Encoder(False), 0.5)
    encoder = Encoder(False)
    cached = step(wrapped(losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_size=size, **OPTIONS)), encoder, 0.5)
    np.testing.assert_allclose(cached[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(cached[1], whole[1], rtol=1e-10, atol=1e-14)
    parts = -(-ROWS // size) * COLUMNS
    assert [part for part, _ in encoder.calls] == [*range(parts), *range(parts)]
    assert max(rows for _, rows in encoder.calls) == min(size, ROWS)


def test_dropout_is_the_same_in_both_passes() -> None:
    encoder, loss = Encoder(True), losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_size=3, **OPTIONS)
    cached = step(loss, encoder)

    class Whole(Encoder):
        def __call__(self, columns: Any, part: int | None = None) -> list[Tensor]:
            masks = np.concatenate([self.mask(i, rows) for i, rows in enumerate((3, 3, 1) * COLUMNS)])
            return [each * mask for each, mask in zip(super().__call__(columns), np.split(masks, COLUMNS), strict=True)]

    whole = step(losses.MultipleNegativesRankingLoss(Model(), **OPTIONS), Whole(True))
    np.testing.assert_allclose(cached[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(cached[1], whole[1], rtol=1e-10, atol=1e-14)


def test_mini_batches_of_tokens() -> None:
    loss = losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_num_tokens=10)
    lengths = [4, 6, 1, 12, 3, 3, 3, 3]
    found = loss.parts([[0] * each for each in lengths])
    assert found == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 7), slice(7, 8)]
    assert losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_size=3).parts([[0]] * 7)[-1] == slice(6, 7)


def test_no_graph_is_kept_of_the_first_pass() -> None:
    import weakref

    alive: list[Any] = []

    class Watched(Encoder):
        def __call__(self, columns: Any, part: int | None = None) -> list[Tensor]:
            assert sum(each() is not None for each in alive) == 0, "an earlier mini-batch is in memory"
            hidden = np.array(columns[0]) * 1.0
            alive.append(weakref.ref(hidden))
            return [tanh(Tensor(hidden) @ self.weight)]

    step(losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_size=2), Watched(False))
    assert len(alive) == 2 * 4 * COLUMNS


def test_frozen_embeddings_have_no_gradient() -> None:
    encoder = Encoder(False)
    encoder.weight.requires_grad = False
    plain = losses.MultipleNegativesRankingLoss(Model()).step(encoder, encoder.texts, None)
    cached = losses.CachedMultipleNegativesRankingLoss(Model(), mini_batch_size=3).step(encoder, encoder.texts, None)
    assert plain == pytest.approx(cached)
    assert encoder.weight.grad is None


def test_widths_are_drawn_anew_in_each_step() -> None:
    inner = losses.MultipleNegativesRankingLoss(Model())
    loss = losses.MatryoshkaLoss(Model(), inner, [6, 5, 4, 3, 2, 1], n_dims_per_step=2, seed=3)
    drawn = [tuple(dim for dim, _ in loss._drawn()) for _ in range(20)]
    assert all(len(dims) == 2 and dims[0] > dims[1] for dims in drawn)
    assert len(set(drawn)) > 5
    again = losses.MatryoshkaLoss(Model(), inner, [6, 5, 4, 3, 2, 1], n_dims_per_step=2, seed=3)
    assert drawn == [tuple(dim for dim, _ in again._drawn()) for _ in range(20)]
    full = losses.MatryoshkaLoss(Model(), inner, [6, 3], n_dims_per_step=2)
    assert [dim for dim, _ in full._drawn()] == [6, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale must be positive"),
        ({"scale": float("nan")}, "scale must be positive"),
        ({"directions": ()}, "directions must be query_to_doc"),
        ({"directions": ("doc_to_query",)}, "directions must be query_to_doc"),
        ({"directions": ("query_to_doc", "up")}, "directions must be query_to_doc"),
        ({"directions": "query_to_doc"}, "directions must be query_to_doc"),
        ({"partition_mode": "both"}, "partition_mode must be one of"),
        ({"partition_mode": "per_direction", "directions": ("query_to_doc", "doc_to_doc")}, "must be 'joint' for"),
        ({"hardness_mode": "all"}, "hardness_mode must be one of"),
        ({"hardness_strength": -1}, "hardness_strength must not be negative"),
        ({"similarity_fct": "sine"}, "similarity_fct must be one of"),
        ({"mini_batch_size": 0}, "mini_batch_size must be positive"),
        ({"mini_batch_num_tokens": 0}, "mini_batch_num_tokens must be positive"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.CachedMultipleNegativesRankingLoss(Model(), **options)


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ([], None, "one positive number"),
        ([0, 6], None, "one positive"),
        ([6, 7], None, "exceed"),
        ([6, 3], [1], "a weight for each"),
    ],
)
def test_bad_widths(dims: list[int], weights: list[float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.MatryoshkaLoss(Model(), losses.CoSENTLoss(Model()), dims, weights)


def test_what_is_told() -> None:
    with pytest.warns(UserWarning, match="lack the model's embedding dimension 6"):
        losses.MatryoshkaLoss(Model(), losses.CoSENTLoss(Model()), [3])
    with pytest.warns(UserWarning, match="hardness_mode has no effect"):
        losses.MultipleNegativesRankingLoss(Model(), hardness_mode="hard_negatives")
    with pytest.raises(ValueError, match="width 5"):
        losses.MatryoshkaLoss(Model(), losses.CoSENTLoss(Model()), [6]).compute_loss_from_embeddings(
            [Tensor(np.ones((2, 5)))] * 2, np.zeros(2)
        )
