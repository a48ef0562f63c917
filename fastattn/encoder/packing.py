"""One-time packing: parameters under their names -> an arena of matrices in panels and one of vectors, as kernels read them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.calibration import calibrate
from fastattn.encoder.tables import thetas
from fastattn.kernels.encoder.layer import FF_ROWS, ff_stride
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.kernels.products.int8 import KEPT
from fastattn.kernels.products.kinds import BFLOAT16, INT8
from fastattn.kernels.products.pack import (
    ARENAS,
    block_columns,
    pack_table,
    parts_of,
    room_words,
    table_rows,
    write_padded,
)
from fastattn.kernels.records import PRECISION_NUMBERS, Layer, Sizes
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.parameters import check_finite, check_parameters
from fastattn.runtime.memory import aligned_empty, check_large
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]
Write = Callable[[Array], None]


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

    def embeddings(self, ids: Array, width: int) -> Array:
        """Return the token embeddings of ids, in float32."""
        return table_rows(self.tokens, ids, width)


def pack_format(precision: Precision) -> tuple[Any, ...]:
    """Return what decides how parameters are packed: the fields of the records, and tile and kinds of product of this process."""
    kinds = {"float32": (), "bfloat16": (BFLOAT16.name,), "int8": (INT8.name, BFLOAT16.name)}
    return Layer._fields, Sizes._fields, TILE_BYTES, kinds[precision]


def check_pack_format(pickled: Any, precision: Precision) -> None:
    """Raise ValueError unless pickled parameters have the format of this process."""
    if pickled != pack_format(precision):
        raise ValueError(
            "pickled by another version, or on a CPU with other vectors or kinds of product: load the model from its folder"
        )


class _Place(NamedTuple):
    """Where a weight and its bias lie, and the number of the precision."""

    at: int
    bias_at: int
    precision: int


_ABSENT = _Place(-1, -1, 0)


class _Arena:
    """Hands out places in one flat array of words, each at the start of a cache line."""

    def __init__(self) -> None:
        self.size = 0
        self._writes: list[tuple[int, int, Write]] = []

    def reserve(self, size: int, write: Write) -> int:
        """Return the place of so many words, which `write` will fill."""
        at = self.size
        self._writes.append((at, size, write))
        self.size += -(-size // 16) * 16
        return at

    def fill(self) -> Array:
        """Write everything."""
        out = aligned_empty(self.size, np.float32)
        for at, size, write in self._writes:
            write(out[at : at + size])
        return out


class _Packer:
    """Packs the parameters of a model; the same arrays have the same place."""

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.matrices, self.vectors = _Arena(), _Arena()
        self._parameters = parameters
        # The arrays are kept, so no other one takes over an id.
        self._linears: dict[Any, tuple[list[Array | None], _Place]] = {}
        self._norms: dict[Any, tuple[list[Array | None], tuple[int, int]]] = {}

    def linear(self, names: Sequence[str], precision: str, smooth: Array | None = None) -> _Place:
        """Reserve the weights of these names, stacked along their rows, and their biases.

        `smooth`: factors of the input of an int8 product.
        """
        arrays = [self._parameters.get(f"{name}.{part}") for name in names for part in ("weight", "bias")]
        # Factors are those of all products of an input: what shares its weights may not share them.
        key = (precision, *map(id, (*arrays, smooth)))
        if key not in self._linears:
            self._linears[key] = [*arrays, smooth], self._linear(arrays[::2], arrays[1::2], precision, smooth)
        return self._linears[key][1]

    def _linear(self, weights: list[Any], biases: list[Any], precision: str, smooth: Array | None) -> _Place:
        bias = np.concatenate([np.zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)])
        parts = parts_of(weights, bias, precision, smooth)
        at = self.matrices.reserve(parts.words, parts.write)
        return _Place(at, self._vector(parts.vector), PRECISION_NUMBERS[precision])

    def norm(self, name: str, size: int) -> tuple[int, int]:
        """Reserve a norm's weight and bias; -1 for both where there is none."""
        arrays = [self._parameters.get(f"{name}.{part}") for part in ("weight", "bias")]
        weight, bias = arrays
        if weight is None:
            return -1, -1
        key = tuple(map(id, arrays))
        if key not in self._norms:
            self._norms[key] = arrays, (self._vector(weight), self._vector(np.zeros(size) if bias is None else bias))
        return self._norms[key][1]

    def _vector(self, vector: Array) -> int:
        count, width = panels(len(vector), np.float32)
        return self.vectors.reserve(count * width, functools.partial(write_padded, vector))

    def table(self, name: str, precision: str = "float32") -> Array:
        """Return a table's rows, flat; empty for none."""
        table = self._parameters.get(f"{name}.weight")
        if table is None:
            return np.empty(0, ARENAS[precision])
        check_large(4 * table.size, "a copy of {}", name)
        return pack_table(table, precision)


@rounding()
def pack(config: EncoderConfig, parameters: Mapping[str, Array], precision: Precision = "float32") -> Packed:
    """Pack the parameters into arrays that share no memory with them, nor with a file that they are mapped from."""
    check_parameters(config, parameters)
    check_finite(parameters, precision)
    packer, c, f = _Packer(parameters), config.hidden_dim, config.ff_dim
    plan = calibrate(config, parameters) if precision == "int8" else None
    bases = thetas(config)
    layout = np.zeros((config.num_layers, len(Layer._fields)), np.int64)
    for i in range(config.num_layers):
        attention, ff = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        window = config.window if config.window is not None and config.is_local(i) else NO_BOUND

        def linear(product: str, *names: str, layer: int = i) -> _Place:
            if plan is None:
                return packer.linear(names, precision)
            chosen = plan.layers[layer][product]
            return packer.linear(names, "int8" if chosen.int8 else KEPT, chosen.smooth)

        qkv = linear("qkv", *(f"{attention}.{name}" for name in ("query", "key", "value")))
        out = linear("out", f"{attention}.output")
        norm1, norm1_bias = packer.norm(f"{attention}.layer_norm", c)
        up, down = linear("up", f"{ff}.input"), linear("down", f"{ff}.output")
        norm2, norm2_bias = packer.norm(f"{ff}.layer_norm", c)
        gate = linear("up", f"{ff}.gate") if config.gated else _ABSENT
        layout[i] = Layer(
            qkv=qkv.at,
            qkv_bias=qkv.bias_at,
            out=out.at,
            out_bias=out.bias_at,
            norm1=norm1,
            norm1_bias=norm1_bias,
            up=up.at,
            up_bias=up.bias_at,
            down=down.at,
            down_bias=down.bias_at,
            norm2=norm2,
            norm2_bias=norm2_bias,
            gate=gate.at,
            gate_bias=gate.bias_at,
            left=window,
            right=0 if config.is_causal else window,
            rotary=bases.index(config.theta(i)),
            qkv_precision=qkv.precision,
            out_precision=out.precision,
            up_precision=up.precision,
            down_precision=down.precision,
        )
    embed_norm, embed_norm_bias = packer.norm("embeddings.layer_norm", config.input_dim)
    final_norm, final_norm_bias = packer.norm("layer_norm", c)
    project = _ABSENT
    if config.embedding_dim is not None:
        project = packer.linear(["embeddings.projection"], KEPT if precision == "int8" else precision)
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
        project=project.at,
        project_bias=project.bias_at,
        project_precision=project.precision,
        rotary_tables=len(bases),
        room=room_words(FF_ROWS, c, precision),
        block=block_columns(precision),
    )
    check_large(4 * (packer.matrices.size + packer.vectors.size), "the packed parameters")
    return Packed(
        packer.matrices.fill().view(ARENAS[precision]),
        packer.vectors.fill(),
        layout,
        np.array(sizes, np.int64),
        packer.table("embeddings.token", precision),
        *(packer.table(name) for name in ("embeddings.position", "embeddings.token_type", "relative_bias")),
    )
