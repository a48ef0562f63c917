"""Which parameters a configuration has: names, shapes, a check of given ones, and a random start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.runtime.memory import check_large

Array = NDArray[Any]

# An array object, its name, and its places in a dict and in an arena.
_ARRAY_BYTES = 512


def _outside(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight outside the layers."""
    c, e = config.hidden_dim, config.input_dim
    shapes: dict[str, tuple[int, ...]] = {}
    if config.vocab_size is not None:
        shapes["embeddings.token.weight"] = (config.vocab_size, e)
    if config.positions == "learned":
        shapes["embeddings.position.weight"] = (config.max_positions, e)
    if config.type_vocab_size:
        shapes["embeddings.token_type.weight"] = (config.type_vocab_size, e)
    if config.embedding_dim is not None:
        shapes["embeddings.projection.weight"] = (c, e)
    if config.relative_buckets:
        shapes["relative_bias.weight"] = (config.relative_buckets, config.num_heads)
    return {**shapes, "embeddings.layer_norm.weight": (e,), "layer_norm.weight": (c,)}


def _inside(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a layer, under its name without the layer."""
    c, f = config.hidden_dim, config.ff_dim
    shapes: dict[str, tuple[int, ...]] = {f"attention.{name}.weight": (c, c) for name in ("query", "key", "value", "output")}
    if config.gated:
        shapes["feed_forward.gate.weight"] = (f, c)
    shapes |= {"feed_forward.input.weight": (f, c), "feed_forward.output.weight": (c, f)}
    return shapes | {f"{part}.layer_norm.weight": (c,) for part in ("attention", "feed_forward")}


def _shapes(config: EncoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each weight, one at a time: a configuration may have any number of layers."""
    yield from _outside(config).items()
    inside = _inside(config)
    for i in range(config.num_layers):
        for name, shape in inside.items():
            yield f"layers.{i}.{name}", shape


def _may_be_absent(config: EncoderConfig, name: str) -> bool:
    """Tell whether a weight may be absent: a norm without one is left out, but not one behind a sublayer."""
    return name.endswith("layer_norm.weight") and (config.norm_first or not name.startswith("layers."))


def check_parameters(config: EncoderConfig, parameters: Mapping[str, Array]) -> None:
    """Raise for the first parameter that is missing, is no array of floats, has the wrong shape, or would be left unused."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a mapping of names to arrays, got {type(parameters).__name__}")
    for name, array in parameters.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"parameter {name} must be an array of floats, got {found}")
    for name, shape in _shapes(config):
        if name not in parameters:
            if _may_be_absent(config, name):
                continue
            raise ValueError(f"parameters lack {name}, of shape {shape}")
        bias = name.removesuffix("weight") + "bias"
        for key, wanted in ((name, shape), (bias, shape[:1])):
            if key in parameters and parameters[key].shape != wanted:
                raise ValueError(f"parameter {key} must have shape {wanted}, got {parameters[key].shape}")
    for name, field, is_set in (
        ("embeddings.projection.weight", "embedding_dim", config.embedding_dim is not None),
        ("relative_bias.weight", "relative_buckets", config.relative_buckets > 0),
        ("layers.0.feed_forward.gate.weight", "gated", config.gated),
    ):
        if name in parameters and not is_set:
            raise ValueError(f"parameters have {name}, for which the configuration's {field} must be set")


def random_parameters(config: EncoderConfig, seed: int) -> dict[str, Array]:
    """Return normal weights of standard deviation 0.02 (norms: 1), zero biases, as BERT starts."""
    rng = np.random.default_rng(seed)
    parameters: dict[str, Array] = {}
    check_large(_size(_outside(config)) + config.num_layers * _size(_inside(config)), "the parameters")
    for name, shape in _shapes(config):
        if name == "embeddings.layer_norm.weight" and config.vocab_size is None:
            continue
        if name == "layer_norm.weight" and not config.norm_first:
            continue
        norm = "layer_norm" in name
        table = name.startswith(("embeddings.", "relative_bias.")) and "projection" not in name
        parameters[name] = np.ones(shape, np.float32) if norm else rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if norm or not table:
            parameters[name.removesuffix("weight") + "bias"] = np.zeros(shape[0], np.float32)
    return parameters


def _size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the bytes of such weights with their biases: of the elements of the weights, and what arrays take beside theirs."""
    return sum(4 * math.prod(shape) + 2 * _ARRAY_BYTES for shape in shapes.values())
