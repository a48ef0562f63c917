"""SparseEmbeddings against dense rows, and similarities against those of dense rows."""

from typing import Any

import numpy as np
import pytest

from fastattn import SparseEmbeddings, SparseEncoder
from fastattn.text import sparse_similarity as similarities
from fastattn.text.similarity import similarity, similarity_pairwise
from fastattn.text.sparse_embeddings import as_sparse


def rows(count: int, width: int, seed: int = 0, share: float = 0.2) -> Any:
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, width)).astype(np.float32) * (rng.random((count, width)) < share)
    return found + np.float32(0)


@pytest.mark.parametrize(("count", "width"), [(5, 30), (1, 1), (0, 4), (3, 0), (40, 7)])
def test_dense_and_back(count: int, width: int) -> None:
    dense = rows(count, width)
    sparse = SparseEmbeddings.from_dense(dense)
    assert sparse.shape == dense.shape and sparse.nnz == np.count_nonzero(dense) and len(sparse) == count
    for back in (sparse.toarray(), sparse.to_dense(), np.asarray(sparse)):
        np.testing.assert_array_equal(back, dense, strict=True)
    for i, row in enumerate(sparse):
        assert row.ndim == 1 and row.shape == (width,)
        np.testing.assert_array_equal(row.toarray(), dense[i])
        np.testing.assert_array_equal(SparseEmbeddings.from_dense(dense[i]).toarray(), dense[i])
    np.testing.assert_array_equal(as_sparse(list(sparse)).toarray() if count else dense, dense)
    np.testing.assert_array_equal(as_sparse(list(dense)).toarray() if count else dense, dense)


def test_selections() -> None:
    dense = rows(6, 11)
    sparse = SparseEmbeddings.from_dense(dense)
    for key in (slice(1, 4), slice(None, None, -1), [4, 0, 0], np.array([True, False] * 3), slice(0, 0)):
        np.testing.assert_array_equal(sparse[key].toarray(), dense[key])
    assert sparse[-1].toarray().tolist() == dense[-1].tolist() and sparse[2][3] == dense[2, 3]
    with pytest.raises(IndexError):
        sparse[6]


def test_largest() -> None:
    dense = np.array([[0, 3, -5, 1, 3, 0.5], [2, 2, 2, 2, 2, 2], [0, 0, 1, 0, 0, 0]], np.float32)
    kept = SparseEmbeddings.from_dense(dense)._largest(2).toarray()
    assert kept.tolist() == [[0, 3, -5, 0, 0, 0], [2, 2, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    random = rows(30, 200, share=0.9)
    found = SparseEmbeddings.from_dense(random)._largest(17)
    expected = [np.sort(np.argsort(-np.abs(row), kind="stable")[:17]) for row in random]
    assert found.indices.reshape(30, 17).tolist() == [row.tolist() for row in expected]


def test_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = rows(6, 11)
    found = SparseEmbeddings.from_dense(dense).to_scipy()
    assert isinstance(found, sparse.csr_array) and found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), dense)
    np.testing.assert_array_equal(SparseEmbeddings.from_dense(dense[2]).to_scipy().toarray(), dense[2:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 2], [0], [1.0], (1, 3)), "must be rows of shape"),
        (([0, 1], [3], [1.0], (1, 3)), r"indices must be in 0 .. 2, got 3 .. 3"),
        (([0, 2, 1], [0], [1.0], (2, 3)), "must be rows of shape"),
        (([0, 1], [0], [1.0, 2.0], (3,)), "must be rows of shape"),
        (([0, 1], [0], [1.0], (1, 1, 3)), "must be rows of shape"),
    ],
)
def test_arrays_that_do_not_fit(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseEmbeddings(*arguments)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_those_of_dense_rows(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(9, 50), rows(12, 50, seed=1)
    a[4], b[3] = 0, 0
    sparse = [SparseEmbeddings.from_dense(x) for x in (a, b)]
    for at_a_time in (2**20, 7):
        monkeypatch.setattr(similarities, "_AT_A_TIME", at_a_time)
        expected = similarity(a, b, name)
        for one, other in ((sparse[0], sparse[1]), (a, sparse[1]), (sparse[0], b), (list(sparse[0]), sparse[1])):
            np.testing.assert_allclose(similarities.sparse_similarity(one, other, name), expected, rtol=1e-5, atol=1e-5)
        pairs = similarity_pairwise(a, b[:9], name)
        np.testing.assert_allclose(
            similarities.sparse_similarity_pairwise(sparse[0], sparse[1][:9], name), pairs, rtol=1e-5, atol=1e-5
        )
        found = similarities.sparse_similarity_pairwise(sparse[0][1], sparse[1], name)
        np.testing.assert_allclose(found, similarity_pairwise(a[1], b, name), rtol=1e-5, atol=1e-5)
    scalar = similarities.sparse_similarity_pairwise(sparse[0][1], sparse[1][1], name)
    assert np.ndim(scalar) == 0 and scalar == similarities.sparse_similarity(sparse[0][1], sparse[1][1], name)[0, 0]
    assert np.array_equal(similarities.sparse_similarity(a, b, name), expected)


def test_widths_and_rows_that_differ() -> None:
    a, b = SparseEmbeddings.from_dense(rows(3, 5)), SparseEmbeddings.from_dense(rows(3, 6))
    for call in (similarities.sparse_similarity, similarities.sparse_similarity_pairwise):
        with pytest.raises(ValueError, match=r"embeddings must be \(V,\) or \(B, V\) of one width, got \(3, 5\) and \(3, 6\)"):
            call(a, b, "dot")
    with pytest.raises(ValueError, match="as many rows, or one of them one row"):
        similarities.sparse_similarity_pairwise(a, SparseEmbeddings.from_dense(rows(2, 5)), "dot")
    with pytest.raises(ValueError, match=r"embeddings_1 must have shape \(V,\), got \(3, 5\)"):
        SparseEncoder.intersection(a, a)


def test_sparsity_and_intersection() -> None:
    dense = np.array([[1, 0, 2, 0], [0, 0, 3, -1]], np.float32)
    sparse = SparseEmbeddings.from_dense(dense)
    assert SparseEncoder.sparsity(sparse) == SparseEncoder.sparsity(dense) == {"active_dims": 2.0, "sparsity_ratio": 0.5}
    assert SparseEncoder.sparsity(sparse[:0]) == {"active_dims": 0.0, "sparsity_ratio": 1.0}
    assert SparseEncoder.intersection(sparse[1], sparse).toarray().tolist() == [[0, 0, 6, 0], [0, 0, 9, 1]]
    assert SparseEncoder.intersection(sparse[0], sparse[1]).toarray().tolist() == [0, 0, 6, 0]
