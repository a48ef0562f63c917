"""gelu against the reference, both forms."""

import math

import numpy as np
import pytest

import fastattn
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check

FORMS = ("none", "tanh")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 10_000)))
def test_lengths(count: int, scale: float, form: str) -> None:
    check("gelu", normal(count, scale=scale), approximate=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "count"), sizes([(1, 1), (3, 7), (31, 33), (5, 513), (129, 1536)]))
def test_dtypes(rows: int, count: int, dtype: type, form: str) -> None:
    check("gelu", normal(rows, count, dtype=dtype), approximate=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("low", range(-12, 12, 4))
def test_every_part_of_the_range(low: int, form: str) -> None:
    """Intervals are compared one by one, since the tolerance scales with the largest value and the left tail is tiny."""
    check("gelu", np.linspace(low, low + 4, 401, dtype=np.float32), approximate=form)


@pytest.mark.parametrize("form", FORMS)
def test_special_values(form: str) -> None:
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 1e-45, 3e38, -3e38, 88.0, -88.0, 1e4, -1e4], np.float32)
    result = check("gelu", x, approximate=form)
    assert result[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(result[2:4], x[2:4] / 2)
    for value in x:
        check("gelu", np.array([value]), approximate=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513]))
def test_nan_and_infinity_stay_in_their_element(count: int, form: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for place in {0, count // 2, count - 1}:
            x = normal(count)
            x[place] = bad
            check("gelu", x, approximate=form)


def test_the_error_function_is_the_one_of_math() -> None:
    x = np.linspace(-6, 6, 241)
    expected = [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(fastattn.gelu(x), expected, rtol=0, atol=6 * 4 * np.finfo(float).eps)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0), (3, 0, 4), (2, 3, 4, 5)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert check("gelu", normal(*shape) if shape else np.array(0.5, np.float32)).shape == shape


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int, form: str) -> None:
    arrays = {"x": normal(rows, count)}
    contract.any_layout("gelu", arrays, approximate=form)
    contract.any_out("gelu", arrays, approximate=form)
    contract.bad_out("gelu", arrays, approximate=form)
    contract.bad_dtypes("gelu", arrays, approximate=form)
    contract.any_threads("gelu", arrays, approximate=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", sizes([7, 513]))
def test_same_bits_wherever_an_element_lies(count: int, form: str) -> None:
    x = normal(count)
    together = fastattn.gelu(x, approximate=form)
    for i in (0, 1, count // 2, count - 1):
        contract.assert_same_bits(fastattn.gelu(x[i:], approximate=form), together[i:])


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match=r"approximate.*sigmoid"):
        fastattn.gelu(normal(3), approximate="sigmoid")
