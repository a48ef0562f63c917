"""Tables by position: embeddings, rotary angles, relative bias.  Each is computed once, and again for a longer sequence."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.layer_config import Rotary
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]

_SHORTEST = 128
_NONE = np.empty(0, np.float32)


class Table:
    """A table for sequences of up to a length, which `make` takes; the values of an entry do not depend on the length.

    `width`: the numbers in the table for each position.
    """

    def __init__(self, make: Callable[[int], Array], width: int = 0) -> None:
        self._make, self._width = make, width
        self._made: tuple[int, Array] = (0, _NONE)

    def up_to(self, tokens: int) -> Array:
        """Return the table for at least so many tokens.  Safe with threads: the pair of length and table is replaced at once."""
        made = self._made
        if made[0] < tokens:
            length = max(_SHORTEST, 1 << (tokens - 1).bit_length())
            # 44 bytes a number: float64 and float32 tables, and intermediate results.
            check_large(44 * length * self._width, "a table for sequences of {} tokens", length)
            with rounding():
                self._made = made = (length, self._make(length))
        return made[1]


def _no_table(length: int) -> Array:
    return _NONE


class Tables:
    """The tables of an encoder."""

    def __init__(self, config: EncoderConfig, learned: Array, relative: Array) -> None:
        self._config, self._learned = config, learned
        self._sines = Table(functools.partial(sinusoidal_positions, config.input_dim), config.input_dim)
        is_rotary = config.positions == "rotary"
        rotary = rotaries(config)
        angles = functools.partial(rotary_tables, rotary) if is_rotary else _no_table
        self._rotary = Table(angles, config.rotary_dim * len(rotary))
        distance = config.relative_max_distance
        biases: Callable[[int], Array] = _no_table
        if relative.size:
            biases = functools.partial(relative_biases, relative.reshape(-1, config.num_heads), distance)
        elif config.positions == "alibi":
            biases = functools.partial(alibi_biases, config.num_heads)
        elif config.disentangled:
            biases = functools.partial(disentangled_rows, config.disentangled_span, distance if config.disentangled_log else None)
        self._relative = Table(biases, 0 if biases is _no_table else 2 * config.num_heads)

    def positions(self, longest: int) -> Array:
        """Return the position embeddings, flat; empty for none.  ValueError for a sequence longer than a learned table."""
        config = self._config
        if config.positions == "learned":
            if longest > config.max_positions:
                raise ValueError(f"a sequence of {longest} tokens is longer than the {config.max_positions} positions of the model")
            return self._learned if config.padding_idx is None else self._learned[config.input_dim :]
        return self._sines.up_to(longest) if config.positions == "sinusoidal" else _NONE

    def around_special(self, embeddings: Callable[[Array, int], Array], ids: Array, offsets: Array) -> Array | None:
        """Return token embeddings with their positions added, flat, for packed ids among which is `padding_idx` or `mask_idx`.

        None for others.  `embeddings`: of the table of token embeddings, the rows of these ids and this width.
        """
        config, width = self._config, self._config.input_dim
        padding, masked = (np.equal(ids, -1 if one is None else one) for one in (config.padding_idx, config.mask_idx))
        if not padding.any() and not masked.any():
            return None
        check_large(8 * ids.size * width, "embeddings of {} tokens", ids.size)
        with rounding():
            rows = embeddings(ids, width)
            if masked.any():
                counts = np.diff(offsets)
                shown = counts - np.diff(np.concatenate([[0], np.cumsum(masked)])[offsets])
                # Of a text of masked tokens alone all embeddings are zero.
                share = np.where(shown > 0, shown, 1) / np.maximum(counts, 1)
                rows = rows * np.float32(~masked)[:, None] / np.repeat(np.float32(share), counts)[:, None]
            if config.positions == "learned":
                places = places_around(padding, offsets)
                self.positions(int(places.max()))
                table = self._learned if config.padding_idx is not None else np.pad(self._learned, (width, 0))
                rows = rows + table.reshape(-1, width)[places]
            return np.asarray(rows, np.float32).reshape(-1)

    def rotary(self, longest: int) -> Array:
        """Return the table of each of `rotaries`, (tables, T, R) flat: cosines, then sines; empty for none."""
        return self._rotary.up_to(longest)

    def relative(self, longest: int) -> Array:
        """Return the bias of each head for key minus query = 1 - T .. T - 1, (H, 2 T - 1) flat; empty for none.

        For disentangled scores, the row of their tables, (1, 2 T - 1).
        """
        return self._relative.up_to(longest)


def places_around(padding: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each packed token (N,) in its sequence, from 1, counted without padding, which is at 0."""
    counted = np.cumsum(~padding)
    before = np.concatenate([[0], counted])[offsets[:-1]]
    return np.where(padding, 0, counted - np.repeat(before, np.diff(offsets)))


def rotaries(config: EncoderConfig) -> list[Rotary]:
    """Return the different rotary positions of the layers; [] for none."""
    found = dict.fromkeys(config.layer(index).rotary for index in range(config.num_layers if config.positions == "rotary" else 0))
    return [rotary for rotary in found if rotary is not None]


def sinusoidal_positions(width: int, tokens: int) -> Array:
    """Return sin(t / 10000^(2 i / C)) in channel 2 i and the cosine in channel 2 i + 1, (T, C) flat."""
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / 10000.0 ** (channel // 2 * 2 / width)
    return np.where(channel % 2, np.cos(angle), np.sin(angle)).astype(np.float32).reshape(-1)


def rotary_tables(rotary: list[Rotary], tokens: int) -> Array:
    """Return cosines and sines of t inv_freq[i], times the scaling, computed in float64 and rounded once."""
    rates, scaling = np.array([one.inv_freq for one in rotary]), np.array([one.scaling for one in rotary])
    angle = np.arange(tokens, dtype=np.float64)[:, None] * rates[:, None, :]
    both = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    return np.asarray(both * scaling[:, None, None], np.float32).reshape(-1)


def alibi_biases(heads: int, tokens: int) -> Array:
    """Return -slope[h] |d| for d = 1 - T .. T - 1.  Definition: fastattn.reference.alibi_bias."""
    # The slopes of the power of two at most H; the heads beyond it have those that lie between.
    whole = 2 ** int(math.log2(heads))
    exponents = [*range(2, 2 * whole + 1, 2), *range(1, 2 * (heads - whole), 2)]
    slopes = 2.0 ** (-4.0 * np.array(exponents) / whole)
    away = np.abs(np.arange(1 - tokens, tokens))
    return np.asarray(-slopes[:, None] * away, np.float32).reshape(-1)


def disentangled_rows(span: int, max_distance: int | None, tokens: int) -> Array:
    """Return the row for query minus key = T - 1 .. 1 - T, whole numbers below 2^24.

    Definition: fastattn.reference.disentangled_row.
    """
    away = np.arange(tokens)
    if max_distance is not None:
        middle = span // 2
        # In float32, as in training: the rounding of the logarithm decides where a bucket begins.
        whole = np.log(np.float32((max_distance - 1) / middle))
        steps = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(middle)) / whole
        far = np.ceil(steps * np.float32(middle - 1)).astype(np.int64) + middle
        away = np.where(away <= middle, away, far)
    rows = np.concatenate([away[:0:-1], -away]) + span
    return np.asarray(np.clip(rows, 0, 2 * span - 1), np.float32)


def relative_biases(weight: Array, max_distance: int, tokens: int) -> Array:
    """Return weight[bucket(d), h] for d = 1 - T .. T - 1.  Definition: fastattn.reference.relative_position_bucket."""
    return np.ascontiguousarray(weight[relative_buckets(len(weight), max_distance, tokens)].T).reshape(-1)


def relative_buckets(buckets: int, max_distance: int, tokens: int) -> NDArray[np.int64]:
    """Return the bucket of each distance 1 - T .. T - 1."""
    side = buckets // 2
    exact = side // 2
    away = np.arange(tokens)
    # In float32, as in training: the rounding of the logarithm decides where a bucket begins.
    steps = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (steps * np.float32(side - exact)).astype(np.int64), side - 1)
    bucket = np.where(away < exact, away, far)
    return np.concatenate([bucket[:0:-1], bucket[:1], bucket[1:] + side])


def bias_by_position(relative: Array, heads: int, tokens: int) -> Array | None:
    """Return the relative bias of each query and key, (H, T, T), of the table (H, 2 S - 1) for S >= T; None for no table."""
    if not relative.size:
        return None
    biases, place = relative.reshape(heads, -1), np.arange(tokens)
    return biases[:, biases.shape[1] // 2 + place[None, :] - place[:, None]]
