"""Quantised embeddings."""

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.text.quantization import quantize_embeddings
from tests.support.embedding import TEXTS
from tests.support.models import C

pytestmark = pytest.mark.jit


def test_quantized_numbers_must_be_finite() -> None:
    """NaN has no integer value, and would spoil the range of its channel for all rows."""
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for bad in (np.nan, np.inf):
        spoilt = rows.copy()
        spoilt[1, 2] = bad
        with pytest.raises(ValueError, match="embeddings and ranges must be finite for precision 'int8'"):
            quantize_embeddings(spoilt, "int8")
        with pytest.raises(ValueError, match="must be finite"):
            quantize_embeddings(rows, "uint8", calibration_embeddings=spoilt)
        assert quantize_embeddings(spoilt, "ubinary").shape == (4, 1)


def test_quantized(model: SentenceTransformer) -> None:
    full = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, precision="ubinary"), np.packbits(full > 0, axis=1))
    signed = model.encode(TEXTS, precision="binary")
    assert signed.dtype == np.int8
    assert np.array_equal(signed.astype(int) + 128, np.packbits(full > 0, axis=1))
    low, high = full.min(axis=0), full.max(axis=0)
    for precision, least, most in (("uint8", 0, 255), ("int8", -128, 127)):
        found = model.encode(TEXTS, precision=precision)
        assert found.dtype == precision
        assert (found.min(axis=0) == least).all()
        assert (found.max(axis=0) >= most - 1).all()  # the largest value lies on a bucket boundary, and rounding may put it below
        back = (found.astype(np.float64) - least) * (high - low) / 255 + low
        assert (np.abs(back - full) <= (high - low) / 255 * 1.001).all()
        assert quantize_embeddings(np.zeros((0, C), np.float32), precision).shape == (0, C)
    with pytest.raises(ValueError, match="only one row"):
        model.encode(["a cat"], precision="int8")
