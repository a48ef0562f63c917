"""cross_entropy and its gradient against the reference, the reference against finite differences, both against torch."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, JIT, SCALES, Array, close, f64, layouts, normal, sizes
from tests.support.tolerance import check

REDUCTIONS = ("none", "mean", "sum")


def classes(*shape: int, count: int, ignored: float = 0.2) -> Array:
    """Return class ids, some of them ignored."""
    rng = np.random.default_rng([count, *shape])
    return np.where(rng.random(shape) < ignored, -100, rng.integers(0, count, shape))


def probabilities(x: Array, seed: int = 9) -> Array:
    return reference.softmax(normal(*x.shape, seed=seed, scale=2, dtype=x.dtype), axis=min(1, x.ndim - 1))


def check_both(x: Array, target: Array, weight: Array | None = None, **options: Any) -> Array:
    """Check the loss and its gradient; return the gradient."""
    loss = check("cross_entropy", x, target, weight, **options)
    return check("cross_entropy_backward", normal(*loss.shape, seed=5, dtype=x.dtype), x, target, weight, **options)


def test_by_hand() -> None:
    x = np.log(np.array([[1.0, 3.0], [1.0, 1.0], [9.0, 1.0]]))
    target = np.array([1, 0, -100])
    expected = -np.log([0.75, 0.5])
    for module in (fastattn, reference):
        close(module.cross_entropy(x, target, reduction="none"), [*expected, 0])
        close(module.cross_entropy(x, target), np.mean(expected))
        weight = np.array([2.0, 1.0])
        close(module.cross_entropy(x, target, weight), (expected[0] + 2 * expected[1]) / 3)
        close(module.cross_entropy(x, target, reduction="sum", label_smoothing=1.0), -np.log([0.1875, 0.25]).sum() / 2)
        grad = module.cross_entropy_backward(np.array(1.0), x, target)
        close(grad, np.array([[0.25, -0.25], [-0.5, 0.5], [0, 0]]) / 2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_finite_differences(kind: str, smoothing: float, reduction: str) -> None:
    x, weight = f64(3, 5), np.abs(f64(5, seed=1))
    target = np.array([4, -100, 0]) if kind == "classes" else probabilities(x)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    grad = f64(*reference.cross_entropy(x, target, weight, **options).shape, seed=2)
    slopes, step = np.empty_like(x), 1e-3
    for at in np.ndindex(x.shape):
        losses = []
        for shift in (2 * step, step, -step, -2 * step):
            moved = x.copy()
            moved[at] += shift
            losses.append(np.sum(grad * reference.cross_entropy(moved, target, weight, **options)))
        slopes[at] = (8 * (losses[1] - losses[2]) - (losses[0] - losses[3])) / (12 * step)
    # The rest of the difference is of the fourth order.
    np.testing.assert_allclose(reference.cross_entropy_backward(grad, x, target, weight, **options), slopes, atol=1e-10)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 5000), work=lambda n: 10 * n))
def test_classes(count: int, scale: float) -> None:
    x, target = normal(5, count, scale=scale), classes(5, count=count)
    for smoothing in (0.0, 0.1):
        check_both(x, target, label_smoothing=smoothing, reduction="none")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("count", sizes([3, 16, 37], work=lambda n: 7 * n))
def test_options(count: int, reduction: str, smoothing: float, weighted: bool) -> None:
    x = normal(7, count, scale=3)
    weight = np.abs(normal(count, seed=3)) if weighted else None
    for target in (classes(7, count=count), probabilities(x)):
        check_both(x, target, weight, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", sizes([1, 33, 200], work=lambda m: 40 * m))
def test_dtypes(rows: int, dtype: type) -> None:
    x = normal(rows, 20, scale=4, dtype=dtype)
    for target in (classes(rows, count=20, ignored=0).astype(np.uint8), probabilities(x)):
        assert check_both(x, target, np.abs(normal(20, dtype=dtype)), label_smoothing=0.1).dtype == dtype


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 6, 4), (2, 6, 3, 2), (0, 6), (3, 1)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shapes(shape: tuple[int, ...], reduction: str) -> None:
    x, batch = normal(*shape), shape[:1] * (len(shape) > 1) + shape[2:]
    count = shape[min(1, len(shape) - 1)]
    for target in (classes(*batch, count=count, ignored=0.0), probabilities(x)):
        assert check_both(x, target, reduction=reduction, label_smoothing=0.1).shape == shape


def test_all_ignored_is_nan_as_in_torch_and_has_no_gradient() -> None:
    x, target = normal(3, 5), np.full(3, -100)
    assert np.isnan(check("cross_entropy", x, target))
    assert not check("cross_entropy_backward", np.array(1, np.float32), x, target).any()


def test_rows_that_are_ignored_are_not_read() -> None:
    x, target = normal(4, 9), np.array([1, 7, 2, 7])
    x[1], x[3] = np.nan, np.inf
    options: dict[str, Any] = {"ignore_index": 7, "label_smoothing": 0.1}
    assert np.isfinite(fastattn.cross_entropy(x, target, **options))
    grad = fastattn.cross_entropy_backward(np.array(1, np.float32), x, target, **options)
    assert np.isfinite(grad).all() and not grad[[1, 3]].any() and grad[[0, 2]].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    for count in (9, 40):
        x = normal(3, count)
        x[1, 4] = bad
        for target in (np.array([0, 1, 2]), probabilities(normal(3, count))):
            losses = check("cross_entropy", x, target, reduction="none")
            grad = check("cross_entropy_backward", np.ones(3, np.float32), x, target, reduction="none")
            assert np.isnan(losses).tolist() == [False, True, False]
            assert np.isnan(grad).all(axis=1).tolist() == [False, True, False] and np.isfinite(grad[[0, 2]]).all()


def test_minus_infinity_is_a_class_of_probability_0() -> None:
    x = normal(2, 20)
    x[:, 3:9] = -np.inf
    assert np.isfinite(check_both(x, np.array([0, 12]), reduction="none")).all()
    assert fastattn.cross_entropy(x, np.array([0, 5]), reduction="none")[1] == np.inf


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int) -> None:
    arrays = {"input": normal(rows, count), "target": classes(rows, count=count), "weight": np.abs(normal(count))}
    with_grad = {"grad": normal(rows, seed=4), **arrays}
    contract.any_layout("cross_entropy", arrays, label_smoothing=0.1)
    contract.any_layout("cross_entropy_backward", with_grad, reduction="none")
    for target in (arrays["target"], probabilities(arrays["input"])):
        contract.any_threads("cross_entropy", {**arrays, "target": target}, label_smoothing=0.1)
        contract.any_threads("cross_entropy_backward", {**with_grad, "target": target}, reduction="none")
    for target in layouts(probabilities(arrays["input"])).values():
        both = {**arrays, "target": target}
        contract.assert_same_bits(
            contract.call("cross_entropy", both), contract.call("cross_entropy", {**both, "target": target.copy()})
        )


@pytest.mark.jit
def test_threads() -> None:
    x = normal(300, 3000)
    arrays = {"input": x, "target": classes(300, count=3000)}
    contract.any_threads("cross_entropy", arrays)
    contract.any_threads("cross_entropy_backward", {"grad": np.array(1, np.float32), **arrays})


@settings(max_examples=200 if JIT else 15, derandomize=True, deadline=None, database=None)
@given(
    shape=st.lists(st.integers(1, 40 if JIT else 6), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    reduction=st.sampled_from(REDUCTIONS),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    forms=st.tuples(st.booleans(), st.booleans()),
)
def test_random_calls(
    shape: list[int], dtype: type, reduction: str, smoothing: float, scale: float, forms: tuple[bool, bool]
) -> None:
    x, batch = normal(*shape, scale=scale, dtype=dtype), shape[:1] * (len(shape) > 1) + shape[2:]
    count = shape[min(1, len(shape) - 1)]
    target = probabilities(x) if forms[0] else classes(*batch, count=count)
    weight = np.abs(normal(count, seed=3, dtype=dtype)) + dtype(0.1) if forms[1] else None
    check_both(x, target, weight, reduction=reduction, label_smoothing=smoothing)


X, ONE = normal(3, 5), np.array(1, np.float32)
BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, r"\binput\b.*int64", {"input": np.zeros((3, 5), np.int64)}),
    (ValueError, r"\binput\b", {"input": np.zeros((3, 0), np.float32)}),
    (ValueError, r"\binput\b", {"input": np.float32(1)}),
    (ValueError, r"\btarget\b.*5 at 1 of 3", {"target": np.array([0, 5, 1])}),
    (ValueError, r"\btarget\b.*-1 at 2 of 3", {"target": np.array([0, 4, -1])}),
    (ValueError, r"\btarget\b.*shape", {"target": np.array([0, 1])}),
    (ValueError, r"\btarget\b.*shape", {"target": np.zeros((3, 4), np.float32)}),
    (TypeError, r"\btarget\b", {"target": np.zeros((3, 5))}),
    (TypeError, r"\btarget\b", {"target": np.array([True, False, True])}),
    (ValueError, r"\bignore_index\b", {"target": np.zeros((3, 5), np.float32), "ignore_index": 0}),
    (ValueError, r"\bweight\b", {"weight": np.ones(4, np.float32)}),
    (TypeError, r"\bweight\b", {"weight": np.ones(5)}),
    (ValueError, r"\breduction\b", {"reduction": "avg"}),
    (ValueError, r"\blabel_smoothing\b", {"label_smoothing": 1.1}),
    (ValueError, r"\blabel_smoothing\b", {"label_smoothing": float("nan")}),
]


@pytest.mark.parametrize(("error", "match", "wrong"), BAD)
def test_bad_arguments(error: type[Exception], match: str, wrong: dict[str, Any]) -> None:
    arguments = {"input": X, "target": np.array([0, 1, 4]), **wrong}
    with pytest.raises(error, match=match):
        fastattn.cross_entropy(**arguments)
    with pytest.raises(error, match=match):
        fastattn.cross_entropy_backward(ONE, **arguments)


def test_a_gradient_of_another_shape() -> None:
    for grad, error in ((np.ones(3, np.float32), ValueError), (np.array(1.0), TypeError)):
        with pytest.raises(error, match=r"\bgrad\b"):
            fastattn.cross_entropy_backward(grad, X, np.array([0, 1, 4]))


@pytest.mark.parametrize("shape", [(9,), (4, 9), (3, 9, 2)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch(shape: tuple[int, ...], reduction: str) -> None:
    torch = pytest.importorskip("torch")
    x, batch = normal(*shape, scale=3, dtype=np.float64), shape[:1] * (len(shape) > 1) + shape[2:]
    weight = np.abs(normal(9, dtype=np.float64))
    targets = [classes(*batch, count=9), np.full(batch, -100), probabilities(x)]
    for target, w, smoothing in itertools.product(targets, (None, weight), (0.0, 0.1)):
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        scores = torch.tensor(x, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(target), None if w is None else torch.tensor(w), **options)
        grad = normal(*loss.shape, dtype=np.float64)
        found = fastattn.cross_entropy(x, target, w, **options)
        np.testing.assert_allclose(found, loss.detach().numpy(), rtol=1e-12, atol=1e-13)
        loss.backward(torch.tensor(grad))
        expected = np.zeros_like(x) if (target == -100).all() else scores.grad.numpy()
        np.testing.assert_allclose(fastattn.cross_entropy_backward(grad, x, target, w, **options), expected, rtol=1e-11, atol=1e-13)
