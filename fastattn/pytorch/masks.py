"""Converts masks of torch.nn, where True means *ignore*, to those of the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import NotAccelerated
from fastattn.pytorch.arrays import array

Array = NDArray[Any]

_MASKS = (torch.bool, torch.float32)


def mask_array(name: str, mask: Any, *shapes: tuple[int, ...]) -> Array | None:
    """Return a bool (True: ignore) or additive mask of one of these shapes."""
    if mask is None:
        return None
    found = array(name, mask, _MASKS)
    if found.shape not in shapes:
        raise NotAccelerated(f"{name} has shape {found.shape} instead of {' or '.join(map(str, shapes))}")
    return found


def ignored(mask: Array) -> Array | None:
    """Return a mask of 0 and -inf as bool (True: ignore); None for a mask with other values."""
    if mask.dtype == np.bool_:
        return mask
    masked = np.isneginf(mask)
    return masked if (masked | (mask == 0)).all() else None


def is_causal(mask: Array) -> bool:
    """Tell whether a mask (T, T) is the causal mask: position t sees positions 0 .. t."""
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        return False
    hidden = ignored(mask)
    return hidden is not None and bool(np.array_equal(hidden, ~np.tri(len(mask), dtype=np.bool_)))


def attention_mask(mask: Array | None, padding: Array | None, heads: int) -> Array | None:
    """Join a mask (L, S) or (B H, L, S) and a padding mask (B, S) into one mask for (B, H, L, S).

    The result is bool (True: takes part) if both masks hold only 0 and -inf.
    """
    parts = []
    if mask is not None:
        parts.append(mask if mask.ndim == 2 else mask.reshape(-1, heads, *mask.shape[1:]))
    if padding is not None:
        parts.append(padding[:, None, None, :])
    if not parts:
        return None
    hidden = [ignored(part) for part in parts]
    if all(part is not None for part in hidden):
        bools = [part for part in hidden if part is not None]
        return ~(bools[0] | bools[1] if len(bools) == 2 else bools[0])
    added = [np.where(part, np.float32(-np.inf), np.float32(0)) if part.dtype == np.bool_ else part for part in parts]
    return added[0] + added[1] if len(added) == 2 else added[0]
