"""Affine maps whose weights are packed once, for many products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.weights import reads_numbers
from fastattn.config import PRECISIONS, Precision
from fastattn.encoder.packing import Packed
from fastattn.kernels.ops._arrays import writable
from fastattn.kernels.ops.linear import packed_product
from fastattn.kernels.ops.splade_pooling import check_options, pooled_product
from fastattn.kernels.products.pack import pack_linear, panel_words
from fastattn.runtime.rounding import rounding

Array = NDArray[Any]


class PackedLinear:
    """``activation(x weight^T + bias)`` with a weight (C_out, C_in) and a bias (C_out,), packed in panels."""

    def __init__(
        self, weight: Array, bias: Array | None = None, activation: str | None = None, precision: Precision = "float32"
    ) -> None:
        self.outputs, self.inputs = weight.shape
        self._activation, self._precision = activation, precision
        if not reads_numbers():
            return
        with rounding():
            self._weight, self._bias = pack_linear(weight, bias, np.float32, precision)

    @classmethod
    def of_panels(
        cls, packed: Packed, at: int, bias_at: int, precision: int, inputs: int, outputs: int, activation: str | None = None
    ) -> PackedLinear:
        """Return the map (outputs, inputs) at these offsets of an encoder's matrices and vectors."""
        self = cls.__new__(cls)
        self.outputs, self.inputs, self._activation = outputs, inputs, activation
        self._precision = PRECISIONS[precision]
        words = packed.matrices.view(np.float32)[at:]
        self._weight = words[: panel_words(outputs, inputs, self._precision)].view(packed.matrices.dtype)
        self._bias = packed.vectors[bias_at:]
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle.  Arrays over a shared buffer come back read-only, a type for which the kernels would be compiled anew."""
        vars(self).update({"_precision": "float32", **state})  # pickles without one are float32
        self._weight, self._bias = writable(self._weight), writable(self._bias)

    def __call__(self, x: Array) -> Array:
        """Map the last axis of float32 `x`."""
        rows = np.ascontiguousarray(x).reshape(-1, self.inputs)
        out = np.empty((len(rows), self.outputs), np.float32)
        if out.size:
            packed_product(rows, self._weight, self._bias, out, self._activation, self._precision)
        return out.reshape(*x.shape[:-1], self.outputs)

    def splade_pooling(self, x: Array, offsets: NDArray[np.int64], pooling_strategy: str, activation_function: str) -> Array:
        """Return `fastattn.splade_pooling` of float32 rows x (N, C_in) and checked offsets, in the precision of this map."""
        check_options(pooling_strategy, activation_function)
        out = np.empty((len(offsets) - 1, self.outputs), np.float32)
        if out.size:
            options = (pooling_strategy, activation_function)
            pooled_product(np.ascontiguousarray(x), self._weight, self._bias, offsets, out, options, self._precision)
        return out
