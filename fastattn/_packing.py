"""One-time packing: parameters under their names -> one flat array of panels, as the kernels read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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

# An array object, its name, and its places in a dict and in an arena.
_ARRAY_BYTES = 512


class Packed(NamedTuple):
    """An encoder's parameters as the kernels take them."""

    weights: Array
    layout: Array
    dims: Array
    tokens: Array
    positions: Array
    token_types: Array
    relative: Array


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

    bases = thetas(config)
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
            bases.index(config.theta(i)),
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
        len(bases),
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
