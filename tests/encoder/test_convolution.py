"""Layers with a convolution beside them: the definition by loops, lengths around blocks, the same bits, low precision, settings."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from fastattn import Convolution, Encoder, EncoderConfig, LayerConfig, reference
from fastattn.encoder import forward
from fastattn.encoder.every_position import encode_with_mask
from fastattn.kernels.encoder.layer import FF_ROWS
from fastattn.parameters import random_parameters
from tests.support.rounded import LOW, assert_rounded
from tests.support.schedules import assert_same_bits
from tests.support.tolerance import assert_matches_reference, packed_truth_and_yardsticks

V = 40
# The first layer of two has one; both have; a text's every token is a neighbour; a norm before the sublayers.
FORMS: dict[str, dict[str, Any]] = {
    "first": {"layers": (LayerConfig(convolution=Convolution(3, "gelu")), LayerConfig())},
    "both": {"layers": (LayerConfig(convolution=Convolution(5)), LayerConfig((2, 0), convolution=Convolution(5, "relu")))},
    "alone": {"layers": (LayerConfig(), LayerConfig(convolution=Convolution(1, "silu")))},
    "wide": {"layers": (LayerConfig(convolution=Convolution(21)), LayerConfig()), "norm_first": True, "norm": "rms"},
}


def make(form: str, precision: Any = "float32", c: int = 10, **fields: Any) -> tuple[Encoder, Any]:
    config = EncoderConfig(2, 2, c, 16, vocab_size=V, layer_norm_eps=1e-5, **{**FORMS[form], **fields})
    rng = np.random.default_rng(3)
    parameters = {}
    for name, array in random_parameters(config, 0).items():
        spread = 0.2 if array.ndim == 1 else 1.3 / array.shape[1] ** 0.5
        parameters[name] = array + rng.standard_normal(array.shape, np.float32) * np.float32(spread)
    return Encoder(config, parameters=parameters, precision=precision), parameters


def expected(model: Encoder, parameters: Any, ids: Any, offsets: Any) -> list[Any]:
    """Return the reference in float64, and in float32 in several orders."""
    return packed_truth_and_yardsticks(parameters, ids, offsets, **model.config.reference_options())


def test_the_reference_by_loops() -> None:
    _, parameters = make("first")
    x = np.random.default_rng(0).standard_normal((4, 10))
    options = {"num_heads": 2, "layer_norm_eps": 1e-5}
    beside = {name: array for name, array in parameters.items() if "convolution" in name}
    layer = reference.encoder_layer({name: array for name, array in parameters.items() if name not in beside}, 0, x, **options)
    weight = beside["layers.0.convolution.weight"].reshape(10, 3, 10)
    for t in range(4):
        total = beside["layers.0.convolution.bias"].astype(np.float64)
        for k in range(3):
            if 0 <= t + k - 1 < 4:
                total = total + weight[:, k] @ x[t + k - 1]
        norm = (beside[f"layers.0.convolution.layer_norm.{part}"] for part in ("weight", "bias"))
        expected = reference.layer_norm(layer[t] + reference.gelu(total), *norm, eps=1e-5)
        found = reference.encoder_layer(parameters, 0, x, convolution_activation="gelu", **options)[t]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.jit
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("c", [4, 34])
def test_lengths_around_blocks(form: str, c: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = make(form, c=c)
    lengths = [1, 2, 3, 9, 0, 23, FF_ROWS - 1, FF_ROWS, FF_ROWS + 1, 2 * FF_ROWS + 5]
    ids, offsets = np.random.default_rng(0).integers(0, V, sum(lengths)), np.cumsum([0, *lengths])
    wanted = expected(model, parameters, ids, offsets)
    for threads in (1, 2):
        monkeypatch.setattr(forward, "thread_count", lambda threads=threads: threads)
        assert_matches_reference(model.forward_packed(ids, offsets), *wanted)


@pytest.mark.jit
@pytest.mark.parametrize("precision", ["float32", *LOW])
@pytest.mark.parametrize("form", ["first", "both"])
def test_bits(form: str, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make(form, precision)
    assert_same_bits(model, np.array([1, 130, 8, 61, 3]), np.random.default_rng(5), monkeypatch)


@pytest.mark.jit
@pytest.mark.parametrize("precision", LOW)
def test_low_precision(precision: Any) -> None:
    ids, offsets = np.random.default_rng(0).integers(0, V, 90), [0, 7, 60, 90]
    found, exact = (make("first", kind, 64)[0].forward_packed(ids, offsets, pooling="mean") for kind in (precision, "float32"))
    assert_rounded(found, exact)


@pytest.mark.jit
def test_not_a_number_stays_in_its_text_and_reaches_the_neighbours() -> None:
    """The second layer's convolution spans one token: a text's other tokens change by its attention alone."""
    body = Encoder(EncoderConfig(2, 2, 10, 16, **FORMS["first"]))
    x = np.random.default_rng(0).standard_normal((3, 4, 10), np.float32)
    before = body(x)
    x[1, 2] = np.nan
    found = body(x)
    assert np.array_equal(found[[0, 2]], before[[0, 2]]) and np.isnan(found[1]).all()


@pytest.mark.jit
def test_padding_is_zeros_whatever_it_holds() -> None:
    """The tokens that are not seen are no neighbours either."""
    model, _ = make("both")
    ids, mask = np.random.default_rng(0).integers(0, V, (2, 9)), np.arange(9) < [[9], [4]]
    found = model(ids, mask)
    assert np.array_equal(found[1, :4], model(ids[1:, :4])[0])
    ids[1, 4:] = 7
    assert np.array_equal(model(ids, mask), found)


@pytest.mark.jit
@pytest.mark.parametrize("form", FORMS)
def test_op_by_op(form: str) -> None:
    """With dropout of next to nothing, and with a mask, the layers are computed op by op."""
    model, parameters = make(form)
    dropping = Encoder(dataclasses.replace(model.config, dropout=1e-12), parameters=parameters)
    ids = np.random.default_rng(0).integers(0, V, (2, 20))
    found = dropping(ids, training=True, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found, model(ids), rtol=0, atol=2e-5)
    if form == "first":
        body = Encoder(dataclasses.replace(model.config, vocab_size=None), parameters=without_embeddings(parameters))
        x = np.random.default_rng(0).standard_normal((2, 20, 10), np.float32)
        np.testing.assert_allclose(encode_with_mask(body, x, np.ones((20, 20), bool)), body(x), rtol=0, atol=2e-5)


def without_embeddings(parameters: Any) -> Any:
    return {name: array for name, array in parameters.items() if not name.startswith("embeddings.")}


@pytest.mark.jit
def test_memory_grows_with_the_longest_text_alone() -> None:
    model, _ = make("first")
    assert forward._rows_scratch(model.config, "float32") < 200_000


@pytest.mark.parametrize(
    ("convolution", "message"),
    [
        ((2, "tanh"), r"layers must have convolutions of an odd size, 1 to 1023, got 2"),
        ((0, "tanh"), "of an odd size, 1 to 1023, got 0"),
        ((1025, "tanh"), "of an odd size, 1 to 1023, got 1025"),
        ((3.0, "tanh"), r"got 3\.0"),
        ((True, "tanh"), "got True"),
        ((3, "sin"), "the activation of a convolution must be one of gelu, .*, got 'sin'"),
        ((3, None), "the activation of a convolution must be one of gelu, .*, got None"),
    ],
)
def test_bad_settings(convolution: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(1, 1, 4, 4, layers=[LayerConfig(convolution=convolution)])


def test_convolutions_that_do_not_fit() -> None:
    layers = [LayerConfig(convolution=Convolution(3)), LayerConfig(convolution=Convolution(5))]
    with pytest.raises(ValueError, match="layers with a convolution must all have one of the same size"):
        EncoderConfig(2, 1, 4, 4, layers=layers)
    model, parameters = make("first")
    del parameters["layers.0.convolution.layer_norm.weight"]
    with pytest.raises(ValueError, match=r"parameters lack layers\.0\.convolution\.layer_norm\.weight, of shape \(10,\)"):
        Encoder(model.config, parameters=parameters)
