"""The bounds of products in bfloat16 and int8 accept honest kernels, also of unlike instructions, and reject faulty ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from fastattn.reference.ops import ACTIVATIONS
from tests.support.cases import normal
from tests.support.precision import (
    SUM_BLOCK,
    TINY,
    Bounded,
    assert_within,
    bfloat16_product,
    int8_product,
    quantized_product,
)

Array = NDArray[Any]

INPUTS = (7, 384, 513, 1537)


def operands(inputs: int) -> tuple[Array, Array, Array]:
    return normal(6, inputs), normal(9, inputs, seed=1), normal(9, seed=2)


def chained(x: Array, weight: Array, bias: Array) -> Array:
    """Chains of 256 multiply-adds, in float32, of operands as they are given."""
    y = np.broadcast_to(bias, (len(x), len(weight)))
    for start in range(0, x.shape[1], SUM_BLOCK):
        here = slice(start, start + SUM_BLOCK)
        terms = x[:, None, here].astype(np.float64) * weight[:, here]  # exact for bfloat16
        total = np.zeros(y.shape, np.float32)
        for k in range(terms.shape[-1]):
            total = (total + terms[..., k]).astype(np.float32)
        y = y + total
    return y


def widened(x: Array, weight: Array, bias: Array) -> Array:
    """A kernel that widens bfloat16 to float32."""
    return chained(reference.round_bfloat16(x), reference.round_bfloat16(weight), bias)


def flushed(x: Array) -> Array:
    return np.where(np.abs(x) < TINY, 0, x).astype(np.float32)


def odd(x: Array) -> Array:
    """Round float64 to float32 by setting the last bit of an inexact one; its error is up to twice that of the nearest."""
    near = x.astype(np.float32)
    below = np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near)  # cut off
    return np.where(below == x, below, (below.view(np.uint32) | 1).view(np.float32))


def in_pairs(round_sum: Callable[[Array], Array], flush: Callable[[Array], Array]) -> Callable[..., Array]:
    """Return a kernel that adds the exact sum of two products at a time, as vdpbf16ps and bfdot do."""

    def kernel(x: Array, weight: Array, bias: Array) -> Array:
        a, w = (flush(reference.round_bfloat16(flush(y))) for y in (x, weight))
        y = np.broadcast_to(bias, (len(x), len(weight)))
        for start in range(0, x.shape[1], SUM_BLOCK):
            total = np.zeros(y.shape, np.float32)
            for k in range(start, min(start + SUM_BLOCK, x.shape[1]), 2):
                pair = a[:, None, k : k + 2].astype(np.float64) * w[:, k : k + 2]
                total = flush(round_sum(total + pair.sum(axis=-1)))
            y = y + total
        return y

    return kernel


HONEST = {
    "widened": widened,
    "vdpbf16ps": in_pairs(lambda x: x.astype(np.float32), flushed),
    "bfdot": in_pairs(odd, lambda x: x),
    "blas": reference.linear_bfloat16,
}


def dropped(x: Array, weight: Array, bias: Array) -> Array:
    y = widened(x, weight, bias)
    y[-1, -1] = widened(x[-1:, :-1], weight[-1:, :-1], bias[-1:])[0, 0]
    return y


def swapped(y: Array) -> Array:
    """Exchange the last two columns."""
    return np.concatenate([y[:, :-2], y[:, :-3:-1]], axis=1)


def truncated(y: Array) -> Array:
    return (y.view(np.uint32) & 0xFFFF0000).view(np.float32)


FAULTY = {
    "last product of the last element": dropped,
    "last channel": lambda x, w, b: widened(x[:, :-1], w[:, :-1], b),
    "swapped pair": lambda x, w, b: widened(x, swapped(w), b),
    "bias": lambda x, w, b: widened(x, w, 0 * b),
    "bias of a neighbour": lambda x, w, b: widened(x, w, np.roll(b, 1)),
    "chain": lambda x, w, b: widened(x[:, SUM_BLOCK:], w[:, SUM_BLOCK:], b),
    "rows not rounded": lambda x, w, b: chained(x, reference.round_bfloat16(w), b),
    "weights not rounded": lambda x, w, b: chained(reference.round_bfloat16(x), w, b),
    "cut instead of rounded": lambda x, w, b: chained(truncated(x), reference.round_bfloat16(w), b),
    "sums in bfloat16": lambda x, w, b: reference.round_bfloat16(widened(x, w, b)),
    "transposed": lambda x, w, b: widened(x, w, b)[:, ::-1].copy(),
    "zeros": lambda x, w, b: 0 * widened(x, w, b),
    "nan": lambda x, w, b: widened(x, w, b) * np.float32(np.nan),
}


class TestBfloat16:
    @pytest.mark.parametrize("inputs", INPUTS)
    @pytest.mark.parametrize("kernel", HONEST)
    def test_accepts(self, kernel: str, inputs: int) -> None:
        x, weight, bias = operands(inputs)
        x[1] = np.sort(np.abs(x[1]))  # sums that grow
        assert_within(HONEST[kernel](x, weight, bias), bfloat16_product(x, weight, bias))

    @pytest.mark.parametrize("scales", [(2.0**-127, 1.0), (1.0, 2.0**-130), (2.0**-70, 2.0**-60), (1e30, 1e-38)])
    @pytest.mark.parametrize("kernel", HONEST)
    def test_accepts_denormals_kept_or_not(self, kernel: str, scales: tuple[float, float]) -> None:
        x, weight, bias = operands(300)
        x, weight, bias = x * np.float32(scales[0]), weight * np.float32(scales[1]), bias * np.float32(2.0**-126)
        assert_within(HONEST[kernel](x, weight, bias), bfloat16_product(x, weight, bias))

    @pytest.mark.parametrize("inputs", INPUTS)
    @pytest.mark.parametrize("fault", FAULTY)
    def test_rejects(self, fault: str, inputs: int) -> None:
        x, weight, bias = operands(inputs)
        with pytest.raises(AssertionError, match="are wrong; at"):
            assert_within(FAULTY[fault](x, weight, bias), bfloat16_product(x, weight, bias))

    def test_rejects_zeros_for_numbers_that_are_not_denormal(self) -> None:
        x, weight, bias = operands(300)
        with pytest.raises(AssertionError, match="are wrong"):
            assert_within(np.zeros((6, 9), np.float32), bfloat16_product(x * np.float32(1e-30), weight, 0 * bias))

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_activations(self, activation: str) -> None:
        x, weight, bias = operands(384)
        bounded = bfloat16_product(x, weight, bias, activation)
        for kernel in HONEST.values():
            y = kernel(x, weight, bias)
            assert_within(np.asarray(ACTIVATIONS[activation](y)), bounded)
        other = ACTIVATIONS["gelu_tanh" if activation == "gelu" else "gelu"](widened(x, weight, bias))
        with pytest.raises(AssertionError, match="are wrong"):
            assert_within(other, bounded)

    def test_nan_and_inf(self) -> None:
        x, weight, bias = operands(100)
        x[1, 3], x[2, 4] = np.nan, np.inf
        bounded = bfloat16_product(x, weight, bias)
        y = reference.linear_bfloat16(x, weight, bias)
        assert np.isnan(y[1]).all() and np.isinf(y[2]).all()
        assert_within(y, bounded)
        for row in (1, 2):
            wrong = y.copy()
            wrong[row, -1] = 0
            with pytest.raises(AssertionError, match=r"1 of 54 are wrong; at \[" + str(row)):
                assert_within(wrong, bounded)


def int8_kernel(change: Callable[..., None]) -> Callable[..., Array]:
    """Return the product in int8 with a fault in what it computes with."""

    def kernel(x: Array, weight: Array, bias: Array) -> Array:
        parts = {
            **dict(zip(("levels", "scale", "zero"), reference.quantize_rows(x), strict=True)),
            **dict(zip(("weight", "weight_scale", "sums"), reference.quantize_weight(weight), strict=True)),
            "bias": bias.copy(),
        }
        change(parts)
        d = reference.integer_product(*(parts[name] for name in ("levels", "zero", "weight", "sums")))
        y = np.broadcast_to(parts["bias"].astype(np.float64), d.shape[:-1])
        for chain in range(d.shape[-1]):
            term = d[..., chain].astype(np.float32) * parts["weight_scale"][:, chain]
            y = (term.astype(np.float64) * parts["scale"][:, chain, None] + y).astype(np.float32)
        return y

    return kernel


def add(name: str, at: Any, much: int) -> Callable[..., None]:
    def change(parts: dict[str, Array]) -> None:
        parts[name][at] = int(parts[name][at]) + much

    return change


def put(name: str, function: Callable[[Array], Array]) -> Callable[..., None]:
    def change(parts: dict[str, Array]) -> None:
        parts[name] = function(parts[name])

    return change


INT8_FAULTS = {
    "zero point": add("zero", (-1, -1), 1),
    "level": add("levels", (-1, -1), -1),
    "weight": add("weight", (-1, -1), -1),
    "sum of weights": add("sums", (-1, -1), 1),
    "no zero point": put("zero", lambda y: 0 * y),
    "levels as int8": put("levels", lambda y: y ^ np.uint8(128)),
    "swapped pair": put("weight", swapped),
    "last channel": put("levels", lambda y: np.concatenate([y[:, :-1], 0 * y[:, -1:]], axis=1)),
    "bias": put("bias", lambda y: 0 * y),
    "scale of the next row": put("scale", lambda y: np.roll(y, 1, axis=0)),
    "scale of the next channel": put("weight_scale", lambda y: np.roll(y, 1, axis=0)),
    "scale in bfloat16": put("scale", reference.round_bfloat16),
}


class TestInt8:
    @pytest.mark.parametrize("inputs", INPUTS)
    def test_accepts(self, inputs: int) -> None:
        x, weight, bias = operands(inputs)
        smooth = np.exp(normal(inputs, seed=3))
        assert_within(int8_kernel(lambda parts: None)(x, weight, bias), int8_product(x, weight, bias))
        assert_within(reference.linear_int8(x, weight, bias), quantized_product(x, weight, bias))
        for activation in (None, *ACTIVATIONS):
            y = reference.linear_int8(x, weight, bias, activation=activation, smooth=smooth)
            assert_within(y, int8_product(x, weight, bias, activation, smooth))

    @pytest.mark.parametrize("inputs", INPUTS)
    @pytest.mark.parametrize("fault", INT8_FAULTS)
    def test_rejects(self, fault: str, inputs: int) -> None:
        x, weight, bias = operands(inputs)
        x[-1, -1], weight[:, -1] = 0.1, 0.5
        with pytest.raises(AssertionError, match="are wrong; at"):
            assert_within(int8_kernel(INT8_FAULTS[fault])(x, weight, bias), int8_product(x, weight, bias))

    @pytest.mark.parametrize("scales", [(2.0**-130, 1.0), (1.0, 2.0**-140), (2.0**-70, 2.0**-60), (1e30, 1e-38)])
    def test_accepts_denormals(self, scales: tuple[float, float]) -> None:
        x, weight, bias = operands(600)
        x, weight, bias = x * np.float32(scales[0]), weight * np.float32(scales[1]), bias * np.float32(2.0**-126)
        y = reference.linear_int8(x, weight, bias)
        assert_within(y, int8_product(x, weight, bias))
        assert_within(y, quantized_product(x, weight, bias))

    def test_nan_stays_in_its_row(self) -> None:
        x, weight, bias = operands(600)
        x[1, 3], x[2, 550] = np.nan, np.inf
        bounded = int8_product(x, weight, bias)
        y = reference.linear_int8(x, weight, bias)
        assert np.isnan(bounded.truth).all(axis=1).tolist() == [False, True, True, False, False, False]
        assert_within(y, bounded)
        y[2, 0] = np.inf
        with pytest.raises(AssertionError, match=r"1 of 54 are wrong; at \[2, 0\]"):
            assert_within(y, bounded)

    @pytest.mark.parametrize("inputs", INPUTS)
    def test_what_quantisation_costs_is_bounded_within_a_factor(self, inputs: int) -> None:
        """Errors up and down cancel, so the sum is far below the bound, and only large faults are seen."""
        x, weight, bias = operands(inputs)
        bounded = quantized_product(x, weight, bias)
        error = np.abs(reference.linear_int8(x, weight, bias) - bounded.truth)
        assert 0.01 < (error / bounded.bound).max() < 1
        with pytest.raises(AssertionError, match="are wrong; at"):
            assert_within(int8_kernel(put("zero", lambda y: 0 * y))(x, weight, bias), bounded)


def test_rejects_wrong_dtype_shape_and_type() -> None:
    bounded = Bounded(np.ones((2, 3)), np.ones((2, 3)))
    assert_within(np.full((2, 3), 2, np.float32), bounded)
    for wrong, message in (
        (np.ones((2, 3)), "float64 instead of float32"),
        (np.ones((3, 2), np.float32), r"\(3, 2\) instead of \(2, 3\)"),
        ([[1.0] * 3] * 2, "not an array"),
        (np.full((2, 3), 2 + 2.0**-20, np.float32), "6 of 6 are wrong"),
    ):
        with pytest.raises(AssertionError, match=message):
            assert_within(wrong, bounded)  # type: ignore[arg-type]
