"""Calibration of int8: its forward, its product and its plan, against the reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from numpy.typing import NDArray

from fastattn import EncoderConfig, reference
from fastattn.encoder import calibration
from fastattn.encoder.calibration import PRODUCTS, Calibration, calibrate
from fastattn.parameters import random_parameters
from tests.encoder.test_configurations import Case, cases, parameters_for
from tests.support.cases import normal

SMALL = EncoderConfig(3, 2, 32, 64, 0, vocab_size=50, positions="learned", max_positions=80)

EVERY_OPTION = EncoderConfig(
    3, 2, 16, 32, 0, vocab_size=9, positions="rotary", rotary_theta=50.0, local_rotary_theta=5.0, window=2, global_every=2,
    gated=True, relative_buckets=8, relative_max_distance=16, is_causal=True, embedding_dim=6, norm_first=True, type_vocab_size=2,
)  # fmt: skip


def outlier(parameters: dict[str, NDArray[Any]], *norms: str, times: float = 50) -> dict[str, NDArray[Any]]:
    """Enlarge two channels of norms."""
    changed = dict(parameters)
    for norm in norms:
        weight = changed[f"{norm}.weight"].copy()
        weight[[3, 17]] *= np.float32(times)
        changed[f"{norm}.weight"] = weight
    return changed


def prefixes(config: EncoderConfig, kind: str) -> list[str]:
    return [stem for stem in PRODUCTS[kind] if config.gated or not stem.endswith("gate")]


def loss_of(config: EncoderConfig, parameters: dict[str, NDArray[Any]], plan: Calibration, x: NDArray[Any]) -> float:
    """Half the squared error of the reference with a plan, relative to how far the hidden states are from their mean."""
    of = [(f"layers.{i}.{s}", p) for i, layer in enumerate(plan.layers) for k, p in layer.items() for s in prefixes(config, k)]
    linear = reference.mixed_linear({name: "int8" if p.int8 else "float32" for name, p in of}, {name: p.smooth for name, p in of})
    options = config.reference_options()
    truth = reference.encoder({name: value.astype(np.float64) for name, value in parameters.items()}, x, **options)
    ours = reference.encoder(parameters, x, **options, linear=linear)
    spread = float(np.sum((truth - truth.mean(axis=(0, 1))) ** 2))
    return float(0.5 * np.sum((ours - truth) ** 2)) / spread if spread else np.inf


@settings(max_examples=12, deadline=None, derandomize=True)
@example(Case(EncoderConfig(1, 3, 3, 5, 1e-12, vocab_size=9), False, (3, 2)))
@example(Case(EVERY_OPTION, False, ()))
@given(case=cases())
def test_every_configuration(case: Case) -> None:
    config, parameters = case.config, parameters_for(case)
    plan = calibrate(config, parameters)
    for layer in plan.layers:
        assert list(layer) == list(PRODUCTS)
        for kind, product in layer.items():
            width = {"down": config.ff_dim, "out": config.query_dim}.get(kind, config.hidden_dim)
            assert product.smooth.dtype == np.float32 and product.smooth.shape == (width,)
            assert (product.smooth > 0).all() and np.isfinite(product.smooth).all()
            assert kind in calibration._SMOOTHED or (product.smooth == 1).all()
    assert plan.loss <= calibration._BUDGET or not any(product.int8 for layer in plan.layers for product in layer.values())
    rng = np.random.default_rng(0)
    vocabulary = config.vocab_size
    x = rng.standard_normal((4, 16, config.input_dim)) if vocabulary is None else rng.integers(0, vocabulary, (4, 16))
    if vocabulary is not None:
        x = parameters["embeddings.token.weight"][x]
    # Every option of the configuration has arrived: the same sequences through the reference's own encoder.
    options = {**config.reference_options(), "activation": calibration._FAST.get(config.activation, config.activation)}
    truth = reference.encoder({name: w.astype(np.float64) for name, w in parameters.items()}, x.astype(np.float64), **options)
    with np.errstate(all="ignore"):
        ours = calibration._Trial(config, parameters).states[-1]
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-9 * (1 + np.abs(truth).max()))
    loss = loss_of(config, parameters, plan, x.astype(np.float32))
    # Equal hidden states, of a vocabulary of one token, have no spread to measure a loss against: nothing is in int8.  In rows of
    # few channels, one level that the fast product rounds to the other side is a large part of the loss.
    if plan.loss <= calibration._BUDGET and min(config.hidden_dim, config.ff_dim, config.query_dim) >= 8:
        assert loss == pytest.approx(plan.loss, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("width", [1, 31, 511, 512, 513, 1100])
def test_the_fast_product_is_the_references(width: int) -> None:
    x, weight, smooth = normal(7, width), normal(5, width, seed=1), np.exp(normal(width, seed=2))
    weight[2] = 0
    truth = reference.linear_int8(x, weight, smooth=smooth)
    np.testing.assert_allclose(calibration._int8_product(x, weight, smooth), truth, rtol=0, atol=1e-5 * width**0.5)


def test_two_calibrations_are_equal() -> None:
    parameters = random_parameters(SMALL, 0)
    first = calibrate(SMALL, parameters)
    second = calibrate(SMALL, {name: value.copy() for name, value in parameters.items()})
    assert first.loss == second.loss
    for one, other in zip(first.layers, second.layers, strict=True):
        for kind in PRODUCTS:
            np.testing.assert_array_equal(one[kind].smooth, other[kind].smooth)
            assert one[kind].int8 == other[kind].int8


def test_an_ordinary_model_is_int8_throughout() -> None:
    plan = calibrate(SMALL, random_parameters(SMALL, 0))
    assert 0 < plan.loss < calibration._BUDGET
    assert all(product.int8 for layer in plan.layers for product in layer.values())


def test_outlier_channels_are_smoothed() -> None:
    """The input of layer 1 has two channels 50 times as large as the others: their factors are about 1 / sqrt(50)."""
    parameters = outlier(random_parameters(SMALL, 0), "layers.0.feed_forward.layer_norm")
    smooth = calibrate(SMALL, parameters).layers[1]["qkv"].smooth
    assert (smooth[[3, 17]] < 0.2).all() and (np.delete(smooth, [3, 17]) > 0.5).all()


def test_outlier_channels_without_weights_are_smoothed() -> None:
    """Whatever a channel holds that no output reads, it takes no levels from the others."""
    parameters = outlier(random_parameters(SMALL, 0), "layers.0.feed_forward.layer_norm")
    for name in ("query", "key", "value"):
        parameters[f"layers.1.attention.{name}.weight"][:, [3, 17]] = 0
    smooth = calibrate(SMALL, parameters).layers[1]["qkv"].smooth
    assert (smooth[[3, 17]] == calibration._LEAST).all() and (np.delete(smooth, [3, 17]) > 0.5).all()


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_product_that_outliers_harm_is_kept(norm_first: bool) -> None:
    """A huge channel of the feed-forward network, which no output reads, leaves few levels for the other channels."""
    config = EncoderConfig(3, 2, 32, 64, 0, vocab_size=50, positions="learned", max_positions=80, norm_first=norm_first)
    parameters = {name: value * np.float32(5 if value.ndim == 2 else 1) for name, value in random_parameters(config, 0).items()}
    parameters["layers.1.feed_forward.input.bias"][5] = 1000
    parameters["layers.1.feed_forward.output.weight"][:, 5] = 0
    plan = calibrate(config, parameters)
    kept = [(i, kind) for i, layer in enumerate(plan.layers) for kind, product in layer.items() if not product.int8]
    assert kept == [(1, "down")] and plan.loss <= calibration._BUDGET
    everything = plan._replace(layers=[{k: p._replace(int8=True) for k, p in layer.items()} for layer in plan.layers])
    other_ids = np.random.default_rng(7).integers(0, 50, (4, 40))
    assert loss_of(config, parameters, everything, other_ids) > calibration._BUDGET
    assert loss_of(config, parameters, plan, other_ids) < calibration._BUDGET


def test_layers_that_share_matrices_share_their_plan() -> None:
    parameters = random_parameters(SMALL, 0)
    for name in list(parameters):
        if name.startswith("layers."):
            parameters[name] = parameters["layers.0." + name.split(".", 2)[2]]
    parameters["layers.2.feed_forward.output.weight"] = parameters["layers.0.feed_forward.output.weight"] * np.float32(2)
    first, second, third = calibrate(SMALL, parameters).layers
    for kind in PRODUCTS:
        assert first[kind] is second[kind] or first[kind].smooth is second[kind].smooth
        assert (first[kind].smooth is third[kind].smooth) == (kind != "down")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(dtype: Any) -> None:
    parameters = {name: value.astype(np.float16) for name, value in random_parameters(SMALL, 0).items()}
    plan = calibrate(SMALL, {name: value.astype(dtype) for name, value in parameters.items()})
    truth = calibrate(SMALL, {name: value.astype(np.float32) for name, value in parameters.items()})
    assert plan.loss == pytest.approx(truth.loss, rel=0.01)
    assert all(
        ours[kind].int8 == theirs[kind].int8 for ours, theirs in zip(plan.layers, truth.layers, strict=True) for kind in ours
    )


def test_a_model_that_overflows_is_kept_as_it_is() -> None:
    parameters = random_parameters(SMALL, 0)
    parameters["layers.1.feed_forward.input.weight"] = np.full((64, 32), 3e38, np.float32)
    plan = calibrate(SMALL, parameters)
    assert not any(product.int8 for layer in plan.layers for product in layer.values())
    assert all(np.isfinite(product.smooth).all() for layer in plan.layers for product in layer.values())
