"""The kernels of search on arrays that end at guard pages, for `guarded`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastattn.text.nearest import nearest

EDGES = (1, 7, 8, 16, 33, 64)
ROWS = (1, 3, 4, 5, 65)


def searches(guard: Any) -> Iterator[str]:
    """Run each kind of search at each edge size; yield the name of each case before it runs."""
    rng = np.random.default_rng(0)
    for width in EDGES:
        queries, ranges = (
            guard.copy(rng.standard_normal((5, width), np.float32)),
            np.array([[-1.0] * width, [1.0] * width], np.float32),
        )
        for count in ROWS:
            numbers = np.arange(count)
            floats = guard.copy(rng.standard_normal((count, width), np.float32))
            levels = guard.copy(rng.integers(-128, 128, (count, width)).astype(np.int8))
            bits = guard.copy(rng.integers(0, 255, (count, -(-width // 8))).astype(np.uint8))
            for some in (queries, queries[:1]):
                for name in ("cosine", "dot", "euclidean", "manhattan"):
                    yield f"search {name} {count} {width} {len(some)}"
                    nearest(some, [(numbers, floats)], 3, name)
                    nearest(some, [(numbers, levels)], 3, name, ranges)
                nearest(some, [(numbers, bits)], 3, "dot")
