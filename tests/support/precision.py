"""Bounds of products in bfloat16 and in int8: how far each element of an honest result may be from the exact one.

A term that passes n roundings, each off by u at most, comes out with a factor of 1 + gamma(n), ``gamma(n) = n u / (1 - n u)``
(Higham 2002, Accuracy and stability of numerical algorithms, lemma 3.1).  So a sum is off by gamma(n) times the sum of the
magnitudes of its terms.  To that come what denormal numbers lose, and an activation.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn import reference
from fastattn.reference.ops import ACTIVATIONS

Array = NDArray[Any]

NEAREST = 2.0**-24  # of float32, rounded to nearest
ODD = 2.0**-23  # the same, rounded to odd, as bfdot of ARM does
TINY = 2.0**-126  # smaller numbers are denormal
DENORMAL_STEP = 2.0**-149
SUM_BLOCK = 256  # products in one chain of a sum in float32 or bfloat16


class Bounded(NamedTuple):
    """Exact result in float64 and the largest error of each of its elements."""

    truth: Array
    bound: Array


def gamma(roundings: int, unit: float) -> float:
    return roundings * unit / (1 - roundings * unit)


def assert_within(ours: Array, bounded: Bounded) -> None:
    """Raise AssertionError unless `ours` is float32, has the shape of the truth and each element is within its bound."""
    truth, bound = bounded
    assert isinstance(ours, np.ndarray), f"{type(ours)} is not an array"
    assert ours.dtype == np.float32, f"{ours.dtype} instead of float32"
    assert ours.shape == truth.shape, f"{ours.shape} instead of {truth.shape}"
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(truth), np.abs(ours - truth), 0)
        # An error that is NaN is not within a bound.
        same = np.where(np.isfinite(truth), error <= bound, (ours == truth) | (np.isnan(ours) & np.isnan(truth)))
    if not same.all():
        flat = int(np.argmax(np.where(same, -np.inf, np.where(np.isnan(error), np.inf, error / np.where(bound > 0, bound, 1)))))
        at = tuple(int(i) for i in np.unravel_index(flat, truth.shape))
        much = f"error {error[at]:.3g} > {bound[at]:.3g}; {np.count_nonzero(~same)} of {same.size} are wrong"
        raise AssertionError(f"{much}; at {list(at)}: {ours[at]!r} instead of {truth[at]!r}")


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def bfloat16_product(x: Array, weight: Array, bias: Array | None = None, activation: str | None = None) -> Bounded:
    """Bound a product in bfloat16: the operands are rounded first, so that only the sum in float32 is left to bound.

    A product of two bfloat16 is exact.  It passes one rounding for each product of its chain and one for each chain.  vdpbf16ps and
    tdpbf16ps add a pair in two roundings at most, and take denormal operands and sums for 0; vcvtneps2bf16 takes denormal float32
    for 0 too.
    """
    a, w = (reference.round_bfloat16(y).astype(np.float64) for y in (x, weight))
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    inputs = a.shape[-1]
    roundings = min(inputs, SUM_BLOCK) + -(-inputs // SUM_BLOCK)
    magnitude = np.abs(a) @ np.abs(w).T + np.abs(offset)
    tiny_a, tiny_w = (np.where(np.abs(y) < TINY, np.abs(z), 0) for y, z in ((x, a), (weight, w)))
    flushed = tiny_a @ np.abs(w).T + np.abs(a) @ tiny_w.T + (inputs + roundings) * TINY
    return _activated(Bounded(a @ w.T + offset, gamma(roundings, ODD) * magnitude + flushed), activation)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def int8_product(
    x: Array, weight: Array, bias: Array | None = None, activation: str | None = None, smooth: Array | None = None
) -> Bounded:
    """Bound a product in int8 from its exact integers on: a rounding of each term, and one for each chain that is added."""
    scaled, magnitude, scale = _integer_terms(x, weight, smooth)
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    bound = gamma(scaled.shape[-1] + 1, NEAREST) * (magnitude + np.abs(offset)) + _denormal(scale)
    return _activated(Bounded(np.sum(scaled, axis=-1) + offset, bound), activation)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def quantized_product(x: Array, weight: Array, bias: Array | None = None, smooth: Array | None = None) -> Bounded:
    """Bound a product in int8 against the product that it stands for: that of the operands before they are quantised.

    A level is off by 1/2 and the roundings before it, which are relative to at most 255 (rows) or 127 (weights): the inverse, its
    product with v, the scale in three operations and what a clipped level gives away, 7 of 2^-24, so 255 * 7 * 2^-24 < 2^-13;
    the weight's scale and division, 3 of 2^-24, so 127 * 3 * 2^-24 < 2^-15.  Where the weight's scale is denormal the level is
    cut to 127, and up to 64 steps are lost.
    """
    factor = np.ones(x.shape[-1]) if smooth is None else smooth.astype(np.float64)
    v, w = x.astype(np.float64) * factor, weight.astype(np.float64) / factor
    scaled, magnitude, scale = _integer_terms(x, weight, smooth)
    weight_scale = reference.quantize_weight(weight, smooth)[1].astype(np.float64)
    chain = np.arange(x.shape[-1]) // reference.precision.INT8_BLOCK
    v_error = scale[..., chain] * (1 / 2 + 2.0**-13) + NEAREST * np.abs(v) + DENORMAL_STEP  # (..., K)
    w_error = weight_scale[:, chain] * (1 / 2 + 2.0**-15) + NEAREST * np.abs(w) + 64 * DENORMAL_STEP  # (N, K)
    levels = v_error @ (np.abs(w) + w_error).T + np.abs(v) @ w_error.T
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    sums = gamma(scaled.shape[-1] + 1, NEAREST) * (magnitude + np.abs(offset)) + _denormal(scale)
    return Bounded(x.astype(np.float64) @ weight.astype(np.float64).T + offset, levels + sums)


def _integer_terms(x: Array, weight: Array, smooth: Array | None) -> tuple[Array, Array, Array]:
    """Return ``d weight_scale scale`` of each chain (..., N, chains), the sum of its magnitudes, and the rows' scales."""
    levels, scale, zero = reference.quantize_rows(x, smooth)
    weight_levels, weight_scale, sums = reference.quantize_weight(weight, smooth)
    d = reference.integer_product(levels, zero, weight_levels, sums).astype(np.float64)  # (..., N, chains)
    wide = scale.astype(np.float64)
    scaled = d * weight_scale * wide[..., None, :]
    return scaled, np.sum(np.abs(scaled), axis=-1), wide


def _denormal(scale: Array) -> Array:
    """Error of denormal results: half a step of each rounded ``d weight_scale``, times the scale, and of each sum, (..., 1)."""
    return np.asarray(np.sum(scale + 1, axis=-1, keepdims=True) * DENORMAL_STEP)


def _activated(bounded: Bounded, activation: str | None) -> Bounded:
    """Pass a product through an activation, which may be off by what the tolerance of all tests allows it.

    On an interval as small as the bound the activations are smooth, or have one corner: the largest change is that to one of its
    ends, but for its square.
    """
    if activation is None:
        return bounded
    function = ACTIVATIONS[activation]
    y, bound = bounded
    truth = function(y)
    change = np.maximum(np.abs(function(y + bound) - truth), np.abs(function(y - bound) - truth)) + bound**2
    finite = np.isfinite(truth)
    yardstick = np.abs(function(y.astype(np.float32)) - function(y.astype(np.float32).astype(np.float64)))
    slack = 2 * np.max(yardstick, initial=0, where=finite)
    eps = float(np.finfo(np.float32).eps)
    return Bounded(truth, change + slack + 4 * eps * np.max(np.abs(truth), initial=0, where=finite))
