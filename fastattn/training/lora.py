"""The parameters of a LoRA adapter, and what they add to the products of a model: ``s (x A^T) B^T``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.lora import LoraAdapter, LowRank
from fastattn.config import Precision
from fastattn.training.functions import Dropout, Linear
from fastattn.training.graph import Parameter, Tensor, apply

__all__ = ["LoraGraph"]

Array = NDArray[Any]


class LoraGraph:
    """What an adapter adds to the products of an encoder and its head; the parameters that it keeps learn no more.

    Of a weight that is stored as a part of a greater one, A is shared by all parts.
    """

    def __init__(self, adapter: LoraAdapter, base: Sequence[Parameter]) -> None:
        self.config = adapter.config
        self.parameters: dict[str, Parameter] = {}
        self._downs: dict[str, Linear] = {}
        # By the parameter that is changed: the change, and its map from r to C_out channels.
        self._ups: dict[int, tuple[LowRank, Linear]] = {}
        for parameter in base:
            found = adapter.change_of(parameter.data)
            if found is not None and id(parameter) not in self._ups:
                self._add(parameter, *found)
        # Of these parameters, those that stay as they are.
        self.kept = frozenset(id(each) for each in base if not adapter.learns(each.data))
        for each in base:
            each.requires_grad = id(each) not in self.kept

    @classmethod
    def of(cls, adapter: LoraAdapter | None, *parts: Any) -> LoraGraph | None:
        """Return the graph of an adapter, which the graphs of an encoder and its head then apply; None without one."""
        if adapter is None:
            return None
        made = cls(adapter, [each for part in parts if part is not None for each in part.parameters.values()])
        for part in parts:
            if part is not None:
                part.adapter = made
        return made

    def _add(self, parameter: Parameter, change: LowRank, rows: slice) -> None:
        """Make parameters of A and of the rows of B that belong to a parameter."""
        a, is_whole = f"{change.name}.lora_A.weight", len(parameter.data) == len(change.b)
        if a not in self.parameters:
            self.parameters[a] = Parameter(change.a, a)
            self._downs[change.name] = Linear([self.parameters[a]], [None])
        b = f"{change.name}.lora_B.weight" + ("" if is_whole else f".{rows.start}")
        self.parameters[b] = Parameter(change.b[rows], b)
        self._ups[id(parameter)] = change, Linear([self.parameters[b]], [None])

    def set_precision(self, precision: Precision) -> None:
        """Compute products in another precision from the next forward on."""
        for linear in (*self._downs.values(), *(up for _, up in self._ups.values())):
            linear.set_precision(precision)

    def refresh(self, *, learned: bool = False) -> None:
        """Take notice that parameters were changed; with `learned`, those that learn."""
        for linear in (*self._downs.values(), *(up for _, up in self._ups.values())):
            linear.refresh(learned=learned)

    def add(self, y: Tensor, x: Tensor, weights: Sequence[Parameter], drop: Dropout) -> Tensor:
        """Return the products y (N, C_out) of x with stacked weights, to which the changes of these weights are added in place."""
        at, inner = 0, dict[str, Tensor]()
        for weight in weights:
            found = self._ups.get(id(weight))
            if found is not None:
                change, up = found
                if change.name not in inner:
                    inner[change.name] = self._downs[change.name](drop(x, self.config.lora_dropout)) * change.scale
                y = _added(y, up(inner[change.name]), at)
            at += len(weight.data)
        return y


def _added(y: Tensor, change: Tensor, at: int) -> Tensor:
    """Add columns to y from column `at` on, in place: nothing else reads them."""
    out, span = y.data, slice(at, at + change.shape[1])
    out[:, span] += change.data
    return apply(out, [y, change], lambda grad: [grad, np.ascontiguousarray(grad[:, span])])
