"""T5's encoder: RMS norms before the sublayers, no biases, scores without a scale, and one relative bias for all layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step, Stored
from fastattn.config import EncoderConfig

__all__ = ["MT5", "T5"]

# A relative bias ends no text; far above the length at which memory ends.
_NO_LIMIT = 2**31 - 1
_GATED = "gated-"


def _config(settings: Settings) -> EncoderConfig:
    named = settings.values.get("feed_forward_proj", "relu")
    gated = isinstance(named, str) and named.startswith(_GATED)
    # transformers takes the tanh form of gated-gelu, and of no other name.
    activation = "gelu_new" if named == "gated-gelu" else named.removeprefix(_GATED) if gated else named
    read = Settings(settings.path, {"feed_forward_proj": activation})
    return EncoderConfig(
        num_layers=settings.size("num_layers", 6),
        num_heads=settings.size("num_heads", 8),
        hidden_dim=settings.size("d_model", 512),
        ff_dim=settings.size("d_ff", 2048),
        dropout=settings.number("dropout_rate", 0.0),
        head_size=settings.size("d_kv", 64),
        activation=read.activation("feed_forward_proj"),
        gated=gated,
        norm="rms",
        norm_first=True,
        layer_norm_eps=settings.number("layer_norm_epsilon", 1e-6),
        vocab_size=settings.size("vocab_size", 32128),
        max_positions=_NO_LIMIT,
        attention_scale=1.0,
        relative_buckets=settings.size("relative_attention_num_buckets", 32, least=4),
        relative_max_distance=settings.size("relative_attention_max_distance", 128),
    )


def _has_bias(settings: Settings, stem: str) -> bool:
    return False


def _layer(settings: Settings, index: int) -> str:
    return f"encoder.block.{index}.layer."


def _heads(settings: Settings) -> dict[str, Head]:
    # The head for sequence classification needs the decoder.
    return {"token-classification": Head((Step("classifier", "labels"),))}


def _input(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the first matrix, which has another name beside a gate."""
    return stored.read(name.replace(".wi.", ".wi_1.") if stored.config.gated else name, shape)


def _names(table: str) -> Names:
    return Names(
        outside={
            "embeddings.token": table,
            "relative_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            "layer_norm": "encoder.final_layer_norm",
        },
        layer=_layer,
        inside={
            "attention.query": "0.SelfAttention.q",
            "attention.key": "0.SelfAttention.k",
            "attention.value": "0.SelfAttention.v",
            "attention.output": "0.SelfAttention.o",
            "attention.layer_norm": "0.layer_norm",
            "feed_forward.gate": "1.DenseReluDense.wi_0",
            "feed_forward.input": Block("1.DenseReluDense.wi", derive=_input),
            "feed_forward.output": "1.DenseReluDense.wo",
            "feed_forward.layer_norm": "1.layer_norm",
        },
    )


T5 = Family(
    title="T5 (encoder)",
    model_class="T5EncoderModel",
    prefixes=("", "transformer."),
    config=_config,
    # Files hold the shared table under either of its names, or both.
    names=tuple(map(_names, ("shared", "encoder.embed_tokens"))),
    heads=_heads,
    has_bias=_has_bias,
)
MT5 = T5._replace(title="mT5 (encoder)", model_class="MT5EncoderModel")
