"""linear_cross_entropy and its gradients against the reference, and against the parts that it is made of."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn.kernels.backward import linear_cross_entropy as module
from tests.support import contract
from tests.support.cases import DTYPES, layouts, normal, sizes
from tests.support.linear_gradients import each_thread_count
from tests.support.vocabulary_loss import arrays, check

REDUCTIONS = ("none", "mean", "sum")


def check_both(given: dict[str, Any], **options: Any) -> None:
    (loss,) = check("linear_cross_entropy", given, **options)
    check("linear_cross_entropy_backward", {"grad": normal(*loss.shape, seed=7, dtype=loss.dtype), **given}, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("rows", "classes", "width"), sizes([(1, 1, 1), (5, 7, 3), (9, 33, 17), (40, 100, 31)]))
def test_sizes(rows: int, classes: int, width: int, reduction: str) -> None:
    given = arrays(rows, classes, width, ignored=0.3 if rows > 1 else 0)
    for smoothing in (0.0, 0.2):
        check_both(given, reduction=reduction, label_smoothing=smoothing)
    check_both({**given, "linear_bias": None, "weight": np.abs(normal(classes, seed=3)) + 0.1}, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    given = arrays(12, 20, 8, dtype)
    check_both(given)
    for each in fastattn.linear_cross_entropy_backward(np.ones((), dtype), **given):
        assert each is not None and each.dtype == dtype


@pytest.mark.jit
@pytest.mark.parametrize("rows", [255, 256, 257, 511, 700])
def test_blocks_change_no_bit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one chain of rows give the bits of all rows at once."""
    given, one = arrays(rows, 50, 24, ignored=0.1), np.ones((), np.float32)
    monkeypatch.setattr(module, "_ROOM", 50 * 256)
    assert module.block_rows(50) == 256
    parts = [fastattn.linear_cross_entropy(**given), *fastattn.linear_cross_entropy_backward(one, **given)]
    monkeypatch.setattr(module, "_ROOM", 50 * 1024)
    assert module.block_rows(50) == 1024
    check_both(given)
    for one_part, whole in zip(
        parts, [fastattn.linear_cross_entropy(**given), *fastattn.linear_cross_entropy_backward(one, **given)], strict=True
    ):
        contract.assert_same_bits(one_part, whole)


@pytest.mark.jit
def test_threads() -> None:
    given, one = arrays(700, 2000, 96), np.ones((), np.float32)
    first, *others = [module.loss_and_gradients(**given) for _ in each_thread_count()]
    assert others
    for loss, gradients in others:
        contract.assert_same_bits(loss, first[0])
        for found, expected in zip(gradients, first[1], strict=True):
            contract.assert_same_bits(found, expected)
    contract.assert_same_bits(first[0], fastattn.linear_cross_entropy(**given))
    for found, expected in zip(fastattn.linear_cross_entropy_backward(one, **given), first[1], strict=True):
        contract.assert_same_bits(found, expected)


@pytest.mark.jit
def test_memory_is_that_of_a_block() -> None:
    rows, classes, width = 5000, 4000, 64
    given = arrays(rows, classes, width, ignored=0)
    module.loss_and_gradients(**{**given, "input": given["input"][:9], "target": given["target"][:9]})
    tracemalloc.start()
    try:
        module.loss_and_gradients(**given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 * module.block_rows(classes) * classes < peak < 0.55 * 4 * rows * classes


def test_loss_and_gradients_at_once() -> None:
    for reduction in REDUCTIONS:
        given = arrays(9, 20, 8)
        loss, gradients = module.loss_and_gradients(**given, reduction=reduction)
        contract.assert_same_bits(loss, fastattn.linear_cross_entropy(**given, reduction=reduction))
        expected = fastattn.linear_cross_entropy_backward(np.ones_like(loss), **given, reduction=reduction)
        for one, other in zip(gradients, expected, strict=True):
            contract.assert_same_bits(one, other)


def test_ignored_rows_cost_nothing_and_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays(12, 20, 8)
    given["target"][::2] = -100
    given["input"][::2] = np.nan
    shapes = []
    real = module.product
    monkeypatch.setattr(module, "product", lambda x, *rest, **more: shapes.append(len(x)) or real(x, *rest, **more))
    loss, (grad_input, *others) = module.loss_and_gradients(**given)
    assert shapes == [np.count_nonzero(given["target"] >= 0)] * 2
    assert np.isfinite(loss) and np.isfinite(grad_input).all() and not grad_input[::2].any()
    assert all(np.isfinite(each).all() for each in others)


def test_all_ignored() -> None:
    given = {**arrays(5, 20, 8), "target": np.full(5, -100)}
    assert np.isnan(fastattn.linear_cross_entropy(**given))
    assert fastattn.linear_cross_entropy(**given, reduction="none").tolist() == [0] * 5
    for each in fastattn.linear_cross_entropy_backward(np.ones((), np.float32), **given):
        assert each is not None and not each.any()


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
def test_leading_axes(batch: tuple[int, ...]) -> None:
    x, weight, target = normal(*batch, 8), normal(20, 8), np.full(batch, 3)
    loss = fastattn.linear_cross_entropy(x, weight, target, reduction="none")
    assert loss.shape == batch
    flat = fastattn.linear_cross_entropy(x.reshape(-1, 8), weight, target.reshape(-1), reduction="none")
    contract.assert_same_bits(loss.reshape(-1), flat)
    assert fastattn.linear_cross_entropy_backward(loss, x, weight, target, reduction="none")[0].shape == (*batch, 8)


def test_layouts() -> None:
    given, one = arrays(9, 33, 17), np.ones((), np.float32)
    expected = fastattn.linear_cross_entropy_backward(one, **given)
    for name in ("input", "linear_weight"):
        for x in layouts(given[name]).values():
            before = x.copy()
            for found, other in zip(fastattn.linear_cross_entropy_backward(one, **{**given, name: x}), expected, strict=True):
                contract.assert_same_bits(found, other)
            np.testing.assert_array_equal(x, before)


BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, r"\binput\b", {"input": np.zeros((3, 4), np.int32)}),
    (ValueError, r"\binput\b", {"input": normal(3, 5)}),
    (TypeError, r"\blinear_weight\b", {"linear_weight": normal(6, 4, dtype=np.float64)}),
    (ValueError, r"\blinear_weight\b", {"linear_weight": normal(6)}),
    (ValueError, r"\blinear_bias\b", {"linear_bias": normal(5)}),
    (ValueError, r"\bweight\b", {"weight": normal(5)}),
    (TypeError, r"\btarget\b", {"target": normal(3, 6)}),
    (ValueError, r"\btarget\b.*6 at 2 of 3", {"target": np.array([0, 1, 6])}),
    (ValueError, r"\btarget\b", {"target": np.array([0, 1])}),
    (ValueError, r"\breduction\b", {"reduction": "avg"}),
    (ValueError, r"\blabel_smoothing\b", {"label_smoothing": -0.1}),
]


@pytest.mark.parametrize(("error", "match", "wrong"), BAD)
def test_bad_arguments(error: type[Exception], match: str, wrong: dict[str, Any]) -> None:
    given = {"input": normal(3, 4), "linear_weight": normal(6, 4), "target": np.array([0, 5, 1]), **wrong}
    with pytest.raises(error, match=match):
        fastattn.linear_cross_entropy(**given)
    with pytest.raises(error, match=match):
        fastattn.linear_cross_entropy_backward(np.ones((), np.float32), **given)


def test_a_gradient_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\bgrad\b"):
        fastattn.linear_cross_entropy_backward(np.ones(3, np.float32), **arrays(3, 6, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch(reduction: str) -> None:
    torch = pytest.importorskip("torch")
    given = arrays(9, 20, 8, np.float64)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": 0.1}
    tensors = {name: torch.tensor(x, requires_grad=x.dtype.kind == "f") for name, x in given.items()}
    scores = torch.nn.functional.linear(tensors["input"], tensors["linear_weight"], tensors["linear_bias"])
    loss = torch.nn.functional.cross_entropy(scores, tensors["target"], **options)
    np.testing.assert_allclose(fastattn.linear_cross_entropy(**given, **options), loss.detach().numpy(), rtol=1e-12, atol=1e-13)
    grad = normal(*loss.shape, dtype=np.float64)
    loss.backward(torch.tensor(grad))
    found = fastattn.linear_cross_entropy_backward(grad, **given, **options)
    for name, each in zip(("input", "linear_weight", "linear_bias"), found, strict=True):
        np.testing.assert_allclose(each, tensors[name].grad.numpy(), rtol=1e-11, atol=1e-13)
