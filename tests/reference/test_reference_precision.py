"""Reference of bfloat16 and int8 against values computed by hand, exact fractions and derived bounds."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastattn import reference
from fastattn.reference.precision import INT8_BLOCK, _fma
from tests.support.cases import normal
from tests.support.precision import assert_within, quantized_product

Array = NDArray[Any]

INF, NAN = float("inf"), float("nan")
STEP = float(np.float32(1 / 255))
INPUTS = (1, 511, 512, 513, 1537)  # around one chain, and three with a rest of one


def f32(*values: Any) -> Array:
    return np.array(values, np.float32)


def same_bits(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


class TestRoundBfloat16:
    @pytest.mark.parametrize(
        ("x", "expected"),
        [
            (0.0, 0.0),
            (-0.0, -0.0),
            (1.0, 1.0),
            (1 + 2.0**-8, 1.0),  # a tie: even below
            (1 + 3 * 2.0**-8, 1 + 2.0**-6),  # a tie: even above
            (1 + 2.0**-8 + 2.0**-23, 1 + 2.0**-7),
            (1 + 3 * 2.0**-8 - 2.0**-23, 1 + 2.0**-7),
            (2 - 2.0**-8, 2.0),
            (2.0**-133, 2.0**-133),  # the smallest
            (2.0**-134, 0.0),
            (2.0**-134 + 2.0**-149, 2.0**-133),
            (3 * 2.0**-134, 2.0**-132),
            (2.0**-126 - 2.0**-149, 2.0**-126),
            (2.0**128 - 2.0**120, 2.0**128 - 2.0**120),  # the largest
            (2.0**128 - 2.0**119 - 2.0**104, 2.0**128 - 2.0**120),
            (2.0**128 - 2.0**119, INF),
            (INF, INF),
        ],
    )
    def test_by_hand(self, x: float, expected: float) -> None:
        same_bits(reference.round_bfloat16(f32(x, -x)), f32(expected, -expected))

    def test_nan_stays_nan_whatever_its_bits(self) -> None:
        x = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32).view(np.float32)
        rounded = reference.round_bfloat16(x)
        assert np.isnan(rounded).all()
        assert not (rounded.view(np.uint32) & 0xFFFF).any()

    def test_every_exponent(self) -> None:
        bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
        bits[: 2**16] = np.arange(2**16, dtype=np.uint32) << 16  # every bfloat16,
        bits[2**15 : 2**16] |= 0x8000  # half of them with a tie
        x = bits.view(np.float32)
        x = x[np.isfinite(x)]
        step = 2.0 ** np.maximum(np.frexp(x.astype(np.float64))[1] - 8, -133)
        expected = np.rint(x / step) * step
        expected[np.abs(expected) >= 2.0**128] *= INF
        same_bits(reference.round_bfloat16(x), expected.astype(np.float32))

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_dtypes_and_shapes(self, dtype: type) -> None:
        x = normal(2, 3, 4, dtype=dtype)
        same_bits(reference.round_bfloat16(x), reference.round_bfloat16(x.astype(np.float32)))
        same_bits(reference.round_bfloat16(x[0, 0, 0]), reference.round_bfloat16(x)[0, 0, 0])


class TestQuantizeRows:
    @pytest.mark.parametrize(
        ("x", "scale", "zero", "levels"),
        [
            ((0, 255, 51, 1.5, 2.5), 1, 0, (0, 255, 51, 2, 2)),  # ties go to the even level
            ((-100, 155, 0, 0.5, -0.5, 1.5, -1.5), 1, 100, (0, 255, 100, 100, 100, 102, 98)),
            ((-255, -1, -2.5), 1, 255, (0, 254, 253)),
            ((0, 0, 0), 2.0**-126, 0, (0, 0, 0)),
            ((255 * 2.0**20,), 2.0**20, 0, (255,)),
            ((-255 * 2.0**-20,), 2.0**-20, 255, (0,)),
            ((255 * 2.0**100, 1, -1, 0), 2.0**100, 0, (255, 0, 0, 0)),  # one huge element takes all levels
            ((5, 2.5, 4.5), 5 * STEP, 0, (255, 128, 230)),  # by the rounded inverse; a division gives 127 and 229
            ((11.5, 5.75), 11.5 * STEP, 0, (255, 127)),  # and here 128
            ((2.0**127, -(2.0**127), 0), 2.0**128 * STEP, 127, (254, 0, 127)),  # their difference is no float32
            ((2.0**-127, -(2.0**-126), 3 * 2.0**-127, 2.0**-149), 2.0**-126, 1, (1, 0, 3, 1)),  # denormal
            ((255 * 2.0**-126, 2.0**-126, 2.0**-149), 2.0**-126, 0, (255, 1, 0)),
        ],
    )
    def test_by_hand(self, x: tuple[float, ...], scale: float, zero: int, levels: tuple[int, ...]) -> None:
        found = reference.quantize_rows(f32(x))
        assert [y.dtype for y in found] == [np.uint8, np.float32, np.uint8]
        for ours, expected in zip(found, (levels, f32(scale), [zero]), strict=True):
            np.testing.assert_array_equal(ours[0], expected)

    def test_sum_of_two_roundings_is_cut_to_255(self) -> None:
        """Minimum and maximum are both half a step beyond a level: 128 steps below zero and 128 above do not fit."""
        x = f32([-127.5, 127.5])
        levels, scale, zero = reference.quantize_rows(x)
        assert (scale.tolist(), zero.tolist(), levels.tolist()) == ([[1]], [[128]], [[0, 255]])

    def test_each_chain_has_its_own(self) -> None:
        x = np.zeros((2, 1537), np.float32)
        x[0, [0, 511, 512, 1023, 1024, 1536]] = [255, 1, 510, 2, -255, 1020]
        levels, scale, zero = reference.quantize_rows(x)
        np.testing.assert_array_equal(scale, [[1, 2, 1, 4], [2.0**-126] * 4])
        np.testing.assert_array_equal(zero, [[0, 0, 255, 0], [0] * 4])
        assert levels.shape == (2, 1537)
        np.testing.assert_array_equal(levels[0, [0, 1, 511, 512, 1023, 1024, 1025, 1536]], [255, 0, 1, 255, 1, 0, 255, 255])

    @pytest.mark.parametrize("inputs", [3, 512])
    def test_zero_is_always_a_level(self, inputs: int) -> None:
        x = np.linspace(200, 255, inputs, dtype=np.float32)[None]
        for sign, expected in ((1, 0), (-1, 255)):
            _, scale, zero = reference.quantize_rows(x * sign)
            assert (scale.item(), zero.item()) == (1, expected)

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_a_chain_with_nan_or_inf(self, bad: float) -> None:
        x = normal(3, 1025)
        clean = reference.quantize_rows(x)
        x[1, 600] = bad
        levels, scale, zero = reference.quantize_rows(x)
        assert np.isnan(scale[1, 1]) and zero[1, 1] == 0 and not levels[1, 512:1024].any()
        scale[1, 1], zero[1, 1], levels[1, 512:1024] = clean[1][1, 1], clean[2][1, 1], clean[0][1, 512:1024]
        for ours, expected in zip((levels, scale, zero), clean, strict=True):
            np.testing.assert_array_equal(ours, expected)

    def test_smoothing_multiplies_and_may_overflow(self) -> None:
        x, smooth = normal(3, 600), np.exp(normal(600, seed=1))
        for ours, expected in zip(reference.quantize_rows(x, smooth), reference.quantize_rows(x * smooth), strict=True):
            np.testing.assert_array_equal(ours, expected)
        assert np.isnan(reference.quantize_rows(f32([1e30, 1]), f32(1e30, 1))[1]).all()

    def test_no_rows_and_no_channels(self) -> None:
        for shape, chains in (((0, 600), 2), ((2, 3, 0), 0)):
            levels, scale, zero = reference.quantize_rows(np.zeros(shape, np.float32))
            assert levels.shape == shape and scale.shape == zero.shape == (*shape[:-1], chains)


class TestQuantizeWeight:
    def test_by_hand(self) -> None:
        weight = np.zeros((4, 513), np.float32)
        weight[0, :7] = [127, -127, 63.5, 0.5, 1.5, -0.5, -64]
        weight[0, 512] = -254
        weight[1, 1] = 2.0**-149 * 190  # 1.5 steps of float32 in the scale, which is rounded to 1
        weight[2, 0] = NAN
        weight[3, 512] = INF
        levels, scale, sums = reference.quantize_weight(weight)
        assert (levels.dtype, scale.dtype, sums.dtype) == (np.int8, np.float32, np.int32)
        np.testing.assert_array_equal(levels[0, [*range(8), 512]], [127, -127, 64, 0, 2, 0, -64, 0, -127])
        np.testing.assert_array_equal(levels[1, :3], [0, 127, 0])
        assert not levels[2:].any()
        np.testing.assert_array_equal(scale, f32((1, 2), (2.0**-149, 0), (NAN, 0), (0, NAN)))
        np.testing.assert_array_equal(sums, [[2, -127], [127, 0], [0, 0], [0, 0]])

    def test_scale_is_a_division(self) -> None:
        maximum = np.arange(1, 4000, dtype=np.float32) / 16
        scale = reference.quantize_weight(maximum[:, None])[1][:, 0]
        same_bits(scale, (maximum.astype(np.float64) / 127).astype(np.float32))
        assert (scale != maximum * np.float32(1 / 127)).any()

    def test_smoothing_divides(self) -> None:
        weight, smooth = normal(3, 600), np.exp(normal(600, seed=1))
        for ours, expected in zip(
            reference.quantize_weight(weight, smooth), reference.quantize_weight(weight / smooth), strict=True
        ):
            np.testing.assert_array_equal(ours, expected)

    def test_table_has_one_scale_per_row(self) -> None:
        table = normal(5, 700)
        table[1] = 0
        levels, scale = reference.quantize_table(table)
        assert (levels.dtype, scale.dtype, levels.shape, scale.shape) == (np.int8, np.float32, (5, 700), (5,))
        assert (np.abs(levels).max(axis=1) == [127, 0, 127, 127, 127]).all() and scale[1] == 0
        assert np.all(np.abs(levels * scale[:, None] - table) <= scale[:, None] * (0.5 + 2.0**-15))
        narrow = reference.quantize_weight(table[:, :512])
        np.testing.assert_array_equal(narrow[0], reference.quantize_table(table[:, :512])[0])


class TestIntegerProduct:
    @pytest.mark.parametrize("inputs", INPUTS)
    def test_is_that_of_int64(self, inputs: int) -> None:
        random = np.random.default_rng(inputs)
        chains = -(-inputs // INT8_BLOCK)
        levels = random.integers(0, 256, (4, inputs), dtype=np.uint8)
        weight = random.integers(-127, 128, (6, inputs), dtype=np.int8)
        zero = random.integers(0, 256, (4, chains), dtype=np.uint8)
        levels[0], weight[0], zero[0] = 255, 127, 0  # the largest sum
        levels[1], weight[1], zero[1] = 0, -127, 255
        starts = np.arange(0, inputs, INT8_BLOCK)
        sums = np.add.reduceat(weight, starts, axis=1, dtype=np.int32)
        wide = levels.astype(np.int64)[:, None] - np.repeat(zero, INT8_BLOCK, axis=1)[:, None, :inputs]
        expected = np.add.reduceat(wide * weight, starts, axis=2)
        found = reference.integer_product(levels, zero, weight, sums)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        assert np.abs(found).max() == 255 * 127 * min(inputs, INT8_BLOCK) < 2**24


class TestLinearInt8:
    @pytest.mark.parametrize("inputs", INPUTS)
    def test_integers_that_are_their_own_levels(self, inputs: int) -> None:
        """Steps of 1 in both operands: the product is that of integers."""
        random = np.random.default_rng(inputs)
        x, weight = random.integers(-100, 156, (5, inputs)), random.integers(-127, 128, (7, inputs))
        x[:, 0::INT8_BLOCK], x[:, 1::INT8_BLOCK] = 155, -100
        if inputs % INT8_BLOCK == 1:
            x[:, -1] = 255
        weight[:, 0::INT8_BLOCK] = 127
        bias = np.arange(7)
        expected = x @ weight.T + bias
        assert np.abs(expected).max() < 2**24
        y = reference.linear_int8(x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32))
        np.testing.assert_array_equal(y, expected)
        y = reference.linear_int8(x.astype(np.float32), weight.astype(np.float32))
        np.testing.assert_array_equal(y, expected - bias)

    @pytest.mark.parametrize(("rows", "inputs"), [(3, 1), (30, 5), (3, 513)])
    @pytest.mark.parametrize("smoothed", [False, True])
    def test_definition_in_exact_fractions(self, rows: int, inputs: int, smoothed: bool) -> None:
        x, weight, bias = normal(rows, inputs), normal(4, inputs, seed=1), normal(4, seed=2)
        smooth = np.exp(normal(inputs, seed=3)) if smoothed else np.ones(inputs, np.float32)
        y = reference.linear_int8(x, weight, bias, smooth=smooth if smoothed else None)
        for row, channel in itertools.product(range(rows), range(4)):
            assert y[row, channel] == float(in_fractions(x[row], weight[channel], bias[channel], smooth))

    def test_activation_comes_last_and_dtypes_are_kept(self) -> None:
        x, weight, bias = normal(3, 40), normal(5, 40, seed=1), normal(5, seed=2)
        y = reference.linear_int8(x, weight, bias)
        same_bits(reference.linear_int8(x, weight, bias, activation="gelu"), reference.gelu(y))
        wide = reference.linear_int8(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64))
        assert wide.dtype == np.float64 and (wide == y).all()
        assert reference.linear_int8(x.astype(np.float16), weight).dtype == np.float16
        with pytest.raises(ValueError, match="swish"):
            reference.linear_int8(x, weight, activation="swish")

    def test_batches_and_empty_sizes(self) -> None:
        x, weight, bias = normal(2, 3, 40), normal(5, 40, seed=1), normal(5, seed=2)
        same_bits(reference.linear_int8(x, weight, bias)[1, 2], reference.linear_int8(x[1, 2], weight, bias))
        same_bits(reference.linear_int8(x[..., :0], weight[:, :0], bias), np.broadcast_to(bias, (2, 3, 5)).copy())
        assert reference.linear_int8(x[:, :0], weight).shape == (2, 0, 5)

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_nan_and_inf_stay_in_their_row(self, bad: float) -> None:
        x, weight = normal(3, 1025), normal(5, 1025, seed=1)
        weight[2] = 0
        clean = reference.linear_int8(x, weight)
        x[1, 1024] = bad
        y = reference.linear_int8(x, weight)
        assert np.isnan(y[1]).all()
        same_bits(y[[0, 2]], clean[[0, 2]])

    def test_rows_of_zeros_give_the_bias(self) -> None:
        bias = f32(1.5, -0.0, 1e-40)
        same_bits(reference.linear_int8(np.zeros((2, 600), np.float32), normal(3, 600), bias), f32(*[[1.5, 0.0, 1e-40]] * 2))
        np.testing.assert_array_equal(reference.linear_int8(normal(2, 600), np.zeros((3, 600), np.float32), bias), [bias] * 2)

    @pytest.mark.parametrize("factor", [2.0**-9, 2.0**13])
    def test_the_same_power_of_2_for_all_channels_changes_no_bit(self, factor: float) -> None:
        x, weight, bias = normal(4, 700), normal(5, 700, seed=1), normal(5, seed=2)
        smooth = np.full(700, factor, np.float32)
        same_bits(reference.linear_int8(x, weight, bias, smooth=smooth), reference.linear_int8(x, weight, bias))

    def test_smoothing_leaves_levels_to_the_other_channels(self) -> None:
        x, weight = normal(20, 256), normal(30, 256, seed=1)
        x[:, 7] *= 100
        weight[:, 7] *= 0.1
        exact = x.astype(np.float64) @ weight.T.astype(np.float64)
        smooth = np.ones(256, np.float32)
        smooth[7] = 0.1
        plain, smoothed = (np.abs(reference.linear_int8(x, weight, smooth=s) - exact).mean() for s in (None, smooth))
        assert smoothed < plain / 4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.sampled_from([*INPUTS, 2, 3, 64]),
    exponents=st.tuples(*[st.integers(-140, 30)] * 2),
    outlier=st.sampled_from([1.0, 1e3, 1e8]),
    offset=st.sampled_from([0.0, 3.0, -30.0]),
    zeros=st.booleans(),
    smoothed=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_error_is_within_the_derived_bound(
    seed: int,
    inputs: int,
    exponents: tuple[int, int],
    outlier: float,
    offset: float,
    zeros: bool,
    smoothed: float,
) -> None:
    """Half a step of either operand for each product, whatever the smoothing: both results belong to the same exact one."""
    random = np.random.default_rng(seed)
    x, weight = random.standard_normal((4, inputs)) + offset, random.standard_normal((5, inputs))
    x[0, random.integers(inputs)] *= outlier
    weight[0, random.integers(inputs)] *= outlier
    if zeros:
        x[random.random(x.shape) < 0.7] = 0
        weight[random.random(weight.shape) < 0.7] = 0
    x, weight = ((y * 2.0**e).astype(np.float32) for y, e in zip((x, weight), exponents, strict=True))
    bias = (random.standard_normal(5) * 2.0 ** sum(exponents)).astype(np.float32)
    smooth = np.exp(random.standard_normal(inputs) * smoothed).astype(np.float32)
    for given_smooth in (None, smooth):
        assert_within(reference.linear_int8(x, weight, bias, smooth=given_smooth), quantized_product(x, weight, bias, given_smooth))


class TestFma:
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_double_rounding(self, sign: int) -> None:
        """Sums within 2^-53 of a tie of float32, which float64 rounds to the tie."""
        odd, even = 1 + 2.0**-23, 1.0
        a, b = f32(2.0**-24 * (1 + 2.0**-23)), f32(1 - 2.0**-23)  # 2^-24 - 2^-70
        same_bits(_fma(a * sign, b, f32(odd) * sign), f32(odd * sign))
        a, b = f32(2.0**-24 * (1 + 2.0**-23)), f32(1 + 2.0**-23)  # 2^-24 + 2^-46 + 2^-70
        same_bits(_fma(a * sign, b, f32(even) * sign), f32(odd * sign))
        a, b = f32(-(2.0**-24) * (1 + 2.0**-23)), f32(1 - 2.0**-23)
        same_bits(_fma(a * sign, b, f32(1 + 2.0**-22) * sign), f32((1 + 2.0**-22) * sign))

    def test_random_sums_near_ties(self) -> None:
        random = np.random.default_rng(0)
        a, b = (random.integers(2**23, 2**24, 500).astype(np.float32) for _ in range(2))
        c = (random.integers(2**23, 2**24, 500) * 2.0 ** random.integers(-30, 60, 500)).astype(np.float32)
        c[::2] *= -1
        expected = [
            float(rounded(Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)))) for p, q, r in zip(a, b, c, strict=True)
        ]
        same_bits(_fma(a, b, c), f32(*expected))

    def test_nan_inf_and_denormals(self) -> None:
        a, b, c = f32(NAN, 1, INF, INF, 2.0**-100, 3e38), f32(1, NAN, 0, 1, 2.0**-49, 3e38), f32(1, 1, 1, -INF, 2.0**-149, 0)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(_fma(a, b, c), [NAN, NAN, NAN, NAN, 2.0**-148, INF])


class TestLinearBfloat16:
    def test_only_the_operands_are_rounded(self) -> None:
        x, weight, bias = f32([1 + 2.0**-7, 1 + 2.0**-9]), f32([3, -(2.0**-12)]), f32(1 + 2.0**-20)
        np.testing.assert_array_equal(reference.linear_bfloat16(x, weight, bias), f32([3 + 3 * 2.0**-7 - 2.0**-12 + 1 + 2.0**-20]))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_dtypes_are_kept(self, dtype: type) -> None:
        x, weight, bias = normal(3, 600, dtype=dtype), normal(5, 600, seed=1, dtype=dtype), normal(5, seed=2, dtype=dtype)
        y = reference.linear_bfloat16(x, weight, bias, activation="silu")
        rounded_x, rounded_weight = (reference.round_bfloat16(a).astype(np.float64) for a in (x, weight))
        exact = reference.linear(rounded_x, rounded_weight, bias.astype(np.float64), activation="silu")
        assert y.dtype == dtype
        assert np.abs(y - exact).max() <= 40 * np.finfo(dtype).eps * np.abs(exact).max()
        assert dtype == np.float16 or (y != reference.linear(x, weight, bias, activation="silu")).any()


def rounded(x: Fraction) -> Fraction:
    """Round to float32, ties to even."""
    if x == 0:
        return x
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    step = Fraction(2) ** (max(exponent, -126) - 23)
    return round(x / step) * step


def in_fractions(x: Array, weight: Array, bias: Any, smooth: Array) -> Fraction:
    """One element of `linear_int8` by its definition, each operation exact and then rounded."""

    def exact(y: Array) -> list[Fraction]:
        return [Fraction(float(value)) for value in y]

    c, y = rounded(Fraction(1, 255)), Fraction(float(bias))
    v = [rounded(a * s) for a, s in zip(exact(x), exact(smooth), strict=True)]
    w = [rounded(b / s) for b, s in zip(exact(weight), exact(smooth), strict=True)]
    for start in range(0, len(v), 512):
        rows, columns = v[start : start + 512], w[start : start + 512]
        low, high = min(Fraction(0), *rows), max(Fraction(0), *rows)
        scale = max(rounded(rounded(high * c) - rounded(low * c)), Fraction(2) ** -126)
        inverse = rounded(1 / scale)
        zero = min(round(rounded(-low * inverse)), 255)
        levels = [min(round(rounded(a * inverse)) + zero, 255) for a in rows]
        weight_scale = rounded(max(map(abs, columns)) / 127)
        weight_levels = [round(rounded(b / weight_scale)) for b in columns]
        d = sum(q * b for q, b in zip(levels, weight_levels, strict=True)) - zero * sum(weight_levels)
        y = rounded(rounded(d * weight_scale) * scale + y)
    return y
