"""Tables by position: embeddings, rotary angles, relative bias.  Each is computed once, and again for a longer sequence."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
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
        angles = functools.partial(rotary_tables, config.head_dim, thetas(config)) if is_rotary else _no_table
        self._rotary = Table(angles, config.head_dim * len(thetas(config)) if is_rotary else 0)
        relative = relative.reshape(-1, config.num_heads)
        distance = config.relative_max_distance
        biases = functools.partial(relative_biases, relative, distance) if relative.size else _no_table
        self._relative = Table(biases, 2 * config.num_heads if relative.size else 0)

    def positions(self, longest: int) -> Array:
        """Return the position embeddings, flat; empty for none.  ValueError for a sequence longer than a learned table."""
        config = self._config
        if config.positions == "learned":
            if longest > config.max_positions:
                raise ValueError(f"a sequence of {longest} tokens is longer than the {config.max_positions} positions of the model")
            return self._learned if config.padding_idx is None else self._learned[config.input_dim :]
        return self._sines.up_to(longest) if config.positions == "sinusoidal" else _NONE

    def around_padding(self, embeddings: Callable[[Array, int], Array], ids: Array, offsets: Array) -> Array | None:
        """Return token embeddings with their positions added, flat, for packed ids among which is `padding_idx`; None for others.

        `embeddings`: of the table of token embeddings, the rows of these ids and this width.
        """
        config = self._config
        if config.padding_idx is None or not (padding := ids == config.padding_idx).any():
            return None
        counted = np.cumsum(~padding)
        before = np.concatenate([[0], counted])[offsets[:-1]]
        places = np.where(padding, 0, counted - np.repeat(before, np.diff(offsets)))
        self.positions(int(places.max()))
        width = config.input_dim
        check_large(8 * ids.size * width, "embeddings of {} tokens", ids.size)
        with rounding():
            return (embeddings(ids, width) + self._learned.reshape(-1, width)[places]).reshape(-1)

    def rotary(self, longest: int) -> Array:
        """Return the table of each base in `thetas`, (tables, T, D) flat: cosines, then sines; empty for none."""
        return self._rotary.up_to(longest)

    def relative(self, longest: int) -> Array:
        """Return the bias of each head for key minus query = 1 - T .. T - 1, (H, 2 T - 1) flat; empty for none."""
        return self._relative.up_to(longest)


def thetas(config: EncoderConfig) -> list[float]:
    """Return the different bases of the layers' rotary angles."""
    return list(dict.fromkeys(config.theta(layer) for layer in range(config.num_layers)))


def sinusoidal_positions(width: int, tokens: int) -> Array:
    """Return sin(t / 10000^(2 i / C)) in channel 2 i and the cosine in channel 2 i + 1, (T, C) flat."""
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / 10000.0 ** (channel // 2 * 2 / width)
    return np.where(channel % 2, np.cos(angle), np.sin(angle)).astype(np.float32).reshape(-1)


def rotary_tables(head_dim: int, bases: list[float], tokens: int) -> Array:
    """Return cosines and sines of t theta^(-2 i / D) for each base, computed in float64 and rounded once."""
    rates = np.array(bases)[:, None] ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    angle = np.arange(tokens, dtype=np.float64)[:, None] * rates[:, None, :]
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32).reshape(-1)


def relative_biases(weight: Array, max_distance: int, tokens: int) -> Array:
    """Return weight[bucket(d), h] for d = 1 - T .. T - 1.  Definition: fastattn.reference.relative_position_bucket."""
    side = len(weight) // 2
    exact = side // 2
    away = np.arange(tokens)
    # In float32, as in training: the rounding of the logarithm decides where a bucket begins.
    steps = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (steps * np.float32(side - exact)).astype(np.int64), side - 1)
    bucket = np.where(away < exact, away, far)
    both = np.concatenate([bucket[:0:-1], bucket[:1], bucket[1:] + side])
    return np.ascontiguousarray(weight[both].T).reshape(-1)


def bias_by_position(relative: Array, heads: int, tokens: int) -> Array | None:
    """Return the relative bias of each query and key, (H, T, T), of the table (H, 2 S - 1) for S >= T; None for no table."""
    if not relative.size:
        return None
    biases, place = relative.reshape(heads, -1), np.arange(tokens)
    return biases[:, biases.shape[1] // 2 + place[None, :] - place[:, None]]
