"""ALBERT: layers in groups that share their tensors, and embeddings narrower than the hidden states."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config
from fastattn.checkpoint.families.family import Family, Head, Names, Step
from fastattn.config import EncoderConfig

__all__ = ["ALBERT"]

_ACTIVATION = "gelu_new"
# Layers share tensors, so the size of the file sets no limit to their number.
_MOST_LAYERS = 1000


def _config(settings: Settings) -> EncoderConfig:
    # Options of the original ALBERT's configuration.
    settings.only(net_structure_type=0, num_memory_blocks=0, gap_size=0, down_scale_factor=1)
    outer, inner = settings.size("num_hidden_layers"), settings.size("inner_group_num", 1)
    if outer * inner > _MOST_LAYERS:
        found = f"num_hidden_layers {outer} of inner_group_num {inner}"
        raise settings.error(f"{found} is not supported; supported: {_MOST_LAYERS} layers in all")
    return bert_config(
        settings,
        num_layers=outer * inner,
        activation=settings.activation(default=_ACTIVATION),
        embedding_dim=settings.size("embedding_size", 128),
    )


def _layer(settings: Settings, index: int) -> str:
    outer, inner = divmod(index, settings.size("inner_group_num", 1))
    # In transformers' order of divisions: another order rounds to other groups if the groups do not divide the layers.
    group = int(outer / (settings.size("num_hidden_layers") / settings.size("num_hidden_groups", 1)))
    return f"encoder.albert_layer_groups.{group}.albert_layers.{inner}."


def _heads(settings: Settings) -> dict[str, Head]:
    pooler, classifier = Step("pooler", activation="tanh"), Step("classifier", "labels")
    activation = settings.activation(default=_ACTIVATION)
    return {
        "pooler": Head((pooler,), "cls"),
        "sequence-classification": Head((pooler, classifier), "cls"),
        "token-classification": Head((classifier,)),
        "masked-lm": Head(
            (
                Step("predictions.dense", "input_dim", activation=activation, norm="predictions.LayerNorm"),
                Step("predictions.decoder", "vocab_size", bias_name="predictions.bias", tied=True),
            )
        ),
    }


ALBERT = Family(
    title="ALBERT",
    model_class="AlbertModel",
    prefixes=("", "albert."),
    config=_config,
    names=(
        Names(
            outside={**EMBEDDINGS, "embeddings.projection": "encoder.embedding_hidden_mapping_in"},
            layer=_layer,
            inside={
                "attention.query": "attention.query",
                "attention.key": "attention.key",
                "attention.value": "attention.value",
                "attention.output": "attention.dense",
                "attention.layer_norm": "attention.LayerNorm",
                "feed_forward.input": "ffn",
                "feed_forward.output": "ffn_output",
                "feed_forward.layer_norm": "full_layer_layer_norm",
            },
        ),
    ),
    heads=_heads,
)
