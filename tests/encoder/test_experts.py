"""Layers with experts: the definition, rows alone and in batches, ties, low precision, dropout, bad settings."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, LayerConfig, reference
from fastattn.config import PRECISIONS
from fastattn.encoder import forward
from fastattn.parameters import random_parameters
from tests.support.rounded import LOW, assert_rounded

pytestmark = pytest.mark.jit

V = 50


def make(c: int, heads: int, ff: int, experts: tuple[int, int], precision: Any = "float32", **fields: Any) -> tuple[Encoder, Any]:
    """Return an encoder of three layers, the second with experts and the third with one each token, and its parameters."""
    layers = (LayerConfig(), LayerConfig(experts=experts), LayerConfig((3, None), experts=(experts[0], 1)))
    config = EncoderConfig(3, heads, c, ff, vocab_size=V, layer_norm_eps=1e-5, **{"layers": layers, **fields})
    parameters = {
        name: array * (8 if array.ndim == 2 else 1)
        + np.float32(0.1) * np.random.default_rng(len(name)).standard_normal(array.shape, np.float32)
        for name, array in random_parameters(config, 1).items()
    }
    return Encoder(config, parameters=parameters, precision=precision), parameters


def expected(model: Encoder, parameters: Any, ids: Any, offsets: Any) -> Any:
    wide = {name: array.astype(np.float64) for name, array in parameters.items()}
    texts = [ids[None, a:b] for a, b in itertools.pairwise(offsets)]
    return np.concatenate([reference.encoder(wide, text, **model.config.reference_options())[0] for text in texts])


def packed(lengths: list[int]) -> tuple[Any, Any]:
    return np.random.default_rng(len(lengths)).integers(0, V, sum(lengths)), np.cumsum([0, *lengths])


SIZES = [
    (30, 2, 65, (3, 2), {}),
    (32, 2, 64, (8, 2), {"norm_first": True}),
    (33, 1, 700, (1, 1), {"norm": "rms"}),
    (64, 2, 512, (7, 7), {"activation": "silu", "norm_first": True, "output_norms": True}),
    (2, 1, 1, (5, 3), {}),
]


@pytest.mark.parametrize(("c", "heads", "ff", "experts", "fields"), SIZES)
def test_definition(c: int, heads: int, ff: int, experts: tuple[int, int], fields: dict[str, Any]) -> None:
    model, parameters = make(c, heads, ff, experts, **fields)
    ids, offsets = packed([5, 1, 127, 128, 129, 2])
    found = model.forward_packed(ids, offsets)
    np.testing.assert_allclose(found, expected(model, parameters, ids, offsets), rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_text_alone(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows an expert gets beside a row changes no bit of it, nor do threads and schedules."""
    model, _ = make(32, 2, 64, (8, 2), precision)
    ids, offsets = packed([1, 2, 5, 127, 128, 129, 300, 3])
    found = model.forward_packed(ids, offsets)
    alone = [model.forward_packed(ids[a:b], [0, b - a]) for a, b in itertools.pairwise(offsets)]
    assert np.array_equal(found, np.concatenate(alone))
    assert np.array_equal(model(ids[None, :9], return_hidden_states=True)[0], model(ids[None, :9]))
    monkeypatch.setattr(forward, "_FLOP_PER_US", 0.01)
    for threads in (1, 2, 3):
        for balanced, rows in ((0.0, 24), (2.0, 0), (2.0, 10**6)):
            monkeypatch.setattr(forward, "thread_count", lambda threads=threads: threads)
            monkeypatch.setattr(forward, "_BALANCED", balanced)
            monkeypatch.setattr(forward, "_ROWS_PER_THREAD", rows)
            assert np.array_equal(model.forward_packed(ids, offsets), found), (threads, balanced, rows)


@pytest.mark.parametrize("precision", LOW)
def test_low_precision(precision: Any) -> None:
    ids, offsets = packed([5, 60, 17])
    exact, _ = make(64, 2, 256, (8, 2))
    low, _ = make(64, 2, 256, (8, 2), precision)
    found, truth = (model.forward_packed(ids, offsets, pooling="mean") for model in (low, exact))
    assert not np.array_equal(found, truth)
    assert_rounded(found, truth)


def test_equal_weights_take_the_first() -> None:
    model, parameters = make(32, 2, 64, (6, 2))
    for layer in (1, 2):
        for part in ("weight", "bias"):
            parameters[f"layers.{layer}.feed_forward.router.{part}"] *= 0
    model = Encoder(model.config, parameters=parameters)
    ids, offsets = packed([9, 3])
    found = model.forward_packed(ids, offsets)
    np.testing.assert_allclose(found, expected(model, parameters, ids, offsets), rtol=0, atol=2e-5)
    for name in ("input", "output"):
        weight = parameters[f"layers.1.feed_forward.experts.{name}.weight"]
        weight[2 * len(weight) // 6 :] = 7  # of experts that nobody takes
    assert np.array_equal(Encoder(model.config, parameters=parameters).forward_packed(ids, offsets), found)


def test_not_a_number_stays_in_its_text() -> None:
    model, _ = make(32, 2, 64, (6, 2))
    x = np.random.default_rng(0).standard_normal((3, 4, 32), np.float32)
    found = model(x)
    x[1, 2] = np.nan
    changed = model(x)
    assert np.array_equal(changed[[0, 2]], found[[0, 2]]) and np.isnan(changed[1, 2]).all()


def test_dropout_of_next_to_nothing() -> None:
    model, parameters = make(32, 2, 64, (6, 2))
    training = Encoder(dataclasses.replace(model.config, dropout=1e-12), parameters=parameters)
    ids = np.random.default_rng(0).integers(0, V, (2, 20))
    found = training(ids, training=True, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found, model(ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ((0, 1), r"1 to 1024 experts, and top_k from 1 to their number, got \(0, 1\)"),
        ((2, 3), r"top_k from 1 to their number, got \(2, 3\)"),
        ((2, 0), r"top_k from 1 to their number, got \(2, 0\)"),
        ((2000, 1), "must have 1 to 1024 experts"),
        ((2.0, 1), r"experts \(count, top_k\) of whole numbers, got \(2\.0, 1\)"),
        ((True, 1), "of whole numbers"),
    ],
)
def test_bad_settings(experts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(1, 1, 4, 4, layers=[LayerConfig(experts=experts)])


def test_experts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="layers with experts exclude gated"):
        EncoderConfig(1, 1, 4, 4, gated=True, layers=[LayerConfig(experts=(2, 1))])
    with pytest.raises(ValueError, match="layers with experts must all have the same number of them"):
        EncoderConfig(2, 1, 4, 4, layers=[LayerConfig(experts=(2, 1)), LayerConfig(experts=(3, 1))])
    model, parameters = make(32, 2, 64, (6, 2))
    del parameters["layers.1.feed_forward.experts_bias.weight"]
    with pytest.raises(ValueError, match=r"parameters lack layers\.1\.feed_forward\.experts_bias\.weight, of shape \(32,\)"):
        Encoder(model.config, parameters=parameters)
