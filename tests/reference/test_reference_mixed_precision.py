"""Reference encoder with `linear`, which computes the products of the layers, and only those."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from fastattn.config import EncoderConfig
from fastattn.parameters import random_parameters
from tests.support.cases import normal

Array = NDArray[Any]

HEADS, LAYERS = 2, 2
CONFIG = EncoderConfig(
    num_layers=LAYERS, num_heads=HEADS, hidden_dim=8, ff_dim=12, dropout=0.0, vocab_size=11, embedding_dim=6, gated=True
)
PARTS = {
    "attention.query": None,
    "attention.key": None,
    "attention.value": None,
    "attention.output": None,
    "feed_forward.gate": "gelu",
    "feed_forward.input": None,
    "feed_forward.output": None,
}
IDS = np.array([[3, 1, 4, 1, 5]])


def parameters(dtype: type = np.float32) -> dict[str, Array]:
    drawn = random_parameters(CONFIG, 0)
    return {name: (a * 20 if a.ndim == 2 else a + normal(*a.shape, scale=0.3)).astype(dtype) for name, a in drawn.items()}


def encode(given: dict[str, Array], **options: Any) -> Any:
    return reference.encoder(given, IDS, num_layers=LAYERS, num_heads=HEADS, **options)


def test_it_gets_each_product_once_in_order() -> None:
    p = parameters(np.float64)
    del p["layers.1.attention.key.bias"]
    calls: list[tuple[str, str | None]] = []

    def linear(name: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
        calls.append((name, activation))
        assert weight is p[f"{name}.weight"] and bias is p.get(f"{name}.bias")
        return reference.linear(x, weight, bias, activation=activation)

    np.testing.assert_array_equal(encode(p, linear=linear), encode(p))
    layers = [(f"layers.{i}.{part}", activation) for i in range(LAYERS) for part, activation in PARTS.items()]
    assert calls == [("embeddings.projection", None), *layers]


@pytest.mark.parametrize("norm_first", [False, True])
def test_each_precision(norm_first: bool) -> None:
    p = parameters()
    exact = encode(p, norm_first=norm_first)
    np.testing.assert_array_equal(encode(p, norm_first=norm_first, linear=reference.mixed_linear("float32")), exact)
    for precision, op, most in (("bfloat16", reference.linear_bfloat16, 2.0**-5), ("int8", reference.linear_int8, 2.0**-3)):
        ours = encode(p, norm_first=norm_first, linear=reference.mixed_linear(precision))
        by_hand = encode(p, norm_first=norm_first, linear=lambda _, x, w, b, f, op=op: op(x, w, b, activation=f))
        np.testing.assert_array_equal(ours, by_hand)
        assert ours.dtype == np.float32
        assert 0 < np.abs(ours - exact).max() < most * np.abs(exact).max()


def test_a_plan_and_smoothing_by_name() -> None:
    name, other = "layers.1.feed_forward.output", "layers.0.attention.key"
    smooth = np.exp(normal(12))
    mixed = reference.mixed_linear({name: "int8", other: "bfloat16"}, {name: smooth})
    used = []

    def linear(here: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
        ours = mixed(here, x, weight, bias, activation)
        expected = reference.linear(x, weight, bias, activation=activation)
        if here in (name, other):
            used.append(here)
            assert (ours != expected).any()
        if here == name:
            expected = reference.linear_int8(x, weight, bias, smooth=smooth)
            assert (expected != reference.linear_int8(x, weight, bias)).any()
        if here == other:
            expected = reference.linear_bfloat16(x, weight, bias)
        np.testing.assert_array_equal(ours, expected)
        return ours

    encode(parameters(), linear=linear)
    assert used == [other, name]


@pytest.mark.parametrize("precision", ["fp8", {"layers.0.attention.key": "fp8"}])
def test_unknown_precision(precision: Any) -> None:
    with pytest.raises(ValueError, match="float32, bfloat16, int8, got 'fp8'"):
        reference.mixed_linear(precision)


def test_attention_weights_are_those_of_its_queries_and_keys() -> None:
    p = parameters()
    linear = reference.mixed_linear("int8")
    _, states, weights = encode(p, return_hidden_states=True, return_attention=True, linear=linear)
    for i in range(LAYERS):
        query, key = (
            reference.linear_int8(states[i, 0], p[f"layers.{i}.attention.{name}.weight"], p[f"layers.{i}.attention.{name}.bias"])
            for name in ("query", "key")
        )
        heads = (np.swapaxes(a.reshape(5, HEADS, 4), 0, 1) for a in (query, key))
        np.testing.assert_array_equal(weights[i, 0], reference.attention_weights(*heads))
