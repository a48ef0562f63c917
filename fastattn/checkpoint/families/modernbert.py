"""ModernBERT: pre-norm, rotary positions, a gate, and local layers, which attend to a window, between global ones."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step, all_but_tables
from fastattn.checkpoint.layer_types import FULL, SLIDING, layer_types
from fastattn.checkpoint.rope import read_rope
from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig

__all__ = ["MODERNBERT"]


def _config(settings: Settings) -> EncoderConfig:
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    every = settings.size("global_attn_every_n_layers", 3)
    kinds = layer_types(settings, lambda i: i % every > 0)
    # local_attention is the whole window, sliding_window one side of it.
    side = settings.size("sliding_window", settings.size("local_attention", 128, least=0) // 2, least=0)
    # transformers reads head_dim for the angles alone, so any other size cannot be computed.
    settings.only(head_dim=width // heads)
    ropes = {FULL: read_rope(settings, width // heads, 160000.0, key="global_rope_theta", layers=FULL)}
    ropes[SLIDING] = (
        ropes[FULL] if _one_base(settings) else read_rope(settings, width // heads, 10000.0, key="local_rope_theta", layers=SLIDING)
    )
    layers = {FULL: LayerConfig((None, None), ropes[FULL].rotary), SLIDING: LayerConfig((side, side), ropes[SLIDING].rotary)}
    positions = min(ropes[kind].positions(settings.size("max_position_embeddings")) for kind in kinds)
    return EncoderConfig(
        num_layers=len(kinds),
        num_heads=heads,
        hidden_dim=width,
        ff_dim=settings.size("intermediate_size"),
        dropout=settings.number("mlp_dropout", 0.0),
        activation=settings.activation("hidden_activation"),
        norm_first=True,
        layer_norm_eps=settings.number("norm_eps", 1e-5),
        positions="rotary",
        vocab_size=settings.size("vocab_size"),
        max_positions=positions,
        gated=True,
        layers=tuple(layers[kind] for kind in kinds),
    )


def _one_base(settings: Settings) -> bool:
    """Tell whether a null local_rope_theta gives the windows the global base."""
    return "local_rope_theta" in settings.values and settings.values["local_rope_theta"] is None


def _has_bias(settings: Settings, stem: str) -> bool:
    if stem.endswith("layer_norm"):
        return settings.flag("norm_bias", False)
    key = "attention_bias" if stem.startswith("attention.") else "mlp_bias"
    return all_but_tables(settings, stem) and settings.flag(key, False)


def _absent(settings: Settings, parameter: str) -> bool:
    return parameter == "layers.0.attention.layer_norm"


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
    absent=_absent,
)
