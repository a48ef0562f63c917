"""Encodes every position of a padded batch: padding sees the real tokens of its sequence, and nothing sees the padding.

Where the padding is left out it gets zeros.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder import layers
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.recorder import Recorder
from fastattn.encoder.tables import Tables
from fastattn.runtime.memory import check_large

Array = NDArray[Any]


class Order(NamedTuple):
    """The rows of a batch of `shape` (B, T) as `encode` takes them: in each sequence, the real tokens come first.

    `flat` (B T,), or (N,) of the N real tokens alone: each row's place in the batch; `keys` (B,): the real tokens of each
    sequence; `is_given`: the rows are those of the batch, in its order.
    """

    shape: tuple[int, ...]
    flat: NDArray[np.int64]
    keys: NDArray[np.int64]
    is_given: bool

    def rows(self, x: Array) -> Array:
        """Return x (B, T, ...) as rows (B T, ...)."""
        x = x.reshape(-1, *x.shape[2:])
        return x if self.is_given else x[self.flat]

    def real(self) -> NDArray[np.bool_]:
        """Return a mask of the rows, True for a real token."""
        return (np.arange(self.shape[1]) < self.keys[:, None]).reshape(-1)

    def without_padding(self) -> Order:
        """Return the order of the real tokens alone."""
        real = self.real()
        return self if real.all() else self._replace(flat=self.flat[real], is_given=False)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each sequence begin, and their end."""
        b, t = self.shape
        counts = np.full(b, t) if len(self.flat) == b * t else self.keys
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def order(real: NDArray[np.bool_]) -> Order:
    """Return the order for a mask (B, T), True for a real token."""
    b, t = real.shape
    keys = real.sum(axis=1, dtype=np.int64)
    if (real[:, 1:] <= real[:, :-1]).all():
        return Order((b, t), np.arange(b * t), keys, True)
    places = np.argsort(~real, axis=1, kind="stable")
    return Order((b, t), (places + t * np.arange(b)[:, None]).reshape(-1), keys, False)


def encode(
    encoder: Encoder,
    rows: Array,
    placed: Order,
    token_type_ids: Array | None = None,
    *,
    hidden_states: bool = False,
    attention: bool = False,
) -> tuple[Array, Array, Array]:
    """Return (hidden, hidden_states, attention) as `Encoder`; the last two are empty unless asked for."""
    (b, t), c = placed.shape, encoder.config.hidden_dim
    offsets = placed.offsets
    padded_bytes = 0 if placed.is_given else 4 * b * t * c
    check_large(padded_bytes + 4 * len(rows) * c, "hidden states of {} x {} tokens", b, t)
    recorder = None
    if hidden_states or attention:
        wanted = {"hidden_states": hidden_states, "attention": attention}
        recorder = Recorder(encoder.config, encoder._packed, placed.shape, placed.flat, offsets, placed.keys, **wanted)
    options: dict[str, Any] = {"recorder": recorder, "reserved_bytes": padded_bytes, "keys": placed.keys}
    out = found = encoder._encode(rows, offsets, token_type_ids, **options)
    if not placed.is_given:
        out = np.zeros((b * t, c), found.dtype)
        out[placed.flat] = found
    out, none = out.reshape(b, t, c), np.empty(0, np.float32)
    return (out, none, none) if recorder is None else (out, recorder.hidden_states, recorder.attention)


def encode_with_mask(encoder: Encoder, x: Array, attn_mask: Array) -> Array:
    """Return hidden states (B, T, C) of x (B, T, C), which are not embedded; the mask is the attention op's."""
    return layers.forward_with_mask(encoder.config, encoder._packed, x, attn_mask)


def without_embeddings(encoder: Encoder) -> Encoder:
    """Return an encoder of hidden states (B, T, C) that shares the packed weights."""
    packed, config, none = encoder._packed, encoder.config, np.empty(0, np.float32)
    positions = None if config.positions == "learned" else config.positions
    body = copy.copy(encoder)
    absent: dict[str, Any] = {"vocab_size": None, "type_vocab_size": 0, "embedding_dim": None, "padding_idx": None}
    absent["mask_idx"] = None
    body.config = dataclasses.replace(config, positions=positions, **absent)
    sizes = packed.outside()._replace(embed=config.hidden_dim, embed_norm=-1, embed_norm_bias=-1, project=-1, project_bias=-1)
    body._packed = packed._replace(sizes=np.array(sizes, np.int64), tokens=none, positions=none, token_types=none)
    body._tables = Tables(body.config, none, packed.relative)
    return body
