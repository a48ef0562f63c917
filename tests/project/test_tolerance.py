"""The tolerance rejects wrong results: a tolerance that accepts everything would test nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from tests.support.tolerance import assert_matches_reference, check, truth_and_yardsticks

X = np.random.default_rng(0).standard_normal((12, 12)).astype(np.float32)
TRUTH, (YARDSTICK,) = truth_and_yardsticks(reference.softmax, (X,), {})


def changed(value: float, at: tuple[int, ...] = (-1, -1)) -> NDArray[np.float32]:
    result = YARDSTICK.copy()
    result[at] = value
    return result


def test_accepts_the_yardstick_and_the_rounded_truth() -> None:
    assert_matches_reference(YARDSTICK, TRUTH, YARDSTICK)
    assert_matches_reference(TRUTH.astype(np.float32), TRUTH, YARDSTICK)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros_like(YARDSTICK),
        np.full_like(YARDSTICK, np.nan),
        changed(np.nan),
        changed(np.inf, (0, 0)),
        changed(0.0),
        changed(float(YARDSTICK[-1, -1]) + 2e-6),
        YARDSTICK.T.copy(),
        YARDSTICK[::-1],
        YARDSTICK * np.float32(1 + 4e-6),
    ],
    ids=["zeros", "nan", "one-nan", "one-inf", "zero-tail", "bad-tail", "transposed", "reversed", "scaled"],
)
def test_rejects_wrong_values(wrong: NDArray[np.float32]) -> None:
    with pytest.raises(AssertionError, match=" at "):
        assert_matches_reference(wrong, TRUTH, YARDSTICK)


def test_rejects_wrong_dtype_shape_and_type() -> None:
    with pytest.raises(AssertionError, match="float64 instead of float32"):
        assert_matches_reference(TRUTH, TRUTH, YARDSTICK)
    with pytest.raises(AssertionError, match="instead of"):
        assert_matches_reference(YARDSTICK[:, :-1], TRUTH, YARDSTICK)
    with pytest.raises(AssertionError, match="not an array"):
        assert_matches_reference(YARDSTICK.tolist(), TRUTH, YARDSTICK)
    with pytest.raises(AssertionError, match="truth is float32"):
        assert_matches_reference(YARDSTICK, YARDSTICK, YARDSTICK)


def test_the_bound_is_the_one_stated() -> None:
    eps = float(np.finfo(np.float32).eps)
    truth = np.array([1.0, -2.0])
    yardstick = np.array([1 + 8 * eps, -2.0], np.float32)
    bound = 2 * 8 * eps + 4 * eps * 2
    assert_matches_reference(np.array([1 - bound, -2.0], np.float32), truth, yardstick)
    with pytest.raises(AssertionError, match="error"):
        assert_matches_reference(np.array([1 - bound - eps, -2.0], np.float32), truth, yardstick)


def test_non_finite_places_must_agree() -> None:
    truth = np.array([np.nan, np.inf, -np.inf, 1e39, 1.0])
    right = np.array([np.nan, np.inf, -np.inf, np.inf, 1.0], np.float32)
    assert_matches_reference(right, truth, right)
    for place in range(4):
        wrong = right.copy()
        wrong[place] = 0.0
        with pytest.raises(AssertionError, match="non-finite"):
            assert_matches_reference(wrong, truth, right)
    with pytest.raises(AssertionError, match="non-finite"):
        assert_matches_reference(right[[0, 2, 1, 3, 4]], truth, right)


def test_float64_errors_of_float32_size_are_rejected() -> None:
    x = X.astype(np.float64)
    check("softmax", x, ours=reference.softmax)
    with pytest.raises(AssertionError, match="error"):
        check("softmax", x, ours=lambda x: reference.softmax(x.astype(np.float32)).astype(np.float64))


def test_out_must_come_back() -> None:
    def forgetful(x: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
        return reference.softmax(x)

    with pytest.raises(AssertionError, match="out"):
        check("softmax", X, ours=forgetful, out=np.empty_like(X))
