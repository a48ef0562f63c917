"""Qwen2, Qwen3 and EuroBERT: RMS norms before each sublayer, rotary positions, shared key heads, and a gate.

Qwen's models are causal, and those that were trained further as encoders say in ``config.json`` that they are not.
"""

from __future__ import annotations

from typing import Any

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Family, Head, Names, Step
from fastattn.checkpoint.layer_types import FULL, SLIDING, count_layers, layer_types
from fastattn.checkpoint.rope import read_rope
from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig

__all__ = ["DECODER_INSIDE", "DECODER_OUTSIDE", "EUROBERT", "PPLX_QWEN3", "QWEN2", "QWEN3", "decoder_heads", "decoder_layer"]

DECODER_OUTSIDE = {"embeddings.token": "embed_tokens", "layer_norm": "norm"}
DECODER_INSIDE = {
    "attention.layer_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.layer_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.input": "mlp.up_proj",
    "feed_forward.output": "mlp.down_proj",
}
_QUERY_KEY_NORMS = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}


def decoder_layer(settings: Settings, index: int) -> str:
    """Return the prefix of a layer's tensors."""
    return f"layers.{index}."


_NAMES = Names(DECODER_OUTSIDE, decoder_layer, DECODER_INSIDE)


def _config(settings: Settings, head_dim: int, groups: int | None, eps: float, **fields: Any) -> EncoderConfig:
    """Return the configuration from the keys that the three have."""
    rope = read_rope(settings, head_dim)
    return EncoderConfig(
        num_layers=count_layers(settings),
        num_heads=settings.size("num_attention_heads"),
        num_key_value_heads=groups,
        head_size=head_dim,
        hidden_dim=settings.size("hidden_size"),
        ff_dim=settings.size("intermediate_size"),
        activation=settings.activation(default="silu"),
        norm="rms",
        norm_first=True,
        layer_norm_eps=settings.number("rms_norm_eps", eps),
        positions="rotary",
        vocab_size=settings.size("vocab_size"),
        max_positions=rope.positions(settings.size("max_position_embeddings", 32768)),
        gated=True,
        layers=tuple(LayerConfig(window, rope.rotary) for window in fields.pop("windows")),
        **fields,
    )


def _pplx(settings: Settings) -> EncoderConfig:
    """Return Qwen3's configuration with attention to all tokens: the class of this model_type has no other."""
    return _qwen3(settings, is_causal=False)


def _groups(settings: Settings, default: int | None) -> int | None:
    """Return the number of key heads; null gives each head its own."""
    return settings.optional_size("num_key_value_heads") if "num_key_value_heads" in settings.values else default


def _size(settings: Settings) -> int:
    return settings.optional_size("head_dim") or settings.size("hidden_size") // settings.size("num_attention_heads")


def _windows(settings: Settings, *, is_causal: bool = True) -> list[tuple[int | None, int | None]]:
    """Return each layer's window: a causal one holds the token itself, one to both sides does not count it."""
    both, wanted = settings.flag("use_bidirectional_attention", False), settings.flag("use_sliding_window", False)
    is_causal = settings.flag("is_causal", True) and is_causal and not both
    has_windows = settings.values.get("sliding_window", 4096) is not None and wanted
    first = settings.size("max_window_layers", 28, least=0)
    kinds = layer_types(settings, lambda i: has_windows and i >= first)
    if not has_windows and SLIDING in kinds:
        raise settings.error(f"layer_types with {SLIDING} need a sliding_window, and use_sliding_window true")
    side = settings.size("sliding_window", 4096) if has_windows else 0
    right = 0 if is_causal else None
    return [(None, right) if kind == FULL else ((side - 1, 0) if is_causal else (side, side)) for kind in kinds]


def _qwen2(settings: Settings) -> EncoderConfig:
    return _config(settings, _size(settings), _groups(settings, 32), 1e-6, windows=_windows(settings))


def _qwen3(settings: Settings, *, is_causal: bool = True) -> EncoderConfig:
    windows, size = _windows(settings, is_causal=is_causal), settings.size("head_dim", 128)
    return _config(settings, size, _groups(settings, 32), 1e-6, windows=windows, query_key_norm="head")


def _eurobert(settings: Settings) -> EncoderConfig:
    return _config(settings, _size(settings), _groups(settings, None), 1e-5, windows=[(None, None)] * count_layers(settings))


def _has_bias(settings: Settings, stem: str) -> bool:
    """Tell whether a parameter has a bias, in Qwen3 and EuroBERT."""
    if stem in ("attention.query", "attention.key", "attention.value", "attention.output"):
        return settings.flag("attention_bias", False)
    return stem.startswith("feed_forward.") and not stem.endswith("norm") and settings.flag("mlp_bias", False)


def _qwen3_has_bias(settings: Settings, stem: str) -> bool:
    return stem.startswith("attention.") and _has_bias(settings, stem)


def _qwen2_has_bias(settings: Settings, stem: str) -> bool:
    return stem in ("attention.query", "attention.key", "attention.value")


def decoder_heads(settings: Settings) -> dict[str, Head]:
    """Return the heads of transformers' decoders, which are one linear map; a text's class is read from its last token."""
    return {
        "sequence-classification": Head((Step("score", "labels", bias=False),), "lasttoken"),
        "token-classification": Head((Step("score", "labels"),)),
        "causal-lm": Head((Step("lm_head", "vocab_size", bias=False, tied=True),)),
    }


def _eurobert_heads(settings: Settings) -> dict[str, Head]:
    dense, classifier = Step("dense", activation="gelu"), Step("classifier", "labels")
    pooling = settings.choice("classifier_pooling", "late", ("bos", "mean", "late"))
    # "late" is the mean of every token's logits, and the last map commutes with the mean.
    late = pooling == "late"
    return {
        "sequence-classification": Head((dense, classifier), "cls" if pooling == "bos" else "mean", pooled_step=int(late)),
        "token-classification": Head((classifier,)),
        "masked-lm": Head((Step("lm_head", "vocab_size", bias=settings.flag("mlp_bias", False), tied=True),)),
    }


QWEN2 = Family(
    title="Qwen2",
    model_class="Qwen2Model",
    prefixes=("", "model."),
    config=_qwen2,
    names=(_NAMES,),
    heads=decoder_heads,
    has_bias=_qwen2_has_bias,
)
QWEN3 = QWEN2._replace(
    title="Qwen3",
    model_class="Qwen3Model",
    config=_qwen3,
    names=(_NAMES._replace(inside={**DECODER_INSIDE, **_QUERY_KEY_NORMS}),),
    has_bias=_qwen3_has_bias,
    # Of voyage-4's class, which maps the hidden states to another width.
    refused=("linear.weight",),
)
PPLX_QWEN3 = QWEN3._replace(title="pplx-embed", model_class="PPLXQwen3Model", config=_pplx)
EUROBERT = QWEN2._replace(
    title="EuroBERT", model_class="EuroBertModel", config=_eurobert, heads=_eurobert_heads, has_bias=_has_bias
)
