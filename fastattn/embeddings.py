"""Embeddings in NumPy: pooling that the encoder does not do itself, norm, quantisation, similarity."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn._memory import check_large

__all__ = [
    "PRECISIONS",
    "SIMILARITIES",
    "as_float",
    "normalize",
    "pool",
    "quantize_embeddings",
    "similarity",
    "similarity_pairwise",
]

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Fewer rows than this give unsteady ranges.
_FEW = 100


def pool(hidden: NDArray[np.float32], mode: str, skip: int = 0) -> NDArray[np.float32]:
    """One vector for a text, from its hidden states ``h_1 .. h_T``.

    Parameters
    ----------
    hidden : float32, (T, C)
        The hidden states.
    mode : {"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}
        ``h_1``, ``max h``, ``sum h / T``, ``sum h / sqrt T``, ``sum t h_t / sum t`` or ``h_T``.
    skip : int
        Leave out the first tokens, which keep their numbers t.

    Returns
    -------
    float32, (C,)
        The vector; zeros where no token is left.
    """
    kept = hidden[skip:]
    count = len(kept)
    if count == 0:
        return np.zeros_like(hidden, shape=hidden.shape[1])
    if mode == "cls":
        return np.asarray(kept[0])
    if mode == "lasttoken":
        return np.asarray(kept[-1])
    if mode == "max":
        return np.asarray(kept.max(axis=0))
    if mode == "weightedmean":
        weights = np.arange(skip + 1, skip + count + 1, dtype=np.float32)
        return np.asarray(np.sum(kept * weights[:, None], axis=0) / np.sum(weights))
    return np.asarray(np.sum(kept, axis=0) / np.float32(count if mode == "mean" else count**0.5))


def normalize(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its length, ``x / max(||x||, 1e-12)``.

    Parameters
    ----------
    embeddings : float32, (B, C)
        The rows.

    Returns
    -------
    float32, (B, C)
        Rows of length 1; a row of zeros stays.
    """
    length = np.sqrt(np.sum(embeddings * embeddings, axis=1, keepdims=True))
    return np.asarray(embeddings / np.maximum(length, np.float32(1e-12)))


def quantize_embeddings(
    embeddings: Any, precision: str, ranges: ArrayLike | None = None, calibration_embeddings: ArrayLike | None = None
) -> Any:
    """Quantise as sentence-transformers does.

    "binary" and "ubinary" keep the signs, 8 a byte.  "int8" and "uint8" cut each channel's range into 256 parts; the
    ranges are those given, or those of the calibration embeddings, or those of the rows themselves.

    Parameters
    ----------
    embeddings : float, (B, C), or a list of float (T, C)
        The rows; several matrices share their ranges.
    precision : {"float32", "int8", "uint8", "binary", "ubinary"}
        The result's.
    ranges : float, (2, C), optional
        The least and the largest value of each channel.
    calibration_embeddings : float, (M, C), optional
        Rows to take the ranges from.

    Returns
    -------
    float32, int8 or uint8, (B, C), or (B, C / 8) for the binary two; a list of them for a list
        The quantised rows.

    Raises
    ------
    TypeError
        The rows are quantised already.
    ValueError
        `precision` is none of those, or it is "int8" or "uint8" and the ranges would come from a single row, or a number of
        them or of the rows is not finite.
    MemoryError
        The result, with what computes it, would not fit in the memory that is free.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    scalar = precision in ("int8", "uint8")
    if isinstance(embeddings, list) and len(embeddings) and np.ndim(embeddings[0]) == 2:
        if scalar and ranges is None:
            rows = np.concatenate(embeddings) if calibration_embeddings is None else as_float(calibration_embeddings)
            ranges = _ranges(rows, precision, calibrated=calibration_embeddings is not None) if len(rows) else None
        return [quantize_embeddings(matrix, precision, ranges) for matrix in embeddings]
    if getattr(embeddings, "dtype", None) in (np.int8, np.uint8):
        raise TypeError(f"embeddings to quantise must be float, got {embeddings.dtype}")
    embeddings = as_float(embeddings)
    if precision == "float32":
        return embeddings
    # Numbers of float32, or truths, on the way.
    taken = embeddings.size * (12 if scalar else 2)
    check_large(taken, "quantised embeddings of shape {}, with what computes them,", embeddings.shape)
    if not scalar:
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if len(embeddings) == 0:
        return np.zeros(embeddings.shape, precision)
    if ranges is None:
        calibrated = calibration_embeddings is not None
        ranges = _ranges(as_float(calibration_embeddings) if calibrated else embeddings, precision, calibrated=calibrated)
    low, high = as_float(ranges)
    if not (np.isfinite(embeddings).all() and np.isfinite(ranges).all()):
        raise ValueError(f"embeddings and ranges must be finite for precision {precision!r}: a NaN or an infinity has no integer")
    step = (high - low) / np.float32(255)
    level = np.clip(np.floor((embeddings - low) / np.where(step == 0, np.float32(1), step)), 0, 255)
    return level.astype(np.uint8) if precision == "uint8" else (level - 128).astype(np.int8)


def _ranges(rows: NDArray[np.float32], precision: str, *, calibrated: bool) -> NDArray[np.float32]:
    """Return the least and the largest value of each channel, (2, C)."""
    if not calibrated:
        if rows.ndim == 1 or len(rows) == 1:
            raise ValueError(
                f"precision {precision!r} takes each channel's range from the rows, and there is only one row: "
                "give quantize_embeddings ranges or calibration_embeddings"
            )
        if len(rows) < _FEW:
            logger.warning("%s ranges are taken from %d embeddings; they are steadier from more", precision, len(rows))
    return np.stack([rows.min(axis=0), rows.max(axis=0)])


def similarity(first: ArrayLike, second: ArrayLike, name: str = "cosine") -> NDArray[np.float32]:
    """Similarity of each row of one matrix to each row of another.

    Parameters
    ----------
    first : float, (A, C) or (C,)
        Embeddings.
    second : float, (B, C) or (C,)
        Embeddings.
    name : {"cosine", "dot", "euclidean", "manhattan"}
        The last two are negative distances.

    Returns
    -------
    float32, (A, B)
        The similarities.

    Raises
    ------
    ValueError
        `name` is none of those, or the widths differ.
    MemoryError
        The result, with what computes it, would not fit in the memory that is free.
    """
    a, b = np.atleast_2d(as_float(first)), np.atleast_2d(as_float(second))
    _check(a, b, name)
    # All but "dot" need copies of the embeddings, or differences and their squares.
    copies = 0 if name == "dot" else a.size + 2 * b.size
    check_large(4 * (len(a) * len(b) + copies), "similarities of shape {}, with what computes them,", (len(a), len(b)))
    if name == "cosine":
        return np.asarray(normalize(a) @ normalize(b).T)
    if name == "dot":
        return np.asarray(a @ b.T)
    result = np.empty((len(a), len(b)), np.float32)
    for i, row in enumerate(a):
        result[i] = _negative_distance(row - b, name)
    return result


def similarity_pairwise(first: ArrayLike, second: ArrayLike, name: str = "cosine") -> NDArray[np.float32]:
    """Similarity of each row of one matrix to the same row of another.

    Parameters
    ----------
    first : float, (B, C) or (C,)
        Embeddings.
    second : float, (B, C) or (C,)
        Embeddings.
    name : {"cosine", "dot", "euclidean", "manhattan"}
        The last two are negative distances.

    Returns
    -------
    float32, (B,), or a scalar for two vectors
        The similarities.

    Raises
    ------
    ValueError
        `name` is none of those, or the shapes differ.
    MemoryError
        The result, with what computes it, would not fit in the memory that is free.
    """
    a, b = as_float(first), as_float(second)
    _check(a, b, name)
    if a.shape != b.shape:
        raise ValueError(f"embeddings must have the same shape, got {a.shape} and {b.shape}")
    check_large(12 * a.size, "similarities of rows of shape {}, with what computes them,", a.shape)
    if name in ("euclidean", "manhattan"):
        return _negative_distance(a - b, name)
    if name == "cosine":
        a, b = (normalize(np.atleast_2d(x)).reshape(x.shape) for x in (a, b))
    return np.asarray(np.sum(a * b, axis=-1))


def _negative_distance(difference: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Minus the length of each row, Euclidean or Manhattan."""
    if name == "manhattan":
        return np.asarray(-np.sum(np.abs(difference), axis=-1))
    return np.asarray(-np.sqrt(np.sum(difference * difference, axis=-1)))


def as_float(embeddings: Any) -> NDArray[np.float32]:
    """Return embeddings as a float32 array.

    Parameters
    ----------
    embeddings : array, torch tensor, or a list of either
        The rows.

    Returns
    -------
    float32 array
        The same numbers.
    """
    if isinstance(embeddings, (list, tuple)) and len(embeddings) and not np.isscalar(embeddings[0]):
        return np.stack([as_float(row) for row in embeddings])
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().float().numpy()
    return np.asarray(embeddings, np.float32)


def _check(a: NDArray[np.float32], b: NDArray[np.float32], name: str) -> None:
    if name not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}")
    if a.ndim not in (1, 2) or b.ndim not in (1, 2) or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings must be (C,) or (B, C) of one width, got {a.shape} and {b.shape}")
