"""ELECTRA: BERT with embeddings that may be narrower than the hidden states, other heads and no pooler."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, NAMES, bert_config
from fastattn.checkpoint.families.family import Family, Head, Step
from fastattn.config import EncoderConfig

__all__ = ["ELECTRA"]


def _config(settings: Settings) -> EncoderConfig:
    width = settings.size("embedding_size", 128)
    return bert_config(settings, embedding_dim=None if width == settings.size("hidden_size") else width)


def _heads(settings: Settings) -> dict[str, Head]:
    return {
        "sequence-classification": Head(
            (Step("classifier.dense", activation="gelu"), Step("classifier.out_proj", "labels")), "cls"
        ),
        "token-classification": Head((Step("classifier", "labels"),)),
        "masked-lm": Head(
            (
                Step("generator_predictions.dense", "input_dim", activation="gelu", norm="generator_predictions.LayerNorm"),
                Step("generator_lm_head", "vocab_size", tied=True),
            )
        ),
    }


ELECTRA = Family(
    title="ELECTRA",
    model_class="ElectraModel",
    prefixes=("", "electra."),
    config=_config,
    names=(NAMES._replace(outside={**EMBEDDINGS, "embeddings.projection": "embeddings_project"}),),
    heads=_heads,
    has_token_types=True,
)
