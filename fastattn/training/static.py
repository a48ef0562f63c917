"""Differentiable means of a table's rows: the graph of a StaticEmbedding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import Precision
from fastattn.kernels.ops.embedding_bag import sum_bags
from fastattn.text.modules import StaticEmbedding
from fastattn.training.functions import Dropout
from fastattn.training.graph import Parameter, Tensor, apply

__all__ = ["StaticGraph"]

Array = NDArray[Any]


class StaticGraph:
    """Means of rows of a StaticEmbedding's table, which learns in place."""

    def __init__(self, module: StaticEmbedding) -> None:
        self._module = module
        self._table = Parameter(module.learn(), "embedding.weight")
        self.parameters = {self._table.name: self._table}

    def set_precision(self, precision: Precision) -> None:
        """Do nothing: a mean has no product."""

    def refresh(self, *, learned: bool = False) -> None:
        """Do nothing: the table is read as it is."""

    def __call__(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.int32] | None, dropout: Dropout
    ) -> Tensor:
        """Return the mean of the rows of each text, (B, C); nothing is dropped."""
        table, counts = self._table, np.diff(offsets)
        rows, factors = self._module._rows(ids)
        out = np.empty((len(counts), table.shape[1]), np.float32)
        sum_bags(rows, offsets, table.data.reshape(-1), factors, True, out)

        def pull(grad: Array) -> list[Array]:
            # For each row that occurs, the sum over its places of the text's gradient, in the order of the places.
            order = np.argsort(rows, kind="stable")
            by_row, texts = rows[order], np.repeat(np.arange(len(counts)), counts)
            starts = np.flatnonzero(np.diff(by_row, prepend=-1))
            shares = (1 / np.repeat(np.maximum(counts, 1), counts)).astype(np.float32)
            shares = (shares if factors.size == 0 else shares * factors)[order]
            sums = np.empty((len(starts), table.shape[1]), np.float32)
            sum_bags(texts[order], np.append(starts, len(rows)), np.ascontiguousarray(grad).reshape(-1), shares, False, sums)
            # All other rows are pages of zeros that the system has not yet handed out.
            total = np.zeros(table.shape, np.float32)
            total[by_row[starts]] = sums
            return [total]

        return apply(out, [table], pull)
