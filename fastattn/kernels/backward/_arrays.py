"""Checks that the backward ops share."""

from __future__ import annotations

from typing import Any

from fastattn.kernels.ops._arrays import Array, float_array, same_dtype


def with_grad(grad: Any, name: str, x: Any) -> tuple[Array, Array]:
    """Return the gradient and an array of the op, both float arrays; raise unless dtype and shape agree."""
    x = float_array(name, x)
    grad = float_array("grad", grad)
    same_dtype(name, x, grad=grad)
    if grad.shape != x.shape:
        raise ValueError(f"grad must have the shape of {name}, {x.shape}, got {grad.shape}")
    return grad, x
