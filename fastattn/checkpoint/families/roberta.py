"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that begin behind the padding's, and other heads."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, NAMES, bert_config, rotary_bert_config
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step
from fastattn.config import EncoderConfig

__all__ = ["CAMEMBERT", "FLASH_NAMES", "ROBERTA", "XLM_ROBERTA", "roberta_heads"]


def _flash_layer(settings: Settings, index: int) -> str:
    return f"encoder.layers.{index}."


# Of Jina AI's XLM-RoBERTa.
FLASH_NAMES = Names(
    outside={**EMBEDDINGS, "embeddings.layer_norm": "emb_ln"},
    layer=_flash_layer,
    inside={
        "attention.query": Block("mixer.Wqkv", 0, 3),
        "attention.key": Block("mixer.Wqkv", 1, 3),
        "attention.value": Block("mixer.Wqkv", 2, 3),
        "attention.output": "mixer.out_proj",
        "attention.layer_norm": "norm1",
        "feed_forward.input": "mlp.fc1",
        "feed_forward.output": "mlp.fc2",
        "feed_forward.layer_norm": "norm2",
    },
)


def _config(settings: Settings) -> EncoderConfig:
    rows, padding = settings.size("max_position_embeddings"), settings.size("pad_token_id", 1, least=0)
    return bert_config(settings, max_positions=rows - padding - 1, padding_idx=padding)


def _xlm_config(settings: Settings) -> EncoderConfig:
    if settings.values.get("position_embedding_type") != "rotary":
        return _config(settings)
    # Jina AI's code; transformers' class has no rotary positions.
    head_dim = settings.size("hidden_size") // settings.size("num_attention_heads")
    settings.only(rotary_emb_interleaved=False, rotary_emb_scale_base=False, rotary_emb_dim=head_dim)
    eps = settings.number("layer_norm_eps", 1e-5)
    return rotary_bert_config(settings, "rotary", 10000.0, key="rotary_emb_base", layer_norm_eps=eps)


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
XLM_ROBERTA = ROBERTA._replace(title="XLM-RoBERTa", model_class="XLMRobertaModel", config=_xlm_config, names=(NAMES, FLASH_NAMES))
CAMEMBERT = ROBERTA._replace(title="CamemBERT", model_class="CamembertModel")
