"""Checks of what the losses over classes are given, and their reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn.kernels.backward._cross_entropy import Targets
from fastattn.kernels.ops._arrays import Array, absent, float_array, number, same_dtype, working

REDUCTIONS = ("none", "mean", "sum")


def smoothing_of(label_smoothing: float, reduction: str) -> float:
    """Return `label_smoothing`, a ValueError where it or `reduction` is out of range."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    smoothing = number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be in 0 .. 1, got {label_smoothing!r}")
    return smoothing


def checked_weight(weight: Any, classes: int, x: Array) -> Array:
    """Return the weights of the classes as a kernel takes them, an empty array for None."""
    if weight is None:
        return absent(np.dtype(np.float64 if x.dtype.type is np.float64 else np.float32))
    weight = float_array("weight", weight)
    same_dtype("input", x, weight=weight)
    if weight.shape != (classes,):
        raise ValueError(f"weight must have shape ({classes},), one a class, got {weight.shape}")
    return working(weight)


def class_ids(target: Array, shape: tuple[int, ...], classes: int, ignore_index: int) -> Array:
    """Return the ids of a target flat, -1 where they are `ignore_index`."""
    if target.dtype.kind not in "iu":
        raise TypeError(f"target must be class ids, got {target.dtype}")
    if target.shape != shape:
        raise ValueError(f"target must have shape {shape}, one class a row of input, got {target.shape}")
    ids = target.reshape(-1)
    ignored = ids == ignore_index
    bad = ~ignored & ((ids < 0) | (ids >= classes))
    if bad.any():
        place = int(np.argmax(bad))
        raise ValueError(f"target must be in 0 .. {classes - 1} or {ignore_index}, got {ids[place]} at {place} of {ids.size}")
    out = ids.astype(np.int64)
    out[ignored] = -1
    return out


def targets_of(target: Any, shape: tuple[int, ...], weight: Array, x: Array, ignore_index: int, smoothing: float) -> Targets:
    """Return the target of rows of `shape`, (..., V): classes (...), or probabilities of that shape and of the dtype of `x`."""
    *batch, classes = shape
    target = np.asarray(target)
    total = float(np.sum(weight, dtype=np.float64)) if weight.size else float(classes)
    numbers = (1.0 - smoothing, smoothing / classes, total)
    if target.dtype.kind != "f":
        ids = class_ids(target, tuple(batch), classes, ignore_index)
        return Targets(ids, absent(weight.dtype), weight, numbers)
    same_dtype("input", x, target=float_array("target", target))
    if target.shape != shape:
        raise ValueError(f"target must have the shape {shape} (classes last) where it is probabilities, got {target.shape}")
    if ignore_index >= 0:
        raise ValueError(f"ignore_index must be negative for a target of probabilities, which has no classes, got {ignore_index}")
    return Targets(np.empty(0, np.int64), working(target).reshape(-1), weight, numbers)


def divisor_of(targets: Targets, rows: int, reduction: str) -> float:
    """Return what the sum of the losses is divided by."""
    if reduction != "mean":
        return 1.0
    if not targets.ids.size:
        return float(rows)
    kept = targets.ids[targets.ids >= 0]
    return float(np.sum(targets.weight[kept], dtype=np.float64)) if targets.weight.size else float(len(kept))


def reduced(losses: Array, shape: tuple[int, ...], divisor: float, reduction: str, dtype: Any) -> Array:
    """Return the losses of rows, or their sum or mean, in `dtype`."""
    with np.errstate(all="ignore"):
        if reduction == "none":
            return losses.reshape(shape).astype(dtype, copy=False)
        return np.asarray(np.divide(np.sum(losses, dtype=np.float64), divisor), dtype)


def row_scale(grad: Any, shape: tuple[int, ...], divisor: float, reduction: str, x: Array, like: Array) -> Array:
    """Return by what the gradient of each row's loss is multiplied: a row's `grad`, or the one `grad` over the divisor."""
    grad = float_array("grad", grad)
    same_dtype("input", x, grad=grad)
    wanted = shape if reduction == "none" else ()
    if grad.shape != wanted:
        raise ValueError(f"grad must have shape {wanted} for reduction {reduction!r}, got {grad.shape}")
    with np.errstate(all="ignore"):
        # A copy: an array of a broadcast cannot be written to, another type to Numba.
        return np.array(np.broadcast_to(grad.astype(np.float64) / divisor, shape).reshape(-1), like.dtype)
