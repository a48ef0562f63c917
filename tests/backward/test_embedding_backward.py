"""embedding_backward and embedding_backward_rows against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows, torch_gradients


def given(tokens: int, size: int, rows: int, dtype: Any = np.float32) -> tuple[Array, Array]:
    """Return gradients and ids; of a small table many are equal."""
    return normal(tokens, size, dtype=dtype), np.random.default_rng([tokens, rows]).integers(0, rows, tokens)


def check(grad: Array, ids: Array, rows: int) -> Array:
    """Both forms; the reference adds in the order of the tokens too, so its bits are ours."""
    dense: Array = check_gradients("embedding_backward", grad, ids, rows, orders=1)
    contract.assert_same_bits(dense, reference.embedding_backward(grad, ids, rows))
    found, values = fastattn.embedding_backward_rows(grad, ids, rows)
    contract.assert_same_bits((found, values), reference.embedding_backward_rows(grad, ids, rows))
    assert found.dtype == np.int64 and (np.diff(found) > 0).all()
    contract.assert_same_bits(values, dense[found])
    assert not np.delete(dense, found, axis=0).any()
    return dense


def test_finite_differences() -> None:
    table, grad, ids = f64(4, 3), f64(2, 3, 3, seed=1), np.array([[0, 2, 2], [3, 2, 0]])
    check_slopes(lambda table: np.sum(grad * table[ids]), [table], reference.embedding_backward(grad, ids, 4))


def test_by_hand() -> None:
    grad, ids = np.array([[1, 10], [2, 20], [4, 40]], np.float32), np.array([3, 1, 3])
    np.testing.assert_array_equal(fastattn.embedding_backward(grad, ids, 5), [[0, 0], [2, 20], [0, 0], [5, 50], [0, 0]])
    rows, values = fastattn.embedding_backward_rows(grad, ids, 5)
    assert rows.tolist() == [1, 3] and values.tolist() == [[2, 20], [5, 50]]


def test_the_order_of_the_tokens() -> None:
    """1 and then 2^30 and -2^30 is 0 in float32, 2^30 and -2^30 and then 1 is 1."""
    for order, total in (([0, 1, 2], 0), ([1, 2, 0], 1)):
        grad = np.array([1, 2**30, -(2**30)], np.float32)[order, None]
        assert fastattn.embedding_backward(grad, np.zeros(3, np.int64), 1).tolist() == [[total]]


@pytest.mark.parametrize("size", sizes(EDGES, work=lambda n: 40 * n))
def test_sizes(size: int) -> None:
    check(*given(40, size, 9), 9)


@pytest.mark.parametrize(
    ("tokens", "rows"), sizes([(1, 1), (1, 500), (100, 1), (500, 200), (4096, 30_522)], work=lambda n, v: 33 * n)
)
def test_counts(tokens: int, rows: int) -> None:
    check(*given(tokens, 33, rows), rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    grad, ids = given(30, 33, 7, dtype)
    for whole in ("i4", "u1", ">i8", "u8"):
        check(grad, ids.astype(whole), 7)


def test_random_calls() -> None:
    for rng, array in random_rows():
        rows, tokens = int(rng.integers(1, 30)), int(rng.integers(0, 40))
        check(array(tokens, int(rng.integers(1, 40))), rng.integers(0, rows, tokens), rows)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 4), (2, 0)], ids=str)
def test_axes(shape: tuple[int, ...]) -> None:
    ids = np.random.default_rng(0).integers(0, 5, shape)
    check(normal(*shape, 6), ids, 5)
    check(normal(*shape, 0), ids, 5)


def test_an_empty_table() -> None:
    assert fastattn.embedding_backward(normal(0, 3), np.zeros(0, np.int64), 0).shape == (0, 3)


def test_nan_stays_in_its_row() -> None:
    grad, ids = given(40, 33, 9)
    grad[7, 3] = np.nan
    assert np.argwhere(np.isnan(fastattn.embedding_backward(grad, ids, 9))).tolist() == [[ids[7], 3]]


def test_contract() -> None:
    grad, ids = given(60, 17, 9)
    for op in ("embedding_backward", "embedding_backward_rows"):
        contract.any_layout(op, {"grad": grad, "ids": ids}, num_embeddings=9)
        contract.bad_dtypes(op, {"grad": grad}, ids=ids, num_embeddings=9)


@pytest.mark.jit
def test_threads() -> None:
    """Ids as in text: a few occur often, most not at all."""
    ids = np.minimum(np.random.default_rng(0).zipf(1.3, 4000), 5000) - 1
    for op in ("embedding_backward", "embedding_backward_rows"):
        contract.any_threads(op, {"grad": normal(4000, 96), "ids": ids}, num_embeddings=5000)


def test_wrong_arguments() -> None:
    grad, ids = given(6, 4, 3)
    for op in (fastattn.embedding_backward, fastattn.embedding_backward_rows):
        for bad in (-1, 3, 2**62):
            with pytest.raises(ValueError, match=r"ids must be in 0 \.\. 2, below num_embeddings, got"):
                op(grad, np.append(ids[:-1], bad), 3)
        with pytest.raises(ValueError, match="ids"):
            op(grad, np.append(ids[:-1].astype(np.uint64), np.uint64(2**63)), 3)
        for wrong in (ids.astype(float), ids.astype(bool)):
            with pytest.raises(TypeError, match="ids must be whole numbers"):
                op(grad, wrong, 3)
        for shape in ((6,), (5, 4), (2, 3, 4), ()):
            with pytest.raises(ValueError, match="grad must have the shape of ids"):
                op(np.zeros(shape, np.float32), ids, 3)
        for count, error in ((3.0, TypeError), (True, TypeError), (-1, ValueError)):
            with pytest.raises(error, match="num_embeddings"):
                op(grad[:0], ids[:0], count)


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    grad, ids = given(200, 40, 30)

    def twin(grad: Array, ids: Array, num_embeddings: int) -> Any:
        table = np.zeros((num_embeddings, grad.shape[-1]), grad.dtype)
        places = torch.from_numpy(ids)
        return torch_gradients(torch, lambda table: torch.nn.functional.embedding(places, table), grad, table)[0]

    check_gradients("embedding_backward", grad, ids, 40, twin=twin, orders=1)
