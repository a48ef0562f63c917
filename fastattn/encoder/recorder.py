"""Records the hidden states and the attention weights of each layer during a forward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.packing import Packed
from fastattn.encoder.tables import bias_by_position
from fastattn.kernels.encoder.schedule import EMBED_ROWS, HEADS, TAIL_ROWS
from fastattn.kernels.ops._arrays import Array
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.runtime.memory import check_fits


class Recorder:
    """A batch's hidden states and attention weights, filled in after each step of a forward that goes by rows.

    `real` (B, T) marks the tokens that are encoded; the others stay 0.
    """

    def __init__(
        self, config: EncoderConfig, packed: Packed, real: NDArray[np.bool_], *, hidden_states: bool, attention: bool
    ) -> None:
        self._config, self._packed, self._real = config, packed, real
        self._places = [_place(row) for row in real]
        (b, t), layers = real.shape, config.num_layers
        shapes = {"hidden states": (layers + 1, b, t, config.hidden_dim), "attention": (layers, b, config.num_heads, t, t)}
        wanted = {"hidden states": hidden_states, "attention": attention}
        # In Python's integers, which do not overflow; `own` is the working memory of the forward.
        sizes = [4 * int(np.prod(shapes[name], dtype=object)) for name in shapes if wanted[name]]
        own = 4 * (7 * config.hidden_dim * b * t + (3 * config.num_heads * t * t if attention else 0))
        about = " and ".join(f"{name} {shapes[name]}" for name in shapes if wanted[name])
        check_fits(sum(sizes) + own, f"{about} in float32, with temporary arrays,")
        self.hidden_states, self.attention = (np.zeros(shapes[name] if wanted[name] else 0, np.float32) for name in shapes)

    def __call__(self, step: int, layer: int, x: Array, qkv: Array, relative: Array) -> None:
        """Record a step: x (N, C) is the residual stream, qkv (N, 3 C) has rotated queries and keys."""
        if step == HEADS and self.attention.size:
            self._weigh(layer, qkv, relative)
        elif step != HEADS and self.hidden_states.size:
            following = {EMBED_ROWS: 0, TAIL_ROWS: layer + 1}.get(step, -1)
            self.hidden_states[following][self._real] = x.reshape(-1, self._config.hidden_dim)

    def _weigh(self, layer: int, qkv: Array, relative: Array) -> None:
        heads, at = self._config.num_heads, self._packed.layer(layer)
        window = (at.left, at.right)
        rows, start = qkv.reshape(-1, 3, heads, self._config.head_dim), 0
        for b, place in enumerate(self._places):
            count = int(self._real[b].sum())
            query, key = rows[start : start + count, :2].transpose(1, 2, 0, 3)
            start += count
            bias = bias_by_position(relative, heads, count)
            target = self.attention[layer, b]
            if isinstance(place, slice):
                attention_weights(query, key, bias, window=window, out=target[:, place, place])
            else:
                target[:, place[:, None], place[None, :]] = attention_weights(query, key, bias, window=window)


def _place(real: NDArray[np.bool_]) -> slice | NDArray[np.int64]:
    """Return the positions of a row's real tokens: a slice if they are contiguous."""
    found = np.flatnonzero(real)
    if len(found) and found[-1] - found[0] + 1 != len(found):
        return found
    first = int(found[0]) if len(found) else 0
    return slice(first, first + len(found))
