"""The nearest embeddings among floats, levels and packed signs, against their definition in float64."""

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import quantize_embeddings, util
from fastattn.kernels.compile.jit import JIT
from fastattn.kernels.search import MOST_ROWS
from fastattn.text import nearest as module
from fastattn.text.nearest import Hits, Rescoring, nearest
from fastattn.text.similarity import SIMILARITIES
from tests.support.cases import normal, sizes
from tests.support.tolerance import ORDERS, assert_matches_reference

Array = NDArray[Any]
WIDTHS = (1, 7, 8, 9, 15, 16, 17, 32, 33, 64, 384)
COUNTS = (1, 2, 3, 4, 5, 31, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 2 * MOST_ROWS + 3)


def definition(queries: Array, rows: Array, name: str) -> Array:
    """Return the similarities in the dtype of the arrays."""
    if name == "cosine":
        queries, rows = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, rows))
    if name in ("cosine", "dot"):
        return queries @ rows.T
    return np.array([-np.linalg.norm(query - rows, ord=2 if name == "euclidean" else 1, axis=1) for query in queries])


def whole(rows: Array) -> list[tuple[Array, Array]]:
    return [(np.arange(len(rows)), rows)]


def check(found: Hits, queries: Array, rows: Array, k: int, name: str, narrow: Array | None = None) -> None:
    """Compare scores with the definition, and the rows with its order, but for rows that differ by rounding alone.

    narrow: the rows as they come out in float32.
    """
    narrow = rows.astype(np.float32) if narrow is None else narrow
    truth = definition(queries.astype(np.float64), rows.astype(np.float64), name)
    k = min(k, len(rows))
    assert found.rows.shape == found.scores.shape == (len(queries), k)
    yardsticks = []
    for seed in range(ORDERS):
        order = np.random.default_rng(seed).permutation(rows.shape[1])
        yardsticks.append(definition(queries[:, order], narrow[:, order], name))
    at = [np.take_along_axis(x, found.rows, axis=1) for x in (truth, *yardsticks)]
    assert_matches_reference(found.scores, *at)
    slack = 2 * max(np.abs(x - truth).max() for x in yardsticks) + 4 * np.finfo(np.float32).eps * np.abs(truth).max()
    for values, ids, all_values in zip(found.scores, found.rows, truth, strict=True):
        assert len(set(ids.tolist())) == k
        assert np.array_equal(values, np.sort(values)[::-1])
        others = np.delete(all_values, ids)
        assert not others.size or values[-1] >= others.max() - slack


def levels_of(rows: Array, precision: Any) -> tuple[Array, Array, Array, Array]:
    """Return levels, their ranges, and what they stand for, in float64 and as it comes out in float32."""
    ranges = np.stack([rows.min(axis=0) - np.float32(0.1), rows.max(axis=0)])
    found = quantize_embeddings(rows, precision, ranges)
    meanings = []
    for dtype in (np.float64, np.float32):
        low, high = ranges.astype(dtype)
        meanings.append(
            low + (found.astype(dtype) + dtype((128 if precision == "int8" else 0) + 0.5)) * ((high - low) / dtype(255))
        )
    return found, ranges, meanings[0], meanings[1]


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("width", sizes(WIDTHS, work=lambda n: 70 * n * 8))
def test_widths(width: int, name: str) -> None:
    rows = normal(67, width, seed=1)
    for count in (1, 2, 3, 5):
        queries = normal(count, width, seed=2)
        check(nearest(queries, whole(rows), 9, name), queries, rows, 9, name)
        for precision in ("int8", "uint8"):
            levels, ranges, meaning, narrow = levels_of(rows, precision)
            check(nearest(queries, whole(levels), 9, name, ranges), queries, meaning, 9, name, narrow)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("count", sizes(COUNTS, work=lambda n: n * 100))
def test_counts_of_rows(count: int, name: str) -> None:
    rows, queries = normal(count, 24, seed=1), normal(4, 24, seed=2)
    for k in (1, count, count + 5):
        check(nearest(queries, whole(rows), k, name), queries, rows, k, name)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("width", [1, 8, 63, 64, 65, 72, 384])
def test_signs(width: int, precision: Any, name: str) -> None:
    rows, queries = normal(90, width, seed=1), normal(3, width, seed=2)
    packed = quantize_embeddings(rows, precision)
    signs, asked = (np.where(x > 0, np.float32(1), np.float32(-1)) for x in (rows, queries))
    found = nearest(queries, whole(packed), 9, name)
    different = (asked[:, None] != signs).sum(axis=2)
    assert np.array_equal(found.rows, np.argsort(different, axis=1, kind="stable")[:, :9])
    check(found, asked, signs, 9, name)
    # The best by bits are compared again with the whole query, or with other embeddings.
    for given in (None, rows):
        meaning = signs if given is None else rows
        found = nearest(queries, whole(packed), 5, name, rescoring=Rescoring(2, given))
        for i, query in enumerate(queries):
            first = np.sort(np.argsort(different[i], kind="stable")[:10])
            check(
                Hits(np.searchsorted(first, found.rows[i : i + 1]), found.scores[i : i + 1]), query[None], meaning[first], 5, name
            )
            assert np.isin(found.rows[i], first).all()
    check(nearest(queries, whole(packed), 5, name, rescoring=Rescoring(100)), queries, signs, 5, name)


def test_levels_are_compared_again_with_floats() -> None:
    rows, queries = normal(300, 40, seed=1), normal(2, 40, seed=2)
    levels, ranges, _, _ = levels_of(rows, "int8")
    coarse = nearest(queries, whole(levels), 20, "dot", ranges)
    fine = nearest(queries, whole(levels), 5, "dot", ranges, Rescoring(4, rows))
    for i in range(2):
        first = np.sort(coarse.rows[i])
        exact = nearest(queries[i : i + 1], [(first, rows[first])], 5, "dot")
        assert np.array_equal(fine.rows[i], exact.rows[0]) and np.array_equal(fine.scores[i], exact.scores[0])
    assert np.array_equal(nearest(queries, whole(levels), 5, "dot", ranges, Rescoring(4)).scores, coarse.scores[:, :5])


@pytest.fixture(params=sorted({1, min(2, numba.get_num_threads()), numba.get_num_threads()}) if JIT else [1])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.mark.jit
@pytest.mark.parametrize("name", SIMILARITIES)
def test_bits(name: str, threads: int) -> None:
    """A score's bits depend on its query and row alone: not on threads, pieces, other queries, or the order of the rows."""
    rows, queries = normal(6000, 48, seed=1), normal(7, 48, seed=2)
    rows[5000:5600] = rows[100:700]
    levels, ranges, _, _ = levels_of(rows, "int8")
    for given, more in ((rows, None), (levels, ranges), (quantize_embeddings(rows, "ubinary"), None)):
        numba.set_num_threads(1)
        expected = nearest(queries, whole(given), 300, name, more)
        numba.set_num_threads(threads)
        together = nearest(queries, whole(given), 300, name, more)
        pieces = [(np.arange(i, min(i + 701, 6000)), given[i : i + 701]) for i in range(0, 6000, 701)]
        for found in (together, nearest(queries, pieces, 300, name, more)):
            assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.scores, expected.scores)
        for i in range(7):
            alone = nearest(queries[i : i + 1], whole(given), 300, name, more)
            assert np.array_equal(alone.rows[0], expected.rows[i]) and np.array_equal(alone.scores[0], expected.scores[i])
        # Equal rows are in their order.
        for ids, values in zip(expected.rows, expected.scores, strict=True):
            assert (np.diff(ids)[np.diff(values) == 0] > 0).all()


def test_equal_rows_of_pieces_are_in_order() -> None:
    rows, query = np.ones((40, 8), np.float32), np.ones((1, 8), np.float32)
    pieces = [(np.arange(i, min(i + 9, 40)), rows[i : i + 9]) for i in range(0, 40, 9)]
    for given in (pieces, pieces[::-1]):
        assert nearest(query, given, 20, "dot").rows[0].tolist() == list(range(20))


def test_more_queries_than_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = normal(40, 8, seed=1), normal(11, 8, seed=2)
    expected = nearest(queries, whole(rows), 6, "dot")
    monkeypatch.setattr(module, "_QUERIES", 4)
    found = nearest(queries, whole(rows), 6, "dot")
    assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.scores, expected.scores)


def test_what_is_not_finite() -> None:
    rows, query = np.ones((70, 9), np.float32), np.ones((1, 9), np.float32)
    rows[3], rows[66], rows[10], rows[11] = np.nan, np.nan, np.inf, -np.inf
    found = nearest(query, whole(rows), 100, "dot")
    assert found.rows[0].tolist() == [10, *(i for i in range(70) if i not in (3, 10, 11, 66)), 3, 11, 66]
    assert found.scores[0, 0] == np.inf and (found.scores[0, -3:] == -np.inf).all()
    # Signs of zero make no order.
    rows = np.zeros((5, 3), np.float32)
    rows[2] = -0.0
    assert nearest(query[:, :3], whole(rows), 5, "dot").rows[0].tolist() == [0, 1, 2, 3, 4]
    assert nearest(query[:, :3], whole(rows), 5, "cosine").scores[0].tolist() == [0] * 5


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4", "columns", "reversed", "read-only"])
def test_other_layouts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONVERTED", 16)
    rows, queries = normal(50, 12, seed=1), normal(2, 12, seed=2)
    given: Array = {
        "columns": lambda: np.asfortranarray(rows),
        "reversed": lambda: rows[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": rows.copy,
    }.get(kind, lambda: rows.astype(kind))()
    given.flags.writeable = kind != "read-only"
    expected = nearest(queries, whole(given.astype(np.float32)), 5, "dot")
    found = nearest(queries, whole(given), 5, "dot")
    assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.scores, expected.scores)


def test_a_mapped_file_is_not_copied(tmp_path: Any) -> None:
    rows = normal(64, 16)
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    ((_, taken),) = module._usable(whole(mapped), 16, None)
    assert np.shares_memory(taken, mapped) and taken.flags.writeable and not mapped.flags.writeable


@pytest.mark.parametrize("kind", ["floats", "levels", "signs"])
def test_pieces_of_a_corpus(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = normal(50, 16, seed=1), normal(2, 16, seed=2)
    levels, ranges, _, _ = levels_of(rows, "int8")
    corpus, more = {
        "floats": (rows, {}),
        "levels": (levels, {"ranges": ranges}),
        "signs": (quantize_embeddings(rows, "ubinary"), {"rescore_embeddings": rows}),
    }[kind]
    expected = util.semantic_search(queries, corpus, **more)
    taken, usable = [], module._usable
    monkeypatch.setattr(module, "_usable", lambda pieces, *rest: usable((taken.append(len(p[1])) or p for p in pieces), *rest))
    assert util.semantic_search(queries, corpus, corpus_chunk_size=21, **more) == expected
    assert taken == [21, 21, 8]


def test_pieces() -> None:
    rows = normal(7, 3)
    for count, starts in ((1, range(7)), (3, (0, 3, 6)), (7, (0,)), (8, (0,)), (None, (0,))):
        pieces = list(module.pieces_of(rows, count))
        assert [int(numbers[0]) for numbers, _ in pieces] == list(starts)
        assert np.array_equal(np.concatenate([numbers for numbers, _ in pieces]), np.arange(7))
        assert np.array_equal(np.concatenate([part for _, part in pieces]), rows)
        assert all(np.shares_memory(part, rows) for _, part in pieces)
    assert list(module.pieces_of(rows[:0])) == []


def test_hits_that_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of many queries counts, not only the heaps of those in work."""
    rows, queries = normal(900, 2, seed=1), normal(900, 2, seed=2)
    monkeypatch.setattr("fastattn.runtime.memory.free_bytes", lambda: 2**20)
    for given in (rows, quantize_embeddings(normal(900, 8), "ubinary")):
        asked = queries if given is rows else normal(900, 8, seed=2)
        with pytest.raises(MemoryError, match="the 900 best rows of 900 queries would take"):
            nearest(asked, whole(given), 900, "dot")
    assert nearest(queries, whole(rows), 9, "dot").rows.shape == (900, 9)


def test_ranges_of_another_width() -> None:
    """A kernel would read past them."""
    levels, ranges, _, _ = levels_of(normal(5, 16), "int8")
    for given in (ranges[:, :15], ranges[:1], ranges[0], np.zeros((2, 17), np.float32)):
        with pytest.raises(ValueError, match=r"ranges must have shape \(2, 16\), got"):
            nearest(normal(2, 16), whole(levels), 3, "dot", given)
    for dtype in (np.float16, np.float32):
        with pytest.raises(ValueError, match=f"ranges must not be given with embeddings of {np.dtype(dtype)}"):
            nearest(normal(2, 16), whole(normal(5, 16).astype(dtype)), 3, "dot", ranges)


def test_a_score_function_gets_float32() -> None:
    rows, queries = normal(50, 16, seed=1), normal(2, 16, seed=2)
    dtypes = set()

    def score(a: Array, b: Array) -> Array:
        dtypes.update((a.dtype, b.dtype))
        return a @ b.T

    half = rows.astype(np.float16)
    found, expected = (
        util.semantic_search(queries, given, corpus_chunk_size=21, score_function=score)
        for given in (half, half.astype(np.float32))
    )
    assert dtypes == {np.dtype(np.float32)} and found == expected


def test_nothing() -> None:
    rows, queries = normal(5, 6), normal(2, 6)
    for found in (
        nearest(queries, [], 3, "dot"),
        nearest(queries, whole(rows), 0, "dot"),
        nearest(queries, whole(rows[:0]), 3, "dot"),
    ):
        assert found.rows.shape == found.scores.shape == (2, 0)
    assert nearest(queries[:0], whole(rows), 3, "dot").rows.shape == (0, 3)
    assert nearest(queries[:, :0], whole(rows[:, :0]), 3, "dot").rows.tolist() == [[0, 1, 2]] * 2


def ids(hits: Any) -> list[list[int]]:
    return [[hit["corpus_id"] for hit in found] for found in hits]


def test_semantic_search() -> None:
    rows, queries = normal(200, 24, seed=1), normal(3, 24, seed=2)
    levels, ranges, meaning, _ = levels_of(rows, "uint8")
    expected = np.argsort(-definition(queries.astype(np.float64), meaning, "cosine"), axis=1)[:, :10]
    assert ids(util.semantic_search(queries, levels, ranges=ranges)) == expected.tolist()
    packed = quantize_embeddings(rows, "binary")
    different = (np.unpackbits(quantize_embeddings(queries, "binary").view(np.uint8)[:, None] ^ packed.view(np.uint8), axis=2)).sum(
        2
    )
    first = np.argsort(different, axis=1, kind="stable")
    assert ids(util.semantic_search(queries, packed, rescore=False)) == first[:, :10].tolist()
    exact = np.argsort(-definition(queries.astype(np.float64), rows.astype(np.float64), "cosine"), axis=1)[:, :10].tolist()
    assert ids(util.semantic_search(queries, packed, rescore_multiplier=20, rescore_embeddings=rows)) == exact
    assert ids(util.semantic_search(queries, rows)) == exact
    # Levels among levels are numbers.
    few = util.semantic_search(levels[:2], levels, top_k=1, score_function=util.euclidean_sim)
    assert few == [[{"corpus_id": i, "score": 0.0}] for i in range(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranges": None}, r"ranges must be given: those of quantize_embeddings for the corpus, int8 \(5, 16\)"),
        ({"ranges": np.zeros((2, 3))}, r"ranges must have shape \(2, 16\), got \(2, 3\)"),
        (
            {"score_function": lambda a, b: a @ b.T},
            "score_function must be one of cos_sim, dot_score, euclidean_sim, manhattan_sim here",
        ),
        ({"corpus_embeddings": np.zeros((5, 16))}, "ranges must not be given with embeddings of float32"),
        ({"rescore_multiplier": 0}, "rescore_multiplier must be 1 or more, got 0"),
        ({"rescore_embeddings": np.zeros((4, 16))}, r"rescore_embeddings must have shape \(5, 16\), got \(4, 16\)"),
        ({"rescore_embeddings": np.zeros((5, 16), np.int8)}, "rescore_embeddings must be floats, got int8"),
        ({"corpus_embeddings": np.zeros((5, 3), np.int8)}, "embeddings of int8 must have width 16 for queries of 16, got 3"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    given = {"corpus_embeddings": np.zeros((5, 16), np.int8), "ranges": np.ones((2, 16), np.float32), **change}
    with pytest.raises(ValueError, match=message):
        util.semantic_search(normal(2, 16), **given)
