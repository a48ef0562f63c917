"""`similarity_fct` may be a name, a function of a library, or a function of Tensors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import fastattn.util
from fastattn.training import losses
from fastattn.training.graph import Tensor
from fastattn.training.losses import similarities
from tests.support.loss_cases import Model
from tests.support.slopes import check_slopes

NAMES = ["cosine", "dot", "euclidean", "manhattan"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["all", "pairs"])
def test_every_way_to_name_one(name: str, kind: str) -> None:
    enum = fastattn.util.SimilarityFunction
    library = (enum.to_similarity_fn if kind == "all" else enum.to_similarity_pairwise_fn)(name)
    resolve = similarities.similarity_of_all if kind == "all" else similarities.similarity_of_pairs
    ours = resolve(name)
    assert ours is resolve(enum(name)) is resolve(library) is resolve(library.__name__) is resolve(ours)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(ours(Tensor(a), Tensor(b)).data, library(a, b), rtol=1e-5, atol=1e-6)


def test_functions_of_tensors_are_taken_as_they_are() -> None:
    def cos_sim(a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T * 2.0

    assert similarities.similarity_of_all(cos_sim) is cos_sim
    halved = functools.partial(lambda a, b, by: a @ b.T * by, by=0.5)
    loss = losses.MultipleNegativesRankingLoss(Model(), similarity_fct=halved)
    assert loss.get_config_dict()["similarity_fct"] == "<lambda>(by=0.5)"
    assert loss.compute_loss_from_embeddings([Tensor(np.eye(3))] * 2, None).item() == pytest.approx(
        np.log(np.exp(10) + 2) - 10, rel=1e-6
    )


@pytest.mark.parametrize("given", ["sine", fastattn.util.truncate_embeddings, 3])
def test_others_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="similarity_fct must be one of"):
        losses.CoSENTLoss(Model(), similarity_fct=given)


def test_distances_of_equal_rows_have_no_gradient() -> None:
    for name in ("euclidean_sim", "manhattan_sim", "pairwise_euclidean_sim", "pairwise_manhattan_sim"):
        from fastattn.training.graph import Parameter

        x = Parameter(np.ones((1, 3)))
        out = getattr(similarities, name)(x, Tensor(np.ones((1, 3))))
        out.backward(np.ones(out.shape))
        assert not x.grad.any(), name


@pytest.mark.parametrize("name", [each for each in similarities.__all__ if each.endswith(("_sim", "_score"))])
def test_slopes(name: str) -> None:
    function = getattr(similarities, name)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rows, others, channels = (int(each) for each in rng.integers(1, 6, 3))
        a, b = rng.standard_normal((rows, channels)), rng.standard_normal((others, channels))
        if name.startswith("pairwise"):
            b = rng.standard_normal((rows, channels))
        check_slopes(function, [a, b], rng)
