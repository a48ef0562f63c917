"""Checks and conversions that attention and attention weights share: heads, masks, windows."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from fastattn.kernels.ops._arrays import Array, number, working
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding


def check_heads(query: Array, key: Array, softcap: float | None, value: Array | None = None) -> None:
    """Raise a ValueError unless the arrays fit each other and the softcap is positive."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x is not None and x.ndim < 2:
            raise ValueError(f"{name} must have at least two axes (..., T, D), got shape {x.shape}")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"key must have the head size of query, {query.shape[-1]}, got shape {key.shape}")
    if value is not None and value.shape[-2] != key.shape[-2]:
        raise ValueError(f"value must have as many tokens as key, {key.shape[-2]}, got shape {value.shape}")
    if softcap is not None and not number("softcap", softcap) > 0:
        raise ValueError(f"softcap must be positive, got {softcap}")


def additive(mask: Any, dtype: np.dtype[Any], lead: tuple[int, ...], scores: tuple[int, ...]) -> tuple[Any, ...]:
    """Return a MaskTensor, as a plain tuple: an additive array that is not broadcast; distance 0 along axes where it repeats.

    `scores` is the shape that the mask must broadcast to, `lead` the axes of it that are the kernel's one batch axis.
    """
    if mask is None:
        return np.empty(0, dtype), 0, 0, 0, 0
    array = np.asarray(mask)
    try:
        np.broadcast_to(array, scores)
    except ValueError:
        raise ValueError(f"attn_mask must broadcast to {scores}, got shape {array.shape}") from None
    # The conversion makes a copy; a mask with batch axes is broadcast over all of them first.
    whole = math.prod((*lead, *array.shape[-3:])) if array.ndim > 3 else array.size
    check_large(2 * whole * dtype.itemsize, "a mask of shape {}", array.shape)
    if array.dtype == np.bool_:
        array = np.where(array, dtype.type(0), dtype.type(-np.inf))
    elif array.dtype.type not in (np.float16, np.float32, np.float64):
        raise TypeError(f"attn_mask must be bool (True takes part) or a float array to add, got {array.dtype}")
    elif array.dtype != dtype:
        with rounding():
            array = array.astype(dtype)
    array = array.reshape((1,) * (max(3, len(scores)) - array.ndim) + array.shape)
    heads = array.shape[-3:]
    if array.size and math.prod(array.shape[:-3]) != 1:
        array = np.broadcast_to(array, (*lead, *heads))
    # A read-only or unaligned array is of another type, for which Numba would compile the kernel anew.
    array = np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE")).reshape(math.prod(array.shape[:-3]), *heads)
    strides = [0 if n == 1 else s // array.itemsize for n, s in zip(array.shape, array.strides, strict=True)]
    return array.reshape(-1), *strides


def flat(x: Array, shape: tuple[int, ...]) -> Array:
    """Return `x`, broadcast to `shape`, as the kernel takes it."""
    return working(x if x.size == math.prod(shape) else np.broadcast_to(x, shape)).reshape(-1)


def bounds(is_causal: bool, window: Any) -> tuple[int, int]:
    """Return how far to the left and right of its own place a query sees."""
    left = right = NO_BOUND
    if window is not None:
        try:
            left, right = (NO_BOUND if side is None else min(operator.index(side), NO_BOUND) for side in window)
        except (TypeError, ValueError):
            raise ValueError(f"window must be a pair (left, right) of whole numbers or None, got {window!r}") from None
        if left < 0 or right < 0:
            raise ValueError(f"window must not be negative, got {window!r}")
    return left, (0 if is_causal else right)


def leading(query: Array, key: Array, value: Array | None, enable_gqa: bool) -> tuple[tuple[int, ...], int, int]:
    """Return the broadcast batch axes, the query heads and the key heads."""
    heads, key_heads, value_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (query, key, key if value is None else value))
    groups = max(key_heads, value_heads)
    if not {key_heads, value_heads} <= {1, groups} or (enable_gqa and key_heads != value_heads):
        raise ValueError(f"value must have as many heads as key, {key_heads}, got {value_heads}")
    if enable_gqa:
        if groups == 0 or heads % groups:
            raise ValueError(f"the heads of query must be a multiple of those of key, {groups}, got {heads}")
    elif heads != groups:
        if 1 not in (heads, groups):
            raise ValueError(f"key must have the heads of query, {heads}, got {groups} (enable_gqa=True repeats them)")
        heads = groups = heads * groups
    given = [query, key] if value is None else [query, key, value]
    try:
        lead = np.broadcast_shapes(*(x.shape[:-3] for x in given))
    except ValueError:
        names = "query and key" if value is None else "query, key and value"
        shapes = ", ".join(str(x.shape) for x in given)
        raise ValueError(f"{names} must have batch axes that broadcast, got shapes {shapes}") from None
    return lead, heads, groups
