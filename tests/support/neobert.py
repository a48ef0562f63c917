"""NeoBERT, whose code is not in transformers, in NumPy: its equations, names and a small random model."""

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

C, F, V, LAYERS, HEADS, LABELS = 32, 40, 97, 3, 4, 3
FF = 8 * math.ceil(int(2 * F / 3) / 8)
CONFIG: dict[str, Any] = {
    "architectures": ["NeoBERTLMHead"],
    "auto_map": {"AutoConfig": "model.NeoBERTConfig", "AutoModel": "model.NeoBERT"},
    "classifier_init_range": 0.02,
    "decoder_init_range": 0.02,
    "dim_head": C // HEADS,
    "embedding_init_range": 0.02,
    "hidden_size": C,
    "id2label": {str(i): name for i, name in enumerate(("lion", "witch", "wardrobe"))},
    "intermediate_size": F,
    "kwargs": {},
    "max_length": 48,
    "model_type": "neobert",
    "norm_eps": 1e-5,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "torch_dtype": "float32",
    "vocab_size": V,
}
_LAYER = {
    "qkv": (3 * C, C),
    "wo": (C, C),
    "ffn.w12": (2 * FF, C),
    "ffn.w3": (C, FF),
    "attention_norm": (C,),
    "ffn_norm": (C,),
}


def tensors() -> dict[str, Array]:
    """Return the tensors of an encoder with its heads."""
    shapes: dict[str, tuple[int, ...]] = {"model.encoder.weight": (V, C), "model.layer_norm.weight": (C,)}
    for i in range(LAYERS):
        shapes |= {f"model.transformer_encoder.{i}.{name}.weight": shape for name, shape in _LAYER.items()}
    for name, width in (("decoder", V), ("dense", C), ("classifier", LABELS)):
        shapes |= {f"{name}.weight": (width, C), f"{name}.bias": (width,)}
    made = {}
    for name, shape in shapes.items():
        normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        scale = 0.3 if len(shape) == 1 else 0.4 if "encoder.weight" in name else 1.3 / math.sqrt(shape[1])
        made[name] = normal * np.float32(scale) + np.float32("norm" in name)
    return made


def product(x: Array, weight: Array, order: int) -> Array:
    """Return x weight^T, summed in one of several orders: a sum in one order can be exact by luck."""
    places = np.random.default_rng(order).permutation(x.shape[-1]) if order else np.arange(x.shape[-1])
    return np.asarray(x[..., places] @ weight[:, places].T)


def hidden(stored: dict[str, Array], ids: Array, dtype: Any, order: int = 0) -> Array:
    """Return the hidden states of one text (T,)."""
    p = {name.removeprefix("model."): array.astype(dtype) for name, array in stored.items()}
    t, size = len(ids), C // HEADS
    angle = np.arange(t)[:, None] * 10000.0 ** (-2.0 * np.arange(size // 2) / size)
    turn = np.exp(1j * angle).astype(np.complex128 if dtype == np.float64 else np.complex64)

    def norm(name: str, x: Array) -> Array:
        return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + dtype(1e-5)) * p[f"{name}.weight"])

    def turned(x: Array) -> Array:
        """Turn neighbouring channels of (H, T, D), the real and the imaginary part of a number."""
        z = (x[..., ::2] + 1j * x[..., 1::2]).astype(turn.dtype) * turn
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    x = p["encoder.weight"][ids]
    for i in range(LAYERS):
        prefix = f"transformer_encoder.{i}"
        rows = product(norm(f"{prefix}.attention_norm", x), p[f"{prefix}.qkv.weight"], order)
        q, k, v = np.split(rows.reshape(t, HEADS, 3 * size).swapaxes(0, 1), 3, axis=-1)
        scores = turned(q) @ turned(k).swapaxes(1, 2) * dtype(size**-0.5)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + product((weights @ v).swapaxes(0, 1).reshape(t, C), p[f"{prefix}.wo.weight"], order)
        gate, up = np.split(product(norm(f"{prefix}.ffn_norm", x), p[f"{prefix}.ffn.w12.weight"], order), 2, axis=-1)
        x = x + product(gate / (1 + np.exp(-gate)) * up, p[f"{prefix}.ffn.w3.weight"], order)
    return norm("layer_norm", x)


def outputs(stored: dict[str, Array], task: str, inputs: dict[str, Array], dtype: Any, order: int = 0) -> Array:
    """Return what `tests.support.peer_models.outputs` returns for a model of transformers."""
    parts = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        x = hidden(stored, ids[mask.astype(bool)], dtype, order)
        if task == "sequence-classification":
            x = np.tanh(_linear(stored, "dense", x[:1], order))
        if task != "hidden":
            x = _linear(stored, "decoder" if task == "masked-lm" else "classifier", x, order)
        parts.append(x)
    return np.concatenate(parts)


def _linear(stored: dict[str, Array], name: str, x: Array, order: int) -> Array:
    weight, bias = (stored[f"{name}.{part}"].astype(x.dtype) for part in ("weight", "bias"))
    return np.asarray(product(x, weight, order) + bias)
