"""Results in a low precision beside those in float32."""

from typing import Any

import numpy as np

from fastattn.config import Precision

LOW: tuple[Precision, ...] = ("bfloat16", "int8")


def assert_rounded(found: Any, exact: Any) -> None:
    """Check that rows of a low precision are not those of float32, and that they point the same way.

    The mean has the bound: a token of a random ModernBERT is as far off as 0.96, and a wrong one is near 0.
    """
    found, exact = (np.asarray(rows, np.float64).reshape(-1, rows.shape[-1]) for rows in (found, exact))
    assert not np.array_equal(found, exact)
    cosines = (found * exact).sum(axis=1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1))
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.9
