"""Values of differentiable arithmetic are NumPy's, and its gradients are the slopes that finite differences measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn.training import arithmetic as F
from fastattn.training.graph import Parameter, Tensor
from tests.support.slopes import check_slopes

Array = NDArray[Any]
CASES = 100

# Function of Tensors, the same of arrays, and the shapes that its arguments have; None: any.
ONE: dict[str, tuple[Callable[..., Tensor], Callable[..., Array]]] = {
    "absolute": (F.absolute, np.abs),
    "exp": (F.exp, np.exp),
    "log": (lambda x: F.log(F.square(x) + 0.5), lambda x: np.log(x * x + 0.5)),
    "log_sigmoid": (F.log_sigmoid, lambda x: -np.log1p(np.exp(-x))),
    "log_sum_exp": (F.log_sum_exp, lambda x: np.log(np.exp(x).sum(-1))),
    "log_sum_exp first": (lambda x: F.log_sum_exp(x, 0), lambda x: np.log(np.exp(x).sum(0))),
    "maximum": (lambda x: F.maximum(x, 0.25), lambda x: np.maximum(x, 0.25)),
    "mean": (F.mean, np.mean),
    "mean first": (lambda x: F.mean(x, 0), lambda x: x.mean(0)),
    "mean kept": (lambda x: F.mean(x, -1, keepdims=True), lambda x: x.mean(-1, keepdims=True)),
    "negative": (lambda x: -x, lambda x: -x),
    "normalize": (F.normalize, lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True))),
    "relu": (F.relu, lambda x: np.maximum(x, 0)),
    "reshape": (lambda x: F.square(x.reshape(-1)), lambda x: (x * x).reshape(-1)),
    "scalars": (lambda x: 2 - 3 * x / 4 + 1 - np.float64(0.5) * x, lambda x: 2 - 3 * x / 4 + 1 - 0.5 * x),
    "sigmoid": (F.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "square": (F.square, np.square),
    "square_root": (lambda x: F.square_root(F.square(x) + 0.5), lambda x: np.sqrt(x * x + 0.5)),
    "sum": (F.sum_of, np.sum),
    "sum first": (lambda x: F.sum_of(x, 0), lambda x: x.sum(0)),
    "sum axes": (lambda x: F.sum_of(x, (0, -1)), lambda x: x.sum((0, -1))),
    "sum kept": (lambda x: F.sum_of(x, -1, keepdims=True), lambda x: x.sum(-1, keepdims=True)),
    "tanh": (F.tanh, np.tanh),
    "used twice": (lambda x: F.exp(x) * x + x * x, lambda x: np.exp(x) * x + x * x),
}
TWO: dict[str, tuple[Callable[..., Tensor], Callable[..., Array]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "divide": (lambda a, b: a / (F.square(b) + 0.5), lambda a, b: a / (b * b + 0.5)),
    "maximum": (F.maximum, np.maximum),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "where": (
        lambda a, b: F.where(a.data > b.data, a, F.square(b)),
        lambda a, b: np.where(a > b, a, b * b),
    ),
}


def a_shape(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(1, 6, rng.integers(2, 4)))


def two_shapes(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes that broadcast: either may have axes of length 1, or lack the first."""
    shape = a_shape(rng)
    narrow = [tuple(1 if rng.random() < 0.3 else length for length in shape) for _ in range(2)]
    lacking = rng.integers(0, 3)
    return (narrow[0][1:] if lacking == 1 else narrow[0], narrow[1][1:] if lacking == 2 else narrow[1])


@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_tensor(name: str) -> None:
    ours, theirs = ONE[name]
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(a_shape(rng))
        np.testing.assert_allclose(ours(Tensor(x)).data, theirs(x), rtol=1e-12, atol=1e-14)
        check_slopes(ours, [x], rng)


@pytest.mark.parametrize("name", TWO)
def test_operators_broadcast(name: str) -> None:
    ours, theirs = TWO[name]
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        a, b = (rng.standard_normal(shape) for shape in two_shapes(rng))
        np.testing.assert_allclose(ours(Tensor(a), Tensor(b)).data, theirs(a, b), rtol=1e-12, atol=1e-14)
        check_slopes(ours, [a, b], rng)


@pytest.mark.parametrize("name", ["add", "maximum", "multiply", "subtract"])
def test_an_operand_may_be_an_array(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((2, 3, 4))
    check_slopes(lambda x: TWO[name][0](x, b), [a], rng)


def test_an_array_may_stand_first() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((2, 3, 4))
    for ours in (lambda x: b + x, lambda x: b - x, lambda x: b * x, lambda x: np.float32(2) * x):
        assert isinstance(ours(Tensor(a)), Tensor)
        check_slopes(ours, [a], rng)


def test_matrix_product_and_transpose() -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        rows, inner, columns = rng.integers(1, 7, 3)
        a, b = rng.standard_normal((rows, inner)), rng.standard_normal((columns, inner))
        np.testing.assert_allclose((Tensor(a) @ Tensor(b).T).data, a @ b.T, rtol=1e-12, atol=1e-14)
        check_slopes(lambda x, y: x @ y.T, [a, b], rng)


@pytest.mark.parametrize("join", [F.concatenate, F.stack])
def test_joining(join: Any) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        shape = list(a_shape(rng))
        axis = int(rng.integers(-len(shape), len(shape)))
        arrays = []
        for _ in range(rng.integers(1, 4)):
            if join is F.concatenate:
                shape[axis] = int(rng.integers(1, 4))
            arrays.append(rng.standard_normal(shape))
        theirs = np.concatenate(arrays, axis) if join is F.concatenate else np.stack(arrays, axis)
        np.testing.assert_array_equal(join([Tensor(each) for each in arrays], axis).data, theirs)
        check_slopes(lambda *tensors, axis=axis: join(tensors, axis), arrays, rng)


KEYS: list[Callable[[np.random.Generator, int, int], Any]] = [
    lambda rng, rows, columns: int(rng.integers(rows)),
    lambda rng, rows, columns: slice(None, None, -1),
    lambda rng, rows, columns: (slice(1, None), None, int(rng.integers(columns))),
    lambda rng, rows, columns: (..., slice(0, 1)),
    lambda rng, rows, columns: rng.integers(-rows, rows, 5),  # elements taken several times
    lambda rng, rows, columns: (rng.integers(0, rows, 7), rng.integers(0, columns, 7)),
    lambda rng, rows, columns: (np.zeros(4, int), slice(None)),
    lambda rng, rows, columns: rng.random((rows, columns)) < 0.5,
    lambda rng, rows, columns: np.zeros(0, int),
]


@pytest.mark.parametrize("key", range(len(KEYS)))
def test_parts(key: int) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        rows, columns = map(int, rng.integers(1, 5, 2))
        x, at = rng.standard_normal((rows, columns)), KEYS[key](rng, rows, columns)
        np.testing.assert_array_equal(Tensor(x)[at].data, x[at])
        check_slopes(lambda t, at=at: F.square(t[at]), [x], rng)


def test_elements_taken_twice_have_twice_the_gradient() -> None:
    x = Parameter(np.arange(3.0))
    F.sum_of(x[np.array([1, 1, 2])]).backward()
    np.testing.assert_array_equal(x.grad, [0, 2, 1])


def test_extreme_values() -> None:
    x = Parameter(np.array([[-800.0, 0.0, 800.0], [-np.inf, -np.inf, -np.inf], [-np.inf, 3.0, -np.inf]]))
    out = F.log_sum_exp(x)
    np.testing.assert_allclose(out.data, [800, -np.inf, 3])
    out.backward(np.ones(3))
    np.testing.assert_allclose(x.grad, [[0, 0, 1], [0, 0, 0], [0, 1, 0]], atol=1e-300)
    y = Parameter(np.array([-800.0, 0.0, 800.0]))
    (F.log_sigmoid(y) + F.sigmoid(y)).backward(np.ones(3))
    np.testing.assert_allclose(F.log_sigmoid(y).data, [-800, -np.log(2), 0])
    np.testing.assert_allclose(y.grad, [1, 0.75, 0])


def test_kinks_have_the_gradients_of_torch() -> None:
    for name, ours, wanted in (
        ("absolute", F.absolute, 0),
        ("relu", F.relu, 0),
        ("maximum", lambda x: F.maximum(x, 0.0), 0.5),
        ("square_root", F.square_root, 0),
    ):
        x = Parameter(np.zeros(2))
        ours(x).backward(np.ones(2))
        assert (x.grad == wanted).all(), name


def test_normalize_of_nothing_is_nothing() -> None:
    x = Parameter(np.zeros((2, 3)))
    out = F.normalize(x)
    out.backward(np.ones((2, 3)))
    assert not out.data.any()
    np.testing.assert_allclose(x.grad, 1e12)


def test_backward_needs_a_gradient_of_the_shape() -> None:
    x = Parameter(np.zeros(2))
    with pytest.raises(ValueError, match="grad must be given"):
        (x * 2).backward()
    with pytest.raises(ValueError, match="grad must have shape"):
        (x * 2).backward(np.ones(3))


def test_gradients_add_up_and_constants_have_none() -> None:
    x, constant = Parameter(np.ones(2)), Tensor(np.ones(2))
    for _ in range(2):
        F.sum_of(x * constant * 3).backward()
    assert (x.grad == 6).all()
    assert constant.grad is None
    detached = (x * 2).detach()
    assert not detached.requires_grad
    assert not F.exp(detached).inputs


def test_no_result_is_wider_than_its_input() -> None:
    x = Parameter(np.ones((2, 4), np.float32))
    for name, (ours, _) in ONE.items():
        if name == "scalars":
            continue
        out = ours(x)
        assert out.data.dtype == np.float32, name
        out.backward(np.ones(out.shape, np.float32))
        assert x.grad is not None
        assert x.grad.dtype == np.float32, name
