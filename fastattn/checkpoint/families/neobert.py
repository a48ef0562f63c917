"""NeoBERT: RMS norms before each sublayer, rotary positions and a gate; queries, keys and values of a head side by side.

Its rotary positions turn neighbouring channels, 2 i with 2 i + 1, so rows of queries and keys are put in the encoder's order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Block, Derive, Family, Head, Names, Step, Stored
from fastattn.checkpoint.layer_types import count_layers
from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig, default_rotary

__all__ = ["NEOBERT"]

# The code has no settings for these.
_THETA, _FF_MULTIPLE = 10000.0, 8


def _config(settings: Settings) -> EncoderConfig:
    # Options of the code with which the first models were trained.
    settings.only(rms_norm=True, rope=True, ngpt=False, hidden_act="SwiGLU")
    width, heads, count = settings.size("hidden_size", 768), settings.size("num_attention_heads", 12), count_layers(settings)
    two_thirds = int(2 * settings.size("intermediate_size", 3072) / 3)
    if width % (2 * heads):
        raise settings.error(f"num_attention_heads must give heads of an even size, found {heads} for a hidden_size of {width}")
    return EncoderConfig(
        num_layers=count,
        num_heads=heads,
        hidden_dim=width,
        ff_dim=-(-two_thirds // _FF_MULTIPLE) * _FF_MULTIPLE,
        activation="silu",
        norm="rms",
        norm_first=True,
        layer_norm_eps=settings.number("norm_eps", 1e-6),
        positions="rotary",
        vocab_size=settings.size("vocab_size"),
        max_positions=settings.size("max_length", 1024),
        gated=True,
        layers=(LayerConfig(rotary=default_rotary(_THETA, width // heads)),) * count,
    )


def _layer(settings: Settings, index: int) -> str:
    return f"transformer_encoder.{index}."


def _third(part: int, *, turned: bool) -> Derive:
    """Return what takes one third of each head's rows, and with `turned` its even rows before its odd ones."""

    def derive(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        heads, size = stored.config.num_heads, stored.config.head_dim
        rows = stored.read(name, (3 * shape[0], *shape[1:])).reshape(heads, 3, size, *shape[1:])[:, part]
        if turned:
            rows = np.concatenate([rows[:, ::2], rows[:, 1::2]], axis=1)
        return rows.reshape(shape)

    return derive


def _heads(settings: Settings) -> dict[str, Head]:
    return {
        "sequence-classification": Head((Step("dense", activation="tanh"), Step("classifier", "labels")), "cls"),
        "masked-lm": Head((Step("decoder", "vocab_size"),)),
    }


NEOBERT = Family(
    title="NeoBERT",
    # Not in transformers.
    model_class="NeoBERT",
    prefixes=("", "model."),
    config=_config,
    names=(
        Names(
            outside={"embeddings.token": "encoder", "layer_norm": "layer_norm"},
            layer=_layer,
            inside={
                "attention.layer_norm": "attention_norm",
                "attention.query": Block("qkv", derive=_third(0, turned=True)),
                "attention.key": Block("qkv", derive=_third(1, turned=True)),
                "attention.value": Block("qkv", derive=_third(2, turned=False)),
                "attention.output": "wo",
                "feed_forward.layer_norm": "ffn_norm",
                "feed_forward.gate": Block("ffn.w12", 0, 2),
                "feed_forward.input": Block("ffn.w12", 1, 2),
                "feed_forward.output": "ffn.w3",
            },
        ),
    ),
    heads=_heads,
    has_bias=lambda settings, stem: False,
    has_token_types=True,
)
