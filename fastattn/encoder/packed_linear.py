"""Affine maps of rows whose weights are packed once: the one place that makes such a product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops._arrays import aligned_empty, panels, workers_for, writable
from fastattn.kernels.ops.linear import ROW_BLOCK, linear_kernel, pack_weight
from fastattn.kernels.vector.activations import ACTIVATION_KINDS

Array = NDArray[Any]


class PackedLinear:
    """``activation(x weight^T + bias)`` with a weight (C_out, C_in) and a bias (C_out,), packed in panels."""

    def __init__(self, weight: Array, bias: Array | None = None, activation: str | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        self._activation = activation
        count, width = panels(self.outputs, np.float32)
        self._weight = aligned_empty(count * self.inputs * width, np.float32)
        pack_weight(weight, self._weight)
        self._bias = aligned_empty(count * width, np.float32)
        self._bias[: self.outputs] = 0 if bias is None else bias
        self._bias[self.outputs :] = 0

    @classmethod
    def of_panels(cls, weight: Array, bias: Array, inputs: int, outputs: int, activation: str | None = None) -> PackedLinear:
        """Return the map whose panels begin at the start of `weight` and of `bias`, flat arrays that may go on behind them."""
        count, width = panels(outputs, np.float32)
        self = cls.__new__(cls)
        self.outputs, self.inputs, self._activation = outputs, inputs, activation
        self._weight, self._bias = weight[: count * width * inputs], bias[: count * width]
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle.  Arrays over a shared buffer come back read-only, a type for which the kernels would be compiled anew."""
        vars(self).update(state)
        self._weight, self._bias = writable(self._weight), writable(self._bias)

    def __call__(self, x: Array) -> Array:
        """Map the last axis of float32 `x`."""
        rows = np.ascontiguousarray(x).reshape(-1, self.inputs)
        out = np.empty((len(rows), self.outputs), np.float32)
        if out.size:
            workers = workers_for(2e-5 * out.size * self.inputs, panels(self.outputs, np.float32)[0] * -(-len(rows) // ROW_BLOCK))
            kind = ACTIVATION_KINDS[self._activation]
            linear_kernel(rows, self._weight, self._bias, out, kind, np.zeros(8, np.int64), workers)
        return out.reshape(*x.shape[:-1], self.outputs)
