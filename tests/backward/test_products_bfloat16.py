"""Products of a step of training in bfloat16: packing, bounds, the bits for any cut and any number of threads."""

from typing import Any

import numpy as np
import pytest

from fastattn import reference
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.kernels.backward import _products as products
from fastattn.kernels.backward import linear_cross_entropy
from fastattn.kernels.backward._products import product
from fastattn.kernels.backward._products_bfloat16 import pack_columns, pack_rows, weight_gradient
from fastattn.kernels.backward.linear_cross_entropy import loss_and_gradients
from fastattn.kernels.products.pack import pack_linear, panel_words
from fastattn.kernels.products.tile import WIDTH
from fastattn.runtime.threads import thread_count
from fastattn.training.functions import Linear
from fastattn.training.graph import Parameter, Tensor
from tests.support.cases import blank, normal, sizes
from tests.support.contract import assert_same_bits
from tests.support.linear_gradients import each_thread_count
from tests.support.precision import SUM_BLOCK, assert_within, bfloat16_product

PACKS = [(1, 1), (7, 3), (31, 32), (33, 31), (WIDTH, 64), (WIDTH + 1, 65), (40, 50), (0, 5), (5, 0), (384, 384), (385, 1537)]
# Rows M around a pair, a padding and a chain of tokens; columns N and K around a panel and a block of a task.
SHAPES = sizes(
    [
        (1, 1, 1), (2, 3, 5), (3, 5, 7), (3, 130, 5), (31, 7, 33), (32, 17, 16), (33, 16, 17), (0, 5, 7), (9, WIDTH, WIDTH + 1),
        (SUM_BLOCK - 1, 5, 3), (SUM_BLOCK, 3, 5), (SUM_BLOCK + 1, 3, 5), (2 * SUM_BLOCK + 3, 129, 40), (700, 130, 530),
    ]
)  # fmt: skip


def gradient(grad: Any, x: Any, out: Any = None) -> Any:
    """Return grad^T x, or add it to `out`."""
    total = blank(grad.shape[1], x.shape[1]) if out is None else out
    assert weight_gradient(grad, pack_columns(x), total, accumulate=out is not None) is total
    return total


@pytest.mark.parametrize(("n", "k"), sizes(PACKS))
def test_packs_have_the_bits_of_the_slow_packer(n: int, k: int) -> None:
    weight = normal(n, k)
    # NaN, infinity, a tie, a number that rounds to infinity, and a denormal one.
    odd = np.array([np.nan, np.inf, 1 + 2.0**-8, 3.4e38, -(2.0**-140)], np.float32)[: weight.size]
    weight.reshape(-1)[weight.size - len(odd) :] = odd
    for pack, of in ((pack_rows, weight), (pack_columns, np.ascontiguousarray(weight.T))):
        expected, _ = pack_linear(weight, None, np.float32, "bfloat16")
        assert_same_bits(pack(of), expected)
        room = np.full(panel_words(n, k, "bfloat16"), np.nan, np.float32).view(np.uint16)
        assert pack(of, room) is room
        assert_same_bits(room, expected)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_are_within_their_bounds(m: int, n: int, k: int) -> None:
    x, weight, bias, grad = normal(m, k), normal(n, k, seed=1), normal(n, seed=2), normal(m, n, seed=3)
    for given in (bias, None):
        out = product(x, pack_rows(weight), given, blank(m, n), precision="bfloat16")
        assert_same_bits(out, PackedLinear(weight, given, precision="bfloat16")(x))
        assert_within(out, bfloat16_product(x, weight, given))
    assert_within(
        product(grad, pack_columns(weight), None, blank(m, k), precision="bfloat16"), bfloat16_product(grad, weight.T.copy())
    )
    assert_within(gradient(grad, x), bfloat16_product(grad.T.copy(), x.T.copy()))


def test_linear_is_its_reference() -> None:
    """Gradients of two stacked weights, of which one has a bias: that of the bias is the sum of what was not rounded."""
    m, n, k = 70, 24, 40
    x, grad = Parameter(normal(m, k)), normal(m, n + 8, seed=3)
    weights = [Parameter(normal(n, k, seed=1)), Parameter(normal(8, k, seed=4))]
    bias = Parameter(normal(n, seed=2))
    out = Linear(weights, [bias, None], "bfloat16")(x)
    stacked = np.concatenate([each.data for each in weights])
    padded = np.concatenate([bias.data, np.zeros(8, np.float32)])
    assert_within(out.data, bfloat16_product(x.data, stacked, padded))
    out.backward(grad)
    found = [x.grad, np.concatenate([each.grad for each in weights])]  # type: ignore[misc]
    bounds = bfloat16_product(grad, stacked.T.copy()), bfloat16_product(grad.T.copy(), x.data.T.copy())
    exact = reference.linear_bfloat16_backward(*(each.astype(np.float64) for each in (grad, x.data, stacked, padded)))
    for ours, bounded, expected in zip(found, bounds, exact, strict=False):
        assert ours is not None
        assert_within(ours, bounded)
        np.testing.assert_allclose(bounded.truth, expected, rtol=1e-12)
        assert not np.allclose(ours, expected + 1e-3)
    assert bias.grad is not None
    np.testing.assert_allclose(bias.grad, grad[:, :n].astype(np.float64).sum(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("m", "n", "k"), sizes([(3, 5, 7), (0, 5, 7), (300, 3, 5), (600, 200, 48)]))
def test_gradients_are_added(m: int, n: int, k: int) -> None:
    """A sum that goes on from an earlier gradient has the bits of one sum over both where the first rows are whole chains."""
    grad, x = normal(m, n), normal(m, k, seed=1)
    first = gradient(grad[:SUM_BLOCK], x[:SUM_BLOCK])
    assert_same_bits(gradient(grad[SUM_BLOCK:], x[SUM_BLOCK:], first), gradient(grad, x))


@pytest.mark.parametrize(("m", "n", "k"), sizes([(40, 7, 5), (700, 200, 48)]))
def test_the_cut_changes_no_bit(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the gradient alone, and columns of x alone, have the bits that they have among others."""
    grad, x = normal(m, n), normal(m, k, seed=1)
    whole = gradient(grad, x)
    assert_same_bits(gradient(grad[:, 2:4].copy(), x[:, 1:4].copy()), whole[2:4, 1:4])
    monkeypatch.setattr(products, "_COLUMNS", 16)
    monkeypatch.setattr(products, "_FEW_ROWS", 1)
    monkeypatch.setattr(products, "workers_for", lambda work, tasks: min(tasks, thread_count()))
    assert_same_bits(gradient(grad, x), whole)


def test_a_number_that_is_none_stays_in_its_row() -> None:
    grad, x = normal(40, 6), normal(40, 9, seed=1)
    clean = gradient(grad, x)
    grad[39, 2], x[38, 4] = np.nan, np.inf
    found, kept = gradient(grad, x), np.ones((6, 9), bool)
    kept[2], kept[:, 4] = False, False
    assert_same_bits(found[kept], clean[kept])
    assert np.isnan(found[2]).all() and not np.isfinite(found[:, 4]).any()


@pytest.mark.parametrize(("m", "n", "k"), sizes([(5, 9, 7), (600, 300, 16)]))
def test_a_vocabulary(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a product with a vocabulary, in blocks of rows, are near those of rounded operands in float64."""
    monkeypatch.setattr(linear_cross_entropy, "_ROOM", 1)
    x, weight, bias = normal(m, k), normal(n, k, seed=1), normal(n, seed=2)
    target = np.arange(m) * 7 % n
    loss, (of_x, of_weight, of_bias) = loss_and_gradients(x, weight, target, linear_bias=bias, precision="bfloat16")
    exact = [reference.round_bfloat16(each).astype(np.float64) for each in (x, weight)]
    wide = bias.astype(np.float64)
    scores = reference.linear(*exact, wide)
    expected = reference.cross_entropy(scores, target)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    grad = reference.cross_entropy_backward(np.ones(()), scores, target)
    rounded = reference.round_bfloat16(grad).astype(np.float64)
    # Of one number in thousands the gradient is a rounding of float32 away from the middle of two bfloat16.
    for ours, low_truth, plain in (
        (of_x, rounded @ exact[1], grad @ weight.astype(np.float64)),
        (of_weight, rounded.T @ exact[0], grad.T @ x.astype(np.float64)),
    ):
        assert np.linalg.norm(ours - low_truth) < 0.1 * np.linalg.norm(plain - low_truth)
    np.testing.assert_allclose(of_bias, grad.sum(axis=0), rtol=1e-3, atol=1e-6)


@pytest.mark.jit
def test_threads() -> None:
    grad, x, weight = normal(3000, 200), normal(3000, 300, seed=1), normal(700, 900, seed=2)
    results = []
    for _ in each_thread_count():
        out = Linear([Parameter(normal(200, 300, seed=3))], [None], "bfloat16")(Tensor(x))
        results.append((gradient(grad, x), pack_rows(weight), pack_columns(weight), out.data.copy()))
    assert len(results) > 1
    for other in results[1:]:
        for one, two in zip(other, results[0], strict=True):
            assert_same_bits(one, two)
