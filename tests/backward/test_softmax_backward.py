"""softmax_backward against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows, torch_gradients


def given(*shape: int, scale: float = 1.0, dtype: Any = np.float32, axis: int = -1) -> dict[str, Array]:
    """Return the gradient and the result of a softmax."""
    out = reference.softmax(normal(*shape, seed=1, dtype=dtype), axis)
    return {"grad": normal(*shape, scale=scale, dtype=dtype), "out": out}


def check(arrays: dict[str, Array], axis: int = -1) -> Any:
    return check_gradients("softmax_backward", arrays["grad"], arrays["out"], axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_finite_differences(axis: int) -> None:
    x, grad = f64(4, 5), f64(4, 5, seed=1)
    gradient = reference.softmax_backward(grad, reference.softmax(x, axis), axis)
    check_slopes(lambda x: np.sum(grad * reference.softmax(x, axis)), [x], gradient)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes(EDGES, work=lambda n: 5 * n))
def test_row_lengths(count: int, scale: float) -> None:
    check(given(5, count, scale=scale))


@pytest.mark.parametrize(("rows", "count"), sizes([(1, 1), (1, 10_000), (3, 127), (700, 384), (20_000, 3)]))
def test_row_counts(rows: int, count: int) -> None:
    check(given(rows, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 5 * n))
def test_dtypes(count: int, dtype: type) -> None:
    check(given(5, count, dtype=dtype))


@pytest.mark.parametrize("axis", range(-4, 4))
def test_axes(axis: int) -> None:
    check(given(2, 3, 5, 4, axis=axis), axis)


def test_no_axis_and_empty() -> None:
    assert fastattn.softmax_backward(np.array(2.0, np.float32), np.array(1.0, np.float32)) == 0
    for shape in ((0,), (0, 5), (5, 0), (3, 0, 4)):
        for axis in range(-len(shape), len(shape)):
            assert check(given(*shape, axis=0), axis).shape == shape


def test_random_calls() -> None:
    for rng, array in random_rows():
        shape = rng.integers(1, 30, rng.integers(1, 4)) if rng.random() < 0.2 else (rng.integers(4, 12), rng.integers(1, 70))
        axis = int(rng.integers(-len(shape), len(shape)))
        out = reference.softmax(array(*shape, seed=1, scale=rng.choice([1.0, 10.0])), axis)
        check_gradients("softmax_backward", array(*shape), out, axis, orders=3)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("name", ["grad", "out"])
def test_nan_and_infinity_stay_in_their_row(name: str, bad: float) -> None:
    for count in (7, 33, 513):
        arrays = given(5, count)
        arrays[name][1, count - 1] = bad
        found = check(arrays)
        assert not np.isfinite(found[1]).all() and np.isfinite(found[[0, 2, 3, 4]]).all()


def test_a_certain_row_has_no_gradient() -> None:
    out = np.zeros((3, 20), np.float32)
    out[:, 4] = 1
    found = fastattn.softmax_backward(normal(3, 20), out)
    assert not found.any()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int, axis: int) -> None:
    arrays = given(rows, count)
    contract.any_layout("softmax_backward", arrays, axis=axis)
    contract.bad_dtypes("softmax_backward", arrays, axis=axis)


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads("softmax_backward", given(500, 384))


def test_same_bits_alone_and_in_a_batch() -> None:
    arrays = given(9, 77)
    together = fastattn.softmax_backward(**arrays)
    for row in range(9):
        contract.assert_same_bits(fastattn.softmax_backward(**{name: x[row] for name, x in arrays.items()}), together[row])


def test_wrong_arguments() -> None:
    arrays = given(3, 4)
    for axis in (2, -3):
        with pytest.raises(ValueError, match="axis"):
            fastattn.softmax_backward(**arrays, axis=axis)
    with pytest.raises(TypeError, match="axis"):
        fastattn.softmax_backward(**arrays, axis=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grad must have the shape of out, \(3, 4\), got \(3, 5\)"):
        fastattn.softmax_backward(normal(3, 5), arrays["out"])


def test_torch() -> None:
    torch = pytest.importorskip("torch")

    def twin(grad: Array, out: Array, axis: int) -> Any:
        """Softmax of the logarithm of its result is that result."""
        return torch_gradients(torch, lambda x: torch.softmax(x, axis), grad, np.log(out))

    for axis in (0, 1):
        check_gradients("softmax_backward", *given(12, 40, axis=axis).values(), axis, twin=twin)
