"""Encoder against the reference; the same bits for a sequence in every batch, order and schedule."""

import itertools
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, reference
from fastattn.config import ACTIVATIONS
from fastattn.kernels.vector import activations
from fastattn.parameters import random_parameters
from tests.support.cases import normal
from tests.support.schedules import assert_same_bits
from tests.support.tolerance import assert_matches_reference, encoder_truth_and_yardsticks

pytestmark = pytest.mark.jit

V = 50
KINDS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"norm_first": True},
    "causal-tanh": {"is_causal": True, "activation": "gelu_tanh"},
    "relu-sinusoidal": {"activation": "relu", "positions": "sinusoidal"},
    "silu-no-positions": {"activation": "silu", "positions": None},
}


def make(kind: str = "post", c: int = 32, heads: int = 2, ff: int = 64, layers: int = 2) -> tuple[Encoder, dict[str, Any]]:
    """Return an encoder with weights large enough to matter, and the parameters."""
    options = {"positions": "learned", "layer_norm_eps": 1e-5, **KINDS[kind]}
    config = EncoderConfig(layers, heads, c, ff, vocab_size=V, type_vocab_size=2, **options)
    parameters = {
        name: value * (8 if value.ndim == 2 else 1) + 0.1 * normal(*value.shape, seed=len(name))
        for name, value in random_parameters(config, 1).items()
    }
    return Encoder(config, parameters=parameters), parameters


def truth_and_yardsticks(model: Encoder, parameters: dict[str, Any], x: Any, mask: Any, types: Any) -> list[Any]:
    return encoder_truth_and_yardsticks(parameters, x, mask, token_type_ids=types, **model.config.reference_options())


def batch(b: int, t: int, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng([b, t, seed])
    lengths = rng.integers(1, t + 1, b)
    lengths[0] = t
    return rng.integers(0, V, (b, t)), np.arange(t) < lengths[:, None], rng.integers(0, 2, (b, t))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c, heads, ff", [(32, 2, 64), (30, 5, 120), (5, 1, 7), (48, 3, 512)])
def test_matches_reference(kind: str, c: int, heads: int, ff: int) -> None:
    model, parameters = make(kind, c, heads, ff)
    for b, t in ((1, 1), (1, 17), (3, 40), (9, 130)):
        ids, mask, types = batch(b, t)
        found = model(ids, mask, token_type_ids=types)
        assert_matches_reference(found, *truth_and_yardsticks(model, parameters, ids, mask, types))
        assert not found[~mask].any()


def test_hidden_states_in_place_of_ids() -> None:
    model, parameters = make()
    x = normal(2, 9, 32)
    assert_matches_reference(model(x), *truth_and_yardsticks(model, parameters, x, None, None))


def test_padding_may_hold_anything() -> None:
    model, _ = make()
    x = normal(2, 9, 32)
    mask = np.ones((2, 9), bool)
    mask[1, 4:] = False
    clean = model(x, mask)
    x[1, 4:] = np.nan
    assert np.array_equal(model(x, mask), clean)
    ids = np.full((2, 9), 3)
    ids[1, 4:] = -7
    assert np.isfinite(model(ids, mask)).all()


@pytest.mark.parametrize("kind", ["post", "pre"])
def test_rows_a_multiple_of_4_kib_apart(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products copy them."""
    model, parameters = make(kind, 1024, 16, 1024, 1)
    ids, mask, types = batch(3, 140)
    found = model(ids, mask, token_type_ids=types)
    assert_matches_reference(found, *truth_and_yardsticks(model, parameters, ids, mask, types))
    assert_same_bits(model, np.array([1, 140, 17]), np.random.default_rng(0), monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_batch_order_threads_or_schedule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make(kind, 64, 2, 256)
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 90, 23)
    lengths[3], lengths[7] = 300, 1
    assert_same_bits(model, lengths, rng, monkeypatch)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_pooling(mode: str) -> None:
    model, _ = make(c=30, heads=5)
    lengths = np.array([1, 7, 0, 33])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(0, V, offsets[-1])
    rows = model.forward_packed(ids, offsets)
    found = model.forward_packed(ids, offsets, pooling=mode)
    parts = [rows[a:b] for a, b in itertools.pairwise(offsets)]
    truth = np.stack([reference.pooling(part.astype(np.float64), mode) for part in parts])
    yardstick = np.stack([reference.pooling(part, mode) for part in parts])
    assert_matches_reference(found, truth, yardstick)
    norms = np.maximum(np.linalg.norm(truth, axis=1, keepdims=True), 1e-12)
    normalised = model.forward_packed(ids, offsets, pooling=mode, normalize=True)
    assert_matches_reference(normalised, truth / norms, (truth / norms).astype(np.float32))


def test_max_pooling_keeps_nan() -> None:
    model, _ = make()
    x = normal(5, 32)
    x[2, 3] = np.nan
    assert np.isnan(model.forward_packed(x, [0, 5], pooling="max")).all()
    both = model.forward_packed(np.concatenate([x, normal(4, 32)]), [0, 5, 9], pooling="max")
    assert np.isfinite(both[1]).all()


def test_dropout_is_the_generator_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Encoder(EncoderConfig(2, 5, 30, 120, dropout=0.5, positions="sinusoidal", vocab_size=V))
    ids, mask, _ = batch(3, 12)
    plain = model(ids, mask)
    assert np.array_equal(model(ids, mask, rng=np.random.default_rng(1)), plain)
    one = model(ids, mask, training=True, rng=np.random.default_rng(1))
    assert np.array_equal(one, model(ids, mask, training=True, rng=np.random.default_rng(1)))
    assert not np.array_equal(one, model(ids, mask, training=True, rng=np.random.default_rng(2)))
    assert not np.array_equal(one, plain)
    assert not one[~mask].any()
    with pytest.raises(ValueError, match="rng"):
        model(ids, training=True)
    other: Any
    for other in (0, np.random.RandomState(0), np.random):
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator .*, got (int|RandomState|module)"):
            model(ids, training=True, rng=other)


def test_dropout_of_nothing_is_inference() -> None:
    """Dropout near 0 drops nothing: the op-by-op path of training must agree with the fused forward."""
    tiny = 1e-9
    for kind in ("post", "pre"):
        config = EncoderConfig(2, 2, 32, 64, dropout=tiny, vocab_size=V, norm_first=kind == "pre", layer_norm_eps=1e-5)
        model = Encoder(config)
        ids, mask, _ = batch(3, 12)
        np.testing.assert_allclose(model(ids, mask, training=True, rng=np.random.default_rng(0)), model(ids, mask), atol=1e-5)


def test_dropout_with_a_sequence_of_padding_alone() -> None:
    """A sequence of padding alone changes nothing in the other sequences."""
    model = Encoder(EncoderConfig(2, 2, 32, 64, dropout=0.1, vocab_size=V))
    ids, mask = np.arange(24).reshape(3, 8) % V, np.ones((3, 8), bool)
    mask[1] = False
    found = model(ids, mask, training=True, rng=np.random.default_rng(0))
    assert not found[1].any()
    assert np.array_equal(found[::2], model(ids[::2], mask[::2], training=True, rng=np.random.default_rng(0)))


def test_seed() -> None:
    config = EncoderConfig(1, 1, 8, 8, vocab_size=V)
    ids = np.arange(5)[None]
    assert np.array_equal(Encoder(config, seed=1)(ids), Encoder(config, seed=1)(ids))
    assert not np.array_equal(Encoder(config, seed=1)(ids), Encoder(config, seed=2)(ids))


def test_empty() -> None:
    model, _ = make()
    assert model(np.zeros((0, 4), int)).shape == (0, 4, 32)
    assert model(np.zeros((2, 0), int)).shape == (2, 0, 32)
    assert model.forward_packed(np.zeros(0, int), [0]).shape == (0, 32)
    assert model.forward_packed(np.zeros(0, int), [0], pooling="mean").shape == (0, 32)
    assert not model(np.zeros((2, 3), int), np.zeros((2, 3))).any()


def test_out() -> None:
    model, _ = make()
    out = np.full((2, 32), np.nan, np.float32)
    assert model.forward_packed([1, 2, 3], [0, 1, 3], pooling="cls", out=out) is out
    assert np.isfinite(out).all()
    with pytest.raises(TypeError, match="out"):
        model.forward_packed([1, 2, 3], [0, 1, 3], out=np.zeros((3, 32)))
    with pytest.raises(ValueError, match="out"):
        model.forward_packed([1, 2, 3], [0, 1, 3], out=np.zeros((2, 32), np.float32))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda m: m(np.array([[1, V]])), ValueError, f"token ids must be in 0 .. {V - 1}, got {V}"),
        (lambda m: m(np.array([[1, -1]])), ValueError, "got -1"),
        (lambda m: m(np.array([1, 2])), ValueError, r"\(B, T\)"),
        (lambda m: m(np.array([["a"]])), TypeError, "token ids"),
        (lambda m: m(np.ones((1, 2, 31))), ValueError, r"\(B, T, 32\)"),
        (lambda m: m(np.ones((1, 2), int), np.ones((1, 3))), ValueError, "attention_mask"),
        (lambda m: m(np.ones((1, 2), int), np.full((1, 2), 2)), ValueError, "attention_mask"),
        (lambda m: m(np.ones((1, 2), int), token_type_ids=np.full((1, 2), 2)), ValueError, "token_type_ids"),
        (lambda m: m(np.ones((1, 2), int), token_type_ids=np.zeros((1, 3), int)), ValueError, "token_type_ids"),
        (lambda m: m(np.ones((1, 513), int)), ValueError, "513 tokens is longer than the 512 positions"),
        (lambda m: m.forward_packed([1, 2], [0, 3]), ValueError, "offsets"),
        (lambda m: m.forward_packed([1, 2], [0, 2, 1, 2]), ValueError, "offsets"),
        (lambda m: m.forward_packed([1, 2], [0, 2], pooling="sum"), ValueError, "pooling"),
        (lambda m: m.forward_packed([[1, 2]], [0, 1]), ValueError, "shape"),
        (lambda m: Encoder(m.config, parameters={}), ValueError, "lack embeddings.token.weight"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(make()[0])


@pytest.mark.parametrize(
    "sizes, options, words",
    [
        ((1, 3, 32, 64), {}, "num_heads must divide hidden_dim, got 3 heads for a width of 32"),
        ((0, 2, 32, 64), {}, "num_layers"),
        ((1, 2, 32, 64, 1.0), {}, "dropout"),
        ((1, 2, 32, 64), {"activation": "prelu"}, "activation"),
        ((1, 2, 32, 64), {"positions": "wave"}, "positions"),
        ((1, 2, 32, 64), {"vocab_size": 0}, "vocab_size"),
        ((1, 2, 32, 64), {"layer_norm_eps": -1}, "layer_norm_eps"),
    ],
)
def test_bad_config(sizes: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EncoderConfig(*sizes, **options)


def test_activations_of_configurations_are_those_of_the_kernels() -> None:
    assert (None, *ACTIVATIONS) == tuple(activations.ACTIVATION_KINDS)
