"""Gemma 3's text model, and EmbeddingGemma, its bidirectional form: RMS norms before and behind each sublayer.

Its norms multiply by ``1 + w``, and its embeddings by ``sqrt(C)``: both are folded into the parameters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Stored
from fastattn.checkpoint.families.qwen import DECODER_INSIDE, DECODER_OUTSIDE, decoder_heads, decoder_layer
from fastattn.checkpoint.layer_types import FULL, SLIDING, layer_types
from fastattn.checkpoint.rope import read_rope
from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig

__all__ = ["GEMMA3"]

_EVERY = 6


def _config(settings: Settings) -> EncoderConfig:
    # attn_logit_softcapping, which Gemma 2 has, is in no arithmetic of transformers' model.
    size, every = settings.size("head_dim", 256), settings.size("sliding_window_pattern", _EVERY)
    kinds = layer_types(settings, lambda i: (i + 1) % every > 0)
    both = settings.values.get("use_bidirectional_attention") is not None and settings.flag("use_bidirectional_attention", False)
    window = settings.size("sliding_window", 4096)
    # The bidirectional window is half on each side, and neither bound counts.
    side = window // 2 if both else window - 1
    full = read_rope(settings, size, 1_000_000.0, layers=FULL)
    local = read_rope(settings, size, 10_000.0, key="rope_local_base_freq", layers=SLIDING, scaled=False)
    right = None if both else 0
    records = {
        FULL: (LayerConfig((None, right), full.rotary), full),
        SLIDING: (LayerConfig((side, side if both else 0), local.rotary), local),
    }
    positions = settings.size("max_position_embeddings", 131_072)
    return EncoderConfig(
        num_layers=len(kinds),
        num_heads=settings.size("num_attention_heads", 8),
        num_key_value_heads=settings.size("num_key_value_heads", 4),
        head_size=size,
        hidden_dim=settings.size("hidden_size"),
        ff_dim=settings.size("intermediate_size"),
        activation=settings.activation("hidden_activation", "gelu_pytorch_tanh"),
        norm="rms",
        norm_first=True,
        output_norms=True,
        query_key_norm="head",
        attention_scale=settings.size("query_pre_attn_scalar", 256) ** -0.5,
        layer_norm_eps=settings.number("rms_norm_eps", 1e-6),
        positions="rotary",
        vocab_size=settings.size("vocab_size", 262_208),
        max_positions=min(records[kind][1].positions(positions) for kind in kinds),
        gated=True,
        layers=tuple(records[kind][0] for kind in kinds),
    )


def _one_more(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    one_more: NDArray[np.float32] = stored.read(name, shape) + np.float32(1)
    return one_more


def _scaled(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Multiply the table by the square root of the width, in float32 as the model does."""
    scaled: NDArray[np.float32] = stored.read(name, shape) * np.float32(stored.config.hidden_dim**0.5)
    return scaled


def _has_bias(settings: Settings, stem: str) -> bool:
    kinds = ("attention.query", "attention.key", "attention.value", "attention.output")
    return stem in kinds and settings.flag("attention_bias", False)


def _heads(settings: Settings) -> dict[str, Head]:
    heads, cap = decoder_heads(settings), settings.values.get("final_logit_softcapping")
    if cap is not None and settings.number("final_logit_softcapping", 0.0) <= 0:
        raise settings.error(f"final_logit_softcapping must be a positive number, found {cap!r:.80}")
    return {**heads, "causal-lm": heads["causal-lm"]._replace(softcap=cap)}


_NORMS = {
    "attention.layer_norm": "input_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.output_norm": "post_attention_layernorm",
    "feed_forward.layer_norm": "pre_feedforward_layernorm",
    "feed_forward.output_norm": "post_feedforward_layernorm",
}

GEMMA3 = Family(
    title="Gemma 3",
    model_class="Gemma3TextModel",
    prefixes=("", "model."),
    config=_config,
    names=(
        Names(
            outside={
                "embeddings.token": Block(DECODER_OUTSIDE["embeddings.token"], derive=_scaled),
                "layer_norm": Block(DECODER_OUTSIDE["layer_norm"], derive=_one_more),
            },
            layer=decoder_layer,
            inside={**DECODER_INSIDE, **{stem: Block(name, derive=_one_more) for stem, name in _NORMS.items()}},
        ),
    ),
    heads=_heads,
    has_bias=_has_bias,
)
