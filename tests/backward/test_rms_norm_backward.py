"""rms_norm_backward against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.backward._norms import BLOCK
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows, torch_gradients
from tests.support.tolerance import ORDERS


def given(*shape: int, scale: float = 1.0, dtype: Any = np.float32, axes: int = 1) -> dict[str, Any]:
    """Return the arguments of a call."""
    return {
        "grad": normal(*shape, seed=4, dtype=dtype),
        "x": normal(*shape, scale=scale, dtype=dtype),
        "weight": normal(*shape[-axes:], seed=1, dtype=dtype) + dtype(1),
        "residual": normal(*shape, seed=3, scale=scale, dtype=dtype),
    }


def check(arrays: dict[str, Any], eps: float = 1e-6, orders: int = ORDERS) -> Any:
    """The default of the truth, in float64, would be another."""
    places = [arrays.get(name) for name in ("grad", "x", "weight")]
    return check_gradients("rms_norm_backward", *places, residual=arrays.get("residual"), eps=eps, orders=orders)


@pytest.mark.parametrize("axes", [1, 2])
def test_finite_differences(axes: int) -> None:
    shape = (2, 3, 5)
    x, weight, grad = f64(*shape), f64(*shape[-axes:], seed=1), f64(*shape, seed=3)
    residual = f64(*shape, seed=4)

    def loss(x: Array, weight: Array, residual: Array) -> Any:
        return np.sum(grad * reference.rms_norm(x, weight, residual=residual, eps=0.1))

    gradients = reference.rms_norm_backward(grad, x, weight, residual=residual, eps=0.1)
    check_slopes(loss, [x, weight, residual], (*gradients, gradients[0]))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes(EDGES, work=lambda n: 15 * n))
def test_row_lengths(count: int, scale: float) -> None:
    check(given(5, count, scale=scale))


@pytest.mark.parametrize(
    ("rows", "count"),
    sizes(
        [(1, 1), (1, 127), (BLOCK - 1, 9), (BLOCK, 9), (BLOCK + 1, 9), (5 * BLOCK + 1, 3), (700, 384), (3, 10_000)],
        work=lambda m, n: 3 * m * n,
    ),
)
def test_row_counts(rows: int, count: int) -> None:
    check(given(rows, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 15 * n))
def test_dtypes(count: int, dtype: type) -> None:
    for gradient in check(given(5, count, dtype=dtype)):
        assert gradient.dtype == dtype


@pytest.mark.parametrize("names", ["", "weight", "residual", "weight residual"])
def test_every_part_is_optional(names: str) -> None:
    arrays = given(9, 37)
    found = check({name: array for name, array in arrays.items() if name in ("grad", "x", *names.split())})
    assert [each is not None for each in found] == [True, "weight" in names]


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5, 1.0])
def test_eps(eps: float) -> None:
    check(given(5, 37, scale=1e-3), eps=eps)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weight_over_several_axes(axes: int) -> None:
    found = check(given(3, 4, 5, 6, axes=axes))
    assert found[1].shape == (3, 4, 5, 6)[-axes:]


def test_one_axis_is_enough() -> None:
    check(given(17))


def test_random_calls() -> None:
    for rng, array in random_rows():
        shape = (*rng.integers(1, 4, rng.integers(0, 2)), rng.integers(4, 12), rng.integers(4, 70))
        arrays = {"grad": array(*shape, scale=1.0), "x": array(*shape, seed=1)}
        if rng.random() < 0.8:
            arrays["weight"] = array(shape[-1], seed=2, scale=1.0)
        if rng.random() < 0.5:
            arrays["residual"] = array(*shape, seed=4)
        check(arrays, orders=3, eps=float(rng.choice([1e-12, 1e-5, 0.1])))


def test_the_eps_of_the_dtype_is_the_default() -> None:
    for dtype, eps in ((np.float16, 2.0**-23), (np.float32, 2.0**-23), (np.float64, 2.0**-52)):
        arrays = given(5, 37, scale=1e-3, dtype=dtype)
        contract.assert_same_bits(fastattn.rms_norm_backward(**arrays), fastattn.rms_norm_backward(**arrays, eps=eps))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", ["grad", "x", "residual"])
@pytest.mark.parametrize("count", sizes([7, 33, 513], work=lambda n: 15 * n))
def test_nan_and_infinity_stay_in_their_row(count: int, name: str, bad: float) -> None:
    for place in {0, count // 2, count - 1}:
        arrays = given(5, count)
        arrays[name][1, place] = bad
        found = check(arrays, eps=1e-5)
        assert not np.isfinite(found[0][1]).any() and np.isfinite(found[0][[0, 2, 3, 4]]).all()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    for gradient, like in zip(fastattn.rms_norm_backward(**given(*shape)), (shape, shape[-1:]), strict=True):
        assert gradient is not None and gradient.shape == like and not gradient.any()


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (70, 129)], work=lambda m, n: 90 * m * n))
def test_contract(rows: int, count: int) -> None:
    arrays = given(rows, count)
    contract.any_layout("rms_norm_backward", arrays)
    contract.bad_dtypes("rms_norm_backward", arrays)


@pytest.mark.jit
@pytest.mark.parametrize(("rows", "count"), [(500, 384), (BLOCK * 9 + 1, 77), (4000, 16)])
def test_threads(rows: int, count: int) -> None:
    contract.any_threads("rms_norm_backward", given(rows, count))


def test_same_bits_alone_and_in_a_batch() -> None:
    arrays = given(9, 77)
    together = fastattn.rms_norm_backward(**arrays)[0]
    for row in range(9):
        alone = fastattn.rms_norm_backward(**{n: a[row] if a.ndim == 2 else a for n, a in arrays.items()})[0]
        contract.assert_same_bits(alone, together[row])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("grad", (5, 3)), ("grad", (3, 1)), ("weight", (4,)), ("weight", ()), ("residual", (1, 3, 5))],
    ids=str,
)
def test_wrong_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        fastattn.rms_norm_backward(**{**given(3, 5), name: np.zeros(shape, np.float32)})


def test_no_axis_and_negative_eps() -> None:
    one = np.array(1, np.float32)
    with pytest.raises(ValueError, match=r"\bx\b"):
        fastattn.rms_norm_backward(one, one)
    with pytest.raises(ValueError, match="eps"):
        fastattn.rms_norm_backward(**given(3, 5), eps=-1e-5)


def test_torch() -> None:
    torch = pytest.importorskip("torch")

    def twin(grad: Array, x: Array, weight: Any, *, residual: Any, eps: float) -> Any:
        def forward(x: Any, weight: Any, residual: Any) -> Any:
            return torch.nn.functional.rms_norm(x + residual, weight.shape, weight, eps)

        *found, of_residual = torch_gradients(torch, forward, grad, x, weight, residual)
        np.testing.assert_array_equal(found[0], of_residual)
        return tuple(found)

    for axes in (1, 2):
        arrays = given(70, 4, 40, axes=axes)
        residual = arrays.pop("residual")
        check_gradients("rms_norm_backward", *arrays.values(), residual=residual, eps=1e-5, twin=twin)
