"""Denormal numbers (below the smallest normal float32): the time of calls with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn.cli.cases import Sizes, cases, ops
from soak._poison import make

Array = NDArray[Any]
DENORMAL = np.float32(2.0**-140)


def calls(small: bool) -> dict[str, Callable[[], Array]]:
    """Return calls of every op and of an encoder; with `small`, denormal numbers are among or in place of the normal ones."""
    rng = np.random.default_rng(31)

    def normal(*shape: int) -> Array:
        x = rng.standard_normal(shape).astype(np.float32)
        return x * DENORMAL if small else x

    def shrunk(x: Any) -> Any:
        return x * DENORMAL if small and isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    q, v = normal(2, 1, 12, 128, 32)
    # Differences down to -100: the softmax weights of the lowest scores are denormal, or would be.
    spread = np.linspace(-100 if small else -10, 0, 384, dtype=np.float32)[None].repeat(256, 0)
    steep = q / DENORMAL * 10 if small else q
    hidden = normal(8 * 64, 40)
    offsets = np.arange(0, 8 * 64 + 1, 64)
    model = make("post")
    factor = np.float32(2.0**-66 if small else 1)
    tiny, tiny_weight = (rng.standard_normal(shape).astype(np.float32) * factor for shape in ((256, 384), (384, 384)))
    public = ops()
    plain = {}
    for case in cases(Sizes(batch=2)):
        first, *others = case.arrays
        op, options = public[case.op], {name: shrunk(value) for name, value in case.options.items()}
        plain[case.label] = case._replace(arrays=[shrunk(first), *others]).bound(op)
        plain[f"{case.label}, all arrays"] = case._replace(arrays=[*map(shrunk, case.arrays)], options=options).bound(op)
    return {
        **plain,
        "softmax, small weights": lambda: fastattn.softmax(spread),
        "linear, small products": lambda: fastattn.linear(tiny, tiny_weight),
        "attention, small weights": lambda: fastattn.scaled_dot_product_attention(steep, steep, v),
        "encoder": lambda: model.forward_packed(hidden, offsets),
    }


def slowdown(seconds: float) -> dict[str, float]:
    """Return the factor by which denormal numbers slow each call: the ratio of minimum times, both inputs timed in turns."""
    sides = calls(False), calls(True)
    found = {}
    for name in sides[0]:
        least = [float("inf"), float("inf")]
        for side in sides:
            side[name]()
        end = time.perf_counter() + seconds / len(sides[0])
        while True:
            for i, side in enumerate(sides):
                began = time.perf_counter()
                side[name]()
                least[i] = min(least[i], time.perf_counter() - began)
            if time.perf_counter() > end:
                break
        found[name] = least[1] / least[0]
    return found
