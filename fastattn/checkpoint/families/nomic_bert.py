"""NomicBERT: BERT with rotary positions, a gate and few biases.

``config.json`` has the keys of the original code (``n_embd``) or those of transformers; independently of the keys, the tensors
have the names of either.
"""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step, all_but_tables
from fastattn.config import Activation, EncoderConfig

__all__ = ["NOMIC_BERT"]

_GATED: dict[str, Activation] = {"swiglu": "silu", "geglu": "gelu"}
# The original code rounds the width of a gated feed-forward network up to a multiple of this.
_FF_MULTIPLE = 256


def _is_first(settings: Settings) -> bool:
    return "n_embd" in settings.values


def _first_activation(settings: Settings) -> Activation:
    return settings.activation("activation_function", "gelu_new", _GATED)


def _config(settings: Settings) -> EncoderConfig:
    if _is_first(settings):
        return _first_config(settings)
    head_dim = settings.size("hidden_size") // settings.size("num_attention_heads")
    settings.only(head_dim=head_dim, rope_scaling={}, partial_rotary_factor=1.0)
    return bert_config(
        settings,
        activation=settings.activation(default="silu"),
        positions="rotary",
        rotary_theta=settings.theta("rope_theta", 1000.0),
        gated=True,
    )


def _first_config(settings: Settings) -> EncoderConfig:
    if settings.number("rotary_emb_fraction", 0.0) != 1:
        found = settings.values.get("rotary_emb_fraction", 0.0)
        raise settings.error(f"rotary_emb_fraction {found!r} is not supported; supported: 1.0")
    settings.only(
        rotary_emb_interleaved=False,
        rotary_emb_scale_base=False,
        rotary_head_dim=False,
        prenorm=False,
        parallel_block=False,
        parallel_block_tied_norm=False,
        causal=False,
        use_rms_norm=False,
        norm_mlp=False,
        scale_attn_by_inverse_layer_idx=False,
        scale_attn_weights=True,
        num_heads_kv=settings.size("n_head"),
    )
    vocab_size, multiple = settings.size("vocab_size"), settings.size("pad_vocab_size_multiple", 1)
    # With rotary_scaling_factor, texts of more than max_trained_positions tokens get other angles: they are not supported.
    scaled = bool(settings.values.get("rotary_scaling_factor"))
    return EncoderConfig(
        num_layers=settings.size("n_layer"),
        num_heads=settings.size("n_head"),
        hidden_dim=settings.size("n_embd"),
        ff_dim=-(-settings.size("n_inner") // _FF_MULTIPLE) * _FF_MULTIPLE,
        dropout=settings.number("resid_pdrop", 0.0),
        activation=_first_activation(settings),
        layer_norm_eps=settings.number("layer_norm_epsilon", 1e-5),
        positions="rotary",
        vocab_size=-(-vocab_size // multiple) * multiple,
        max_positions=settings.size("max_trained_positions", 2048) if scaled else settings.size("n_positions"),
        type_vocab_size=settings.size("type_vocab_size", 2, least=0),
        rotary_theta=settings.number("rotary_emb_base", 10000.0),
        gated=True,
    )


def _has_bias(settings: Settings, stem: str) -> bool:
    if stem.endswith("layer_norm"):
        return True
    default = _is_first(settings)
    if stem.startswith("attention."):
        return settings.flag("qkv_proj_bias", default)
    key = "mlp_fc2_bias" if stem == "feed_forward.output" else "mlp_fc1_bias"
    return all_but_tables(settings, stem) and settings.flag(key, default)


def _first_layer(settings: Settings, index: int) -> str:
    return f"encoder.layers.{index}."


def _layer(settings: Settings, index: int) -> str:
    return f"layers.{index}."


def _heads(settings: Settings) -> dict[str, Head]:
    if _is_first(settings):
        activation, bias = _first_activation(settings), settings.flag("mlp_fc1_bias", True)
    else:
        activation, bias = settings.activation(default="silu"), True
    transform, classifier = "cls.predictions.transform", Step("classifier", "labels")
    pooler = Step("pooler.dense", activation="tanh")
    return {
        "pooler": Head((pooler,), "cls"),
        "sequence-classification": Head((pooler, classifier), "cls"),
        "token-classification": Head((classifier,)),
        "masked-lm": Head(
            (
                Step(f"{transform}.dense", activation=activation, norm=f"{transform}.layer_norm", bias=bias),
                Step("cls.predictions.decoder", "vocab_size", bias=bias, bias_name="cls.predictions.bias", tied=True),
            )
        ),
    }


NOMIC_BERT = Family(
    title="NomicBERT",
    model_class="NomicBertModel",
    prefixes=("", "nomic_bert.", "bert."),
    config=_config,
    names=(
        Names(
            outside={**EMBEDDINGS, "embeddings.layer_norm": "emb_ln"},
            layer=_first_layer,
            inside={
                "attention.query": Block("attn.Wqkv", 0, 3),
                "attention.key": Block("attn.Wqkv", 1, 3),
                "attention.value": Block("attn.Wqkv", 2, 3),
                "attention.output": "attn.out_proj",
                "attention.layer_norm": "norm1",
                "feed_forward.input": "mlp.fc11",
                "feed_forward.gate": "mlp.fc12",
                "feed_forward.output": "mlp.fc2",
                "feed_forward.layer_norm": "norm2",
            },
        ),
        Names(
            outside=EMBEDDINGS,
            layer=_layer,
            inside={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.o_proj",
                "attention.layer_norm": "post_attention_layernorm",
                "feed_forward.input": "mlp.up_proj",
                "feed_forward.gate": "mlp.gate_proj",
                "feed_forward.output": "mlp.down_proj",
                "feed_forward.layer_norm": "post_mlp_layernorm",
            },
        ),
    ),
    heads=_heads,
    has_bias=_has_bias,
    has_token_types=True,
)
