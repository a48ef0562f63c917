"""The encoder in training mode: op by op, with dropout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packing import Packed
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear_kernel
from fastattn.kernels.ops.rotary_embedding import rotary_embedding
from fastattn.kernels.records import Sizes
from fastattn.kernels.vector.activations import ACTIVATIONS
from fastattn.runtime.threads import thread_count

Array = NDArray[Any]


def forward(
    config: EncoderConfig,
    packed: Packed,
    offsets: NDArray[np.int64],
    inputs: tuple[Array, ...],
    rotary: Array,
    relative: Array,
    rng: np.random.Generator,
) -> Array:
    """Hidden states (N, C) of packed sequences, with dropout drawn from `rng` in the order of the tokens."""
    ids, types, given, tokens, positions, token_types = inputs
    c, e, heads, eps = config.hidden_dim, config.input_dim, config.num_heads, config.layer_norm_eps
    n = int(offsets[-1])
    place = np.arange(n) - np.repeat(offsets[:-1], np.diff(offsets))

    def product(x: Array, w: int, b: int, size: int, activation: str | None = None) -> Array:
        count, width = panels(size, np.float32)
        weight = packed.matrices[w : w + count * width * x.shape[1]]
        bias = packed.vectors[b : b + count * width]
        out = np.empty((n, size), np.float32)
        linear_kernel(x, weight, bias, out, ACTIVATIONS[activation], np.zeros(8, np.int64), thread_count())
        return out

    def norm(x: Array, w: int, b: int, residual: Array | None = None) -> Array:
        weights, size = packed.vectors, x.shape[1]
        return x if w < 0 else layer_norm(x, weights[w : w + size], weights[b : b + size], residual=residual, eps=eps)

    def drop(x: Array) -> Array:
        kept = rng.random(x.shape, np.float32) >= config.dropout
        return np.asarray(x * kept / np.float32(1 - config.dropout), np.float32)

    x = given.reshape(n, e).copy() if given.size else tokens.reshape(-1, e)[ids]
    if positions.size:
        x = x + positions.reshape(-1, e)[place]
    if token_types.size:
        x = x + token_types.reshape(-1, e)[types if types.size else np.zeros(n, np.int32)]
    sizes = Sizes(*map(int, packed.sizes))
    x = norm(x, sizes.embed_norm, sizes.embed_norm_bias)
    if sizes.project >= 0:
        x = product(x, sizes.project, sizes.project_bias, c)
    tables = rotary.reshape(sizes.rotary_tables, -1, 2, config.head_dim // 2)
    biases = relative.reshape(heads, -1)
    for at in packed.layers():
        norm1, norm2 = (at.norm1, at.norm1_bias), (at.norm2, at.norm2_bias)
        normed = norm(x, *norm1) if config.norm_first else x
        qkv = product(normed, at.qkv, at.qkv_bias, 3 * c).reshape(n, 3, heads, c // heads)
        ctx = np.empty((n, c), np.float32)
        for start, stop in itertools.pairwise(offsets):
            q, k, v = qkv[start:stop].transpose(1, 2, 0, 3)
            bias = None
            if rotary.size:
                cos, sin = tables[at.rotary, : stop - start].swapaxes(0, 1)
                q, k = rotary_embedding(q, cos, sin), rotary_embedding(k, cos, sin)
            if relative.size:
                t = np.arange(stop - start)
                bias = biases[:, biases.shape[1] // 2 + t[None, :] - t[:, None]]
            head_out = scaled_dot_product_attention(q, k, v, bias, window=(at.left, at.right))
            ctx[start:stop] = head_out.transpose(1, 0, 2).reshape(stop - start, c)
        y = drop(product(ctx, at.out, at.out_bias, c))
        x = x + y if config.norm_first else norm(y, *norm1, residual=x)
        normed = norm(x, *norm2) if config.norm_first else x
        if config.gated:
            gate = product(normed, at.gate, at.gate_bias, config.ff_dim, config.activation)
            expanded = gate * product(normed, at.up, at.up_bias, config.ff_dim)
        else:
            expanded = product(normed, at.up, at.up_bias, config.ff_dim, config.activation)
        y = drop(product(drop(expanded), at.down, at.down_bias, c))
        x = x + y if config.norm_first else norm(y, *norm2, residual=x)
    return norm(x, sizes.final_norm, sizes.final_norm_bias)
