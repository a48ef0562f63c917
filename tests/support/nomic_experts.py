"""NomicBERT with experts, whose code is not in transformers, in NumPy: its equations, names and a small random model."""

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.neobert import product

Array = NDArray[Any]

C, F, V, LAYERS, HEADS, EXPERTS, TOP, THETA, EPS = 32, 40, 97, 4, 4, 5, 2, 1000.0, 1e-5
CONFIG: dict[str, Any] = {
    "activation_function": "gelu",
    "architectures": ["NomicBertModel"],
    "auto_map": {"AutoConfig": "configuration.NomicBertConfig", "AutoModel": "modeling.NomicBertModel"},
    "causal": False,
    "expert_choice_router": False,
    "ffn_div": 1,
    "layer_norm_epsilon": EPS,
    "max_trained_positions": 48,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "model_type": "nomic_bert",
    "moe_every_n_layers": 2,
    "moe_normalize_expert_weights": False,
    "moe_top_k": TOP,
    "n_embd": C,
    "n_head": HEADS,
    "n_inner": F,
    "n_layer": LAYERS,
    "n_positions": 48,
    "num_experts": EXPERTS,
    "num_shared_experts": 0,
    "pad_token_id": 0,
    "pad_vocab_size_multiple": 1,
    "prenorm": False,
    "qkv_proj_bias": True,
    "rotary_emb_base": THETA,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "type_vocab_size": 1,
    "vocab_size": V,
}


def tensors() -> dict[str, Array]:
    """Return the tensors of an encoder."""
    tables = {"word": V, "token_type": 1}
    shapes: dict[str, tuple[int, ...]] = {f"embeddings.{name}_embeddings.weight": (rows, C) for name, rows in tables.items()}
    shapes |= {f"emb_ln.{part}": (C,) for part in ("weight", "bias")}
    for i in range(LAYERS):
        linear = {"attn.Wqkv": (3 * C, C), "attn.out_proj": (C, C), "norm1": (C,), "norm2": (C,)}
        if i % 2 == 0:
            linear |= {"mlp.fc1": (F, C), "mlp.fc2": (C, F)}
        else:
            experts = {"router.layer.weight": (EXPERTS, C), "experts.bias": (C,)}
            experts |= {f"experts.mlp.{name}": (EXPERTS * F, C) for name in ("w1", "w2")}
            shapes |= {f"encoder.layers.{i}.mlp.{name}": shape for name, shape in experts.items()}
        for name, shape in linear.items():
            shapes |= {f"encoder.layers.{i}.{name}.weight": shape, f"encoder.layers.{i}.{name}.bias": shape[:1]}
    made = {}
    for name, shape in shapes.items():
        normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        scale = 0.3 if len(shape) == 1 else 0.4 if "embeddings" in name else 1.3 / math.sqrt(F if "w2" in name else shape[1])
        made[name] = normal * np.float32(scale) + np.float32(name.endswith(("norm1.weight", "norm2.weight", "ln.weight")))
    return made


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), x.dtype)


def hidden(stored: dict[str, Array], ids: Array, dtype: Any, order: int = 0) -> Array:
    """Return the hidden states of one text (T,)."""
    p = {name: array.astype(dtype) for name, array in stored.items()}
    t, size = len(ids), C // HEADS
    angle = np.arange(t)[:, None] * THETA ** (-2.0 * np.arange(size // 2) / size)
    cos, sin = (np.concatenate([table, table], axis=-1).astype(dtype) for table in (np.cos(angle), np.sin(angle)))

    def linear(name: str, x: Array) -> Array:
        return product(x, p[f"{name}.weight"], order) + p[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + dtype(EPS)) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def turned(x: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate([-second, first], axis=-1) * sin

    def exp(x: Array) -> Array:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def mixture(name: str, x: Array) -> Array:
        weights = exp(product(x, p[f"{name}.router.layer.weight"], order))
        first, second = (p[f"{name}.experts.mlp.{part}"].reshape(EXPERTS, F, C) for part in ("w1", "w2"))
        out = np.zeros_like(x)
        for row in range(t):
            # Token by token, the likeliest expert first.
            for e in np.argsort(-weights[row])[:TOP]:
                inner = gelu(product(x[row], first[e], order))
                out[row] += weights[row, e] * product(inner, second[e].T, order)
        return out + p[f"{name}.experts.bias"]

    x = norm("emb_ln", p["embeddings.word_embeddings.weight"][ids] + p["embeddings.token_type_embeddings.weight"][0])
    for i in range(LAYERS):
        prefix = f"encoder.layers.{i}"
        q, k, v = (part.reshape(t, HEADS, size).swapaxes(0, 1) for part in np.split(linear(f"{prefix}.attn.Wqkv", x), 3, axis=-1))
        weights = exp(turned(q) @ turned(k).swapaxes(1, 2) * dtype(size**-0.5))
        x = norm(f"{prefix}.norm1", x + linear(f"{prefix}.attn.out_proj", (weights @ v).swapaxes(0, 1).reshape(t, C)))
        y = mixture(f"{prefix}.mlp", x) if i % 2 else linear(f"{prefix}.mlp.fc2", gelu(linear(f"{prefix}.mlp.fc1", x)))
        x = norm(f"{prefix}.norm2", x + y)
    return np.asarray(x, dtype)


def outputs(stored: dict[str, Array], task: str, inputs: dict[str, Array], dtype: Any, order: int = 0) -> Array:
    """Return what `tests.support.peer_models.outputs` returns for a model of transformers."""
    texts = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return np.concatenate([hidden(stored, ids[mask.astype(bool)], dtype, order) for ids, mask in texts])
