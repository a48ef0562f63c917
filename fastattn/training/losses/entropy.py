"""Errors of predictions against labels, as torch.nn defines them: squares and cross-entropies."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import log_sigmoid, log_sum_exp, mean, square, sum_of
from fastattn.training.graph import Tensor

__all__ = ["Reduction", "binary_cross_entropy", "check_reduction", "cross_entropy", "log_softmax", "mean_squared_error"]

Array = NDArray[Any]
Reduction = Literal["mean", "sum"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless losses can be reduced so."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")


def mean_squared_error(predicted: Tensor, wanted: Array) -> Tensor:
    """mean((predicted - wanted)^2): torch.nn.MSELoss."""
    return mean(square(predicted - wanted))


def log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last axis."""
    return logits - log_sum_exp(logits).reshape(*logits.shape[:-1], 1)


def cross_entropy(
    logits: Tensor,
    labels: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits (B, K) against classes (B,) or probabilities (B, K): torch.nn.CrossEntropyLoss."""
    count, classes = logits.shape
    scale = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    if scale.shape != (classes,):
        raise ValueError(f"weight must have shape {(classes,)}, one for each class, got {scale.shape}")
    if labels.shape == (count, classes) and labels.dtype.kind == "f":
        target, divisor = labels * (1 - label_smoothing) + label_smoothing / classes, float(count)
        target = target * scale
    else:
        kept = labels != ignore_index
        if bad := sorted({each.item() for each in labels[kept] if each not in range(classes)}):
            raise ValueError(f"labels must be whole numbers from 0 to {classes - 1} for {classes} classes, got {bad[:5]}")
        chosen = np.where(kept, labels, 0).astype(np.int64)
        smooth = np.broadcast_to(label_smoothing / classes * scale, (count, classes)).copy()
        smooth[np.arange(count), chosen] += (1 - label_smoothing) * scale[chosen]
        target, divisor = smooth * kept[:, None], float(scale[chosen] @ kept)
    total = -sum_of(log_softmax(logits) * target.astype(logits.data.dtype))
    return total * (1 / divisor if divisor else np.nan) if reduction == "mean" else total


def binary_cross_entropy(
    logits: Tensor, labels: Array, weight: Array | None = None, pos_weight: float | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy of logits against probabilities of the same shape: torch.nn.BCEWithLogitsLoss."""
    wanted = labels.astype(logits.data.dtype)
    positive = wanted if pos_weight is None else wanted * pos_weight
    losses = -(log_sigmoid(logits) * positive + log_sigmoid(-logits) * (1 - wanted))
    if weight is not None:
        losses = losses * np.asarray(weight)
    return mean(losses) if reduction == "mean" else sum_of(losses)
