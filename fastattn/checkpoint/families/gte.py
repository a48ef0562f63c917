"""GTE: BERT with rotary positions, a gate, and few biases.

``config.json`` has the model type of the original code (``new``) or that of transformers (``gte``), and the tensors the names of
either.
"""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, rotary_bert_config
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step, all_but_tables
from fastattn.checkpoint.families.nomic_bert import GATED_NAMES
from fastattn.config import EncoderConfig

__all__ = ["GTE", "NEW"]


def _config(settings: Settings) -> EncoderConfig:
    settings.only(
        layer_norm_type="layer_norm", logn_attention_scale=False, logn_attention_clip1=False, pack_qkv=True, is_decoder=False
    )
    types = settings.size("type_vocab_size", 1, least=0)
    return rotary_bert_config(settings, "rope", 160000.0, gated=True, type_vocab_size=types)


def _has_bias(settings: Settings, stem: str) -> bool:
    return all_but_tables(settings, stem) and stem not in ("feed_forward.gate", "feed_forward.input")


def _first_layer(settings: Settings, index: int) -> str:
    return f"encoder.layer.{index}."


def _heads(settings: Settings) -> dict[str, Head]:
    pooler, classifier = Step("pooler.dense", activation="tanh"), Step("classifier", "labels")
    # transformers' class ignores the activation of the configuration here.
    activation = settings.activation() if settings.values["model_type"] == "new" else "gelu"
    return {
        "pooler": Head((pooler,), "cls"),
        "sequence-classification": Head((pooler, classifier), "cls"),
        "token-classification": Head((classifier,)),
        "masked-lm": Head(
            (
                Step("lm_head.dense", activation=activation, norm="lm_head.norm"),
                Step("lm_head.decoder", "vocab_size", tied=True),
            )
        ),
    }


GTE = Family(
    title="GTE",
    model_class="GteModel",
    prefixes=("", "new.", "gte."),
    config=_config,
    names=(
        Names(
            outside=EMBEDDINGS,
            layer=_first_layer,
            inside={
                "attention.query": Block("attention.qkv_proj", 0, 3),
                "attention.key": Block("attention.qkv_proj", 1, 3),
                "attention.value": Block("attention.qkv_proj", 2, 3),
                "attention.output": "attention.o_proj",
                "attention.layer_norm": "attn_ln",
                "feed_forward.input": Block("mlp.up_gate_proj", 0, 2),
                "feed_forward.gate": Block("mlp.up_gate_proj", 1, 2),
                "feed_forward.output": "mlp.down_proj",
                "feed_forward.layer_norm": "mlp_ln",
            },
        ),
        GATED_NAMES,
    ),
    heads=_heads,
    has_bias=_has_bias,
)
NEW = GTE._replace(title="GTE (original code)")
