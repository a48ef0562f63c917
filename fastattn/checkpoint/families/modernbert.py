"""ModernBERT: pre-norm, rotary positions, a gate, and local layers, which attend to a window, between global ones."""

from __future__ import annotations

from typing import Any

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step, all_but_tables
from fastattn.config import EncoderConfig

__all__ = ["MODERNBERT"]

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _config(settings: Settings) -> EncoderConfig:
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    settings.only(rope_scaling={}, partial_rotary_factor=1.0, head_dim=width // heads)
    global_every, has_local = _layer_types(settings)
    theta = settings.theta("global_rope_theta", 160000.0, _FULL)
    # A null local_rope_theta means the global base.
    null = "local_rope_theta" in settings.values and settings.values["local_rope_theta"] is None
    local = theta if null else settings.theta("local_rope_theta", 10000.0, _SLIDING)
    fields: dict[str, Any] = {}
    if has_local:
        # local_attention is the whole window, sliding_window one side of the window.
        window = settings.size("sliding_window", settings.size("local_attention", 128, least=0) // 2, least=0)
        fields = {"window": window, "global_every": global_every, "local_rotary_theta": local}
    return EncoderConfig(
        num_layers=settings.size("num_hidden_layers"),
        num_heads=heads,
        hidden_dim=width,
        ff_dim=settings.size("intermediate_size"),
        dropout=settings.number("mlp_dropout", 0.0),
        activation=settings.activation("hidden_activation"),
        norm_first=True,
        layer_norm_eps=settings.number("norm_eps", 1e-5),
        positions="rotary",
        vocab_size=settings.size("vocab_size"),
        max_positions=settings.size("max_position_embeddings"),
        rotary_theta=theta,
        gated=True,
        **fields,
    )


def _layer_types(settings: Settings) -> tuple[int, bool]:
    """Return n if every n-th layer from the first is global, and whether any layer is local."""
    layers = settings.size("num_hidden_layers")
    types = settings.values.get("layer_types")
    if types is None:
        every = settings.size("global_attn_every_n_layers", 3)
        return every, every > 1 and layers > 1
    if isinstance(types, list) and len(types) == layers:
        every = types.index(_FULL, 1) if _FULL in types[1:] else layers
        if types == [_SLIDING if i % every else _FULL for i in range(layers)]:
            return every, every > 1
    raise settings.error(
        f"layer_types {types!r} is not supported; supported: for each of the {layers} layers {_FULL!r} or {_SLIDING!r}, with the"
        f" first layer and every n-th after it {_FULL!r}"
    )


def _has_bias(settings: Settings, stem: str) -> bool:
    if stem.endswith("layer_norm"):
        return settings.flag("norm_bias", False)
    key = "attention_bias" if stem.startswith("attention.") else "mlp_bias"
    return all_but_tables(settings, stem) and settings.flag(key, False)


def _layer(settings: Settings, index: int) -> str:
    return f"layers.{index}."


def _heads(settings: Settings) -> dict[str, Head]:
    dense = Step(
        "head.dense",
        activation=settings.activation("classifier_activation"),
        norm="head.norm",
        bias=settings.flag("classifier_bias", False),
        norm_bias=settings.flag("norm_bias", False),
    )
    classifier = Step("classifier", "labels")
    decoder = Step("decoder", "vocab_size", bias=settings.flag("decoder_bias", True), tied=True)
    pooling = settings.choice("classifier_pooling", "cls", ("cls", "mean"))
    return {
        "sequence-classification": Head((dense, classifier), pooling),
        "token-classification": Head((dense, classifier)),
        "masked-lm": Head((dense, decoder)),
    }


MODERNBERT = Family(
    title="ModernBERT",
    model_class="ModernBertModel",
    prefixes=("", "model."),
    config=_config,
    names=(
        Names(
            outside={
                "embeddings.token": "embeddings.tok_embeddings",
                "embeddings.layer_norm": "embeddings.norm",
                "layer_norm": "final_norm",
            },
            layer=_layer,
            inside={
                "attention.layer_norm": "attn_norm",
                "attention.query": Block("attn.Wqkv", 0, 3),
                "attention.key": Block("attn.Wqkv", 1, 3),
                "attention.value": Block("attn.Wqkv", 2, 3),
                "attention.output": "attn.Wo",
                "feed_forward.layer_norm": "mlp_norm",
                "feed_forward.gate": Block("mlp.Wi", 0, 2),
                "feed_forward.input": Block("mlp.Wi", 1, 2),
                "feed_forward.output": "mlp.Wo",
            },
        ),
    ),
    heads=_heads,
    has_bias=_has_bias,
    absent=("layers.0.attention.layer_norm",),
)
