"""One-time packing: parameters under their names -> one flat array of panels, as the kernels read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn._memory import check_large
from fastattn._tables import thetas
from fastattn.config import EncoderConfig
from fastattn.kernels._activation import ACTIVATIONS
from fastattn.kernels._arrays import aligned_empty, panels
from fastattn.kernels._attend import NO_BOUND
from fastattn.kernels._layer import FIELDS, ff_stride
from fastattn.kernels.linear import pack_weight

Array = NDArray[Any]


class Packed(NamedTuple):
    """An encoder's parameters as the kernels take them."""

    weights: Array
    layout: Array
    dims: Array
    tokens: Array
    positions: Array
    token_types: Array
    relative: Array


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that an encoder of this configuration must have."""
    c, e, f = config.hidden_dim, config.input_dim, config.ff_dim
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
    for i in range(config.num_layers):
        for name in ("query", "key", "value", "output"):
            shapes[f"layers.{i}.attention.{name}.weight"] = (c, c)
        if config.gated:
            shapes[f"layers.{i}.feed_forward.gate.weight"] = (f, c)
        shapes[f"layers.{i}.feed_forward.input.weight"] = (f, c)
        shapes[f"layers.{i}.feed_forward.output.weight"] = (c, f)
    return shapes | ({} if config.norm_first else _layer_norms(config))


def _layer_norms(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    parts = ("attention", "feed_forward")
    return {f"layers.{i}.{part}.layer_norm.weight": (config.hidden_dim,) for i in range(config.num_layers) for part in parts}


def optional_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that may be absent: a norm without one is left out."""
    outer = {"embeddings.layer_norm.weight": (config.input_dim,), "layer_norm.weight": (config.hidden_dim,)}
    return outer | (_layer_norms(config) if config.norm_first else {})


def check_parameters(config: EncoderConfig, parameters: Mapping[str, Array]) -> None:
    """Raise a ValueError for the first parameter that is missing, has the wrong shape, or would be left unused."""
    required, optional = expected_shapes(config), optional_shapes(config)
    for name, shape in (required | optional).items():
        if name not in parameters:
            if name in optional:
                continue
            raise ValueError(f"parameters lack {name}, of shape {shape}")
        bias = name.removesuffix("weight") + "bias"
        for key, wanted in ((name, shape), (bias, shape[:1])):
            if key in parameters and parameters[key].shape != wanted:
                raise ValueError(f"parameter {key} must have shape {wanted}, got {parameters[key].shape}")
    for name, field in (
        ("embeddings.projection.weight", "embedding_dim"),
        ("relative_bias.weight", "relative_buckets"),
        ("layers.0.feed_forward.gate.weight", "gated"),
    ):
        if name in parameters and name not in required:
            raise ValueError(f"parameters have {name}, for which the configuration's {field} must be set")


def random_parameters(config: EncoderConfig, seed: int) -> dict[str, Array]:
    """Return normal weights of standard deviation 0.02 (norms: 1), zero biases, as BERT starts."""
    rng = np.random.default_rng(seed)
    parameters: dict[str, Array] = {}
    shapes = expected_shapes(config) | optional_shapes(config)
    check_large(4 * sum(map(math.prod, shapes.values())), "the parameters")
    if config.vocab_size is None:
        del shapes["embeddings.layer_norm.weight"]
    if not config.norm_first:
        del shapes["layer_norm.weight"]
    for name, shape in shapes.items():
        norm = "layer_norm" in name
        table = name.startswith(("embeddings.", "relative_bias.")) and "projection" not in name
        parameters[name] = np.ones(shape, np.float32) if norm else rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if norm or not table:
            parameters[name.removesuffix("weight") + "bias"] = np.zeros(shape[0], np.float32)
    return parameters


class _Arena:
    """Hands out places in one flat array, each at the start of a cache line; the same arrays have the same place."""

    def __init__(self) -> None:
        self.size = 0
        self.writes: list[tuple[int, int, list[Array]]] = []
        self._places: dict[tuple[int, ...], int] = {}

    def matrix(self, *rows: Array) -> int:
        """Reserve the panels of the matrices, stacked along their rows."""
        count, width = panels(sum(len(w) for w in rows), np.float32)
        return self._reserve(count * width * rows[0].shape[1], list(rows))

    def vector(self, *parts: Array) -> int:
        """Reserve the parts end to end, zeros up to a whole panel behind them."""
        count, width = panels(sum(len(v) for v in parts), np.float32)
        return self._reserve(count * width, list(parts))

    def _reserve(self, size: int, parts: list[Array]) -> int:
        # The parts are kept, so no other array takes over an id.
        key = tuple(map(id, parts))
        if key not in self._places:
            self._places[key] = self.size
            self.writes.append((self.size, size, parts))
            self.size += -(-size // 16) * 16
        return self._places[key]

    def fill(self) -> Array:
        """Write everything."""
        check_large(4 * self.size, "the packed parameters")
        out = aligned_empty(self.size, np.float32)
        for at, size, parts in self.writes:
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if whole.ndim == 2:
                pack_weight(whole, out[at : at + size])
            else:
                out[at : at + len(whole)] = whole
                out[at + len(whole) : at + size] = 0
        return out


def pack(config: EncoderConfig, parameters: Mapping[str, Array]) -> Packed:
    """Pack the parameters.  Nothing of what is returned is the caller's: not the arrays, nor a file that they are mapped from."""
    check_parameters(config, parameters)
    arena, c, f = _Arena(), config.hidden_dim, config.ff_dim
    zeros = {size: np.zeros(size, np.float32) for size in (c, config.input_dim, f)}

    def bias(name: str, size: int) -> Array:
        return np.asarray(parameters.get(f"{name}.bias", zeros[size]))

    def linear(name: str, size: int) -> tuple[int, int]:
        return arena.matrix(parameters[f"{name}.weight"]), arena.vector(bias(name, size))

    def optional(place: Callable[[Array], int], name: str, size: int) -> tuple[int, int]:
        if f"{name}.weight" not in parameters:
            return -1, -1
        return place(parameters[f"{name}.weight"]), arena.vector(bias(name, size))

    layout = np.zeros((config.num_layers, FIELDS), np.int64)
    for i in range(config.num_layers):
        attention, ff = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        qkv = [f"{attention}.{name}" for name in ("query", "key", "value")]
        sight = config.window if config.window is not None and config.is_local(i) else NO_BOUND
        layout[i] = (
            arena.matrix(*(parameters[f"{name}.weight"] for name in qkv)),
            arena.vector(*(bias(name, c) for name in qkv)),
            *linear(f"{attention}.output", c),
            *optional(arena.vector, f"{attention}.layer_norm", c),
            *linear(f"{ff}.input", f),
            *linear(f"{ff}.output", c),
            *optional(arena.vector, f"{ff}.layer_norm", c),
            *(linear(f"{ff}.gate", f) if config.gated else (-1, -1)),
            sight,
            0 if config.is_causal else sight,
            thetas(config).index(config.theta(i)),
        )
    sizes = [
        c,
        config.num_heads,
        f,
        ff_stride(f),
        ACTIVATIONS[config.activation],
        int(config.norm_first),
        *optional(arena.vector, "embeddings.layer_norm", config.input_dim),
        *optional(arena.vector, "layer_norm", c),
        config.input_dim,
        *optional(arena.matrix, "embeddings.projection", c),
        len(thetas(config)),
    ]
    return Packed(
        arena.fill(),
        layout,
        np.array(sizes, np.int64),
        *(
            _table(parameters, name)
            for name in ("embeddings.token", "embeddings.position", "embeddings.token_type", "relative_bias")
        ),
    )


def _table(parameters: Mapping[str, Array], name: str) -> Array:
    table = parameters.get(f"{name}.weight")
    if table is None:
        return np.empty(0, np.float32)
    check_large(4 * table.size, "a copy of {}", name)
    return np.array(table, np.float32, order="C", copy=True).reshape(-1)
