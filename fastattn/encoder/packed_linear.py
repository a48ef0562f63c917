"""Affine maps of rows by weights that are packed once, and attention between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops._arrays import aligned_empty, panels, workers_for
from fastattn.kernels.ops.linear import ROW_BLOCK, linear_kernel, pack_weight
from fastattn.kernels.vector.activations import ACTIVATIONS

Array = NDArray[Any]


def packed_product(x: Array, weight: Array, bias: Array, size: int, activation: str | None = None) -> Array:
    """Return activation(x weight^T + bias) (M, size) for C-contiguous x (M, K), `weight` and `bias` packed in panels."""
    m, k = x.shape
    out = np.empty((m, size), np.float32)
    if out.size:
        workers = workers_for(2e-5 * m * k * size, panels(size, np.float32)[0] * -(-m // ROW_BLOCK))
        linear_kernel(x, weight, bias, out, ACTIVATIONS[activation], np.zeros(8, np.int64), workers)
    return out


class PackedLinear:
    """A weight (C_out, C_in) and a bias (C_out,), packed."""

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self.outputs, self.inputs = weight.shape
        count, width = panels(self.outputs, np.float32)
        self._weight = aligned_empty(count * self.inputs * width, np.float32)
        pack_weight(weight, self._weight)
        self._bias = aligned_empty(count * width, np.float32)
        self._bias[: self.outputs] = 0 if bias is None else bias
        self._bias[self.outputs :] = 0

    def __call__(self, x: Array) -> Array:
        """Map the last axis of float32 `x`."""
        rows = np.ascontiguousarray(x).reshape(-1, self.inputs)
        return packed_product(rows, self._weight, self._bias, self.outputs).reshape(*x.shape[:-1], self.outputs)
