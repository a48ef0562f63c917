"""Learned linear map of a loss."""

from __future__ import annotations

import numpy as np

from fastattn.training.graph import Parameter, Tensor

__all__ = ["Linear"]


class Linear:
    """x W^T + b, from torch.nn.Linear's distribution: uniform within 1 / sqrt(in_features)."""

    def __init__(self, in_features: int, out_features: int, seed: int, name: str) -> None:
        if in_features < 1 or out_features < 1:
            raise ValueError(f"{name} must have at least one input and one output, got {in_features} and {out_features}")
        rng = np.random.default_rng(seed)
        bound = 1 / np.sqrt(in_features)
        shapes = {"weight": (out_features, in_features), "bias": (out_features,)}
        self.weight, self.bias = (
            Parameter(rng.uniform(-bound, bound, shape).astype(np.float32), f"{name}.{part}") for part, shape in shapes.items()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the map of each row."""
        if x.shape[1] != self.weight.shape[1]:
            raise ValueError(f"{self.weight.name} takes rows of {self.weight.shape[1]} numbers, got {x.shape[1]}")
        return x @ self.weight.T + self.bias

    def parameters(self) -> list[Parameter]:
        """Weight and bias."""
        return [self.weight, self.bias]
