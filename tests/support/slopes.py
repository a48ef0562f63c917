"""Gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.graph import Parameter, Tensor

Array = NDArray[Any]

# The difference of four values has errors of STEP^4 times the fifth derivative and of eps |f| / STEP = 2e-10 |f|.
STEP = 1e-6
TOLERANCE = 1e-8


def slope(function: Callable[..., Tensor], arrays: Sequence[Array], directions: Sequence[Array], weights: Any) -> Any:
    """Return the slope of ``sum(weights * function)`` along the directions by differences, and the size of the sum."""

    def at(step: float) -> Any:
        moved = [Tensor(each + step * way) for each, way in zip(arrays, directions, strict=True)]
        return (np.asarray(function(*moved).data) * weights).sum()

    near, far = at(STEP) - at(-STEP), at(2 * STEP) - at(-2 * STEP)
    return (8 * near - far) / (12 * STEP), abs(at(0))


def check_slopes(function: Callable[..., Tensor], arrays: Sequence[Array], rng: np.random.Generator) -> None:
    """Raise AssertionError unless the gradients, in a random direction, are the slope of the function's values."""
    parameters = [Parameter(each) for each in arrays]
    out = function(*parameters)
    weights = rng.standard_normal(out.shape)
    if not out.requires_grad:
        raise AssertionError("the result has no gradient")
    out.backward(weights)
    directions = [rng.standard_normal(each.shape) for each in arrays]
    found = [np.zeros(each.shape) if each.grad is None else each.grad for each in parameters]
    assert [each.shape for each in found] == [each.shape for each in arrays]
    given = sum((each * way).sum() for each, way in zip(found, directions, strict=True))
    measured, size = slope(function, arrays, directions, weights)
    curvature = sum(np.abs(each * way).sum() for each, way in zip(found, directions, strict=True))
    assert abs(given - measured) <= TOLERANCE * (1 + size + curvature), f"gradient {given}, slope {measured}"
