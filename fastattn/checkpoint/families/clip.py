"""The text side of CLIP: layer norms before the sublayers, and tokens that see none behind them."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.family import GREATEST, Family, Head, Names, Step
from fastattn.config import EncoderConfig

__all__ = ["CLIP", "CLIP_TEXT"]

# The end's id in files older than transformers' correction: the end is then the greatest id of a text.
_WRONG_END = 2


def _text(settings: Settings) -> Settings:
    """Return the settings of the text side, which those of a whole CLIP hold."""
    if settings.values["model_type"] != "clip":
        return settings
    return Settings(settings.path, settings.values.get("text_config") or {})


def _config(settings: Settings) -> EncoderConfig:
    text = _text(settings)
    return EncoderConfig(
        num_layers=text.size("num_hidden_layers", 12),
        num_heads=text.size("num_attention_heads", 8),
        hidden_dim=text.size("hidden_size", 512),
        ff_dim=text.size("intermediate_size", 2048),
        activation=text.activation(default="quick_gelu"),
        norm_first=True,
        layer_norm_eps=text.number("layer_norm_eps", 1e-5),
        positions="learned",
        vocab_size=text.size("vocab_size", 49408),
        max_positions=text.size("max_position_embeddings", 77),
        is_causal=True,
    )


def _layer(settings: Settings, index: int) -> str:
    return f"encoder.layers.{index}."


def _heads(settings: Settings) -> dict[str, Head]:
    end = _text(settings).size("eos_token_id", 49407, least=0)
    end = GREATEST if end == _WRONG_END else end
    return {"projection": Head((Step("text_projection", "any", bias=False),), "end", end=end)}


CLIP_TEXT = Family(
    title="CLIP (text)",
    model_class="CLIPTextModel",
    prefixes=("", "text_model."),
    config=_config,
    names=(
        Names(
            outside={
                "embeddings.token": "embeddings.token_embedding",
                "embeddings.position": "embeddings.position_embedding",
                "layer_norm": "final_layer_norm",
            },
            layer=_layer,
            inside={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.out_proj",
                "attention.layer_norm": "layer_norm1",
                "feed_forward.input": "mlp.fc1",
                "feed_forward.output": "mlp.fc2",
                "feed_forward.layer_norm": "layer_norm2",
            },
        ),
    ),
    heads=_heads,
)
CLIP = CLIP_TEXT._replace(title="CLIP")
