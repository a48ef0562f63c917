"""The encoder op by op, for calls that the fused forward does not take: with dropout, or with an arbitrary attention mask."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.packing import Packed
from fastattn.encoder.tables import bias_by_position
from fastattn.kernels.encoder import layer
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.rotary_embedding import rotary_embedding

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
    expand: PackedLinear
    contract: PackedLinear
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


# These three functions alone read where packed parameters begin.
def layer_window(packed: Packed, index: int) -> tuple[int, int]:
    """Return how many tokens a layer sees to the left and to the right, as ops take it."""
    at = packed.layout[index]
    return int(at[layer.LEFT]), int(at[layer.RIGHT])


def _layer(config: EncoderConfig, packed: Packed, index: int) -> _Layer:
    at, weights, c, f = packed.layout[index], packed.weights, config.hidden_dim, config.ff_dim

    def linear(w: int, b: int, inputs: int, outputs: int, activation: str | None = None) -> PackedLinear:
        return PackedLinear.of_panels(weights[at[w] :], weights[at[b] :], inputs, outputs, activation)

    activation = config.activation
    return _Layer(
        qkv=linear(layer.QKV_W, layer.QKV_B, c, 3 * c),
        out=linear(layer.OUT_W, layer.OUT_B, c, c),
        norm1=_norm(config, weights, at[layer.NORM1_W], at[layer.NORM1_B], c),
        gate=linear(layer.GATE_W, layer.GATE_B, c, f, activation) if config.gated else None,
        expand=linear(layer.IN_W, layer.IN_B, c, f, None if config.gated else activation),
        contract=linear(layer.FF_W, layer.FF_B, f, c),
        norm2=_norm(config, weights, at[layer.NORM2_W], at[layer.NORM2_B], c),
        window=layer_window(packed, index),
        rotary_table=int(at[layer.ROTARY]),
    )


def _outside(config: EncoderConfig, packed: Packed) -> _Outside:
    dims, weights, c, e = packed.dims, packed.weights, config.hidden_dim, config.input_dim
    projection = None
    if dims[layer.PROJECT_W] >= 0:
        projection = PackedLinear.of_panels(weights[dims[layer.PROJECT_W] :], weights[dims[layer.PROJECT_B] :], e, c)
    return _Outside(
        embedding_norm=_norm(config, weights, dims[layer.EMBED_NORM_W], dims[layer.EMBED_NORM_B], e),
        projection=projection,
        final_norm=_norm(config, weights, dims[layer.FINAL_NORM_W], dims[layer.FINAL_NORM_B], c),
        rotary_tables=int(dims[layer.ROTARY_TABLES]),
    )


def _norm(config: EncoderConfig, weights: Array, w: int, b: int, size: int) -> _Norm:
    eps = config.layer_norm_eps
    return _Norm(None, None, eps) if w < 0 else _Norm(weights[w : w + size], weights[b : b + size], eps)


def forward_with_dropout(
    config: EncoderConfig,
    packed: Packed,
    offsets: NDArray[np.int64],
    inputs: tuple[Array, ...],
    rotary: Array,
    relative: Array,
    rng: np.random.Generator,
) -> Array:
    """Return hidden states (N, C) of packed sequences, with dropout drawn from `rng` in the order of the tokens."""
    outside, heads, d = _outside(config, packed), config.num_heads, config.head_dim
    tables = rotary.reshape(outside.rotary_tables, -1, 2, d // 2)

    def attend(part: _Layer, qkv: Array) -> Array:
        context = np.empty((len(qkv), config.hidden_dim), np.float32)
        for start, stop in itertools.pairwise(offsets):
            q, k, v = qkv[start:stop].reshape(-1, 3, heads, d).transpose(1, 2, 0, 3)
            if rotary.size:
                cos, sin = tables[part.rotary_table, : stop - start].swapaxes(0, 1)
                q, k = rotary_embedding(q, cos, sin), rotary_embedding(k, cos, sin)
            bias = bias_by_position(relative, heads, stop - start)
            each = scaled_dot_product_attention(q, k, v, bias, window=part.window)
            context[start:stop] = each.transpose(1, 0, 2).reshape(stop - start, -1)
        return context

    def drop(x: Array) -> Array:
        kept = rng.random(x.shape, np.float32) >= config.dropout
        return np.asarray(x * kept / np.float32(1 - config.dropout), np.float32)

    return _layers(config, packed, _embed(config, outside, offsets, inputs), attend, drop)


def forward_with_mask(config: EncoderConfig, packed: Packed, x: Array, attn_mask: Array) -> Array:
    """Return hidden states (B, T, C) of all positions of x (B, T, C), which are not embedded; the mask is the attention op's."""
    b, t, c = x.shape

    def attend(part: _Layer, qkv: Array) -> Array:
        q, k, v = qkv.reshape(b, t, 3, config.num_heads, config.head_dim).transpose(2, 0, 3, 1, 4)
        context = scaled_dot_product_attention(q, k, v, attn_mask)
        return np.asarray(context.transpose(0, 2, 1, 3).reshape(b * t, c))

    return _layers(config, packed, np.ascontiguousarray(x).reshape(b * t, c), attend).reshape(b, t, c)


def _embed(config: EncoderConfig, outside: _Outside, offsets: NDArray[np.int64], inputs: tuple[Array, ...]) -> Array:
    """Return the input of the first layer (N, C)."""
    ids, types, input_embeds, tokens, positions, token_types = inputs
    n, e = int(offsets[-1]), config.input_dim
    x = input_embeds.reshape(n, e).copy() if input_embeds.size else tokens.reshape(-1, e)[ids]
    if positions.size:
        place = np.arange(n) - np.repeat(offsets[:-1], np.diff(offsets))
        x = x + positions.reshape(-1, e)[place]
    if token_types.size:
        x = x + token_types.reshape(-1, e)[types if types.size else np.zeros(n, np.int32)]
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
        expanded = part.expand(normed) if part.gate is None else part.gate(normed) * part.expand(normed)
        y = drop(part.contract(drop(expanded)))
        x = x + y if config.norm_first else part.norm2(y, residual=x)
    return _outside(config, packed).final_norm(x)
