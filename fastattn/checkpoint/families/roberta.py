"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that begin behind the padding's, and other heads."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import NAMES, bert_config
from fastattn.checkpoint.families.family import Family, Head, Step
from fastattn.config import EncoderConfig

__all__ = ["CAMEMBERT", "ROBERTA", "XLM_ROBERTA", "roberta_heads"]


def _config(settings: Settings) -> EncoderConfig:
    rows, padding = settings.size("max_position_embeddings"), settings.size("pad_token_id", 1, least=0)
    return bert_config(settings, max_positions=rows - padding - 1, padding_idx=padding)


def roberta_heads(settings: Settings) -> dict[str, Head]:
    """Return the heads that RoBERTa and MPNet share."""
    return {
        "pooler": Head((Step("pooler.dense", activation="tanh"),), "cls"),
        "sequence-classification": Head(
            (Step("classifier.dense", activation="tanh"), Step("classifier.out_proj", "labels")), "cls"
        ),
        "token-classification": Head((Step("classifier", "labels"),)),
        "masked-lm": Head(
            (
                Step("lm_head.dense", activation="gelu", norm="lm_head.layer_norm"),
                Step("lm_head.decoder", "vocab_size", bias_name="lm_head.bias", tied=True),
            )
        ),
    }


ROBERTA = Family(
    title="RoBERTa",
    model_class="RobertaModel",
    prefixes=("", "roberta."),
    config=_config,
    names=(NAMES,),
    heads=roberta_heads,
)
XLM_ROBERTA = ROBERTA._replace(title="XLM-RoBERTa", model_class="XLMRobertaModel")
CAMEMBERT = ROBERTA._replace(title="CamemBERT", model_class="CamembertModel")
