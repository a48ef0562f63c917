"""ESM: a BERT of proteins with layer norms before the sublayers, and embeddings scaled for the tokens that are masked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import bert_config, bert_layer, rotary_bert_config
from fastattn.checkpoint.families.family import Block, Family, Names, Stored
from fastattn.checkpoint.families.roberta import roberta_heads
from fastattn.config import EncoderConfig

__all__ = ["ESM"]

_NORM = "embeddings.layer_norm"
# Of the tokens in training, so many kept their embeddings: 15 % were chosen, and 80 % of these masked.
_SHOWN = 1 - 0.15 * 0.8


def _config(settings: Settings) -> EncoderConfig:
    settings.only(is_folding_model=False)
    kind = settings.choice("position_embedding_type", "absolute", ("absolute", "rotary"))
    mask = settings.size("mask_token_id", least=0) if settings.flag("token_dropout", False) else None
    fields: dict[str, Any] = {"activation": "gelu", "norm_first": True, "type_vocab_size": 0, "mask_idx": mask}
    if kind == "rotary":
        return rotary_bert_config(settings, kind, 10000.0, **fields)
    rows, padding = settings.size("max_position_embeddings"), settings.size("pad_token_id", least=0)
    return bert_config(settings, kind, max_positions=rows - padding - 1, padding_idx=padding, **fields)


def _tokens(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the token embeddings as texts without a masked token have them."""
    table = stored.read(name, shape)
    return table if stored.config.mask_idx is None else np.asarray(table * np.float32(_SHOWN))


def _absent(settings: Settings, parameter: str) -> bool:
    return parameter == _NORM and not settings.values.get("emb_layer_norm_before")


ESM = Family(
    title="ESM",
    model_class="EsmModel",
    prefixes=("", "esm."),
    config=_config,
    names=(
        Names(
            outside={
                "embeddings.token": Block("embeddings.word_embeddings", derive=_tokens),
                "embeddings.position": "embeddings.position_embeddings",
                _NORM: "embeddings.layer_norm",
                "layer_norm": "encoder.emb_layer_norm_after",
            },
            layer=bert_layer,
            inside={
                "attention.query": "attention.self.query",
                "attention.key": "attention.self.key",
                "attention.value": "attention.self.value",
                "attention.output": "attention.output.dense",
                "attention.layer_norm": "attention.LayerNorm",
                "feed_forward.input": "intermediate.dense",
                "feed_forward.output": "output.dense",
                "feed_forward.layer_norm": "LayerNorm",
            },
        ),
    ),
    heads=roberta_heads,
    absent=_absent,
)
