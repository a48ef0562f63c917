"""Steps of the optimisers, one pass over a parameter each, and the norm and the scale of gradients.

Every element is computed alone, so the cut between threads changes no bit; the sums of squares have blocks of a fixed length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.vector.simd import fma, lanes, load, load_part, maximum, square_root, store, store_part

# Elements of a task, a multiple of every vector; of a sum of squares, which has one partial sum a block.
BLOCK = 4096


class SGDStep(NamedTuple):
    """Numbers of a step: sign of the gradient, weight decay, momentum, 1 - dampening, whether Nesterov's, learning rate."""

    sign: Any
    decay: Any
    momentum: Any
    new: Any
    nesterov: Any
    lr: Any


class RMSpropStep(NamedTuple):
    """Numbers of a step: sign of the gradient, weight decay, alpha, 1 - alpha, eps, momentum, learning rate."""

    sign: Any
    decay: Any
    alpha: Any
    new: Any
    eps: Any
    momentum: Any
    lr: Any


class AdagradStep(NamedTuple):
    """Numbers of a step: sign of the gradient, weight decay, eps, learning rate of the step."""

    sign: Any
    decay: Any
    eps: Any
    lr: Any


class AdamStep(NamedTuple):
    """Numbers of a step: sign of the gradient, weight decay of the gradient, factor of the parameter, 1 - beta1, beta2,
    1 - beta2, root of the correction of the second moment, eps, learning rate over the correction of the first.
    """  # noqa: D205

    sign: Any
    decay: Any
    kept: Any
    first: Any
    second: Any
    square: Any
    root: Any
    eps: Any
    lr: Any


@inline
def take(x, i, count):  # type: ignore[no-untyped-def]
    """Vector from element i on, of which `count` elements are there."""
    return load(x, i) if count == lanes(x) else load_part(x, i, count, 0.0)


@inline
def put(x, i, count, v):  # type: ignore[no-untyped-def]
    """Write the first `count` lanes from element i on."""
    if count == lanes(x):
        store(x, i, v)
    else:
        store_part(x, i, count, v)


@inline
def gradient(p, g, j, count, sign, decay):  # type: ignore[no-untyped-def]
    """Vector of the gradient of what is minimised, with the weight decay in it."""
    grad = take(g, j, count) * sign
    return fma(take(p, j, count), decay, grad) if decay != 0.0 else grad


@inline
def lerp(a, b, weight):  # type: ignore[no-untyped-def]
    """a + weight (b - a), from the nearer end."""
    return a + (b - a) * weight if weight < 0.5 else b - (b - a) * (1.0 - weight)


@kernel
def sgd_part(start, stop, p, g, buffer, is_first, numbers):  # type: ignore[no-untyped-def]
    """Elements start .. stop - 1 of `sgd_kernel`."""
    s = SGDStep(*numbers)
    width = lanes(p)
    for j in range(start, stop, width):
        count = min(width, stop - j)
        grad = gradient(p, g, j, count, s.sign, s.decay)
        if s.momentum != 0.0:
            average = grad if is_first else fma(grad, s.new, take(buffer, j, count) * s.momentum)
            put(buffer, j, count, average)
            grad = fma(average, s.momentum, grad) if s.nesterov != 0.0 else average
        put(p, j, count, fma(grad, 0.0 - s.lr, take(p, j, count)))


@kernel
def rmsprop_part(start, stop, p, g, square, average, buffer, numbers):  # type: ignore[no-untyped-def]
    """Elements start .. stop - 1 of `rmsprop_kernel`."""
    s = RMSpropStep(*numbers)
    width = lanes(p)
    for j in range(start, stop, width):
        count = min(width, stop - j)
        grad = gradient(p, g, j, count, s.sign, s.decay)
        second = take(square, j, count) * s.alpha + grad * s.new * grad
        put(square, j, count, second)
        if average.size:
            mean = lerp(take(average, j, count), grad, s.new)
            put(average, j, count, mean)
            second = second - mean * mean
        root = square_root(second) + s.eps
        if s.momentum != 0.0:
            moving = take(buffer, j, count) * s.momentum + grad / root
            put(buffer, j, count, moving)
            put(p, j, count, fma(moving, 0.0 - s.lr, take(p, j, count)))
        else:
            put(p, j, count, take(p, j, count) - grad * s.lr / root)


@kernel
def adagrad_part(start, stop, p, g, total, numbers):  # type: ignore[no-untyped-def]
    """Elements start .. stop - 1 of `adagrad_kernel`."""
    s = AdagradStep(*numbers)
    width = lanes(p)
    for j in range(start, stop, width):
        count = min(width, stop - j)
        grad = gradient(p, g, j, count, s.sign, s.decay)
        summed = take(total, j, count) + grad * grad
        put(total, j, count, summed)
        put(p, j, count, take(p, j, count) - grad * s.lr / (square_root(summed) + s.eps))


@kernel
def adam_part(start, stop, p, g, first, second, greatest, numbers):  # type: ignore[no-untyped-def]
    """Elements start .. stop - 1 of `adam_kernel`."""
    s = AdamStep(*numbers)
    width = lanes(p)
    for j in range(start, stop, width):
        count = min(width, stop - j)
        grad = gradient(p, g, j, count, s.sign, s.decay)
        mean = lerp(take(first, j, count), grad, s.first)
        put(first, j, count, mean)
        square = take(second, j, count) * s.second + grad * s.square * grad
        put(second, j, count, square)
        if greatest.size:
            # The NaN of `square` is the second argument: it wins.
            square = maximum(take(greatest, j, count), square)
            put(greatest, j, count, square)
        put(p, j, count, take(p, j, count) * s.kept - mean * s.lr / (square_root(square) / s.root + s.eps))


@kernel
def bounds(part, parts, size):  # type: ignore[no-untyped-def]
    """First element, and the one behind the last, of a part of whole blocks."""
    blocks = (size + BLOCK - 1) // BLOCK
    return blocks * part // parts * BLOCK, min(size, blocks * (part + 1) // parts * BLOCK)


@ParallelKernel
def sgd_kernel(p, g, buffer, is_first, numbers, workers):  # type: ignore[no-untyped-def]
    """Step of SGD on a flat parameter `p` with gradient `g`; `buffer` is empty without a momentum, and unread in the first step."""
    if workers == 1:
        sgd_part(0, p.size, p, g, buffer, is_first, numbers)
        return
    for part in prange(workers):
        start, stop = bounds(np.int64(part), workers, p.size)
        sgd_part(start, stop, p, g, buffer, is_first, numbers)


@ParallelKernel
def rmsprop_kernel(p, g, square, average, buffer, numbers, workers):  # type: ignore[no-untyped-def]
    """Step of RMSprop; `average` is empty unless centred, `buffer` without a momentum."""
    if workers == 1:
        rmsprop_part(0, p.size, p, g, square, average, buffer, numbers)
        return
    for part in prange(workers):
        start, stop = bounds(np.int64(part), workers, p.size)
        rmsprop_part(start, stop, p, g, square, average, buffer, numbers)


@ParallelKernel
def adagrad_kernel(p, g, total, numbers, workers):  # type: ignore[no-untyped-def]
    """Step of Adagrad."""
    if workers == 1:
        adagrad_part(0, p.size, p, g, total, numbers)
        return
    for part in prange(workers):
        start, stop = bounds(np.int64(part), workers, p.size)
        adagrad_part(start, stop, p, g, total, numbers)


@ParallelKernel
def adam_kernel(p, g, first, second, greatest, numbers, workers):  # type: ignore[no-untyped-def]
    """Step of Adam or AdamW; `greatest` is empty without AMSGrad."""
    if workers == 1:
        adam_part(0, p.size, p, g, first, second, greatest, numbers)
        return
    for part in prange(workers):
        start, stop = bounds(np.int64(part), workers, p.size)
        adam_part(start, stop, p, g, first, second, greatest, numbers)


@kernel
def square_sum(start, stop, x):  # type: ignore[no-untyped-def]
    """Sum of the squares of x[start : stop] in float64: four sums in turns, then the rest."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = stop - (stop - start) % 4
    for j in range(start, whole, 4):
        x0, x1, x2, x3 = np.float64(x[j]), np.float64(x[j + 1]), np.float64(x[j + 2]), np.float64(x[j + 3])
        a, b, c, d = a + x0 * x0, b + x1 * x1, c + x2 * x2, d + x3 * x3
    for j in range(whole, stop):
        a += np.float64(x[j]) * np.float64(x[j])
    return (a + b) + (c + d)


@ParallelKernel
def square_sums_kernel(x, sums, workers):  # type: ignore[no-untyped-def]
    """sums[i] = the sum of the squares of block i of a flat array, in float64."""
    for part in prange(workers):
        w = np.int64(part)
        for block in range(sums.size * w // workers, sums.size * (w + 1) // workers):
            sums[block] = square_sum(block * BLOCK, min(x.size, (block + 1) * BLOCK), x)


@kernel
def scale_part(start, stop, x, factor):  # type: ignore[no-untyped-def]
    """x[start : stop] *= factor."""
    width = lanes(x)
    for j in range(start, stop, width):
        count = min(width, stop - j)
        put(x, j, count, take(x, j, count) * factor)


@ParallelKernel
def scale_kernel(x, factor, workers):  # type: ignore[no-untyped-def]
    """x *= factor, for a flat array."""
    if workers == 1:
        scale_part(0, x.size, x, factor)
        return
    for part in prange(workers):
        start, stop = bounds(np.int64(part), workers, x.size)
        scale_part(start, stop, x, factor)
