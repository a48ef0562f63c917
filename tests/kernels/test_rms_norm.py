"""rms_norm against the reference.

The truth is the reference in float64, whose default `eps` is another one: every comparison with it gives `eps`.
"""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check

EPS = 1e-6


def parts(*shape: int, scale: float = 1.0, dtype: Any = np.float32, axes: int = 1) -> dict[str, Any]:
    """Rows, and a weight and residual for them."""
    return {
        "x": normal(*shape, scale=scale, dtype=dtype),
        "weight": normal(*shape[-axes:], seed=1, dtype=dtype) + dtype(1),
        "residual": normal(*shape, seed=3, scale=scale, dtype=dtype),
    }


def check_parts(given: dict[str, Any], *, eps: float = EPS) -> Any:
    return check("rms_norm", given["x"], given["weight"], residual=given["residual"], eps=eps)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 10_000), work=lambda n: 5 * n))
def test_row_lengths(count: int, scale: float) -> None:
    check("rms_norm", normal(5, count, scale=scale), eps=EPS)
    check_parts(parts(5, count, scale=scale))


@pytest.mark.parametrize(("rows", "count"), sizes([(1, 1), (1, 127), (3, 10_000), (2000, 384), (50_000, 3)]))
def test_row_counts(rows: int, count: int) -> None:
    check_parts(parts(rows, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_dtypes(count: int, dtype: type) -> None:
    for scale in SCALES:
        check_parts(parts(5, count, scale=scale, dtype=dtype))


@pytest.mark.parametrize("names", ["", "weight", "residual"])
def test_every_part_is_optional(names: str) -> None:
    given = parts(5, 37)
    check_parts({name: array if name == "x" or name in names.split() else None for name, array in given.items()})


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5, 1.0])
def test_eps(eps: float) -> None:
    check_parts(parts(5, 37, scale=1e-3), eps=eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_default_eps(dtype: type) -> None:
    """That of the dtype that is computed in, as in torch; the rows are so small that it shows."""
    given = parts(5, 37, scale=1e-3, dtype=dtype)
    eps = 2.0**-52 if dtype is np.float64 else 2.0**-23
    for call in (fastattn.rms_norm, reference.rms_norm):
        contract.assert_same_bits(call(**given), call(**given, eps=eps))
        assert (call(**given) != call(**given, eps=4 * eps)).any()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weight_over_several_axes(axes: int) -> None:
    check_parts(parts(3, 4, 5, 6, axes=axes))


def test_one_axis_is_enough() -> None:
    check_parts(parts(7))


@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_rows_of_zeros(count: int) -> None:
    x = np.zeros((5, count), np.float32)
    for options in ({}, {"residual": x}):
        np.testing.assert_array_equal(fastattn.rms_norm(x, **options), x)
        assert np.isnan(fastattn.rms_norm(x, eps=0, **options)).all()


def test_squares_that_overflow_give_zeros() -> None:
    """As in torch and in the reference in float32; no other row is touched."""
    x = normal(5, 37)
    x[1] = 1e20
    np.testing.assert_array_equal(fastattn.rms_norm(x)[1], reference.rms_norm(x)[1])
    contract.assert_same_bits(fastattn.rms_norm(x)[[0, 2, 3, 4]], fastattn.rms_norm(x[[0, 2, 3, 4]]))
    assert not fastattn.rms_norm(x)[1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("count", sizes([7, 33, 513], work=lambda n: 5 * n))
def test_nan_and_infinity_stay_in_their_row(count: int, bad: float) -> None:
    for place in {0, count // 2, count - 1}:
        for name in ("x", "residual"):
            given = parts(5, count)
            given[name][1, place] = bad
            result = check_parts(given)
            # Infinity over infinity is NaN, and all else in its row is 0.
            expected = np.isnan(bad) | (np.arange(count) == place)
            np.testing.assert_array_equal(np.isnan(result[1]), expected)
            assert not result[1, ~expected].any() and not np.isnan(result[[0, 2, 3, 4]]).any()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    assert fastattn.rms_norm(normal(*shape)).shape == shape
    assert fastattn.rms_norm(**parts(*shape)).shape == shape


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int) -> None:
    arrays = parts(rows, count)
    contract.any_layout("rms_norm", arrays)
    contract.any_out("rms_norm", arrays)
    contract.bad_out("rms_norm", arrays)
    contract.bad_dtypes("rms_norm", arrays)
    contract.any_threads("rms_norm", arrays)


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads("rms_norm", {"x": normal(501, 384)})
    contract.any_threads("rms_norm", parts(501, 384))


@pytest.mark.parametrize("count", sizes([7, 513], work=lambda n: 9 * n))
def test_same_bits_alone_and_in_a_batch(count: int) -> None:
    given = parts(9, count)
    for names in (("x", "weight", "residual"), ("x",)):
        together = fastattn.rms_norm(**{name: given[name] for name in names})
        for row in range(9):
            alone = fastattn.rms_norm(**{n: given[n][row] if given[n].ndim == 2 else given[n] for n in names})
            contract.assert_same_bits(alone, together[row])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight", (4,)),
        ("weight", (1,)),
        ("weight", (5, 3)),
        ("weight", (2, 3, 5)),
        ("weight", ()),
        ("residual", (5,)),
        ("residual", (3, 4)),
        ("residual", (1, 3, 5)),
    ],
    ids=str,
)
def test_wrong_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        fastattn.rms_norm(**{**parts(3, 5), name: np.zeros(shape, np.float32)})


def test_no_axis_and_wrong_eps() -> None:
    with pytest.raises(ValueError, match=r"\bx\b"):
        fastattn.rms_norm(np.array(1, np.float32))
    for eps in (-1e-5, float("nan")):
        with pytest.raises(ValueError, match="eps"):
            fastattn.rms_norm(normal(3, 5), eps=eps)
    with pytest.raises(TypeError, match="eps"):
        fastattn.rms_norm(normal(3, 5), eps=[])
