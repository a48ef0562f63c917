"""One-time packing: parameters under their names -> an arena of matrices in panels and one of vectors, as kernels read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.tables import thetas
from fastattn.kernels.encoder.layer import ff_stride
from fastattn.kernels.ops._arrays import aligned_empty, panels
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.kernels.ops.linear import pack_weight
from fastattn.kernels.records import Layer, Sizes
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.parameters import check_parameters
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]


class Packed(NamedTuple):
    """An encoder's parameters as the kernels take them; `layout` has a `records.Layer` a row, `sizes` is a `records.Sizes`."""

    matrices: Array
    vectors: Array
    layout: Array
    sizes: Array
    tokens: Array
    positions: Array
    token_types: Array
    relative: Array

    def layer(self, index: int) -> Layer:
        """Return offsets and choices of a layer."""
        return Layer(*map(int, self.layout[index]))

    def outside(self) -> Sizes:
        """Return sizes, and offsets outside the layers."""
        return Sizes(*map(int, self.sizes))


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
        out = aligned_empty(self.size, np.float32)
        for at, size, parts in self.writes:
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if whole.ndim == 2:
                pack_weight(whole, out[at : at + size])
            else:
                out[at : at + len(whole)] = whole
                out[at + len(whole) : at + size] = 0
        return out


@rounding()
def pack(config: EncoderConfig, parameters: Mapping[str, Array], precision: Precision = "float32") -> Packed:
    """Pack the parameters into arrays that share no memory with them, nor with a file that they are mapped from."""
    check_parameters(config, parameters)
    matrices, vectors, c, f = _Arena(), _Arena(), config.hidden_dim, config.ff_dim
    zeros = {size: np.zeros(size, np.float32) for size in (c, config.input_dim, f)}

    def bias(name: str, size: int) -> Array:
        return np.asarray(parameters.get(f"{name}.bias", zeros[size]))

    def linear(name: str, size: int) -> tuple[int, int]:
        return matrices.matrix(parameters[f"{name}.weight"]), vectors.vector(bias(name, size))

    def norm(name: str, size: int) -> tuple[int, int]:
        if f"{name}.weight" not in parameters:
            return -1, -1
        return vectors.vector(parameters[f"{name}.weight"]), vectors.vector(bias(name, size))

    bases = thetas(config)
    layout = np.zeros((config.num_layers, len(Layer._fields)), np.int64)
    for i in range(config.num_layers):
        attention, ff = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        qkv = [f"{attention}.{name}" for name in ("query", "key", "value")]
        window = config.window if config.window is not None and config.is_local(i) else NO_BOUND
        out, out_bias = linear(f"{attention}.output", c)
        norm1, norm1_bias = norm(f"{attention}.layer_norm", c)
        up, up_bias = linear(f"{ff}.input", f)
        down, down_bias = linear(f"{ff}.output", c)
        norm2, norm2_bias = norm(f"{ff}.layer_norm", c)
        gate, gate_bias = linear(f"{ff}.gate", f) if config.gated else (-1, -1)
        layout[i] = Layer(
            qkv=matrices.matrix(*(parameters[f"{name}.weight"] for name in qkv)),
            qkv_bias=vectors.vector(*(bias(name, c) for name in qkv)),
            out=out,
            out_bias=out_bias,
            norm1=norm1,
            norm1_bias=norm1_bias,
            up=up,
            up_bias=up_bias,
            down=down,
            down_bias=down_bias,
            norm2=norm2,
            norm2_bias=norm2_bias,
            gate=gate,
            gate_bias=gate_bias,
            left=window,
            right=0 if config.is_causal else window,
            rotary=bases.index(config.theta(i)),
        )
    embed_norm, embed_norm_bias = norm("embeddings.layer_norm", config.input_dim)
    final_norm, final_norm_bias = norm("layer_norm", c)
    project, project_bias = linear("embeddings.projection", c) if config.embedding_dim is not None else (-1, -1)
    sizes = Sizes(
        hidden=c,
        heads=config.num_heads,
        head=config.head_dim,
        qkv=config.qkv_dim,
        ff=f,
        ff_stride=ff_stride(f),
        activation=ACTIVATION_KINDS[config.activation],
        norm_first=config.norm_first,
        embed=config.input_dim,
        embed_norm=embed_norm,
        embed_norm_bias=embed_norm_bias,
        final_norm=final_norm,
        final_norm_bias=final_norm_bias,
        project=project,
        project_bias=project_bias,
        rotary_tables=len(bases),
    )
    check_large(4 * (matrices.size + vectors.size), "the packed parameters")
    tables = ("embeddings.token", "embeddings.position", "embeddings.token_type", "relative_bias")
    return Packed(
        matrices.fill(),
        vectors.fill(),
        layout,
        np.array(sizes, np.int64),
        *(_table(parameters, name) for name in tables),
    )


def _table(parameters: Mapping[str, Array], name: str) -> Array:
    table = parameters.get(f"{name}.weight")
    if table is None:
        return np.empty(0, np.float32)
    check_large(4 * table.size, "a copy of {}", name)
    return np.array(table, np.float32, order="C", copy=True).reshape(-1)
