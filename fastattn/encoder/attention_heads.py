"""The heads of a layer's attention, op by op: for dropout, masks, and the weights that are shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packing import Packed
from fastattn.encoder.tables import bias_by_position
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.kernels.ops.rotary_embedding import rotary_embedding

Array = NDArray[Any]


class Heads:
    """Queries (..., H, T, D), keys and values (..., G, T, D) of a layer, and what becomes of them."""

    def __init__(
        self,
        config: EncoderConfig,
        packed: Packed,
        index: int,
        query_norm: Any = np.asarray,
        key_norm: Any = np.asarray,
    ) -> None:
        self._config, self._packed, self._at = config, packed, packed.layer(index)
        self._norms = (query_norm, key_norm)
        self._options: dict[str, Any] = {
            "scale": config.attention_scale,
            "softcap": config.softcap,
            "enable_gqa": config.key_value_heads != config.num_heads,
        }

    def split(self, qkv: Array) -> tuple[Array, Array, Array]:
        """Return the heads of rows of queries, keys and values (..., T, (H + 2 G) D)."""
        config = self._config
        parts = np.split(qkv, [config.query_dim, config.query_dim + config.key_dim], axis=-1)
        q, k, v = map(self._heads, parts)
        return q, k, v

    def _heads(self, rows: Array) -> Array:
        d = self._config.head_dim
        return np.asarray(rows.reshape(*rows.shape[:-1], rows.shape[-1] // d, d).swapaxes(-2, -3))

    def turned(self, qkv: Array, rotary: Array) -> tuple[Array, Array, Array]:
        """Return the heads with normed queries and keys, turned by the table (tables, T, R), flat."""
        config, found = self._config, []
        cut = [config.query_dim, config.query_dim + config.key_dim]
        for rows, norm in zip(np.split(qkv, cut, axis=1)[:2], self._norms, strict=True):
            is_full = config.query_key_norm == "full"
            split = self._heads(norm(rows) if is_full else rows)
            split = norm(split) if config.query_key_norm == "head" else split
            if rotary.size:
                width = config.rotary_dim
                table = rotary.reshape(self._packed.outside().rotary_tables, -1, width)[self._at.rotary, : len(qkv)]
                cos, sin = np.split(table, 2, axis=-1)
                turning = rotary_embedding(split[..., :width], cos, sin)
                split = np.concatenate([turning, split[..., width:]], axis=-1) if width < config.head_dim else turning
            found.append(split)
        return found[0], found[1], self.split(qkv)[2]

    def bias(self, relative: Array, q: Array, k: Array) -> Array | None:
        """Return what is added to the scores of turned queries and keys (H, S, D), the first S of T tokens; None for nothing."""
        config, at, tokens = self._config, self._at, q.shape[-2]
        if not config.disentangled:
            found = bias_by_position(relative, config.num_heads, tokens)
            return found if found is None else found[:, :, : k.shape[-2]]
        t, s = np.arange(tokens)[:, None], np.arange(k.shape[-2])[None, :]
        row = relative[relative.size // 2 + s - t].astype(np.int64)  # (T, S)
        total = np.zeros((config.num_heads, *row.shape), np.float32)
        if at.relative_key >= 0:
            total += (q @ self._packed.head_rows(at.relative_key)[:, ::-1].swapaxes(-1, -2))[:, t, row]
        if at.relative_query >= 0:
            total += (k @ self._packed.head_rows(at.relative_query).swapaxes(-1, -2))[:, s, row]
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        return np.asarray(total * np.float32(scale))

    def attention(self, q: Array, k: Array, v: Array, mask: Array | None, *, is_masked: bool = False) -> Array:
        """Return the context of each head; `is_masked`: the mask says what a token sees, in place of the layer's window."""
        window = None if is_masked else (self._at.left, self._at.right)
        return scaled_dot_product_attention(q, k, v, mask, window=window, **self._options)

    def weights(self, q: Array, k: Array, bias: Array | None, out: Array | None = None) -> Array:
        """Return the attention weights (H, T, S)."""
        return attention_weights(q, k, bias, window=(self._at.left, self._at.right), out=out, **self._options)
