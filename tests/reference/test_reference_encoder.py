"""Reference encoder against an independent version: a head at a time, without padding."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from tests.support.cases import close, f64

Array = NDArray[Any]

C, F, V, HEADS, LAYERS = 6, 10, 11, 3, 2
OPTIONS: dict[str, Any] = {"num_layers": LAYERS, "num_heads": HEADS}


def parameters() -> dict[str, Array]:
    """Return all parameters of a small encoder, float64."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token.weight": (V, C),
        "embeddings.position.weight": (8, C),
        "embeddings.token_type.weight": (2, C),
    }
    norms = ["embeddings.layer_norm", "layer_norm"]
    for i in range(LAYERS):
        products = {f"attention.{name}": (C, C) for name in ("query", "key", "value", "output")}
        products |= {"feed_forward.input": (F, C), "feed_forward.output": (C, F)}
        for name, shape in products.items():
            shapes |= {f"layers.{i}.{name}.weight": shape, f"layers.{i}.{name}.bias": shape[:1]}
        norms += [f"layers.{i}.attention.layer_norm", f"layers.{i}.feed_forward.layer_norm"]
    for name in norms:
        shapes |= {f"{name}.weight": (C,), f"{name}.bias": (C,)}
    return {name: f64(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def product(p: dict[str, Array], name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p: dict[str, Array], name: str, x: Array, eps: float = 1e-12) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: dict[str, Array], i: int, x: Array) -> Array:
    """Compute attention head by head, on slices of the channels."""
    query, key, value = (product(p, f"layers.{i}.attention.{name}", x) for name in ("query", "key", "value"))
    size = C // HEADS
    cuts = [slice(h * size, (h + 1) * size) for h in range(HEADS)]
    heads = [reference.softmax(query[:, cut] @ key[:, cut].T / math.sqrt(size)) @ value[:, cut] for cut in cuts]
    return product(p, f"layers.{i}.attention.output", np.concatenate(heads, axis=1))


def feed_forward(p: dict[str, Array], i: int, x: Array) -> Array:
    inner = reference.gelu(product(p, f"layers.{i}.feed_forward.input", x))
    return product(p, f"layers.{i}.feed_forward.output", inner)


class TestEncoder:
    def test_embeddings(self) -> None:
        p, ids, types = parameters(), np.array([3, 1, 3]), np.array([0, 1, 1])
        token, position, kind = (p[f"embeddings.{name}.weight"] for name in ("token", "position", "token_type"))
        total = token[ids] + position[:3] + kind[types]
        close(reference.embeddings(p, ids, types, positions="learned"), norm(p, "embeddings.layer_norm", total))
        del p["embeddings.layer_norm.weight"], p["embeddings.layer_norm.bias"]
        close(reference.embeddings(p, ids, types, positions="learned"), total)
        close(reference.embeddings(p, ids, positions="learned"), token[ids] + position[:3] + kind[0])
        close(reference.embeddings(p, token[ids], types, positions="learned"), total)
        sinusoidal = reference.sinusoidal_positions(3, C)
        close(reference.embeddings(p, ids, positions="sinusoidal"), token[ids] + sinusoidal + kind[0])
        del p["embeddings.token_type.weight"]
        close(reference.embeddings(p, ids), token[ids])
        with pytest.raises(ValueError, match="positions"):
            reference.embeddings(p, ids, positions="wave")

    def test_feed_forward(self) -> None:
        p, x = parameters(), f64(5, C)
        close(reference.feed_forward(p, "layers.1.feed_forward", x), feed_forward(p, 1, x), ulps=64)

    def test_post_norm(self) -> None:
        p, x = parameters(), f64(5, C)
        y = norm(p, "layers.1.attention.layer_norm", x + attention(p, 1, x))
        expected = norm(p, "layers.1.feed_forward.layer_norm", y + feed_forward(p, 1, y))
        close(reference.encoder_layer(p, 1, x, num_heads=HEADS), expected, ulps=64)

    def test_pre_norm(self) -> None:
        p, x = parameters(), f64(5, C)
        y = x + attention(p, 0, norm(p, "layers.0.attention.layer_norm", x))
        expected = y + feed_forward(p, 0, norm(p, "layers.0.feed_forward.layer_norm", y))
        close(reference.encoder_layer(p, 0, x, num_heads=HEADS, norm_first=True), expected, ulps=64)

    def test_layers_and_final_norm_in_order(self) -> None:
        p, x = parameters(), f64(1, 5, C)
        hidden = reference.embeddings(p, x[0])
        for i in range(LAYERS):
            hidden = reference.encoder_layer(p, i, hidden, num_heads=HEADS, norm_first=True)
        close(reference.encoder(p, x, **OPTIONS, norm_first=True)[0], norm(p, "layer_norm", hidden), ulps=64)
        del p["layer_norm.weight"], p["layer_norm.bias"]
        close(reference.encoder(p, x, **OPTIONS, norm_first=True)[0], hidden, ulps=64)

    def test_missing_biases_are_none(self) -> None:
        p, x = parameters(), f64(1, 5, C)
        zeros = {name: np.zeros_like(a) if name.endswith("bias") else a for name, a in p.items()}
        absent = {name: a for name, a in p.items() if not name.endswith("bias")}
        close(reference.encoder(absent, x, **OPTIONS), reference.encoder(zeros, x, **OPTIONS))

    @pytest.mark.parametrize("is_causal", [False, True])
    @pytest.mark.parametrize("positions", ["learned", "sinusoidal", None])
    def test_padding_has_no_influence(self, positions: str | None, is_causal: bool) -> None:
        p, ids = parameters(), np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]])
        mask = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
        options = {**OPTIONS, "positions": positions, "is_causal": is_causal}
        result = reference.encoder(p, ids, mask, **options)
        assert result.shape == (3, 5, C)
        assert (result[mask == 0] == 0).all()
        for row, real in enumerate(mask.astype(bool)):
            close(result[row, real], reference.encoder(p, ids[row : row + 1, real], **options)[0])
        vectors = f64(3, 5, C)
        dirty = np.where(mask[..., None] == 1, vectors, np.nan)
        close(reference.encoder(p, dirty, mask, **options), reference.encoder(p, vectors, mask, **options))

    def test_a_mask_on_the_keys_does_the_same_as_taking_tokens_out(self) -> None:
        p, x = parameters(), f64(5, C)
        real = np.array([True, True, False, True, False])
        masked = reference.encoder_layer(p, 0, x, real[None, :], num_heads=HEADS)
        close(masked[real], reference.encoder_layer(p, 0, x[real], num_heads=HEADS), ulps=64)

    def test_causal_tokens_do_not_see_later_ones(self) -> None:
        p, x = parameters(), f64(1, 5, C)
        whole = reference.encoder(p, x, **OPTIONS, is_causal=True)
        close(whole[:, :3], reference.encoder(p, x[:, :3], **OPTIONS, is_causal=True), ulps=64)
        assert np.abs(whole[:, :3] - reference.encoder(p, x, **OPTIONS)[:, :3]).max() > 0.01

    def test_float32_parameters_give_float32(self) -> None:
        p, ids = {name: a.astype(np.float32) for name, a in parameters().items()}, np.array([[3, 1, 4]])
        options = {**OPTIONS, "positions": "sinusoidal"}
        result = reference.encoder(p, ids, **options)
        truth = reference.encoder({name: a.astype(np.float64) for name, a in p.items()}, ids, **options)
        assert result.dtype == np.float32 and truth.dtype == np.float64
        assert 0 < np.abs(result - truth).max() < 1e-4
