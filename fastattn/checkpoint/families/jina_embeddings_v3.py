"""jina-embeddings-v3: XLM-RoBERTa with rotary positions."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, rotary_bert_config
from fastattn.checkpoint.families.family import Family, Names
from fastattn.checkpoint.families.roberta import FLASH_NAMES, roberta_heads
from fastattn.config import EncoderConfig

__all__ = ["JINA_EMBEDDINGS_V3"]


def _config(settings: Settings) -> EncoderConfig:
    eps, types = settings.number("layer_norm_eps", 1e-5), settings.size("type_vocab_size", 1)
    return rotary_bert_config(settings, "rotary", 20000.0, layer_norm_eps=eps, type_vocab_size=types)


def _layer(settings: Settings, index: int) -> str:
    return f"layers.{index}."


JINA_EMBEDDINGS_V3 = Family(
    title="jina-embeddings-v3",
    model_class="JinaEmbeddingsV3Model",
    prefixes=("", "roberta."),
    config=_config,
    names=(
        FLASH_NAMES,
        Names(
            outside=EMBEDDINGS,
            layer=_layer,
            inside={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.o_proj",
                "attention.layer_norm": "post_attention_layernorm",
                "feed_forward.input": "mlp.fc1",
                "feed_forward.output": "mlp.fc2",
                "feed_forward.layer_norm": "post_mlp_layernorm",
            },
        ),
    ),
    heads=roberta_heads,
)
