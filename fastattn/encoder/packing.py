"""One-time packing: parameters under their names -> one flat array of panels, as the kernels read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.tables import thetas
from fastattn.kernels.encoder.layer import FIELDS, ff_stride
from fastattn.kernels.ops._arrays import aligned_empty, panels
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.kernels.ops.linear import pack_weight
from fastattn.kernels.vector.activations import ACTIVATIONS
from fastattn.parameters import check_parameters
from fastattn.runtime.memory import check_large

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
