"""Rows of the cross-entropy and of its gradient, and what its target is to kernels.

A row's target is q_c = w_c (keep t_c + spread): `keep` is 1 - label_smoothing, `spread` is label_smoothing / V, and t are the
probabilities, or 1 for the row's class and 0 for the others.  With Q the sum of q, the loss is
Q log sum_c exp(x_c) - sum_c q_c x_c, and its gradient is Q softmax(x) - q.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.ops.softmax import row_exp, row_max, scale_row
from fastattn.kernels.vector.elementary import LOG2_E, exp2
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, store, store_part

# Exponentials that are summed in float32; the sums of a vocabulary's blocks join in float64, or they err by 50 eps.
SUM_BLOCK = 1024


class Targets(NamedTuple):
    """Target of a kernel: ids (N,), -1 where ignored, or probabilities (N, V); weight (V,); keep, spread, the sum of the weights.

    Of `ids` and `probabilities` one is empty; `weight` is empty where all are 1.
    """

    ids: Any
    probabilities: Any
    weight: Any
    numbers: Any


@inline
def take(x, i, count, rest):  # type: ignore[no-untyped-def]
    """Vector from element i on, of which `count` elements are there, the others `rest`."""
    return load(x, i) if count == lanes(x) else load_part(x, i, count, rest)


@inline
def target_part(j, count, it, targets):  # type: ignore[no-untyped-def]
    """Vector of q from class j on but for the row's class, the row's probabilities at `it`."""
    keep, spread, _ = targets.numbers
    q = fill(targets.weight, spread)
    if targets.probabilities.size:
        q = fma(take(targets.probabilities, it + j, count, 0.0), keep, q)
    if targets.weight.size:
        q = q * take(targets.weight, j, count, 0.0)
    return q


@kernel
def class_part(i, targets):  # type: ignore[no-untyped-def]
    """q of the row's class but for what all classes get."""
    keep = targets.numbers[0]
    return keep * targets.weight[targets.ids[i]] if targets.weight.size else keep


@kernel
def target_sum(i, n, targets):  # type: ignore[no-untyped-def]
    """Q of row i."""
    keep, spread, total = targets.numbers
    if targets.ids.size:
        return class_part(i, targets) + spread * total
    width = lanes(targets.weight)
    sums = fill(targets.weight, 0.0)
    for j in range(0, n, width):
        count = min(width, n - j)
        t = take(targets.probabilities, i * n + j, count, 0.0)
        sums = fma(t, take(targets.weight, j, count, 0.0), sums) if targets.weight.size else sums + t
    return keep * reduce_add(sums) + spread * total


@kernel
def distance(i, n, x, top, targets):  # type: ignore[no-untyped-def]
    """sum_c q_c (top - x_c) of row i, without the row's class."""
    width = lanes(x)
    sums = fill(x, 0.0)
    for j in range(0, n, width):
        count = min(width, n - j)
        # Behind the row the difference is 0.
        sums = sums + target_part(j, count, i * n, targets) * (top - take(x, i * n + j, count, top))
    return reduce_add(sums)


@kernel
def exponential_sum(n, x, ix, top):  # type: ignore[no-untyped-def]
    """sum_c exp(x_c - top) for the n elements from ix on, in the order of `row_exp`."""
    width = lanes(x)
    whole = n - n % width
    total, other = fill(x, 0.0), fill(x, 0.0)
    for j in range(0, whole - width, 2 * width):
        total = total + exp2(load(x, ix + j) - top, LOG2_E)
        other = other + exp2(load(x, ix + j + width) - top, LOG2_E)
    if whole % (2 * width):
        total = total + exp2(load(x, ix + whole - width) - top, LOG2_E)
    if whole < n:
        total = total + exp2(load_part(x, ix + whole, n - whole, -np.inf) - top, LOG2_E)
    return reduce_add(total + other)


@kernel
def from_target(i, n, x, top, targets):  # type: ignore[no-untyped-def]
    """sum_c q_c (top - x_c) of row i."""
    found = 0.0
    if targets.ids.size:
        found = class_part(i, targets) * np.float64(top - x[i * n + targets.ids[i]])
    if targets.probabilities.size or targets.numbers[1] != 0.0:
        found += distance(i, n, x, top, targets)
    return found


@kernel
def loss_row(i, n, x, targets):  # type: ignore[no-untyped-def]
    """Loss of row i."""
    if targets.ids.size and targets.ids[i] < 0:
        return 0.0
    top = row_max(n, x, i * n)
    total = 0.0
    for start in range(0, n, SUM_BLOCK):
        total += np.float64(exponential_sum(min(SUM_BLOCK, n - start), x, i * n + start, top))
    log = math.log(total)
    return from_target(i, n, x, top, targets) + target_sum(i, n, targets) * log


@kernel
def gradient_row(i, n, x, targets, scale, losses, out):  # type: ignore[no-untyped-def]
    """Row i of out = scale[i] times the gradient; the loss, where `losses` has room for it.  `out` may be `x`."""
    width, at = lanes(x), i * n
    if targets.ids.size and targets.ids[i] < 0:
        for j in range(0, n, width):
            store_part(out, at + j, min(width, n - j), fill(x, 0.0))
        if losses.size:
            losses[i] = 0.0
        return
    top, near = row_max(n, x, at), 0.0
    if losses.size:
        near = from_target(i, n, x, top, targets)
    total = 0.0
    for start in range(0, n, SUM_BLOCK):
        total += np.float64(row_exp(min(SUM_BLOCK, n - start), x, at + start, out, at + start, top, LOG2_E))
    q = target_sum(i, n, targets)
    if losses.size:
        losses[i] = near + q * math.log(total)
    s = np.float64(scale[i])
    place, own = at, 0.0
    if targets.ids.size:
        # The softmax of the row's class can be near its part of q: the difference is rounded once.
        place = at + targets.ids[i]
        share = targets.weight[targets.ids[i]] if targets.weight.size else 1.0
        own = s * (q * np.float64(out[place]) / total - class_part(i, targets) - targets.numbers[1] * share)
    if targets.probabilities.size or targets.numbers[1] != 0.0:
        for j in range(0, n, width):
            count = min(width, n - j)
            v = take(out, at + j, count, 0.0) * (s * q / total) - target_part(j, count, at, targets) * s
            if count == width:
                store(out, at + j, v)
            else:
                store_part(out, at + j, count, v)
    else:
        scale_row(n, out, at, out, at, s * q / total)
    if targets.ids.size:
        out[place] = own


@kernel
def loss_rows(start, stop, n, x, ids, probabilities, weight, numbers, losses):  # type: ignore[no-untyped-def]
    """Rows start .. stop - 1 of `cross_entropy_kernel`."""
    targets = Targets(ids, probabilities, weight, numbers)
    for i in range(start, stop):
        losses[i] = loss_row(i, n, x, targets)


@kernel
def gradient_rows(start, stop, x, ids, probabilities, weight, numbers, scale, losses, out):  # type: ignore[no-untyped-def]
    """Rows start .. stop - 1 of `cross_entropy_backward_kernel`."""
    n = x.shape[1]
    targets = Targets(ids, probabilities, weight, numbers)
    for i in range(start, stop):
        gradient_row(i, n, x.reshape(-1), targets, scale, losses, out.reshape(-1))


@ParallelKernel
def cross_entropy_kernel(x, ids, probabilities, weight, numbers, losses, workers):  # type: ignore[no-untyped-def]
    """losses (N,) of x (N, V); the four in the middle are `Targets`, `probabilities` flat."""
    m, n = x.shape
    flat = x.reshape(-1)
    if workers == 1:
        loss_rows(0, m, n, flat, ids, probabilities, weight, numbers, losses)
    else:
        for part in prange(workers):
            w = np.int64(part)
            loss_rows(m * w // workers, m * (w + 1) // workers, n, flat, ids, probabilities, weight, numbers, losses)


@ParallelKernel
def cross_entropy_backward_kernel(x, ids, probabilities, weight, numbers, scale, losses, out, workers):  # type: ignore[no-untyped-def]
    """Out (N, V) = the gradients of the losses of x (N, V), times scale (N,); the losses too, where `losses` is not empty.

    `out` may be `x`.
    """
    m = x.shape[0]
    if workers == 1:
        gradient_rows(0, m, x, ids, probabilities, weight, numbers, scale, losses, out)
    else:
        for part in prange(workers):
            w = np.int64(part)
            gradient_rows(m * w // workers, m * (w + 1) // workers, x, ids, probabilities, weight, numbers, scale, losses, out)
