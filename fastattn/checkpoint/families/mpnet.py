"""MPNet: BERT with a relative bias, shared by all layers, and RoBERTa's positions; no token types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config, bert_layer
from fastattn.checkpoint.families.family import Block, Family, Names, Stored
from fastattn.checkpoint.families.roberta import roberta_heads
from fastattn.config import EncoderConfig

__all__ = ["MPNET"]

# The padding's id and its row of the position table, whatever pad_token_id says.
_PADDING = 1
# transformers always computes so many buckets, and does not use further rows of the table.
_BUCKETS = 32


def _config(settings: Settings) -> EncoderConfig:
    settings.size("relative_attention_num_buckets", _BUCKETS, least=_BUCKETS)
    rows = settings.size("max_position_embeddings")
    positions = rows - _PADDING - 1
    return bert_config(settings, type_vocab_size=0, max_positions=positions, padding_idx=_PADDING, relative_buckets=_BUCKETS)


def _buckets(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    rows = stored.settings.size("relative_attention_num_buckets", _BUCKETS)
    return stored.read(name, (rows, shape[1]))[:_BUCKETS]


MPNET = Family(
    title="MPNet",
    model_class="MPNetModel",
    prefixes=("", "mpnet."),
    config=_config,
    names=(
        Names(
            outside={**EMBEDDINGS, "relative_bias": Block("encoder.relative_attention_bias", derive=_buckets)},
            layer=bert_layer,
            inside={
                "attention.query": "attention.attn.q",
                "attention.key": "attention.attn.k",
                "attention.value": "attention.attn.v",
                "attention.output": "attention.attn.o",
                "attention.layer_norm": "attention.LayerNorm",
                "feed_forward.input": "intermediate.dense",
                "feed_forward.output": "output.dense",
                "feed_forward.layer_norm": "output.LayerNorm",
            },
        ),
    ),
    heads=roberta_heads,
)
