"""Tolerance of all tests.

truth       the reference on float64 inputs
yardstick   the reference in the working dtype; several if the order of a sum is free: the worst counts

``max|ours - truth| <= 2 max|yardstick - truth| + 4 eps max|truth| + 4 eps64``: an honest computation in the same
precision may be as far off as the yardstick; the factor 2 allows another order of summation, the 4 eps an output
rounding and an exp. The last term is the error of the truth itself: in float64 too, 1 + erf(-9) is 0.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import reference

Array = NDArray[Any]

# Ops that sum over the last axis of their first two arrays. A sum in one order can be exact by luck, most easily in a
# small result, so the yardstick is taken in `ORDERS` orders.
CONTRACTIONS = ("linear", "maxsim", "splade_pooling", "attention_weights", "scaled_dot_product_attention")
ORDERS = 6


def assert_matches_reference(ours: Array, truth: Array, *yardsticks: Array) -> None:
    """Raise AssertionError unless each element of `ours` is as near to `truth` as the yardsticks allow."""
    dtype = yardsticks[0].dtype
    assert isinstance(ours, np.ndarray), f"{type(ours)} is not an array"
    assert truth.dtype == np.float64, f"the truth is {truth.dtype}"
    assert ours.dtype == dtype, f"{ours.dtype} instead of {dtype}"
    assert ours.shape == truth.shape, f"{ours.shape} instead of {truth.shape}"
    assert all(y.shape == truth.shape and y.dtype == dtype for y in yardsticks), "misshapen yardstick"
    with np.errstate(over="ignore"):
        expected = truth.astype(dtype)  # inf for values beyond the dtype's range
    finite = np.isfinite(expected)
    same = np.where(finite, np.isfinite(ours), (ours == expected) | (np.isnan(ours) & np.isnan(expected)))
    if not same.all():
        _fail("non-finite in different places", ours, truth, np.argmin(same))
    if not finite.any():
        return
    assert all(np.isfinite(y[finite]).all() for y in yardsticks), "the yardstick is not finite"
    slack = max(np.max(np.abs(y[finite] - truth[finite])) for y in yardsticks)
    eps = float(np.finfo(dtype).eps)
    bound = 2 * slack + 4 * eps * np.max(np.abs(truth[finite])) + 4 * float(np.finfo(np.float64).eps)
    error = np.abs(np.where(finite, ours, 0) - np.where(finite, truth, 0))
    if not error.max() <= bound:
        _fail(f"error {error.max():.3g} > {bound:.3g} (yardstick {slack:.3g}, eps {eps:.3g})", ours, truth, error.argmax())


def check(
    op: str,
    *args: Any,
    ours: Callable[..., Array] | None = None,
    twin: Callable[..., Array] | None = None,
    **options: Any,
) -> Array:
    """Compare ``fastattn.<op>`` with ``reference.<op>``, or `ours` with `twin`, and return our result.

    `out` is passed to our op only, which must return it.
    """
    result = (ours or getattr(fastattn, op))(*args, **options)
    if (out := options.pop("out", None)) is not None:
        assert result is out, "out is not what came back"
    truth, yardsticks = truth_and_yardsticks(twin or getattr(reference, op), args, options, contracts=op in CONTRACTIONS)
    assert_matches_reference(result, truth, *yardsticks)
    return result


def truth_and_yardsticks(
    twin: Callable[..., Array], args: tuple[Any, ...], options: dict[str, Any], *, contracts: bool = False
) -> tuple[Array, list[Array]]:
    """Evaluate the reference in float64 and in the dtype of the first argument that is a float array.

    For float64 the truth would be its own yardstick, with error 0. Rounding errors are proportional to eps, so the
    float64 yardstick is the truth plus the float32 error on the same input, scaled by the ratio of the two eps.
    """
    dtype = next(x.dtype for x in args if np.issubdtype(x.dtype, np.floating))
    truth = _evaluate(twin, np.float64, args, options)
    yardsticks = []
    for order in range(ORDERS if contracts else 1):
        shuffled = (*_shuffle(args[0], args[1], order), *args[2:]) if contracts else args
        if dtype == np.float64:
            rounded, rounded_options = _cast(np.float32, shuffled, options)
            narrow = twin(*rounded, **rounded_options)
            ratio = np.finfo(np.float64).eps / np.finfo(np.float32).eps
            with np.errstate(invalid="ignore"):
                yardsticks.append(truth + ratio * (narrow - _evaluate(twin, np.float64, rounded, rounded_options)))
        else:
            yardsticks.append(twin(*shuffled, **options))
    return truth, yardsticks


def encoder_truth_and_yardsticks(parameters: dict[str, Array], x: Array, mask: Array | None = None, **options: Any) -> list[Any]:
    """Evaluate `reference.encoder` in float64, and in float32 with the terms of each product in several orders."""

    def encode(dtype: Any, order: int) -> Any:
        def linear(name: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
            return reference.linear(*_shuffle(x, weight, order), bias, activation=activation)

        (cast, hidden), _ = _cast(dtype, (parameters, x), {})
        return reference.encoder(cast, hidden, mask, linear=linear, **options)

    return [encode(np.float64, 0), *(encode(np.float32, order) for order in range(ORDERS))]


def packed_truth_and_yardsticks(parameters: dict[str, Array], ids: Array, offsets: Array, **options: Any) -> list[Array]:
    """`encoder_truth_and_yardsticks` of packed texts, each alone."""
    texts = [encoder_truth_and_yardsticks(parameters, ids[None, a:b], **options) for a, b in itertools.pairwise(offsets)]
    return [np.concatenate(parts, axis=1)[0] for parts in zip(*texts, strict=True)]


def _cast(dtype: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Convert every float array to `dtype`, also in dicts."""

    def cast(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: cast(value) for name, value in x.items()}
        return x.astype(dtype) if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating) else x

    return tuple(cast(x) for x in args), {name: cast(x) for name, x in options.items()}


def _evaluate(twin: Callable[..., Array], dtype: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Array:
    args, options = _cast(dtype, args, options)
    return twin(*args, **options)


def _shuffle(a: Array, b: Array, order: int) -> tuple[Array, Array]:
    """Reorder the last axis of both arrays: order 0 is unchanged, 1 reversed, the others random."""
    count = a.shape[-1]
    forward = np.arange(count)
    permutation = (forward, forward[::-1])[order] if order < 2 else np.random.default_rng(order).permutation(count)
    return a[..., permutation], b[..., permutation]


def _fail(why: str, ours: Array, truth: Array, flat: Any) -> None:
    at = tuple(int(i) for i in np.unravel_index(int(flat), ours.shape))
    raise AssertionError(f"{why}; at {list(at)} of {list(ours.shape)}: {ours[at]!r} instead of {truth[at]!r}")
