"""Affine maps whose weights are packed once, for many products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import Precision
from fastattn.kernels.ops._arrays import panels, writable
from fastattn.kernels.ops.linear import pack_linear, packed_product
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]


class PackedLinear:
    """``activation(x weight^T + bias)`` with a weight (C_out, C_in) and a bias (C_out,), packed in panels."""

    def __init__(
        self,
        weight: Array,
        bias: Array | None = None,
        activation: str | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.outputs, self.inputs = weight.shape
        self._activation = activation
        with rounding():
            self._weight, self._bias = pack_linear(weight, bias, np.float32)

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
            packed_product(rows, self._weight, self._bias, out, self._activation)
        return out.reshape(*x.shape[:-1], self.outputs)
