"""Encoder layers with an arbitrary attention mask: op by op on a padded batch, from the weights that an `Encoder` packed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packed_linear import packed_product
from fastattn.encoder.packing import Packed
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.records import Sizes

Array = NDArray[Any]


def masked_layers(config: EncoderConfig, packed: Packed, x: Array, attn_mask: Array) -> Array:
    """Return hidden states (B, T, C) of all positions of x (B, T, C), without embeddings; the mask is that of the attention op."""
    b, t, c = x.shape
    heads, eps, weights = config.num_heads, config.layer_norm_eps, packed.vectors

    def product(x: Array, w: int, b: int, size: int, activation: str | None = None) -> Array:
        count, width = panels(size, np.float32)
        packed_weight = packed.matrices[w : w + count * width * x.shape[1]]
        return packed_product(x, packed_weight, weights[b : b + count * width], size, activation)

    def norm(x: Array, w: int, b: int, residual: Array | None = None) -> Array:
        return x if w < 0 else layer_norm(x, weights[w : w + c], weights[b : b + c], residual=residual, eps=eps)

    x = np.ascontiguousarray(x).reshape(b * t, c)
    for at in packed.layers():
        norm1, norm2 = (at.norm1, at.norm1_bias), (at.norm2, at.norm2_bias)
        normed = norm(x, *norm1) if config.norm_first else x
        qkv = product(normed, at.qkv, at.qkv_bias, 3 * c)
        q, k, v = qkv.reshape(b, t, 3, heads, c // heads).transpose(2, 0, 3, 1, 4)
        context = scaled_dot_product_attention(q, k, v, attn_mask).transpose(0, 2, 1, 3)
        y = product(np.ascontiguousarray(context).reshape(b * t, c), at.out, at.out_bias, c)
        x = x + y if config.norm_first else norm(y, *norm1, residual=x)
        normed = norm(x, *norm2) if config.norm_first else x
        expanded = product(normed, at.up, at.up_bias, config.ff_dim, config.activation)
        y = product(expanded, at.down, at.down_bias, c)
        x = x + y if config.norm_first else norm(y, *norm2, residual=x)
    sizes = Sizes(*map(int, packed.sizes))
    final = sizes.final_norm, sizes.final_norm_bias
    return norm(x, *final).reshape(b, t, c)
