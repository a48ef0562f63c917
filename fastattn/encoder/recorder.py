"""Records the hidden states and the attention weights of each layer during a forward."""

from __future__ import annotations

import itertools

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

    `flat` (N,) has each row's place in the batch of `shape` (B, T), of which the other places stay 0; `keys` as in
    `Encoder._encode`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        packed: Packed,
        shape: tuple[int, ...],
        flat: NDArray[np.int64],
        offsets: NDArray[np.int64],
        keys: NDArray[np.int64] | None,
        *,
        hidden_states: bool,
        attention: bool,
    ) -> None:
        (b, t), layers = shape, config.num_layers
        self._config, self._packed, self._flat = config, packed, flat
        self._places = [flat[start:stop] % t for start, stop in itertools.pairwise(offsets)]
        self._keys = np.diff(offsets) if keys is None else keys
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
            rows = x.reshape(-1, self._config.hidden_dim)
            self.hidden_states[following].reshape(-1, rows.shape[1])[self._flat] = rows

    def _weigh(self, layer: int, qkv: Array, relative: Array) -> None:
        heads, at = self._config.num_heads, self._packed.layer(layer)
        window = (at.left, at.right)
        rows, start = qkv.reshape(-1, 3, heads, self._config.head_dim), 0
        for b, place in enumerate(self._places):
            count, seen = len(place), place[: self._keys[b]]
            query, key = rows[start : start + count, :2].transpose(1, 2, 0, 3)
            key, start = key[:, : len(seen)], start + count
            bias = bias_by_position(relative, heads, count)
            bias = bias if bias is None else bias[:, :, : len(seen)]
            target = self.attention[layer, b]
            first, last = _span(place), _span(seen)
            if isinstance(first, slice) and isinstance(last, slice):
                attention_weights(query, key, bias, window=window, out=target[:, first, last])
            else:
                target[:, place[:, None], seen[None, :]] = attention_weights(query, key, bias, window=window)


def _span(places: NDArray[np.int64]) -> slice | None:
    """Return consecutive places as a slice; None for others."""
    if not len(places):
        return slice(0, 0)
    first, count = int(places[0]), len(places)
    return slice(first, first + count) if (places == np.arange(first, first + count)).all() else None
