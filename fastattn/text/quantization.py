"""Quantised embeddings, as sentence-transformers makes them."""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding
from fastattn.text.similarity import as_float

__all__ = ["PRECISIONS", "Precision", "check_ranges", "quantize_embeddings"]

logger = logging.getLogger(__name__)

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


# Fewer calibration rows than this give unreliable ranges.
_FEW = 100


@rounding()
def quantize_embeddings(
    embeddings: Any, precision: Precision, ranges: ArrayLike | None = None, calibration_embeddings: ArrayLike | None = None
) -> Any:
    """Quantise embeddings, as sentence-transformers does.

    "binary" and "ubinary" keep the signs, packed 8 to a byte.  "int8" and "uint8" divide the range of each channel into
    256 levels; the range is taken from `ranges`, else from `calibration_embeddings`, else from `embeddings`.

    Parameters
    ----------
    embeddings : float, (B, C), or a list of float (T, C)
        The rows; several matrices share their ranges.
    precision : {"float32", "int8", "uint8", "binary", "ubinary"}
        Type of the result.
    ranges : float, (2, C), optional
        The least and the largest value of each channel.
    calibration_embeddings : float, (M, C), optional
        Rows from which the ranges are taken.

    Returns
    -------
    float32, int8 or uint8, (B, C), or (B, C / 8) for the two binary types; a list for a list
        The quantised rows.

    Raises
    ------
    TypeError
        The rows are quantised already.
    ValueError
        `precision` is unknown; for "int8" and "uint8" also if the ranges would come from a single row, or if a range or an
        embedding is not finite.
    MemoryError
        The result and its temporary arrays need more than the free memory.

    Examples
    --------
    >>> import numpy as np
    >>> from fastattn import quantize_embeddings
    >>> quantize_embeddings(np.array([[0.5, -1.0, 2.0, 0.1, -3.0, -0.2, -0.7, 1.0]]), "ubinary")
    array([[177]], dtype=uint8)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    scalar = precision in ("int8", "uint8")
    if isinstance(embeddings, list) and not embeddings:
        return []
    if isinstance(embeddings, list) and np.ndim(embeddings[0]) == 2:
        if scalar and ranges is None:
            rows = np.concatenate(embeddings) if calibration_embeddings is None else as_float(calibration_embeddings)
            ranges = _ranges(rows, precision, calibrated=calibration_embeddings is not None) if len(rows) else None
        return [quantize_embeddings(matrix, precision, ranges) for matrix in embeddings]
    if getattr(embeddings, "dtype", None) in (np.int8, np.uint8):
        raise TypeError(f"embeddings to quantise must be float, got {embeddings.dtype}")
    embeddings = as_float(embeddings)
    if precision == "float32":
        return embeddings
    # Bytes of the temporary arrays: float32 for integers, bool for signs.
    taken = embeddings.size * (12 if scalar else 2)
    check_large(taken, "quantised embeddings of shape {}, with temporary arrays,", embeddings.shape)
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


def _ranges(rows: NDArray[np.float32], precision: Precision, *, calibrated: bool) -> NDArray[np.float32]:
    """Return the least and the largest value of each channel, (2, C)."""
    if not calibrated:
        check_ranges(1 if rows.ndim == 1 else len(rows), precision)
    return np.stack([rows.min(axis=0), rows.max(axis=0)])


def check_ranges(count: int, precision: str) -> None:
    """Raise a ValueError if ranges would come from a single row, and warn if from a few."""
    if count == 1:
        raise ValueError(
            f"precision {precision!r} takes each channel's range from the rows, and there is only one row: "
            "give quantize_embeddings ranges or calibration_embeddings"
        )
    if count < _FEW:
        logger.warning("%s ranges are taken from only %d embeddings: more give better ranges", precision, count)
