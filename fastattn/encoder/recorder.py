"""Records the hidden states and the attention weights of each layer during a forward."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.encoder.attention_heads import Heads
from fastattn.encoder.packing import Packed
from fastattn.kernels.encoder.schedule import EMBED_ROWS, FINISH, HEADS, TAIL_ROWS
from fastattn.kernels.ops._arrays import Array
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
        """Record a step: x (N, C) is the residual stream, qkv has the turned queries and keys of each row."""
        if step == HEADS and self.attention.size:
            self._weigh(layer, qkv, relative)
        elif step in (EMBED_ROWS, TAIL_ROWS, FINISH) and self.hidden_states.size:
            following = {EMBED_ROWS: 0, TAIL_ROWS: layer + 1, FINISH: -1}[step]
            rows = x.reshape(-1, self._config.hidden_dim)
            self.hidden_states[following].reshape(-1, rows.shape[1])[self._flat] = rows

    def _weigh(self, layer: int, qkv: Array, relative: Array) -> None:
        heads, start = Heads(self._config, self._packed, layer), 0
        rows = qkv.reshape(-1, self._config.qkv_dim)
        for b, place in enumerate(self._places):
            count, seen = len(place), place[: self._keys[b]]
            query, key, _ = heads.split(rows[start : start + count])
            key, start = key[:, : len(seen)], start + count
            bias, target = heads.bias(relative, query, key), self.attention[layer, b]
            first, last = _span(place), _span(seen)
            if isinstance(first, slice) and isinstance(last, slice):
                heads.weights(query, key, bias, out=target[:, first, last])
            else:
                target[:, place[:, None], seen[None, :]] = heads.weights(query, key, bias)


def _span(places: NDArray[np.int64]) -> slice | None:
    """Return consecutive places as a slice; None for others."""
    if not len(places):
        return slice(0, 0)
    first, count = int(places[0]), len(places)
    return slice(first, first + count) if (places == np.arange(first, first + count)).all() else None
