"""softmax against the reference."""

import numpy as np
import pytest

import fastattn
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 10_000), work=lambda n: 5 * n))
def test_row_lengths(count: int, scale: float) -> None:
    check("softmax", normal(5, count, scale=scale))


@pytest.mark.parametrize(("rows", "count"), sizes([(1, 1), (1, 10_000), (3, 127), (2000, 384), (100_000, 3)]))
def test_row_counts(rows: int, count: int) -> None:
    check("softmax", normal(rows, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_dtypes(count: int, dtype: type) -> None:
    for scale in SCALES:
        check("softmax", normal(5, count, scale=scale, dtype=dtype))


@pytest.mark.parametrize("axis", range(-4, 4))
def test_axes(axis: int) -> None:
    check("softmax", normal(2, 3, 5, 4), axis)
    check("softmax", normal(2, 3, 5, 4), axis=axis)


def test_one_axis_is_enough() -> None:
    check("softmax", normal(7))
    check("softmax", normal(7), axis=0)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    for axis in range(-len(shape), len(shape)):
        assert check("softmax", normal(*shape), axis).shape == shape


@pytest.mark.parametrize("count", sizes([7, 33, 513], work=lambda n: 5 * n))
def test_minus_infinity_takes_no_part(count: int) -> None:
    x = normal(5, count, scale=80)
    x[0, 0] = x[1, -1] = x[2, 1:] = x[3, : count // 2] = -np.inf
    result = check("softmax", x)
    assert (result[x == -np.inf] == 0).all()
    assert result[2].tolist() == [1] + [0] * (count - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("count", sizes([7, 33, 513], work=lambda n: 5 * n))
def test_nan_and_infinity_stay_in_their_row(count: int, bad: float) -> None:
    for place in {0, count // 2, count - 1}:
        x = normal(5, count)
        x[1, place] = bad
        result = check("softmax", x)
        assert np.isnan(result[1]).all() and not np.isnan(result[[0, 2, 3, 4]]).any()


def test_a_row_of_minus_infinity_is_nan_as_in_torch() -> None:
    x = normal(3, 40)
    x[1] = -np.inf
    assert np.isnan(check("softmax", x)[1]).all()


def test_far_below_the_maximum_underflows_to_zero_smoothly() -> None:
    x = np.linspace(0, -120, 40, dtype=np.float32)[None, :]
    check("softmax", x)
    assert fastattn.softmax(np.array([0, -200], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int, axis: int) -> None:
    arrays = {"x": normal(rows, count)}
    contract.any_layout("softmax", arrays, axis=axis)
    contract.any_out("softmax", arrays, axis=axis)
    contract.bad_out("softmax", arrays, axis=axis)
    contract.bad_dtypes("softmax", arrays, axis=axis)
    contract.any_threads("softmax", arrays, axis=axis)


@pytest.mark.parametrize("count", sizes([7, 513], work=lambda n: 9 * n))
def test_same_bits_alone_and_in_a_batch(count: int) -> None:
    x = normal(9, count)
    together = fastattn.softmax(x)
    for row in range(9):
        contract.assert_same_bits(fastattn.softmax(x[row]), together[row])
    contract.assert_same_bits(fastattn.softmax(x.T, axis=0).T, together)


def test_axis_out_of_range() -> None:
    for axis in (2, -3):
        with pytest.raises(ValueError, match="axis"):
            fastattn.softmax(normal(3, 4), axis)
