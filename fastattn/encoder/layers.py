"""The encoder op by op, for calls that the fused forward does not take: with dropout, or with an arbitrary attention mask."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.attention_heads import Heads
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.packing import Packed
from fastattn.encoder.padding import places
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.rms_norm import rms_norm
from fastattn.kernels.ops.softmax import softmax
from fastattn.kernels.records import Batch
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]


class _Norm(NamedTuple):
    """A norm; the identity without a weight."""

    weight: Array | None
    bias: Array | None
    eps: float
    is_rms: bool

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        if self.weight is None:
            return x
        if self.is_rms:
            return rms_norm(x, self.weight, residual=residual, eps=self.eps)
        return layer_norm(x, self.weight, self.bias, residual=residual, eps=self.eps)


class _Experts(NamedTuple):
    """A mixture of experts: the router's product, the maps of each expert, and a bias."""

    top_k: int
    router: Array
    router_bias: Array
    up: list[PackedLinear]
    down: list[PackedLinear]
    bias: Array

    def __call__(self, x: Array, drop: Callable[[Array], Array]) -> Array:
        """Map the rows of x (N, C)."""
        p = softmax(linear(x, self.router, self.router_bias))
        kept = np.argsort(-p, axis=1, kind="stable")[:, : self.top_k]
        out = np.tile(self.bias, (len(x), 1))
        for e, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            mine = np.flatnonzero((kept == e).any(axis=1))
            out[mine] += p[mine, e, None] * down(drop(up(x[mine])))
        return out


class _Layer(NamedTuple):
    """The maps and norms of a layer, and its place in tables: views of the packed weights."""

    qkv: PackedLinear
    out: PackedLinear
    norm1: _Norm
    gate: PackedLinear | None
    up: PackedLinear
    down: PackedLinear
    experts: _Experts | None
    norm2: _Norm
    out_norm: _Norm
    ff_norm: _Norm
    convolution: PackedLinear | None
    convolution_norm: _Norm
    heads: Heads


class _Outside(NamedTuple):
    """The maps and norms outside the layers."""

    embedding_norm: _Norm
    projection: PackedLinear | None
    final_norm: _Norm


Attend = Callable[[Heads, Array], Array]
Drop = Callable[[Array], Array]


def _layer(config: EncoderConfig, packed: Packed, index: int) -> _Layer:
    at, sizes = packed.layer(index), packed.outside()

    of_panels = functools.partial(PackedLinear.of_panels, packed)
    c, f, activation = sizes.hidden, sizes.ff, config.activation
    return _Layer(
        qkv=of_panels(at.qkv, at.qkv_bias, at.qkv_precision, c, sizes.qkv),
        out=of_panels(at.out, at.out_bias, at.out_precision, sizes.query, c),
        norm1=_norm(config, packed, at.norm1, at.norm1_bias, c),
        gate=of_panels(at.gate, at.gate_bias, at.up_precision, c, f, activation) if config.gated else None,
        up=of_panels(at.up, at.up_bias, at.up_precision, c, f, None if config.gated else activation),
        down=of_panels(at.down, at.down_bias, at.down_precision, f, c),
        experts=_experts(config, packed, index) if at.experts else None,
        norm2=_norm(config, packed, at.norm2, at.norm2_bias, c),
        out_norm=_norm(config, packed, at.out_norm, at.out_norm_bias, c),
        ff_norm=_norm(config, packed, at.ff_norm, at.ff_norm_bias, c),
        convolution=_convolution(config, packed, index),
        convolution_norm=_norm(config, packed, at.convolution_norm, at.convolution_norm_bias, c),
        heads=Heads(
            config,
            packed,
            index,
            query_norm=_norm(config, packed, at.query_norm, at.query_norm_bias, sizes.query_norm),
            key_norm=_norm(config, packed, at.key_norm, at.key_norm_bias, sizes.key_norm),
        ),
    )


def _convolution(config: EncoderConfig, packed: Packed, index: int) -> PackedLinear | None:
    at, convolution, c = packed.layer(index), config.layer(index).convolution, config.hidden_dim
    if convolution is None:
        return None
    place = (at.convolution, at.convolution_bias, at.convolution_precision)
    return PackedLinear.of_panels(packed, *place, convolution.size * c, c, convolution.activation)


def _experts(config: EncoderConfig, packed: Packed, index: int) -> _Experts:
    at, vectors, c, f = packed.layer(index), packed.vectors, config.hidden_dim, config.ff_dim
    count = at.experts
    up, down = [], []
    for e in range(count):
        place, bias = at.up + e * at.up_stride, at.up_bias + e * at.up_bias_stride
        up.append(PackedLinear.of_panels(packed, place, bias, at.up_precision, c, f, config.activation))
        place, bias = at.down + e * at.down_stride, at.down_bias + e * at.down_bias_stride
        down.append(PackedLinear.of_panels(packed, place, bias, at.down_precision, f, c))
    router, bias = vectors[at.router : at.router + count * c].reshape(count, c), vectors[at.experts_bias : at.experts_bias + c]
    return _Experts(at.top_k, router, vectors[at.router_bias : at.router_bias + count], up, down, bias)


def _outside(config: EncoderConfig, packed: Packed) -> _Outside:
    sizes, projection = packed.outside(), None
    if sizes.project >= 0:
        place = (sizes.project, sizes.project_bias, sizes.project_precision)
        projection = PackedLinear.of_panels(packed, *place, sizes.embed, sizes.hidden)
    return _Outside(
        embedding_norm=_norm(config, packed, sizes.embed_norm, sizes.embed_norm_bias, sizes.embed),
        projection=projection,
        final_norm=_norm(config, packed, sizes.final_norm, sizes.final_norm_bias, sizes.hidden),
    )


def _norm(config: EncoderConfig, packed: Packed, w: int, b: int, size: int) -> _Norm:
    eps, vectors, is_rms = config.layer_norm_eps, packed.vectors, config.norm == "rms"
    if w < 0:
        return _Norm(None, None, eps, is_rms)
    return _Norm(vectors[w : w + size], vectors[b : b + size], eps, is_rms)


@rounding()
def forward_with_dropout(config: EncoderConfig, packed: Packed, batch: Batch, rng: np.random.Generator) -> Array:
    """Return hidden states (N, C) of packed sequences, with dropout drawn from `rng` in the order of the tokens."""

    def attend(heads: Heads, qkv: Array) -> Array:
        context = np.empty((len(qkv), config.query_dim), np.float32)
        for start, stop in itertools.pairwise(batch.offsets):
            q, k, v = heads.turned(qkv[start:stop], batch.rotary)
            each = heads.attention(q, k, v, heads.bias(batch.relative, q, k))
            context[start:stop] = each.transpose(1, 0, 2).reshape(stop - start, config.query_dim)
        return context

    def drop(x: Array) -> Array:
        kept = rng.random(x.shape, np.float32) >= config.dropout
        return np.asarray(x * kept / np.float32(1 - config.dropout), np.float32)

    return _layers(config, packed, _embed(config, packed, _outside(config, packed), batch), batch.offsets, attend, drop)


@rounding()
def forward_with_mask(config: EncoderConfig, packed: Packed, x: Array, attn_mask: Array) -> Array:
    """Return hidden states (B, T, C) of all positions of x (B, T, C), which are not embedded; the mask is the attention op's."""
    b, t, c = x.shape

    def attend(heads: Heads, qkv: Array) -> Array:
        context = heads.attention(*heads.split(qkv.reshape(b, t, config.qkv_dim)), attn_mask, is_masked=True)
        return np.asarray(context.transpose(0, 2, 1, 3).reshape(b * t, config.query_dim))

    offsets = np.arange(0, b * t + 1, t) if t else np.zeros(b + 1, np.int64)
    return _layers(config, packed, np.ascontiguousarray(x).reshape(b * t, c), offsets, attend).reshape(b, t, c)


def _embed(config: EncoderConfig, packed: Packed, outside: _Outside, batch: Batch) -> Array:
    """Return the input of the first layer (N, C)."""
    offsets, types, n, e = batch.offsets, batch.types, int(batch.offsets[-1]), config.input_dim
    x = packed.embeddings(batch.ids, e) if batch.ids.size else batch.input_embeds.reshape(n, e).copy()
    if batch.positions.size:
        x = x + batch.positions.reshape(-1, e)[places(offsets)]
    if packed.token_types.size:
        x = x + packed.token_types.reshape(-1, e)[types if types.size else np.zeros(n, np.int32)]
    x = outside.embedding_norm(x)
    return x if outside.projection is None else outside.projection(x)


def _neighbours(x: Array, offsets: Array, size: int) -> Array:
    """Return the rows around each row of x (N, C), end to end (N, K C); zeros stand around a sequence."""
    out = np.zeros((len(x), size, x.shape[1]), x.dtype)
    place, count = places(offsets), np.repeat(np.diff(offsets), np.diff(offsets))
    for k in range(size):
        there = place + k - size // 2
        inside = np.flatnonzero((there >= 0) & (there < count))
        out[inside, k] = x[inside + k - size // 2]
    return out.reshape(len(x), -1)


def _layers(config: EncoderConfig, packed: Packed, x: Array, offsets: Array, attend: Attend, drop: Drop = np.asarray) -> Array:
    """Return the hidden states (N, C) behind all layers and the final norm."""
    for index in range(config.num_layers):
        part, before = _layer(config, packed, index), x
        normed = part.norm1(x) if config.norm_first else x
        y = part.out(attend(part.heads, part.qkv(normed)))
        y = drop(part.out_norm(y, residual=None if config.norm_first else x))
        x = x + y if config.norm_first else part.norm1(y, residual=x)
        normed = part.norm2(x) if config.norm_first else x
        if part.experts is None:
            expanded = part.up(normed) if part.gate is None else part.gate(normed) * part.up(normed)
            y = part.down(drop(expanded))
        else:
            y = part.experts(normed, drop)
        y = drop(part.ff_norm(y))
        x = x + y if config.norm_first else part.norm2(y, residual=x)
        if part.convolution is not None:
            rows = _neighbours(before, offsets, part.convolution.inputs // config.hidden_dim)
            x = part.convolution_norm(drop(part.convolution(rows)), residual=x)
    return _outside(config, packed).final_norm(x)
