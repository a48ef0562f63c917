"""LayerConfig: where the attention of a layer looks, how its queries and keys turn (Rotary), its experts, its Convolution."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Convolution", "LayerConfig", "Rotary"]

# As far as anybody looks: sums of two still fit 64 bits.
_FARTHEST = 2**62 - 1
# The router compares the experts of a token with each other.
_MOST_EXPERTS = 1024
# A block of rows and those around it are copied.
_LARGEST_CONVOLUTION = 1023


class Rotary(NamedTuple):
    """Rotary positions of a layer: channel i of a head turns with channel i + R / 2 by ``t inv_freq[i]``, i < R / 2.

    Parameters
    ----------
    inv_freq : tuple of float
        R / 2 angles of a step; the channels behind the first R of a head do not turn.
    scaling : float
        Factor of the cosines and sines.
    """

    inv_freq: tuple[float, ...]
    scaling: float = 1.0


class Convolution(NamedTuple):
    """Convolution over tokens beside a layer: ``norm(layer(x) + activation(convolution(x)))``.

    Parameters
    ----------
    size : int
        Tokens K that one of its outputs is made of, an odd number: the token and its neighbours, zeros beyond the text.
    activation : str
        As in `EncoderConfig`.
    """

    size: int
    activation: str = "tanh"


class LayerConfig(NamedTuple):
    """What differs between the layers: where the attention of one looks, its experts, and what stands beside it.

    Parameters
    ----------
    window : (left, right)
        Token t attends to tokens t - left .. t + right; None: no bound on that side.
    rotary : Rotary, optional
        How its queries and keys turn, with rotary positions.
    experts : (count, top_k), optional
        Its feed-forward network is a mixture of so many, of which a token takes the `top_k` that a router finds likeliest.
    convolution : Convolution, optional
        Over the tokens of its input, and added to its output.
    """

    window: tuple[int | None, int | None] = (None, None)
    rotary: Rotary | None = None
    experts: tuple[int, int] | None = None
    convolution: Convolution | None = None


def experts_of(layers: Iterable[LayerConfig] | None) -> int:
    """Return how many experts the layers have that have any; 0 without."""
    return next((layer.experts[0] for layer in layers or () if layer.experts is not None), 0)


def convolution_of(layers: Iterable[LayerConfig] | None) -> int:
    """Return how many tokens the convolutions of the layers span that have one; 0 without."""
    return next((layer.convolution.size for layer in layers or () if layer.convolution is not None), 0)


@functools.lru_cache(64)
def default_rotary(theta: float, channels: int) -> Rotary:
    """Return the rotary positions of inv_freq[i] = theta^(-2 i / R) for R channels."""
    return Rotary(tuple((np.float64(theta) ** (-2.0 * np.arange(channels // 2) / channels)).tolist()))


def checked_layers(layers: Iterable[Any], num_layers: int, head_dim: int, activations: Collection[str]) -> tuple[LayerConfig, ...]:
    """Return the records of all layers, of plain numbers; `head_dim` is 0 without rotary positions."""
    found = tuple(_checked_layer(layer, head_dim, activations) for layer in layers)
    if len(found) != num_layers:
        raise ValueError(f"layers must have an entry for each of the {num_layers} layers, got {len(found)}")
    if len({len(layer.rotary.inv_freq) for layer in found if layer.rotary is not None}) > 1:
        raise ValueError("layers must all turn the same number of channels")
    if len({layer.experts[0] for layer in found if layer.experts is not None}) > 1:
        raise ValueError("layers with experts must all have the same number of them")
    if len({layer.convolution.size for layer in found if layer.convolution is not None}) > 1:
        raise ValueError("layers with a convolution must all have one of the same size")
    return found


def _checked_layer(layer: Any, head_dim: int, activations: Collection[str]) -> LayerConfig:
    window, rotary, experts, convolution = (*layer, None, None)[:4]
    if experts is not None:
        experts = _checked_experts(*experts)
    if convolution is not None:
        convolution = _checked_convolution(*convolution, activations=activations)
    left, right = (None if side is None else min(int(side), _FARTHEST) for side in window)
    if any(side is not None and side < 0 for side in (left, right)):
        raise ValueError(f"layers must have windows (left, right) of at least 0, got {window!r}")
    if (rotary is not None) != (head_dim > 0):
        raise ValueError(f"layers must have a rotary where positions is 'rotary', and only then, got {rotary!r:.50}")
    if rotary is None:
        return LayerConfig((left, right), None, experts, convolution)
    inv_freq, scaling = tuple(map(float, rotary[0])), float(rotary[1])
    if not 0 < 2 * len(inv_freq) <= head_dim:
        raise ValueError(f"layers must turn 2 to {head_dim} channels of a head, got {2 * len(inv_freq)}")
    if not all(map(math.isfinite, (*inv_freq, scaling))):
        raise ValueError(f"layers must have finite rotary numbers, got {rotary!r:.80}")
    return LayerConfig((left, right), Rotary(inv_freq, scaling), experts, convolution)


def _checked_convolution(size: Any, activation: Any, *, activations: Collection[str]) -> Convolution:
    if not isinstance(size, int) or isinstance(size, bool) or not (size % 2 and 0 < size <= _LARGEST_CONVOLUTION):
        raise ValueError(f"layers must have convolutions of an odd size, 1 to {_LARGEST_CONVOLUTION}, got {size!r:.50}")
    if activation not in activations:
        raise ValueError(f"the activation of a convolution must be one of {', '.join(activations)}, got {activation!r:.50}")
    return Convolution(size, activation)


def _checked_experts(count: Any, top_k: Any) -> tuple[int, int]:
    if any(not isinstance(number, int) or isinstance(number, bool) for number in (count, top_k)):
        raise ValueError(f"layers must have experts (count, top_k) of whole numbers, got {(count, top_k)!r:.80}")
    if not 1 <= top_k <= count <= _MOST_EXPERTS:
        raise ValueError(f"layers must have 1 to {_MOST_EXPERTS} experts, and top_k from 1 to their number, got {(count, top_k)}")
    return count, top_k
