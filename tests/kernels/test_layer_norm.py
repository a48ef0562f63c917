"""layer_norm against the reference."""

from typing import Any

import numpy as np
import pytest

import fastattn
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check


def parts(*shape: int, scale: float = 1.0, dtype: Any = np.float32, axes: int = 1) -> dict[str, Any]:
    """Return rows, and a weight, bias and residual for them."""
    return {
        "x": normal(*shape, scale=scale, dtype=dtype),
        "weight": normal(*shape[-axes:], seed=1, dtype=dtype) + dtype(1),
        "bias": normal(*shape[-axes:], seed=2, dtype=dtype),
        "residual": normal(*shape, seed=3, scale=scale, dtype=dtype),
    }


def check_parts(given: dict[str, Any], **options: Any) -> Any:
    return check("layer_norm", given["x"], given["weight"], given["bias"], residual=given["residual"], **options)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 10_000), work=lambda n: 5 * n))
def test_row_lengths(count: int, scale: float) -> None:
    check("layer_norm", normal(5, count, scale=scale))
    check_parts(parts(5, count, scale=scale))


@pytest.mark.parametrize(("rows", "count"), sizes([(1, 1), (1, 127), (3, 10_000), (2000, 384), (50_000, 3)]))
def test_row_counts(rows: int, count: int) -> None:
    check_parts(parts(rows, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_dtypes(count: int, dtype: type) -> None:
    for scale in SCALES:
        check_parts(parts(5, count, scale=scale, dtype=dtype))


@pytest.mark.parametrize("names", ["", "weight", "bias", "residual", "weight bias", "weight residual", "bias residual"])
def test_every_part_is_optional(names: str) -> None:
    given = parts(5, 37)
    check_parts({name: array if name == "x" or name in names.split() else None for name, array in given.items()})


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5, 1.0])
def test_eps(eps: float) -> None:
    check_parts(parts(5, 37, scale=1e-3), eps=eps)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weight_over_several_axes(axes: int) -> None:
    check_parts(parts(3, 4, 5, 6, axes=axes))
    given = parts(3, 4, 5, 6, axes=axes)
    check("layer_norm", given["x"], bias=given["bias"])


def test_one_axis_is_enough() -> None:
    check_parts(parts(7))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("count", sizes([7, 33, 384, 513], work=lambda n: 16 * n))
def test_a_large_mean_keeps_the_variance(count: int, dtype: type) -> None:
    """Cancellation: ``mean(x^2) - mean(x)^2`` would lose all digits of the variance here."""
    x = normal(16, count, dtype=dtype) + dtype(1000)
    check("layer_norm", x)


@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_rows_without_variance_give_the_bias(count: int) -> None:
    given = parts(5, count)
    for value in (0.0, 3.0, -1024.0):
        x = np.full((5, count), value, np.float32)
        result = fastattn.layer_norm(x, given["weight"], given["bias"])
        np.testing.assert_array_equal(result, np.broadcast_to(given["bias"], result.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("count", sizes([7, 33, 513], work=lambda n: 5 * n))
def test_nan_and_infinity_stay_in_their_row(count: int, bad: float) -> None:
    for place in {0, count // 2, count - 1}:
        for name in ("x", "residual"):
            given = parts(5, count)
            given[name][1, place] = bad
            result = check_parts(given)
            assert np.isnan(result[1]).all() and not np.isnan(result[[0, 2, 3, 4]]).any()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    assert fastattn.layer_norm(normal(*shape)).shape == shape
    assert fastattn.layer_norm(**parts(*shape)).shape == shape


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int) -> None:
    arrays = parts(rows, count)
    contract.any_layout("layer_norm", arrays)
    contract.any_out("layer_norm", arrays)
    contract.bad_out("layer_norm", arrays)
    contract.bad_dtypes("layer_norm", arrays)
    contract.any_threads("layer_norm", arrays)


def test_threads() -> None:
    contract.any_threads("layer_norm", {"x": normal(500, 384)})


@pytest.mark.parametrize("count", sizes([7, 513], work=lambda n: 9 * n))
def test_same_bits_alone_and_in_a_batch(count: int) -> None:
    given = parts(9, count)
    together = fastattn.layer_norm(**given)
    for row in range(9):
        alone = fastattn.layer_norm(**{n: a[row] if a.ndim == 2 else a for n, a in given.items()})
        contract.assert_same_bits(alone, together[row])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight", (4,)),
        ("weight", (1,)),
        ("weight", (5, 3)),
        ("weight", (2, 3, 5)),
        ("weight", ()),
        ("bias", (4,)),
        ("bias", (3, 5)),
        ("residual", (5,)),
        ("residual", (3, 4)),
        ("residual", (1, 3, 5)),
    ],
    ids=str,
)
def test_wrong_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        fastattn.layer_norm(**{**parts(3, 5), name: np.zeros(shape, np.float32)})


def test_no_axis_and_negative_eps() -> None:
    with pytest.raises(ValueError, match=r"\bx\b"):
        fastattn.layer_norm(np.array(1, np.float32))
    for eps in (-1e-5, float("nan")):
        with pytest.raises(ValueError, match="eps"):
            fastattn.layer_norm(normal(3, 5), eps=eps)
