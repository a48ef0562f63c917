"""MPNet: BERT with a relative bias, shared by all layers, and RoBERTa's positions; no token types."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config, bert_layer
from fastattn.checkpoint.families.family import Family, Names
from fastattn.checkpoint.families.roberta import roberta_heads
from fastattn.config import EncoderConfig

__all__ = ["MPNET"]

# Rows 0 and 1 of the position table are not positions of tokens, whatever pad_token_id says.
_FIRST_POSITION = 2


def _config(settings: Settings) -> EncoderConfig:
    # transformers always computes 32 buckets, even if this key, the size of the table, has another value.
    settings.only(relative_attention_num_buckets=32)
    rows = settings.size("max_position_embeddings")
    return bert_config(settings, type_vocab_size=0, max_positions=rows - _FIRST_POSITION, relative_buckets=32)


def _first_position(settings: Settings) -> int:
    return _FIRST_POSITION


MPNET = Family(
    title="MPNet",
    model_class="MPNetModel",
    prefixes=("", "mpnet."),
    config=_config,
    names=(
        Names(
            outside={**EMBEDDINGS, "relative_bias": "encoder.relative_attention_bias"},
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
    first_position=_first_position,
)
