"""The encoder op by op, for calls that the fused forward does not take: with dropout, or with an arbitrary attention mask."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.packing import Packed
from fastattn.encoder.tables import bias_by_position
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.rotary_embedding import rotary_embedding
from fastattn.kernels.records import Batch
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]


class _Norm(NamedTuple):
    """A layer norm; the identity without a weight."""

    weight: Array | None
    bias: Array | None
    eps: float

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        return x if self.weight is None else layer_norm(x, self.weight, self.bias, residual=residual, eps=self.eps)


class _Layer(NamedTuple):
    """The maps and norms of a layer, and its place in tables: views of the packed weights."""

    qkv: PackedLinear
    out: PackedLinear
    norm1: _Norm
    gate: PackedLinear | None
    up: PackedLinear
    down: PackedLinear
    norm2: _Norm
    window: tuple[int, int]
    rotary_table: int


class _Outside(NamedTuple):
    """The maps and norms outside the layers."""

    embedding_norm: _Norm
    projection: PackedLinear | None
    final_norm: _Norm
    rotary_tables: int


Attend = Callable[[_Layer, Array], Array]
Drop = Callable[[Array], Array]


def _layer(config: EncoderConfig, packed: Packed, index: int) -> _Layer:
    at, sizes = packed.layer(index), packed.outside()

    linear = functools.partial(PackedLinear.of_panels, packed)
    c, f, activation = sizes.hidden, sizes.ff, config.activation
    return _Layer(
        qkv=linear(at.qkv, at.qkv_bias, at.qkv_precision, c, sizes.qkv),
        out=linear(at.out, at.out_bias, at.out_precision, c, c),
        norm1=_norm(config, packed, at.norm1, at.norm1_bias, c),
        gate=linear(at.gate, at.gate_bias, at.up_precision, c, f, activation) if config.gated else None,
        up=linear(at.up, at.up_bias, at.up_precision, c, f, None if config.gated else activation),
        down=linear(at.down, at.down_bias, at.down_precision, f, c),
        norm2=_norm(config, packed, at.norm2, at.norm2_bias, c),
        window=(at.left, at.right),
        rotary_table=at.rotary,
    )


def _outside(config: EncoderConfig, packed: Packed) -> _Outside:
    sizes, projection = packed.outside(), None
    if sizes.project >= 0:
        place = (sizes.project, sizes.project_bias, sizes.project_precision)
        projection = PackedLinear.of_panels(packed, *place, sizes.embed, sizes.hidden)
    return _Outside(
        embedding_norm=_norm(config, packed, sizes.embed_norm, sizes.embed_norm_bias, sizes.embed),
        projection=projection,
        final_norm=_norm(config, packed, sizes.final_norm, sizes.final_norm_bias, sizes.hidden),
        rotary_tables=sizes.rotary_tables,
    )


def _norm(config: EncoderConfig, packed: Packed, w: int, b: int, size: int) -> _Norm:
    eps, vectors = config.layer_norm_eps, packed.vectors
    return _Norm(None, None, eps) if w < 0 else _Norm(vectors[w : w + size], vectors[b : b + size], eps)


@rounding()
def forward_with_dropout(config: EncoderConfig, packed: Packed, batch: Batch, rng: np.random.Generator) -> Array:
    """Return hidden states (N, C) of packed sequences, with dropout drawn from `rng` in the order of the tokens."""
    outside, heads, d = _outside(config, packed), config.num_heads, config.head_dim
    offsets, rotary, relative = batch.offsets, batch.rotary, batch.relative
    tables = rotary.reshape(outside.rotary_tables, -1, d)

    def attend(part: _Layer, qkv: Array) -> Array:
        context = np.empty((len(qkv), config.hidden_dim), np.float32)
        for start, stop in itertools.pairwise(offsets):
            q, k, v = qkv[start:stop].reshape(-1, 3, heads, d).transpose(1, 2, 0, 3)
            if rotary.size:
                cos, sin = np.split(tables[part.rotary_table, : stop - start], 2, axis=-1)
                q, k = rotary_embedding(q, cos, sin), rotary_embedding(k, cos, sin)
            bias = bias_by_position(relative, heads, stop - start)
            each = scaled_dot_product_attention(q, k, v, bias, window=part.window)
            context[start:stop] = each.transpose(1, 0, 2).reshape(stop - start, config.hidden_dim)
        return context

    def drop(x: Array) -> Array:
        kept = rng.random(x.shape, np.float32) >= config.dropout
        return np.asarray(x * kept / np.float32(1 - config.dropout), np.float32)

    return _layers(config, packed, _embed(config, packed, outside, batch), attend, drop)


@rounding()
def forward_with_mask(config: EncoderConfig, packed: Packed, x: Array, attn_mask: Array) -> Array:
    """Return hidden states (B, T, C) of all positions of x (B, T, C), which are not embedded; the mask is the attention op's."""
    b, t, c = x.shape

    def attend(part: _Layer, qkv: Array) -> Array:
        q, k, v = qkv.reshape(b, t, 3, config.num_heads, config.head_dim).transpose(2, 0, 3, 1, 4)
        context = scaled_dot_product_attention(q, k, v, attn_mask)
        return np.asarray(context.transpose(0, 2, 1, 3).reshape(b * t, c))

    return _layers(config, packed, np.ascontiguousarray(x).reshape(b * t, c), attend).reshape(b, t, c)


def _embed(config: EncoderConfig, packed: Packed, outside: _Outside, batch: Batch) -> Array:
    """Return the input of the first layer (N, C)."""
    offsets, types, n, e = batch.offsets, batch.types, int(batch.offsets[-1]), config.input_dim
    x = packed.embeddings(batch.ids, e) if batch.ids.size else batch.input_embeds.reshape(n, e).copy()
    if batch.positions.size:
        place = np.arange(n) - np.repeat(offsets[:-1], np.diff(offsets))
        x = x + batch.positions.reshape(-1, e)[place]
    if packed.token_types.size:
        x = x + packed.token_types.reshape(-1, e)[types if types.size else np.zeros(n, np.int32)]
    x = outside.embedding_norm(x)
    return x if outside.projection is None else outside.projection(x)


def _layers(config: EncoderConfig, packed: Packed, x: Array, attend: Attend, drop: Drop = np.asarray) -> Array:
    """Return the hidden states (N, C) behind all layers and the final norm."""
    for index in range(config.num_layers):
        part = _layer(config, packed, index)
        normed = part.norm1(x) if config.norm_first else x
        y = drop(part.out(attend(part, part.qkv(normed))))
        x = x + y if config.norm_first else part.norm1(y, residual=x)
        normed = part.norm2(x) if config.norm_first else x
        expanded = part.up(normed) if part.gate is None else part.gate(normed) * part.up(normed)
        y = drop(part.down(drop(expanded)))
        x = x + y if config.norm_first else part.norm2(y, residual=x)
    return _outside(config, packed).final_norm(x)
