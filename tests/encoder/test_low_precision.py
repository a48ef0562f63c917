"""Encoders in bfloat16 and int8: the same bits whatever the batch, and every family as its reference in that precision."""

from typing import Any

import numpy as np
import pytest

from fastattn import Convolution, Encoder, EncoderConfig, LayerConfig, reference
from fastattn.checkpoint.reader import read_encoder
from fastattn.config import ACTIVATIONS
from fastattn.encoder.calibration import PRODUCTS, calibrate
from fastattn.kernels.encoder.attend import IS_ROUNDED
from fastattn.kernels.products.int8 import KEPT
from fastattn.parameters import check_finite, random_parameters
from tests.support.golden_models import GOLDEN
from tests.support.rounded import LOW
from tests.support.schedules import assert_same_bits

V = 40
# Texts of a comparison with the reference, and tokens of each.
TEXTS, TOKENS = 4, 6
FAMILIES = sorted(path.name for path in GOLDEN.iterdir() if (path / "config.json").is_file())
FORMS: dict[str, dict[str, Any]] = {
    "post-norm": {"positions": "learned", "type_vocab_size": 2},
    "pre-norm, gated": {"positions": "rotary", "norm_first": True, "gated": True, "window": 5, "global_every": 2},
    "general": {
        "positions": "rotary", "norm": "rms", "norm_first": True, "gated": True, "head_size": 48, "num_key_value_heads": 1,
        "query_key_norm": "head", "output_norms": True,
    },
    "disentangled": {"disentangled": ("c2p", "p2c"), "disentangled_span": 16},
    "experts": {"layers": (LayerConfig(experts=(5, 2)), LayerConfig())},
    "convolution": {"layers": (LayerConfig(convolution=Convolution(3)), LayerConfig())},
    "factorised": {"positions": "sinusoidal", "embedding_dim": 20},
}  # fmt: skip


def make(form: str, precision: Any, ff_dim: int = 530) -> Encoder:
    return Encoder(EncoderConfig(2, 2, 64, ff_dim, vocab_size=V, **FORMS[form]), 3, precision=precision)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_batch_order_threads_or_schedule(form: str, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(form, precision)
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 90, 11)
    lengths[3], lengths[7] = 300, 1
    assert_same_bits(model, lengths, rng, monkeypatch)


@pytest.mark.parametrize("precision", LOW)
def test_watched_states_are_the_same_bits(precision: Any) -> None:
    model = make("post-norm", precision)
    ids = np.random.default_rng(1).integers(0, V, (3, 21))
    mask = np.arange(21) < np.array([21, 1, 9])[:, None]
    hidden, states, attention = model(ids, mask, return_hidden_states=True, return_attention=True)
    assert np.array_equal(hidden, model(ids, mask))
    assert np.array_equal(states[-1], hidden)
    np.testing.assert_allclose(attention.sum(axis=-1)[:, mask.nonzero()[0], :, mask.nonzero()[1]], 1, rtol=1e-5)


def in_precision(config: EncoderConfig, parameters: Any, precision: str) -> Any:
    """The reference's linear map for an encoder in a precision."""
    if precision == "bfloat16":
        return reference.mixed_linear("bfloat16")
    plan, smooth = {"embeddings.projection": KEPT, "layers.0.convolution": KEPT}, {}
    for layer, products in enumerate(calibrate(config, parameters).layers):
        for kind, stems in PRODUCTS.items():
            for stem in stems:
                name = f"layers.{layer}.{stem}"
                plan[name], smooth[name] = "int8" if products[kind].int8 else KEPT, products[kind].smooth
    return reference.mixed_linear(plan, smooth)


def assert_as_reference(config: EncoderConfig, parameters: Any, precision: Any) -> None:
    """Check that an encoder is its reference in the same precision, but for the rounding of float32.

    An ulp of a norm can move a number to the next level, which is a thousand times as much. Of so few numbers that is rare: one of
    several short texts has none that moved. Where one did, the encoder still is nearer to its reference than that is to float32.
    """
    model, options = Encoder(config, parameters=parameters, precision=precision), config.reference_options()
    low = dict(parameters)
    table = "embeddings.token.weight"
    if precision == "int8":
        levels, scale = reference.quantize_table(low[table])
        low[table] = scale[:, None] * levels.astype(np.float32)
    else:
        low[table] = reference.round_bfloat16(low[table])
    linear = in_precision(config, parameters, precision)
    attend = reference.scaled_dot_product_attention_bfloat16 if IS_ROUNDED else None
    rounding, losses = [], []
    for seed in range(TEXTS):
        ids = np.random.default_rng(seed).integers(3, config.vocab_size or V, (1, TOKENS))
        found = model(ids)
        truth = reference.encoder(parameters, ids, **options)
        same = reference.encoder(low, ids, linear=linear, attend=attend, **options)
        off, lost = (float(np.linalg.norm(found - other)) for other in (same, truth))
        assert off < lost, f"off by {off:.3g}, where {precision} loses {lost:.3g}"
        rounding.append(off / float(np.linalg.norm(truth)))
        losses.append(lost / float(np.linalg.norm(truth)))
    assert min(rounding) < 64 * np.finfo(np.float32).eps, f"off by {rounding} of the whole"
    assert 0 < np.mean(losses) < 0.1, f"{precision} loses {losses} of the whole"


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, precision: Any) -> None:
    config, parameters = read_encoder(GOLDEN / family)
    parameters = {name: np.array(value, np.float32) for name, value in parameters.items()}
    assert_as_reference(config, parameters, precision)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: Any, precision: Any) -> None:
    config = EncoderConfig(2, 2, 32, 600, activation=activation, vocab_size=V)
    parameters = random_parameters(config, 1)
    for name in parameters:
        if "layer_norm" not in name and name.endswith("weight"):
            parameters[name] *= 8
    assert_as_reference(config, parameters, precision)


@pytest.mark.parametrize("precision", LOW)
def test_not_a_number_stays_in_its_sequence(precision: Any) -> None:
    model = make("factorised", precision)
    body = Encoder(EncoderConfig(2, 2, 64, 530), 3, precision=precision)
    assert np.isfinite(model(np.zeros((2, 3), int))).all()
    x = np.random.default_rng(4).standard_normal((3, 5, 64)).astype(np.float32)
    clean = body(x)
    x[1, 2, 7] = np.nan
    found = body(x)
    assert np.array_equal(found[[0, 2]], clean[[0, 2]])
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(precision: Any, value: float) -> None:
    config = EncoderConfig(2, 2, 32, 40, vocab_size=V)
    parameters = random_parameters(config, 0)
    name = "layers.1.feed_forward.output.weight"
    parameters[name][3, 5] = value
    with pytest.raises(ValueError, match=f"^parameter {name} has NaN or infinite values, which {precision} cannot hold"):
        Encoder(config, parameters=parameters, precision=precision)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["layers.2.feed_forward.output.weight", "layers.0.attention.query.bias", "embeddings.token.weight"]
)
def test_what_is_not_finite_is_named(name: str, value: float) -> None:
    parameters = random_parameters(EncoderConfig(3, 2, 32, 40, vocab_size=V), 0)
    check_finite(parameters, "int8")
    parameters[name].flat[-1] = value
    with pytest.raises(ValueError, match=f"^parameter {name} has NaN or infinite values, which bfloat16 cannot hold$"):
        check_finite(parameters, "bfloat16")


def test_a_shared_product_beside_gates_of_their_own() -> None:
    """Layers that share the feed-forward input, and not the gate, have smoothing factors of their own."""
    config = EncoderConfig(2, 2, 32, 40, gated=True, vocab_size=V)
    parameters = random_parameters(config, 0)
    for layer in range(2):
        parameters[f"layers.{layer}.feed_forward.gate.weight"][:, 5 + layer] *= 30
    for part in ("weight", "bias"):
        parameters[f"layers.1.feed_forward.input.{part}"] = parameters[f"layers.0.feed_forward.input.{part}"]
    copies = {name: array.copy() for name, array in parameters.items()}
    ids = np.arange(6)[None]
    shared, equal = (Encoder(config, parameters=given, precision="int8")(ids) for given in (parameters, copies))
    assert np.array_equal(shared, equal)


@pytest.mark.parametrize("value", [2.0**128 - 2.0**119, -1e300])
def test_weights_that_become_infinite(value: float) -> None:
    parameters = {"w": np.array([1, 2.0**128 - 2.0**120])}
    check_finite(parameters, "int8")
    parameters["w"][0] = value
    with pytest.raises(ValueError, match=r"^parameter w has values of (3\.396e\+38|1e\+300), which bfloat16 cannot hold$"):
        check_finite(parameters, "bfloat16")


class _Copies(dict[str, Any]):
    """A mapping whose arrays are made when they are asked for."""

    def items(self) -> Any:
        return ((name, array.copy()) for name, array in super().items())


def test_arrays_made_on_demand_are_all_checked() -> None:
    parameters = _Copies(random_parameters(EncoderConfig(3, 2, 32, 40), 0))
    parameters["layers.2.attention.output.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"^parameter layers.2.attention.output.bias has NaN"):
        check_finite(parameters, "int8")
