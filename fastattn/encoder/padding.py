"""A padded batch and its mask -> packed rows (the real tokens end to end, with the offsets of the sequences), and back."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class PackedRows(NamedTuple):
    """The real tokens of a padded batch end to end: sequence b is rows offsets[b] .. offsets[b + 1] - 1."""

    rows: Array
    offsets: NDArray[np.int64]
    token_types: Array | None
    real: NDArray[np.bool_]


def pack(x: Array, attention_mask: Any = None, token_type_ids: Any = None) -> PackedRows:
    """Pack ids (B, T) or hidden states (B, T, C), and the token types with them; without padding the rows are a view of `x`."""
    shape = x.shape[:2]
    real = real_tokens(attention_mask, shape)
    types = None
    if token_type_ids is not None:
        types = np.asarray(token_type_ids)
        if types.shape != shape:
            raise ValueError(f"token_type_ids must have shape {shape}, got {types.shape}")
    offsets = np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int64)
    if real.all():
        n = real.size
        return PackedRows(x.reshape(n, *x.shape[2:]), offsets, None if types is None else types.reshape(n), real)
    return PackedRows(x[real], offsets, None if types is None else types[real], real)


def places(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each packed token (N,) in its sequence, from 0."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def unpack(rows: Array, real: NDArray[np.bool_], out: Array | None = None) -> Array:
    """Return rows (N, C) as (B, T, C), with zeros at padding; written to `out`, whose padding is left as it is, if given."""
    if out is None:
        if len(rows) == real.size:
            return rows.reshape(*real.shape, rows.shape[1])
        out = np.zeros((*real.shape, rows.shape[1]), np.float32)
    out[real] = rows
    return out


def real_tokens(attention_mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask (B, T) as bool, True for a real token; all tokens are real without one."""
    if attention_mask is None:
        return np.ones(shape, np.bool_)
    mask = np.asarray(attention_mask)
    if mask.shape != shape:
        raise ValueError(f"attention_mask must have shape (B, T) = {shape}, got {mask.shape}")
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind != "b" and not np.isin(mask, (0, 1)).all()):
        raise ValueError(f"attention_mask must hold bool or 0 and 1 (1 is a real token), got {mask.dtype} with other values")
    return mask.astype(np.bool_)


def end_tokens(ids: Array, offsets: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Return the row of the token that ends each packed sequence: the first with the id `end`, or for -1 with its greatest id.

    A sequence without an end has its first token, as in CLIP.
    """
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise ValueError(f"the end of a text is found by its token ids, got {ids.dtype} of shape {ids.shape}")
    texts = [ids[start:stop] for start, stop in itertools.pairwise(offsets)]
    if not all(map(len, texts)):
        raise ValueError("every text must have a token, for the token that ends it gives the vector")
    return offsets[:-1] + np.array([int((text if end < 0 else text == end).argmax()) for text in texts], np.int64)
