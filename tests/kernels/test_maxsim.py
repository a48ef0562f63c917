"""maxsim against the reference."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn
from fastattn.kernels.ops import maxsim as module
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check

Array = NDArray[Any]
LENGTHS = (3, 0, 1, 17, 5, 40, 2)


def ends(*lengths: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def inputs(tokens: int, lengths: tuple[int, ...], d: int, **options: Any) -> tuple[Array, Array, NDArray[np.int64]]:
    return normal(tokens, d, seed=1, **options), normal(sum(lengths), d, seed=2, **options), ends(*lengths)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("d", sizes(EDGES, work=lambda d: 5 * 24 * d))
def test_lengths(d: int, scale: float) -> None:
    check("maxsim", *inputs(5, (7, 1, 16), d, scale=scale))


@pytest.mark.parametrize("d", [256, 257, 513])
def test_products_of_several_chains(d: int) -> None:
    check("maxsim", *inputs(2, (2, 1), d))


@pytest.mark.parametrize("tokens", sizes((*EDGES, module._QUERY_TOKENS + 1), work=lambda n: 68 * n * 8))
def test_query_lengths(tokens: int) -> None:
    check("maxsim", *inputs(tokens, LENGTHS, 8))


@pytest.mark.parametrize("length", sizes((*EDGES, module.ROW_BLOCK, 3 * module.ROW_BLOCK + 1), work=lambda n: n * 50))
def test_document_lengths(length: int) -> None:
    """A document longer than a block, alone and between short ones."""
    check("maxsim", *inputs(4, (length,), 9))
    check("maxsim", *inputs(4, (2, length, 0, 3), 9))


@pytest.mark.parametrize("count", sizes((1, 15, 16, 17, 33, 300), work=lambda n: n * 40))
def test_many_short_documents(count: int) -> None:
    check("maxsim", *inputs(3, (1, 2, 0) * count, 5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 17, pytest.param(513, marks=pytest.mark.jit)])
def test_dtypes(d: int, dtype: type) -> None:
    query, documents, offsets = inputs(21, LENGTHS, d, dtype=dtype)
    check("maxsim", query, documents, offsets)
    check("maxsim", query, documents, offsets, ends(0, 8, 0, 12, 1), length_normalize=True)


@pytest.mark.jit
def test_more_queries_than_a_call_of_the_kernel_takes() -> None:
    lengths = (5, 250, 0, 300, 7, 32, 32)
    query = normal(sum(lengths), 24, seed=1)
    _, documents, offsets = inputs(1, LENGTHS, 24)
    check("maxsim", query, documents, offsets, ends(*lengths))
    check("maxsim", query, documents, offsets, ends(*lengths), length_normalize=True)


def test_nothing() -> None:
    query, documents, offsets = inputs(4, LENGTHS, 6)
    assert check("maxsim", query, documents[:0], ends(0, 0)).tolist() == [-np.inf] * 2
    assert check("maxsim", query[:0], documents, offsets).tolist() == [0.0] * len(LENGTHS)
    assert check("maxsim", query[:0], documents[:0], ends(0)).tolist() == [0.0]
    assert check("maxsim", query, documents[:0], ends()).shape == (0,)
    assert check("maxsim", query[:0], documents, offsets, ends()).shape == (0, len(LENGTHS))
    # No channels: each product is an empty sum.
    assert check("maxsim", query[:, :0], documents[:, :0], offsets).tolist() == [0.0, -np.inf] + [0.0] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("d", [1, 8, 17])
def test_nan_and_infinity(d: int, bad: float) -> None:
    query, documents, offsets = inputs(19, LENGTHS, d)
    clean = fastattn.maxsim(query, documents, offsets)
    for row in (0, 3, 20, 67):
        broken = documents.copy()
        broken[row, d // 2] = bad
        result = check("maxsim", query, broken, offsets)
        hit = np.searchsorted(offsets, row, "right") - 1
        others = np.arange(len(LENGTHS)) != hit
        assert np.isnan(result[hit]) if np.isnan(bad) else not np.isfinite(result[hit])
        np.testing.assert_array_equal(result[others], clean[others])
    query[5] = bad
    assert np.isnan(check("maxsim", query, documents, offsets)[offsets[1:] > offsets[:-1]]).all() or not np.isnan(bad)


def test_the_best_is_negative() -> None:
    query, documents, offsets = inputs(4, LENGTHS, 6)
    assert (check("maxsim", np.abs(query), -np.abs(documents), offsets) < 0).all()


def test_contract() -> None:
    query, documents, offsets = inputs(6, LENGTHS, 7)
    arrays = {"query": query, "documents": documents}
    for options in ({"offsets": offsets}, {"offsets": offsets, "query_offsets": ends(2, 4)}):
        contract.any_layout("maxsim", arrays, **options)
        contract.any_out("maxsim", arrays, **options)
        contract.bad_out("maxsim", arrays, **options)
    contract.bad_dtypes("maxsim", arrays, offsets=offsets)
    many = {"query": normal(40, 48), "documents": normal(20 * sum(LENGTHS), 48, seed=3)}
    contract.any_threads("maxsim", many, offsets=ends(*LENGTHS * 20), query_offsets=ends(3, 30, 7))


@pytest.mark.parametrize("d", [7, 48, pytest.param(300, marks=pytest.mark.jit)])
def test_same_bits_alone_and_among_others(d: int) -> None:
    """A score's bits depend on its query and document alone, whatever block or panel they come to lie in."""
    lengths, tokens = (31, 1, 0, 120, 5, 8, 200, 2, 2), (3, 20, 0, 33, 1)
    query, documents = normal(sum(tokens), d, seed=4), normal(sum(lengths), d, seed=5)
    rows, starts = ends(*lengths), ends(*tokens)
    together = fastattn.maxsim(query, documents, rows, starts)
    for a in range(len(tokens)):
        one = query[starts[a] : starts[a + 1]]
        np.testing.assert_array_equal(fastattn.maxsim(one, documents, rows), together[a])
        for b in range(len(lengths)):
            part = documents[rows[b] : rows[b + 1]]
            assert fastattn.maxsim(one, part, ends(len(part)))[0] == together[a, b]
    order = np.arange(len(lengths))[::-1]
    turned = np.concatenate([documents[rows[b] : rows[b + 1]] for b in order])
    found = fastattn.maxsim(query, turned, ends(*np.array(lengths)[order]), starts)
    np.testing.assert_array_equal(found[:, order], together)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": np.ones(7, np.float32)}, ValueError, "query"),
        ({"documents": np.ones((68, 8), np.float32)}, ValueError, "documents"),
        ({"offsets": [0, 68.0]}, TypeError, "offsets"),
        ({"offsets": 68}, ValueError, "offsets"),
        ({"offsets": []}, ValueError, "offsets"),
        ({"offsets": [0, 67]}, ValueError, "offsets must rise from 0 to 68"),
        ({"offsets": [1, 68]}, ValueError, "offsets must rise from 0 to 68"),
        ({"offsets": [0, 9, 8, 68]}, ValueError, "offsets must rise from 0 to 68"),
        ({"query_offsets": [0, 5]}, ValueError, "query_offsets must rise from 0 to 6"),
        ({"query_offsets": None, "offsets": None}, ValueError, "offsets"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    query, documents, offsets = inputs(6, LENGTHS, 7)
    with pytest.raises(error, match=message):
        fastattn.maxsim(**{"query": query, "documents": documents, "offsets": offsets, **change})
