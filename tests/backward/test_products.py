"""Products of a step of training: packing, sums that begin at an earlier gradient, the bits for any number of threads."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.backward import _products as products
from fastattn.kernels.backward._products import bias_gradient, pack_backward, pack_forward, product, weight_gradient
from fastattn.kernels.products.pack import pack_linear
from fastattn.runtime.threads import thread_count
from tests.support.cases import blank, normal, sizes
from tests.support.contract import assert_same_bits
from tests.support.linear_gradients import each_thread_count
from tests.support.tolerance import check

SHAPES = sizes([(1, 1), (7, 3), (16, 16), (17, 8), (15, 33), (40, 50), (0, 5), (5, 0), (384, 384), (1536, 384), (385, 1537)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_packs_have_the_bits_of_the_slow_packer(n: int, k: int, dtype: Any) -> None:
    weight = normal(n, k, dtype=dtype)
    for pack, of in ((pack_forward, weight), (pack_backward, np.ascontiguousarray(weight.T))):
        expected, _ = pack_linear(of, None, dtype)
        assert_same_bits(pack(weight), expected)
        room = np.full_like(expected, np.nan)
        assert pack(weight, room) is room
        assert_same_bits(room, expected)


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize(("m", "n", "k"), sizes([(3, 5, 7), (9, 16, 3), (0, 5, 7), (130, 64, 48), (257, 384, 384)]))
def test_product(m: int, n: int, k: int, activation: str | None) -> None:
    x, weight, bias = normal(m, k), normal(n, k, seed=1), normal(n, seed=2)
    for given in (bias, None):
        out = blank(m, n)
        assert product(x, pack_forward(weight), given, out, activation) is out
        assert_same_bits(out, fastattn.linear(x, weight, given, activation=activation))
    grad = normal(m, n, seed=3)
    check("linear", grad, weight.T, ours=lambda grad, _: product(grad, pack_backward(weight), None, blank(m, k)))


@pytest.mark.parametrize(("m", "n", "k"), sizes([(3, 5, 7), (0, 5, 7), (300, 3, 5), (600, 200, 48)]))
def test_gradients_are_added(m: int, n: int, k: int) -> None:
    """A sum that goes on from an earlier gradient has the bits of one sum over both where the first rows are whole chains."""
    grad, x, before = normal(m, n), normal(m, k, seed=1), normal(n, k, seed=2)

    def added(grad: Any, x: Any) -> Any:
        total = before.astype(x.dtype)
        assert weight_gradient(grad.T.copy(), x.T.copy(), total, accumulate=True) is total
        return total

    def twin(grad: Any, x: Any) -> Any:
        return before.astype(x.dtype) + reference.linear(grad, x)

    check("linear", grad.T, x.T, ours=added, twin=twin)
    first = blank(n, k)
    assert weight_gradient(grad[:256], x[:256], first, accumulate=False) is first
    weight_gradient(grad[256:], x[256:], first, accumulate=True)
    assert_same_bits(first, weight_gradient(grad, x, blank(n, k), accumulate=False))


@pytest.mark.parametrize(("m", "n"), sizes([(3, 5), (0, 5), (1, 1), (300, 7), (1000, 384)]))
def test_bias_gradients_are_added(m: int, n: int) -> None:
    grad, before = normal(m, n), normal(n, seed=1)

    def added(grad: Any, _: Any) -> Any:
        total = before.astype(grad.dtype)
        assert bias_gradient(grad.T.copy(), total, accumulate=True) is total
        return total

    def twin(grad: Any, ones: Any) -> Any:
        return before.astype(grad.dtype) + reference.linear(grad, ones)[:, 0]

    check("linear", grad.T, np.ones((1, m), np.float32), ours=added, twin=twin)
    first = bias_gradient(grad[:256], blank(n), accumulate=False)
    bias_gradient(grad[256:], first, accumulate=True)
    assert_same_bits(first, bias_gradient(grad, blank(n), accumulate=False))


@pytest.mark.parametrize(("m", "n", "k"), sizes([(40, 7, 5), (700, 200, 48)]))
def test_the_cut_changes_no_bit(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the gradient alone, and columns of x alone, have the bits that they have among others."""
    grad, x = normal(m, n), normal(m, k, seed=1)
    whole = weight_gradient(grad, x, blank(n, k), accumulate=False)
    few = weight_gradient(grad[:, 2:4].copy(), x[:, 1:4].copy(), blank(2, 3), accumulate=False)
    assert_same_bits(few, whole[2:4, 1:4])
    monkeypatch.setattr(products, "_COLUMNS", 16)
    monkeypatch.setattr(products, "_FEW_ROWS", 1)
    monkeypatch.setattr(products, "workers_for", lambda work, tasks: min(tasks, thread_count()))
    assert_same_bits(weight_gradient(grad, x, blank(n, k), accumulate=False), whole)


@pytest.mark.jit
def test_threads() -> None:
    grad, x, weight = normal(3000, 200), normal(3000, 300, seed=1), normal(700, 900, seed=2)
    results = [
        (
            weight_gradient(grad, x, blank(200, 300), accumulate=False),
            bias_gradient(grad, blank(200), accumulate=False),
            pack_forward(weight),
            pack_backward(weight),
        )
        for _ in each_thread_count()
    ]
    assert len(results) > 1
    for other in results[1:]:
        for one, two in zip(other, results[0], strict=True):
            assert_same_bits(one, two)
