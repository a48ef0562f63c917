"""`linear_cross_entropy` against its definition: sums run over the hidden size, the classes and the rows."""

from typing import Any

import numpy as np

import fastattn
from fastattn import reference
from tests.support.cases import Array, normal
from tests.support.tolerance import ORDERS, assert_matches_reference, truth_and_yardsticks

# By function, the axes of each result: n rows, v classes, c hidden size.
AXES = {"linear_cross_entropy": ("n",), "linear_cross_entropy_backward": ("nc", "vc", "v")}


def arrays(rows: int, classes: int, width: int, dtype: Any = np.float32, ignored: float = 0.3) -> dict[str, Array]:
    """Return the arguments of a call; some rows are ignored."""
    rng = np.random.default_rng([rows, classes, width])
    target = np.where(rng.random(rows) < ignored, -100, rng.integers(0, classes, rows))
    return {
        "input": normal(rows, width, dtype=dtype),
        "linear_weight": normal(classes, width, seed=1, dtype=dtype),
        "target": target,
        "linear_bias": normal(classes, seed=2, dtype=dtype),
    }


def check(name: str, given: dict[str, Any], **options: Any) -> list[Array]:
    """Compare each result with float64 truth; yardsticks have the three axes, all of which are summed over, in several orders."""

    def results(module: Any, given: dict[str, Any]) -> list[Array]:
        found = getattr(module, name)(**given, **options)
        return [each for each in (found if isinstance(found, tuple) else (found,)) if each is not None]

    rows, (classes, width) = len(given["target"]), given["linear_weight"].shape
    ours, yardsticks = results(fastattn, given), []
    for order in range(ORDERS):
        rng = np.random.default_rng(order)
        n, v, c = (rng.permutation(size) if order else np.arange(size) for size in (rows, classes, width))
        place = np.argsort(v)
        moved = {
            **given,
            "input": given["input"][n][:, c],
            "linear_weight": given["linear_weight"][v][:, c],
            "target": np.where(given["target"] < 0, -100, place[np.maximum(given["target"], 0)])[n],
        }
        for key in ("linear_bias", "weight"):
            if given.get(key) is not None:
                moved[key] = given[key][v]
        if "grad" in given and given["grad"].ndim:
            moved["grad"] = given["grad"][n]
        backs = [np.argsort(n), place, np.argsort(c)]

        def part(i: int, moved: dict[str, Any] = moved, backs: list[Array] = backs) -> Any:
            keys = [key for key, value in moved.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]

            def twin(*floats: Array) -> Array:
                found = results(reference, {**moved, **dict(zip(keys, floats, strict=True))})[i]
                for axis, letter in enumerate(AXES[name][i][: found.ndim]):
                    found = np.take(found, backs["nvc".index(letter)], axis=axis)
                return found

            return truth_and_yardsticks(twin, tuple(moved[key] for key in keys), {})

        yardsticks.append([part(i) for i in range(len(ours))])
    for i, result in enumerate(ours):
        assert_matches_reference(result, yardsticks[0][i][0], *(each[i][1][0] for each in yardsticks))
    return ours
