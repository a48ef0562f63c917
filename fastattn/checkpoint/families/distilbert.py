"""DistilBERT: BERT without token types, and with its own keys in ``config.json``."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS
from fastattn.checkpoint.families.family import Family, Head, Names, Step
from fastattn.config import EncoderConfig

__all__ = ["DISTILBERT"]


def _config(settings: Settings) -> EncoderConfig:
    # Sinusoidal positions (sinusoidal_pos_embds) are stored like learned ones.
    settings.only(position_embedding_type="absolute", pruned_heads={})
    return EncoderConfig(
        num_layers=settings.size("n_layers"),
        num_heads=settings.size("n_heads"),
        hidden_dim=settings.size("dim"),
        ff_dim=settings.size("hidden_dim"),
        dropout=settings.number("dropout", 0.0),
        activation=settings.activation("activation"),
        layer_norm_eps=1e-12,
        positions="learned",
        vocab_size=settings.size("vocab_size"),
        max_positions=settings.size("max_position_embeddings"),
    )


def _layer(settings: Settings, index: int) -> str:
    return f"transformer.layer.{index}."


def _heads(settings: Settings) -> dict[str, Head]:
    classifier = Step("classifier", "labels")
    return {
        "sequence-classification": Head((Step("pre_classifier", activation="relu"), classifier), "cls"),
        "token-classification": Head((classifier,)),
        "masked-lm": Head(
            (
                Step("vocab_transform", activation=settings.activation("activation"), norm="vocab_layer_norm"),
                Step("vocab_projector", "vocab_size", tied=True),
            )
        ),
    }


DISTILBERT = Family(
    title="DistilBERT",
    model_class="DistilBertModel",
    prefixes=("", "distilbert."),
    config=_config,
    names=(
        Names(
            outside=EMBEDDINGS,
            layer=_layer,
            inside={
                "attention.query": "attention.q_lin",
                "attention.key": "attention.k_lin",
                "attention.value": "attention.v_lin",
                "attention.output": "attention.out_lin",
                "attention.layer_norm": "sa_layer_norm",
                "feed_forward.input": "ffn.lin1",
                "feed_forward.output": "ffn.lin2",
                "feed_forward.layer_norm": "output_layer_norm",
            },
        ),
    ),
    heads=_heads,
    has_token_types=True,
)
