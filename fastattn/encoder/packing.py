"""One-time packing: parameters under their names -> an arena of matrices in panels and one of vectors, as kernels read them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.calibration import calibrate
from fastattn.encoder.tables import rotaries
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
from fastattn.layer_config import convolution_of, experts_of
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

    def head_rows(self, at: int) -> Array:
        """Return the table of disentangled scores (H, 2 S, D) at a place of the vectors."""
        sizes = self.outside()
        count, width = panels(2 * sizes.span, np.float32)
        flat = self.vectors[at : at + sizes.heads * count * width * sizes.head]
        rows = flat.reshape(sizes.heads, count, sizes.head, width).swapaxes(2, 3).reshape(sizes.heads, count * width, sizes.head)
        return np.asarray(rows[:, : 2 * sizes.span])

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
# The fields of `Layer` of a layer with one feed-forward network.
_NO_EXPERTS = dict.fromkeys((name for name in Layer._fields[Layer._fields.index("experts") :]), 0)


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

    def linear(self, names: Sequence[str], precision: str, smooth: Array | None = None, part: int = 0, parts: int = 1) -> _Place:
        """Reserve the weights of these names, stacked along their rows, and their biases, or a part of the rows of each.

        `smooth`: factors of the input of an int8 product.
        """
        arrays = [self._parameters.get(f"{name}.{kind}") for name in names for kind in ("weight", "bias")]
        # Factors are those of all products of an input: what shares its weights may not share them.
        key = (precision, part, *map(id, (*arrays, smooth)))
        if key not in self._linears:
            cut = [array if array is None or parts == 1 else np.split(array, parts)[part] for array in arrays]
            self._linears[key] = [*arrays, smooth], self._linear(cut[::2], cut[1::2], precision, smooth)
        return self._linears[key][1]

    def mixture(
        self, ff: str, count: int, top_k: int, c: int, linear: Callable[..., _Place]
    ) -> tuple[_Place, _Place, dict[str, int]]:
        """Reserve the experts of a layer, one behind the other; return those of expert 0, and the other fields of `Layer`."""
        fields = {"experts": count, "top_k": top_k}
        first = []
        for product, name in (("up", "input"), ("down", "output")):
            places = [linear(product, f"{ff}.experts.{name}", part=e, parts=count) for e in range(count)]
            first.append(places[0])
            fields[f"{product}_stride"] = places[-1].at - places[-2].at if count > 1 else 0
            fields[f"{product}_bias_stride"] = places[-1].bias_at - places[-2].bias_at if count > 1 else 0
        sizes = {
            "router": ("router.weight", count * c),
            "router_bias": ("router.bias", count),
            "experts_bias": ("experts_bias.weight", c),
        }
        for field, (name, size) in sizes.items():
            array = self._parameters.get(f"{ff}.{name}")
            fields[field] = self._vector(np.zeros(size, np.float32) if array is None else array.reshape(-1))
        return first[0], first[1], fields

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

    def head_panels(self, name: str, heads: int, step: int = 1) -> int:
        """Reserve a table (R, H D), for each head packed as keys are, with step -1 from the last row on; -1 where there is none."""
        table = self._parameters.get(f"{name}.weight")
        if table is None:
            return -1
        count, width = panels(len(table), np.float32)
        d = table.shape[1] // heads

        def write(out: Array) -> None:
            padded = np.zeros((count * width, heads, d), np.float32)
            padded[: len(table)] = table[::step].reshape(len(table), heads, d)
            out[:] = padded.reshape(count, width, heads, d).transpose(2, 0, 3, 1).reshape(-1)

        return self.vectors.reserve(heads * count * width * d, write)

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
    wide = max(c, config.query_dim)
    plan = calibrate(config, parameters) if precision == "int8" else None
    kept = KEPT if precision == "int8" else precision
    rotary = rotaries(config)
    layout = np.zeros((config.num_layers, len(Layer._fields)), np.int64)
    for i in range(config.num_layers):
        attention, ff = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        sides = [NO_BOUND if side is None else side for side in config.layer(i).window]

        def linear(product: str, *names: str, layer: int = i, part: int = 0, parts: int = 1) -> _Place:
            if plan is None:
                return packer.linear(names, precision, part=part, parts=parts)
            chosen = plan.layers[layer][product]
            return packer.linear(names, "int8" if chosen.int8 else KEPT, chosen.smooth, part, parts)

        qkv = linear("qkv", *(f"{attention}.{name}" for name in ("query", "key", "value")))
        out = linear("out", f"{attention}.output")
        norm1, norm1_bias = packer.norm(f"{attention}.layer_norm", c)
        if (experts := config.layer(i).experts) is None:
            up, down, mixed = linear("up", f"{ff}.input"), linear("down", f"{ff}.output"), _NO_EXPERTS
        else:
            up, down, mixed = packer.mixture(ff, *experts, c, linear)
        norm2, norm2_bias = packer.norm(f"{ff}.layer_norm", c)
        gate = linear("up", f"{ff}.gate") if config.gated else _ABSENT
        query_norm, query_norm_bias = packer.norm(f"{attention}.query_norm", config.query_norm_dim)
        key_norm, key_norm_bias = packer.norm(f"{attention}.key_norm", config.key_norm_dim)
        out_norm, out_norm_bias = packer.norm(f"{attention}.output_norm", c)
        ff_norm, ff_norm_bias = packer.norm(f"{ff}.output_norm", c)
        beside, convolved = f"layers.{i}.convolution", config.layer(i).convolution
        convolution = packer.linear([beside], kept) if convolved else _ABSENT
        convolution_norm, convolution_norm_bias = packer.norm(f"{beside}.layer_norm", c)
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
            left=sides[0],
            right=sides[1],
            rotary=rotary.index(turn) if (turn := config.layer(i).rotary) else 0,
            qkv_precision=qkv.precision,
            out_precision=out.precision,
            up_precision=up.precision,
            down_precision=down.precision,
            query_norm=query_norm,
            query_norm_bias=query_norm_bias,
            key_norm=key_norm,
            key_norm_bias=key_norm_bias,
            out_norm=out_norm,
            out_norm_bias=out_norm_bias,
            ff_norm=ff_norm,
            ff_norm_bias=ff_norm_bias,
            relative_key=packer.head_panels(f"{attention}.relative_key", config.num_heads, -1),
            relative_query=packer.head_panels(f"{attention}.relative_query", config.num_heads),
            convolution=convolution.at,
            convolution_bias=convolution.bias_at,
            convolution_precision=convolution.precision,
            convolution_activation=ACTIVATION_KINDS[convolved.activation] if convolved else 0,
            convolution_norm=convolution_norm,
            convolution_norm_bias=convolution_norm_bias,
            **mixed,
        )
    embed_norm, embed_norm_bias = packer.norm("embeddings.layer_norm", config.input_dim)
    final_norm, final_norm_bias = packer.norm("layer_norm", c)
    project = _ABSENT
    if config.embedding_dim is not None:
        project = packer.linear(["embeddings.projection"], kept)
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
        rotary_tables=max(1, len(rotary)),
        room=room_words(FF_ROWS, wide, precision),
        block=block_columns(precision),
        groups=config.key_value_heads,
        query=config.query_dim,
        wide=wide,
        rms=config.norm == "rms",
        query_norm=config.query_norm_dim,
        key_norm=config.key_norm_dim,
        turned=config.rotary_dim,
        span=config.disentangled_span,
        experts=experts_of(config.layers),
        convolution=convolution_of(config.layers),
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
