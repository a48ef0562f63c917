"""Positions: sinusoidal, rotary, and biases of the scores by relative distance."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


def rotary_tables(num_tokens: int, head_dim: int, theta: float = 10000.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of the angles ``t theta^(-2 i / D)``.

    Parameters
    ----------
    num_tokens : int
        T.
    head_dim : int
        D, even.
    theta : float
        The base.

    Returns
    -------
    cos, sin : ndarray of float64, (T, D / 2)

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.2.2, equation 15.
    """
    t = np.arange(num_tokens, dtype=np.float64)[:, None]  # (T, 1)
    angle = t * theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)  # (T, D / 2)
    return np.cos(angle), np.sin(angle)


def relative_position_bucket(distance: Array, num_buckets: int = 32, max_distance: int = 128) -> NDArray[np.int64]:
    """Bucket of the distance of a key from a query; keys behind the query use the upper half of the buckets.

    Of the n buckets of a side the first n / 2 hold one distance each, the others grow with its logarithm up to
    `max_distance`; greater distances share the last bucket.  The logarithm is computed in float32 and truncated to a bucket
    number, as in T5 and MPNet.

    Parameters
    ----------
    distance : ndarray of int, any shape
        Position of the key minus position of the query.
    num_buckets : int
        Number of buckets of both sides together.
    max_distance : int
        Distance from which all keys share the last bucket.

    Returns
    -------
    ndarray of int64, shape of `distance`

    References
    ----------
    Raffel et al. 2020, arXiv:1910.10683, section 2.1; Song et al. 2020, arXiv:2004.09297, section 4.1.
    """
    side = num_buckets // 2
    exact = side // 2
    away = np.abs(distance)
    ratio = np.maximum(away, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
    far = np.minimum(exact + steps.astype(np.int64), side - 1)
    return np.asarray(np.where(np.asarray(distance) > 0, side, 0) + np.where(away < exact, away, far), np.int64)


def relative_bias(weight: Array, num_tokens: int, max_distance: int = 128) -> Array:
    """Bias of the scores by relative position, ``bias[h, t, s] = weight[bucket(s - t), h]``.

    Parameters
    ----------
    weight : ndarray, (buckets, H)
        Table of the biases by bucket and head.
    num_tokens : int
        T.
    max_distance : int
        Distance from which all keys share the last bucket.

    Returns
    -------
    ndarray, (H, T, T)
        Dtype of `weight`.

    References
    ----------
    Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """
    t = np.arange(num_tokens)
    buckets = relative_position_bucket(t[None, :] - t[:, None], len(weight), max_distance)  # (T, T)
    return np.moveaxis(weight[buckets], -1, 0)  # (H, T, T)


def alibi_slopes(num_heads: int) -> NDArray[np.float64]:
    """Slopes of ALiBi, ``2^(-8 (h + 1) / H)`` for a number of heads H that is a power of two.

    For other numbers: the slopes for the power of two n below H, then every second one of those for 2 n.

    Parameters
    ----------
    num_heads : int
        H.

    Returns
    -------
    ndarray of float64, (H,)

    References
    ----------
    Press et al. 2021, arXiv:2108.12409, section 3.
    """
    below = 1 << (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    between = 2.0 ** (-8.0 * np.arange(1, 2 * below + 1) / (2 * below))
    return np.asarray(np.concatenate([slopes, between[::2][: num_heads - below]]))


def alibi_bias(num_heads: int, num_tokens: int) -> NDArray[np.float64]:
    """Bias of the scores that falls with the distance, ``bias[h, t, s] = -slope[h] |t - s|``.

    Parameters
    ----------
    num_heads : int
        H.
    num_tokens : int
        T.

    Returns
    -------
    ndarray of float64, (H, T, T)

    References
    ----------
    Press et al. 2021, arXiv:2108.12409, section 3.
    """
    t = np.arange(num_tokens)
    return np.asarray(-alibi_slopes(num_heads)[:, None, None] * np.abs(t[:, None] - t[None, :]))  # (H, T, T)


def disentangled_row(distance: Array, span: int, max_distance: int | None = None) -> NDArray[np.int64]:
    """Row of the tables of disentangled scores for the distance ``t - s`` of a key s from a query t.

    ``min(max(b + S, 0), 2 S - 1)``, where b is the distance, or with `max_distance` for distances r beyond ``m = S / 2``
    ``sign(r) (ceil(log(|r| / m) / log((max_distance - 1) / m) (m - 1)) + m)``, computed in float32 as in training.

    Parameters
    ----------
    distance : ndarray of int, any shape
        Position of the query minus position of the key.
    span : int
        S.
    max_distance : int, optional
        Distance that has the last bucket.

    Returns
    -------
    ndarray of int64, shape of `distance`

    References
    ----------
    He et al. 2020, arXiv:2006.03654, section 3.1, equation 3; He et al. 2021, arXiv:2111.09543.
    """
    found = np.asarray(distance, np.int64)
    if max_distance is not None:
        middle, away = span // 2, np.abs(found)
        with np.errstate(divide="ignore"):
            ratio = np.log(np.float32(1) * away.astype(np.float32) / np.float32(middle))
            far = np.ceil(ratio / np.log(np.float32((max_distance - 1) / middle)) * np.float32(middle - 1)) + middle
        found = np.where(away <= middle, found, (np.sign(found) * np.where(away <= middle, 0, far)).astype(np.int64))
    return np.asarray(np.clip(found + span, 0, 2 * span - 1))


def sinusoidal_positions(num_tokens: int, hidden_dim: int) -> NDArray[np.float64]:
    """Sinusoidal positions, ``sin(t / 10000^(2i/C))`` in channel 2i and ``cos`` of the same angle in channel 2i+1.

    Parameters
    ----------
    num_tokens : int
        T.
    hidden_dim : int
        C; the last cosine is left out when it is odd.

    Returns
    -------
    ndarray of float64, (T, C)
        The encoding.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    t = np.arange(num_tokens, dtype=np.float64)[:, None]  # (T, 1)
    channel = np.arange(hidden_dim)[None, :]  # (1, C)
    angle = t / 10000.0 ** ((channel - channel % 2) / max(hidden_dim, 1))  # (T, C)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
