"""DeBERTa and DeBERTa-v2/v3: BERT's layers, whose scores have terms of content and distance, from tables computed here.

DeBERTa-v2's largest also have a convolution beside the first layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import EMBEDDINGS, NAMES, bert_config
from fastattn.checkpoint.families.family import Block, Derive, Family, Head, Names, Step, Stored
from fastattn.checkpoint.layer_types import count_layers
from fastattn.config import EncoderConfig
from fastattn.layer_config import Convolution, LayerConfig

__all__ = ["DEBERTA", "DEBERTA_V2"]

Array = NDArray[np.float32]

_SELF = "attention.self."


def _terms(settings: Settings) -> list[str]:
    """Return the entries of pos_att_type, whether or not they are terms of the scores."""
    found = settings.values.get("pos_att_type")
    if isinstance(found, str):
        return [term.strip() for term in found.lower().split("|")]
    if found is not None and not (isinstance(found, list) and all(isinstance(term, str) for term in found)):
        raise settings.error(f"pos_att_type must be a list of strings, or one with | between them, found {found!r:.80}")
    return found or []


def _embedding_size(settings: Settings) -> int:
    return settings.size("embedding_size", settings.size("hidden_size"))


def _config(settings: Settings, buckets: int, divisor: int, **changes: Any) -> EncoderConfig:
    """Return the configuration; scores are divided by the root of D times `divisor`, with or without the terms."""
    longest = settings.size("max_position_embeddings", 512)
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    farthest = settings.size("max_relative_positions", -1, least=-1)
    farthest = longest if farthest < 1 else farthest
    terms = tuple(term for term in ("c2p", "p2c") if term in _terms(settings))
    terms = terms if settings.flag("relative_attention", False) else ()
    return bert_config(
        settings,
        layer_norm_eps=settings.number("layer_norm_eps", 1e-7),
        positions="learned" if settings.flag("position_biased_input", True) else None,
        max_positions=longest,
        type_vocab_size=settings.size("type_vocab_size", 0, least=0),
        attention_scale=(width / heads * divisor) ** -0.5,
        disentangled=terms,
        disentangled_span=(buckets if buckets > 0 else farthest) if terms else 0,
        disentangled_log=bool(terms) and buckets > 0,
        relative_max_distance=farthest,
        **changes,
    )


def _config_v2(settings: Settings) -> EncoderConfig:
    # Heads of another size do not fit the output's weight.
    settings.only(attention_head_size=settings.size("hidden_size") // settings.size("num_attention_heads"))
    divisor = 1 + sum(term in _terms(settings) for term in ("c2p", "p2c"))
    return _config(settings, settings.size("position_buckets", -1, least=-1), divisor, layers=_layers(settings))


def _layers(settings: Settings) -> tuple[LayerConfig, ...] | None:
    """Return the layers, the first with a convolution; None without one."""
    size = settings.size("conv_kernel_size", 0, least=0)
    if size == 0:
        return None
    if size % 2 == 0:
        raise settings.error(f"conv_kernel_size must be odd, or 0 for no convolution, found {size}")
    if settings.size("hidden_size") % _groups(settings):
        raise settings.error(f"conv_groups must divide hidden_size, found {_groups(settings)} for {settings.size('hidden_size')}")
    first = LayerConfig(convolution=Convolution(size, settings.activation("conv_act", "tanh")))
    return (first, *[LayerConfig()] * (count_layers(settings) - 1))


def _groups(settings: Settings) -> int:
    return settings.size("conv_groups", 1)


def _config_v1(settings: Settings) -> EncoderConfig:
    settings.only(talking_head=False)
    return _config(settings, -1, 1 + len(_terms(settings)))


def _projected(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
    """Table of embeddings; a projection to the hidden width, which comes before the norm of their sum, is folded into it."""
    rows, width = shape
    narrow = _embedding_size(stored.settings)
    if narrow == width:
        return stored.read(name, shape)
    return np.asarray(stored.read(name, (rows, narrow)) @ stored.read("embeddings.embed_proj.weight", (width, narrow)).T)


def _relative(own: str, shared: str, *, has_bias: bool) -> Derive:
    """Return what computes a table of disentangled scores: a product of the embeddings of distances, in float64.

    Its weight has the name `own` in the layer, or with `share_att_key` is the one of queries or keys, `shared`.
    """

    def derive(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
        settings, (rows, width), c = stored.settings, shape, stored.config.hidden_dim
        x = np.asarray(stored.read("encoder.rel_embeddings.weight", (rows, c)), np.float64)
        if shared and "layer_norm" in _norm_of_distances(settings):
            gain, shift = (stored.read(f"encoder.LayerNorm.{part}", (c,)) for part in ("weight", "bias"))
            x = x - x.mean(axis=1, keepdims=True)
            x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + stored.config.layer_norm_eps) * gain + shift
        used = shared if shared and settings.flag("share_att_key", False) else own
        table = x @ stored.read(f"{stored.layer}{_SELF}{used}.weight", (width, c)).astype(np.float64).T
        return np.asarray(table + stored.read(f"{stored.layer}{_SELF}{used}.bias", (width,)) if has_bias else table, np.float32)

    return derive


def _convolution(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
    """Weight (C, K C) or bias of the convolution, or a part of its norm; the channels of other groups get zeros."""
    # It stands beside the layers.
    name = "encoder." + name.removeprefix(stored.layer)
    if name != "encoder.conv.conv.weight":
        return stored.read(name, shape)
    c, groups = shape[0], _groups(stored.settings)
    size, width = shape[1] // c, c // groups
    narrow = stored.read(name, (c, width, size)).reshape(groups, width, width, size)
    wide = np.zeros((groups, width, size, groups, width), np.float32)
    for group in range(groups):
        wide[group, :, :, group] = narrow[group].swapaxes(1, 2)
    return wide.reshape(shape)


def _norm_of_distances(settings: Settings) -> list[str]:
    found = settings.values.get("norm_rel_ebd", "none")
    if not isinstance(found, str):
        raise settings.error(f"norm_rel_ebd must be a string, found {found!r:.80}")
    return [part.strip() for part in found.lower().split("|")]


def _part(number: int, bias: str | None) -> Derive:
    """Return what takes the queries', keys' or values' rows, of each head in turn, out of ``in_proj``, and their bias."""

    def derive(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
        if name.endswith(".bias"):
            return stored.read(f"{stored.layer}{_SELF}{bias}", shape) if bias else np.zeros(shape, np.float32)
        config = stored.config
        whole = stored.read(name, (3 * shape[0], shape[1])).reshape(config.num_heads, 3, config.head_dim, shape[1])
        return np.ascontiguousarray(whole[:, number].reshape(shape))

    return derive


_OUTSIDE: dict[str, str | Block] = {
    stem: name if stem == "embeddings.layer_norm" else Block(name, derive=_projected) for stem, name in EMBEDDINGS.items()
}
_NAMES_V2 = Names(
    outside=_OUTSIDE,
    layer=NAMES.layer,
    inside={
        **NAMES.inside,
        "attention.query": f"{_SELF}query_proj",
        "attention.key": f"{_SELF}key_proj",
        "attention.value": f"{_SELF}value_proj",
        "attention.relative_key": Block(f"{_SELF}pos_key_proj", derive=_relative("pos_key_proj", "key_proj", has_bias=True)),
        "attention.relative_query": Block(
            f"{_SELF}pos_query_proj", derive=_relative("pos_query_proj", "query_proj", has_bias=True)
        ),
        "convolution": Block("conv.conv", derive=_convolution),
        "convolution.layer_norm": Block("conv.LayerNorm", derive=_convolution),
    },
)
_NAMES_V1 = Names(
    outside=_OUTSIDE,
    layer=NAMES.layer,
    inside={
        **NAMES.inside,
        "attention.query": Block(f"{_SELF}in_proj", derive=_part(0, "q_bias")),
        "attention.key": Block(f"{_SELF}in_proj", derive=_part(1, None)),
        "attention.value": Block(f"{_SELF}in_proj", derive=_part(2, "v_bias")),
        "attention.relative_key": Block(f"{_SELF}pos_proj", derive=_relative("pos_proj", "", has_bias=False)),
        "attention.relative_query": Block(f"{_SELF}pos_q_proj", derive=_relative("pos_q_proj", "", has_bias=True)),
    },
)


def _heads(settings: Settings) -> dict[str, Head]:
    width = settings.size("pooler_hidden_size", settings.size("hidden_size"))
    pooler = Step("pooler.dense", width, settings.activation("pooler_hidden_act"))
    transform, lm = "cls.predictions.transform", "lm_predictions.lm_head"
    activation = settings.activation()
    # The head of the authors' checkpoints, and the other one, which transformers makes unless `legacy` is false.
    own = Head(
        (
            Step(f"{lm}.dense", activation=activation, norm=f"{lm}.LayerNorm"),
            Step("embeddings.word_embeddings", "vocab_size", bias_name=f"{lm}.bias"),
        )
    )
    legacy = Head(
        (
            Step(f"{transform}.dense", _embedding_size(settings), activation=activation, norm=f"{transform}.LayerNorm"),
            Step("cls.predictions.decoder", "vocab_size", bias_name="cls.predictions.bias", tied=True),
        ),
        otherwise=own,
    )
    return {
        "sequence-classification": Head((pooler, Step("classifier", "labels")), "cls"),
        "token-classification": Head((Step("classifier", "labels"),)),
        "masked-lm": legacy if settings.flag("legacy", True) else own,
    }


DEBERTA_V2 = Family(
    title="DeBERTa-v2/v3",
    model_class="DebertaV2Model",
    prefixes=("", "deberta."),
    config=_config_v2,
    names=(_NAMES_V2,),
    heads=_heads,
    has_token_types=True,
    blind_padding=True,
)
DEBERTA = DEBERTA_V2._replace(title="DeBERTa", model_class="DebertaModel", config=_config_v1, names=(_NAMES_V1,))
