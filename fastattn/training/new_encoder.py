"""A model from nothing: random weights, under the names and with the settings of a family that transformers reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.families import FAMILIES, Settings
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.config import EncoderConfig
from fastattn.parameters import random_parameters
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["new_checkpoint"]

Array = NDArray[np.float32]

# Fields that say in another way what `EncoderConfig.layer`, `head_dim` and `key_value_heads` say, or that no folder holds.
_SAID_OTHERWISE = (
    "layers", "is_causal", "rotary_theta", "local_rotary_theta", "window", "global_every", "head_size", "num_key_value_heads",
    "dropout",
)  # fmt: skip
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}


class _Kind(NamedTuple):
    """A family in which models from nothing are written, and its class with a head in transformers."""

    task: str
    family: str
    architecture: str
    prefix: str


_MASKED, _CAUSAL = _Kind("masked-lm", "bert", "BertForMaskedLM", "bert."), _Kind("causal-lm", "qwen2", "Qwen2ForCausalLM", "model.")


def new_checkpoint(config: EncoderConfig, tokenizer: Tokenizer, seed: int) -> tuple[TrainableCheckpoint, Any]:
    """Return normal weights of standard deviation 0.02, and the task of their head.

    ValueError for a configuration that neither BERT, for masked words, nor Qwen2, for the next word, can have.
    """
    kind = _CAUSAL if all(config.layer(i).window[1] == 0 for i in range(config.num_layers)) else _MASKED
    settings = Settings(Path("config.json"), {**_settings(config, kind), **_token_ids(tokenizer)})
    _check(config, kind, settings)
    return TrainableCheckpoint.made(settings, _tensors(config, kind, settings, seed), kind.task), kind.task


def _settings(config: EncoderConfig, kind: _Kind) -> dict[str, Any]:
    """Return the content of config.json."""
    values: dict[str, Any] = {
        "model_type": kind.family,
        "architectures": [kind.architecture],
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "hidden_act": _ACTIVATIONS.get(config.activation, config.activation),
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    if kind is _MASKED:
        return {
            **values,
            "type_vocab_size": config.type_vocab_size,
            "layer_norm_eps": config.layer_norm_eps,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": 0.0,
        }
    if config.head_dim * config.num_heads != config.hidden_dim:
        values["head_dim"] = config.head_dim
    return {
        **values,
        "num_key_value_heads": config.key_value_heads,
        "rms_norm_eps": config.layer_norm_eps,
        "rope_theta": config.rotary_theta,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
    }


def _token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of special tokens that config.json names."""
    vocabulary = tokenizer.get_vocab()
    found = {f"{role}_token_id": tokenizer.special_tokens_map.get(f"{role}_token") for role in ("pad", "bos", "eos")}
    return {name: vocabulary[token] for name, token in found.items() if token in vocabulary}


def _facts(config: EncoderConfig) -> dict[str, Any]:
    """Return what a configuration says, in one way."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _SAID_OTHERWISE}
    layers = [config.layer(i) for i in range(config.num_layers)]
    return {
        **fields,
        "head_size": config.head_dim,
        "num_key_value_heads": config.key_value_heads,
        "window": [layer.window for layer in layers],
        "rotary_theta": [layer.rotary for layer in layers],
    }


def _check(config: EncoderConfig, kind: _Kind, settings: Settings) -> None:
    """Raise ValueError unless the family reads the configuration back as it is."""
    if config.vocab_size is None:
        raise ValueError("config must have a vocab_size: a language model has a vocabulary")
    if kind is _MASKED and not config.type_vocab_size:
        raise ValueError("config must have a type_vocab_size of at least 1: every BERT has token types")
    wanted, title = _facts(config), FAMILIES[kind.family].title
    read = _facts(FAMILIES[kind.family].config(settings))
    for name, value in wanted.items():
        if read[name] != value:
            raise ValueError(
                f"config: {name} must be {read[name]!r:.80} in a model from nothing, got {value!r:.80}: one whose layers see only "
                f"what is before is written as a Qwen2, any other as a BERT, and this would be a {title}"
            )


def _tensors(config: EncoderConfig, kind: _Kind, settings: Settings, seed: int) -> dict[str, Array]:
    """Return random weights under the family's names."""
    family, parameters = FAMILIES[kind.family], random_parameters(config, seed)
    tensors = {}
    for parameter, stem, _, block in family.names[0].stems(settings, config.num_layers):
        for part in ("weight", "bias") if family.has_bias(settings, stem) else ("weight",):
            if f"{parameter}.{part}" in parameters:
                tensors[f"{kind.prefix}{block.name}.{part}"] = parameters[f"{parameter}.{part}"]
    if kind is _MASKED:
        width, transform = config.hidden_dim, "cls.predictions.transform"
        rng = np.random.default_rng([seed, 1])
        tensors[f"{transform}.dense.weight"] = rng.standard_normal((width, width), np.float32) * np.float32(0.02)
        tensors[f"{transform}.dense.bias"] = np.zeros(width, np.float32)
        tensors[f"{transform}.LayerNorm.weight"] = np.ones(width, np.float32)
        tensors[f"{transform}.LayerNorm.bias"] = np.zeros(width, np.float32)
        tensors["cls.predictions.bias"] = np.zeros(config.vocab_size or 0, np.float32)
    return tensors
