"""NomicBERT: BERT with rotary positions, and a gate and few biases, or experts in every other layer.

``config.json`` has the keys of the original code (``n_embd``) or those of transformers; independently of the keys, the tensors
have the names of either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, bert_config
from fastattn.checkpoint.families.family import Block, Derive, Family, Head, Names, Step, Stored, all_but_tables
from fastattn.checkpoint.layer_types import count_layers
from fastattn.checkpoint.rope import read_rope
from fastattn.config import Activation, EncoderConfig
from fastattn.layer_config import LayerConfig

__all__ = ["GATED_NAMES", "NOMIC_BERT"]

_GATED: dict[str, Activation] = {"swiglu": "silu", "geglu": "gelu"}
_FIRST: dict[str, Activation] = {**_GATED, "gelu": "gelu"}
# The original code rounds the width of a gated feed-forward network up to a multiple of this.
_FF_MULTIPLE = 256


def _is_first(settings: Settings) -> bool:
    return "n_embd" in settings.values


def _first_activation(settings: Settings) -> Activation:
    return settings.activation("activation_function", "gelu_new", _FIRST)


def _first_experts(settings: Settings, layer: int) -> tuple[int, int] | None:
    """Return how many experts a layer has, and how many of them a token takes; None for none."""
    every = settings.optional_size("moe_every_n_layers") if settings.values.get("moe_every_n_layers") else None
    if every is None or layer % every != 1:
        return None
    return settings.size("num_experts"), settings.size("moe_top_k")


def _config(settings: Settings) -> EncoderConfig:
    if _is_first(settings):
        return _first_config(settings)
    size = settings.optional_size("head_dim") or settings.size("hidden_size") // settings.size("num_attention_heads")
    rope = read_rope(settings, size, 1000.0)
    return bert_config(
        settings,
        activation=settings.activation(default="silu"),
        head_size=size,
        positions="rotary",
        max_positions=rope.positions(settings.size("max_position_embeddings")),
        gated=True,
        layers=(LayerConfig(rotary=rope.rotary),) * count_layers(settings),
    )


def _first_config(settings: Settings) -> EncoderConfig:
    share, base = settings.number("rotary_emb_fraction", 0.0), settings.number("rotary_emb_base", 10000.0)
    heads, width = settings.size("n_head"), settings.size("n_embd")
    if not 0 < share <= 1:
        raise settings.error(f"rotary_emb_fraction {share!r} is not supported; supported: more than 0, at most 1")
    # The rule of `read_rope`, on the numbers under this code's names.
    described = {"rope_parameters": {"rope_theta": base, "partial_rotary_factor": share}}
    rotary = read_rope(Settings(settings.path, described), width // heads, key="rotary_emb_base", partial=True).rotary
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
        num_heads_kv=heads,
        moe_normalize_expert_weights=False,
        expert_choice_router=False,
        num_shared_experts=0,
        ffn_div=1,
    )
    gated, inner, layers = settings.choice("activation_function", "gelu_new", _FIRST) in _GATED, settings.size("n_inner"), []
    for i in range(count_layers(settings, "n_layer")):
        layers.append(LayerConfig(rotary=rotary, experts=_first_experts(settings, i)))
    vocab_size, multiple = settings.size("vocab_size"), settings.size("pad_vocab_size_multiple", 1)
    # With rotary_scaling_factor, texts of more than max_trained_positions tokens get other angles: they are not supported.
    scaled = bool(settings.values.get("rotary_scaling_factor"))
    return EncoderConfig(
        num_layers=len(layers),
        num_heads=heads,
        hidden_dim=width,
        ff_dim=-(-inner // _FF_MULTIPLE) * _FF_MULTIPLE if gated else inner,
        dropout=settings.number("resid_pdrop", 0.0),
        activation=_first_activation(settings),
        layer_norm_eps=settings.number("layer_norm_epsilon", 1e-5),
        positions="rotary",
        vocab_size=-(-vocab_size // multiple) * multiple,
        max_positions=settings.size("max_trained_positions", 2048) if scaled else settings.size("n_positions"),
        type_vocab_size=settings.size("type_vocab_size", 2, least=0),
        gated=gated,
        layers=tuple(layers),
    )


def _has_bias(settings: Settings, stem: str) -> bool:
    if stem.endswith("layer_norm"):
        return True
    default = _is_first(settings)
    if stem.startswith("attention."):
        return settings.flag("qkv_proj_bias", default)
    if stem.startswith(("feed_forward.router", "feed_forward.experts")):
        return False
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


def _expert(name: str) -> Derive:
    """Return what reads a tensor of the experts, whose name has no part."""

    def derive(stored: Stored, _: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return stored.read(f"{stored.layer}mlp.experts.{name}", shape)

    return derive


def _expert_outputs(stored: Stored, _: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the second matrix of each expert (E C, F), which is stored the other way round, (E F, C)."""
    width, inner = stored.config.hidden_dim, shape[1]
    whole = stored.read(f"{stored.layer}mlp.experts.mlp.w2", (shape[0] // width * inner, width))
    return np.ascontiguousarray(whole.reshape(-1, inner, width).swapaxes(1, 2)).reshape(shape)


_ATTENTION: dict[str, str | Block] = {
    "attention.query": Block("attn.Wqkv", 0, 3),
    "attention.key": Block("attn.Wqkv", 1, 3),
    "attention.value": Block("attn.Wqkv", 2, 3),
    "attention.output": "attn.out_proj",
    "attention.layer_norm": "norm1",
}
_BEHIND: dict[str, str | Block] = {"feed_forward.output": "mlp.fc2", "feed_forward.layer_norm": "norm2"}
_OUTSIDE: dict[str, str | Block] = {**EMBEDDINGS, "embeddings.layer_norm": "emb_ln"}
# Names of transformers' own classes with a gate and norms behind the sums.
GATED_NAMES = Names(
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
)
NOMIC_BERT = Family(
    title="NomicBERT",
    model_class="NomicBertModel",
    prefixes=("", "nomic_bert.", "bert."),
    config=_config,
    names=(
        Names(_OUTSIDE, _first_layer, {**_ATTENTION, "feed_forward.input": "mlp.fc11", "feed_forward.gate": "mlp.fc12", **_BEHIND}),
        Names(
            _OUTSIDE,
            _first_layer,
            {
                **_ATTENTION,
                "feed_forward.input": "mlp.fc1",
                "feed_forward.router": "mlp.router.layer",
                "feed_forward.experts.input": Block("mlp.experts.mlp.w1", derive=_expert("mlp.w1")),
                "feed_forward.experts.output": Block("mlp.experts.mlp.w2", derive=_expert_outputs),
                "feed_forward.experts_bias": Block("mlp.experts.bias", derive=_expert("bias")),
                **_BEHIND,
            },
        ),
        GATED_NAMES,
    ),
    heads=_heads,
    has_bias=_has_bias,
    has_token_types=True,
)
