"""JinaBERT in NumPy, of its two codes' equations; transformers has it only as code in the models' folders."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Array]

C, F, V, LAYERS, EPS = 48, 56, 40, 3, 1e-12


def tensors(kind: str, is_code: bool) -> Tensors:
    """Return random weights under the names of the code for texts, or of that for programs."""
    rng = np.random.default_rng(7)
    halves = 1 if kind == "original" else 2
    stems: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm": (C,), "pooler.dense": (C, C)}
    inside: dict[str, tuple[int, ...]] = {f"attention.self.{name}": (C, C) for name in ("query", "key", "value")}
    inside |= {"attention.output.dense": (C, C), "attention.output.LayerNorm": (C,)}
    if is_code:
        inside |= {f"attention.self.layer_norm_{name}": (C,) for name in "qk"} | {"layer_norm_1": (C,), "layer_norm_2": (C,)}
        inside |= {"mlp.up_gated_layer": (halves * F, C), "mlp.down_layer": (C, F)}
    elif halves == 2:
        inside |= {"mlp.gated_layers": (2 * F, C), "mlp.wo": (C, F), "mlp.layernorm": (C,)}
    else:
        inside |= {"intermediate.dense": (F, C), "output.dense": (C, F), "output.LayerNorm": (C,)}
    stems |= {f"encoder.layer.{i}.{stem}": shape for i in range(LAYERS) for stem, shape in inside.items()}
    tables = (("word", V), ("token_type", 2))
    made = {f"embeddings.{name}_embeddings.weight": rng.standard_normal((n, C), np.float32) for name, n in tables}
    for stem, shape in stems.items():
        scale = np.float32(0.3 if len(shape) == 1 else 1.3 / math.sqrt(shape[1]))
        made[f"{stem}.weight"] = rng.standard_normal(shape, np.float32) * scale + np.float32(len(shape) == 1)
        if not stem.endswith(("gated_layers", "up_gated_layer")):
            made[f"{stem}.bias"] = rng.standard_normal(shape[0], np.float32) * np.float32(0.3)
    return made


def forward(stored: Tensors, ids: Array, types: Array, heads: int, kind: str, is_code: bool, dtype: Any = np.float64) -> Array:
    """Return the hidden states (T, C) of one text."""
    p = {name: array.astype(dtype) for name, array in stored.items()}

    def linear(name: str, x: Array) -> Array:
        bias = p.get(f"{name}.bias")
        y = x @ p[f"{name}.weight"].T
        return y if bias is None else y + bias

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + dtype(EPS)) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def split(x: Array) -> Array:
        return x.reshape(len(x), heads, -1).swapaxes(0, 1)

    t = np.arange(len(ids))
    bias = -np.array(slopes(heads), dtype)[:, None, None] * np.abs(t[:, None] - t).astype(dtype)
    words, kinds = (p[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    x = norm("embeddings.LayerNorm", words[ids] + kinds[types])
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        q, k, v = (linear(f"{layer}attention.self.{name}", x) for name in ("query", "key", "value"))
        if is_code:
            q, k = norm(f"{layer}attention.self.layer_norm_q", q), norm(f"{layer}attention.self.layer_norm_k", k)
        scores = split(q) @ split(k).swapaxes(1, 2) / dtype(math.sqrt(C // heads)) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        context = (weights / weights.sum(-1, keepdims=True)) @ split(v)
        attended = linear(f"{layer}attention.output.dense", context.swapaxes(0, 1).reshape(len(x), -1))
        y = norm(f"{layer}attention.output.LayerNorm", attended + x)
        if is_code:
            y = norm(f"{layer}layer_norm_1", x + y)
        x = feed_forward(linear, norm, layer, y, kind, is_code)
    return np.asarray(x)


def feed_forward(linear: Any, norm: Any, layer: str, y: Array, kind: str, is_code: bool) -> Array:
    """Return the norm of a feed-forward network's sum; the two codes put the gate into other halves."""
    activation = (lambda x: np.maximum(x, 0)) if kind == "reglu" else gelu
    if kind == "original":
        inner = activation(linear(f"{layer}intermediate.dense", y))
        return np.asarray(norm(f"{layer}output.LayerNorm", y + linear(f"{layer}output.dense", inner)))
    if is_code:
        up, gate = np.split(linear(f"{layer}mlp.up_gated_layer", y), 2, axis=-1)
        return np.asarray(norm(f"{layer}layer_norm_2", y + linear(f"{layer}mlp.down_layer", up * activation(gate))))
    gate, up = np.split(linear(f"{layer}mlp.gated_layers", y), 2, axis=-1)
    return np.asarray(norm(f"{layer}mlp.layernorm", y + linear(f"{layer}mlp.wo", activation(gate) * up)))


def gelu(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64) / math.sqrt(2))
    return (x * (1 + erf.astype(x.dtype)) / 2).astype(x.dtype)


def slopes(heads: int) -> list[float]:
    """Return the slopes of ALiBi as its authors' recursion has them."""
    if math.log2(heads).is_integer():
        start: float = 2.0 ** -(2.0 ** -(math.log2(heads) - 3))
        return [start ** (i + 1) for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return slopes(below) + slopes(2 * below)[0::2][: heads - below]
