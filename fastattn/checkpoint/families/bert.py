"""BERT."""

from __future__ import annotations

from typing import Any

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Family, Head, Names, Step
from fastattn.checkpoint.layer_types import count_layers
from fastattn.checkpoint.rope import read_rope
from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig

__all__ = ["BERT", "EMBEDDINGS", "NAMES", "bert_config", "bert_layer", "rotary_bert_config"]


def bert_layer(settings: Settings, index: int) -> str:
    """Return the prefix of a layer's tensors."""
    return f"encoder.layer.{index}."


EMBEDDINGS = {
    "embeddings.token": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.layer_norm": "embeddings.LayerNorm",
}
NAMES = Names(
    outside=EMBEDDINGS,
    layer=bert_layer,
    inside={
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention.layer_norm": "attention.output.LayerNorm",
        "feed_forward.input": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.layer_norm": "output.LayerNorm",
    },
)


def bert_config(settings: Settings, positions_type: str = "absolute", /, **changes: Any) -> EncoderConfig:
    """Return the configuration from the keys that BERT and the models derived from it have, with `changes`."""
    settings.only(position_embedding_type=positions_type, is_decoder=False, add_cross_attention=False, pruned_heads={})
    fields: dict[str, Any] = {
        "num_layers": settings.size("num_hidden_layers"),
        "num_heads": settings.size("num_attention_heads"),
        "hidden_dim": settings.size("hidden_size"),
        "ff_dim": settings.size("intermediate_size"),
        "dropout": settings.number("hidden_dropout_prob", 0.0),
        "activation": settings.activation(),
        "layer_norm_eps": settings.number("layer_norm_eps", 1e-12),
        "positions": "learned",
        "vocab_size": settings.size("vocab_size"),
        "max_positions": settings.size("max_position_embeddings"),
        "type_vocab_size": settings.size("type_vocab_size", 2, least=0),
    }
    return EncoderConfig(**{**fields, **changes})


def rotary_bert_config(
    settings: Settings, positions_type: str, theta: float, *, key: str = "rope_theta", **changes: Any
) -> EncoderConfig:
    """Return the configuration of a BERT with rotary positions, whose base is `theta` unless the settings have another."""
    size = settings.optional_size("head_dim") or settings.size("hidden_size") // settings.size("num_attention_heads")
    rope = read_rope(settings, size, theta, key=key)
    fields = {
        "head_size": size,
        "positions": "rotary",
        "max_positions": rope.positions(settings.size("max_position_embeddings")),
        "layers": (LayerConfig(rotary=rope.rotary),) * count_layers(settings),
    }
    return bert_config(settings, positions_type, **fields, **changes)


def _heads(settings: Settings) -> dict[str, Head]:
    pooler = Step("pooler.dense", activation="tanh")
    transform = "cls.predictions.transform"
    return {
        "pooler": Head((pooler,), "cls"),
        "sequence-classification": Head((pooler, Step("classifier", "labels")), "cls"),
        "token-classification": Head((Step("classifier", "labels"),)),
        "masked-lm": Head(
            (
                Step(f"{transform}.dense", activation=settings.activation(), norm=f"{transform}.LayerNorm"),
                Step("cls.predictions.decoder", "vocab_size", bias_name="cls.predictions.bias", tied=True),
            )
        ),
    }


BERT = Family(
    title="BERT",
    model_class="BertModel",
    prefixes=("", "bert."),
    config=bert_config,
    names=(NAMES,),
    heads=_heads,
    has_token_types=True,
)
