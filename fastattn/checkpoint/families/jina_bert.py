"""BERT, and the JinaBERT that has its model type: ALiBi in place of positions, and a gate.

The checkpoints of code models norm queries and keys too, and the sum behind the attention twice.
"""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import BERT, EMBEDDINGS, NAMES, bert_config, bert_layer
from fastattn.checkpoint.families.family import Block, Names, all_but_tables
from fastattn.config import Activation, EncoderConfig

__all__ = ["BERT_OR_JINA"]

_GATED: dict[str, Activation] = {"geglu": "gelu", "reglu": "relu"}
_PLAIN = "original"
_ATTENTION = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.layer_norm": "attention.output.LayerNorm",
}


def _is_jina(settings: Settings) -> bool:
    return bool(settings.values.get("position_embedding_type") == "alibi")


def _kind(settings: Settings) -> str:
    return settings.choice("feed_forward_type", _PLAIN, (_PLAIN, *_GATED))


def _config(settings: Settings) -> EncoderConfig:
    if not _is_jina(settings):
        return bert_config(settings)
    kind = _kind(settings)
    gate = {} if kind == _PLAIN else {"gated": True, "activation": _GATED[kind]}
    return bert_config(settings, "alibi", positions="alibi", **gate)


def _has_bias(settings: Settings, stem: str) -> bool:
    no_bias = _is_jina(settings) and _kind(settings) != _PLAIN and stem in ("feed_forward.gate", "feed_forward.input")
    return all_but_tables(settings, stem) and not no_bias


BERT_OR_JINA = BERT._replace(
    config=_config,
    names=(
        NAMES,
        Names(
            outside=EMBEDDINGS,
            layer=bert_layer,
            inside={
                **_ATTENTION,
                "feed_forward.gate": Block("mlp.gated_layers", 0, 2),
                "feed_forward.input": Block("mlp.gated_layers", 1, 2),
                "feed_forward.output": "mlp.wo",
                "feed_forward.layer_norm": "mlp.layernorm",
            },
        ),
        Names(
            outside=EMBEDDINGS,
            layer=bert_layer,
            inside={
                **_ATTENTION,
                "attention.query_norm": "attention.self.layer_norm_q",
                "attention.key_norm": "attention.self.layer_norm_k",
                "attention.output_norm": "attention.output.LayerNorm",
                "attention.layer_norm": "layer_norm_1",
                # The gate comes second here.
                "feed_forward.input": Block("mlp.up_gated_layer", 0, 2),
                "feed_forward.gate": Block("mlp.up_gated_layer", 1, 2),
                "feed_forward.output": "mlp.down_layer",
                "feed_forward.layer_norm": "layer_norm_2",
            },
            fields={"query_key_norm": "full", "output_norms": True},
        ),
    ),
    has_bias=_has_bias,
)
