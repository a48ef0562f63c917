"""MPNet: BERT with a relative bias, shared by all layers, and RoBERTa's positions; no token types."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config, bert_layer
from fastattn.checkpoint.families.family import Family, Names
from fastattn.checkpoint.families.roberta import roberta_heads
from fastattn.config import EncoderConfig

__all__ = ["MPNET"]

# The padding's id and its row of the position table, whatever pad_token_id says.
_PADDING = 1


def _config(settings: Settings) -> EncoderConfig:
    # transformers always computes 32 buckets, even if this key, the size of the table, has another value.
    settings.only(relative_attention_num_buckets=32)
    rows = settings.size("max_position_embeddings")
    return bert_config(settings, type_vocab_size=0, max_positions=rows - _PADDING - 1, padding_idx=_PADDING, relative_buckets=32)


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
)
