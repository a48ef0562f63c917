"""Numbers of a comparison of two precisions: known answers."""

import numpy as np
import pytest

from fastattn.cli import fidelity
from fastattn.cli.fidelity import LayerError


def test_cosines() -> None:
    truth = np.array([[3, 4], [1, 0], [1, 0], [2, 0], [0, 0], [0, 0]], np.float32)
    found = np.array([[4, 3], [0, 5], [-2, 0], [9, 0], [0, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(fidelity.cosines(truth, found), [0.96, 0, -1, 1, 1, 0], rtol=0, atol=1e-15)


def test_cosines_are_not_rounded_to_float32() -> None:
    found = fidelity.cosines(np.array([[1, 0]], np.float32), np.array([[1, 1e-4]], np.float32))
    assert found[0] == pytest.approx(1 - 5e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 99], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        # 1 - 6 * 2 / (4 * 15): neighbours change places.
        ([1, 2, 3, 4], [2, 1, 3, 4], 0.8),
        # The equal values have rank 1.5 each: the correlation of 0, 1, 2, 3 and 0, 1.5, 1.5, 3.
        ([1, 2, 3, 4], [1, 5, 5, 9], 4.5 / np.sqrt(5 * 4.5)),
        ([7, 7, 7], [7, 7, 7], 1),
        ([7, 7, 7], [1, 2, 3], 0),
    ],
)
def test_rank_correlation(truth: list[float], found: list[float], expected: float) -> None:
    assert fidelity.rank_correlation(np.array(truth, float), np.array(found, float)) == pytest.approx(expected, abs=1e-12)


def test_pair_scores_has_each_pair_once() -> None:
    assert fidelity.pair_scores(np.arange(9).reshape(3, 3)).tolist() == [1, 2, 5]


def test_same_best() -> None:
    truth = np.array([[9, 8, 7, 1, -np.inf], [-np.inf, 1, 2, 3, 4]])
    # The first row keeps one of its two, in another place; the second keeps both in another order.
    found = np.array([[8, 1, 9, 0, -np.inf], [-np.inf, 1, 2, 4, 3]])
    assert fidelity.same_best(truth, truth, 2) == 1
    assert fidelity.same_best(truth, found, 2) == 0.75
    assert fidelity.same_best(truth, found, 1) == 0
    assert fidelity.same_best(truth, found, 3) == 1


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (3, 1), (9, 4), (20, 10), (999, 10)])
def test_top(count: int, expected: int) -> None:
    assert fidelity.top(count) == expected


def test_layer_errors() -> None:
    truth = np.zeros((3, 2, 2), np.float32)
    truth[:, :, 0] = 4
    found = truth.copy()
    # A token of the second layer is turned by 90 degrees, one of the last is shorter.
    found[1, 0] = [0, 4]
    found[2, 1] = [1, 0]
    longer = np.full((3, 4, 2), 2, np.float32)
    expected = [LayerError(0, 1), LayerError(np.sqrt(32 / 64), 5 / 6), LayerError(np.sqrt(9 / 64), 1)]
    errors = fidelity.layer_errors([(truth, found), (longer, longer)])
    np.testing.assert_allclose(errors, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("order", "cosine", "expected", "why"),
    [
        (0.9995, [0.996, 1], "changed", "mean cosine 0.99800 < 0.999"),
        (0.9995, [0.996, 1, 1, 1, 1], "close", ""),
        (0.9985, [0.996, 1, 1, 1, 1], "changed", "rank correlation 0.99850 < 0.999"),
        (0.9995, [0.994, 1, 1, 1, 1, 1, 1], "changed", "least cosine 0.99400 < 0.995"),
        (0.98, [1, 1], "far", "rank correlation 0.98000 < 0.99"),
        (0.9995, [0.9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "far", "least cosine 0.90000 < 0.97"),
        (0.98, [0.9, 1], "far", "rank correlation 0.98000 < 0.99, least cosine 0.90000 < 0.97, mean cosine 0.95000 < 0.99"),
        (0.9995, None, "close", ""),
        (0.995, None, "changed", "rank correlation 0.99500 < 0.999"),
        (float("nan"), None, "far", "rank correlation nan < 0.99"),
    ],
)
def test_grade(order: float, cosine: list[float] | None, expected: str, why: str) -> None:
    assert fidelity.grade(order, None if cosine is None else np.array(cosine)) == (expected, why)


@pytest.mark.parametrize(
    ("precision", "how_close", "speeds", "expected"),
    [
        ("int8", "close", (1.5, 2.5), "int8 gives nearly the results of float32 on these texts."),
        ("int8", "changed", (1.5, 2.5), "int8 changes some results on these texts (why): try it on your task first."),
        ("int8", "far", (1.5, 2.5), "int8 changes the results on these texts too much (why): try bfloat16, or stay with float32."),
        ("bfloat16", "far", (1.5, 2.5), "bfloat16 changes the results on these texts too much (why): stay with float32."),
        ("bfloat16", "close", (1.5, 0.7), "bfloat16 is slower than float32 on this CPU: it only saves memory."),
        ("bfloat16", "close", (0.7, 0.97), "bfloat16 gives nearly the results of float32 on these texts."),
        ("int8", "far", (0.5, 0.5), "int8 changes the results on these texts too much (why): try bfloat16, or stay with float32."),
    ],
)
def test_verdict(precision: str, how_close: str, speeds: tuple[float, float], expected: str) -> None:
    numbers = f"Speed {speeds[0]:.2f}x for one text, {speeds[1]:.2f}x for many; memory 0.25x."
    assert fidelity.verdict(precision, (how_close, "why"), speeds, 0.25) == f"{expected} {numbers}"
