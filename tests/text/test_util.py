"""fastattn.util: search, paraphrases, communities and similarities by their definitions, and as sentence-transformers'."""

import inspect
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import SentenceTransformer, util
from tests.support.peer_cases import TEXTS

pytestmark = pytest.mark.jit

SIMILARITIES = ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim")


@pytest.fixture(scope="module")
def rows() -> Any:
    """Embeddings in eight groups, of lengths from 1 to 4."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((8, 24)), np.arange(3, 11), axis=0)
    found = centres + 0.3 * rng.standard_normal(centres.shape)
    return rng.permutation(found * rng.uniform(1, 4, (len(found), 1)).astype(np.float32)).astype(np.float32)


@pytest.fixture(scope="module")
def theirs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sentence_transformers.util")


def exact(a: Any, b: Any, name: str) -> Any:
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    if name == "cos_sim":
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    if name in ("cos_sim", "dot_score"):
        return (a * b).sum(axis=-1)
    return -np.linalg.norm(a - b, ord=2 if name == "euclidean_sim" else 1, axis=-1)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities(rows: Any, name: str) -> None:
    a, b = rows[:20], rows[20:40]
    expected = exact(a, b, name)
    limit = 1e-5 * np.abs(expected).max()
    found = getattr(util, name)(a, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=limit)
    np.testing.assert_allclose(getattr(util, name)(list(a), b.tolist()), expected, atol=limit)
    assert getattr(util, name)(a[0], b).shape == (1, 20)
    np.testing.assert_allclose(getattr(util, f"pairwise_{name}")(a, b), np.diag(expected), atol=limit)
    kind = util.SimilarityFunction({"cos_sim": "cosine", "dot_score": "dot"}.get(name, name.removesuffix("_sim")))
    assert util.SimilarityFunction.to_similarity_fn(kind) is getattr(util, name)
    assert util.SimilarityFunction.to_similarity_pairwise_fn(kind.value) is getattr(util, f"pairwise_{name}")


def test_vectors_and_shapes(rows: Any) -> None:
    np.testing.assert_allclose(np.linalg.norm(util.normalize_embeddings(rows), axis=1), 1, atol=1e-6)
    assert util.normalize_embeddings(rows[0]).shape == rows[0].shape
    assert np.array_equal(util.truncate_embeddings(rows, 3), rows[:, :3])
    assert util.truncate_embeddings(rows, None).shape == rows.shape
    with pytest.raises(ValueError, match="of one width, got"):
        util.cos_sim(rows, rows[:, :5])


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("chunks", [(100, 500000), (7, 9)])
def test_semantic_search(rows: Any, name: str, chunks: tuple[int, int]) -> None:
    queries = rows[::5] * np.float32(1.1)
    scores = exact(queries, rows, name)
    found = util.semantic_search(queries, rows, *chunks, top_k=6, score_function=getattr(util, name))
    for hits, row in zip(found, scores, strict=True):
        assert [hit["corpus_id"] for hit in hits] == np.argsort(-row, kind="stable")[:6].tolist()
        np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(row)[::-1][:6], rtol=1e-5, atol=1e-5)


def test_search_without_neighbours(rows: Any) -> None:
    assert [len(hits) for hits in util.semantic_search(rows[:2], rows[:3])] == [3, 3]
    assert util.semantic_search(rows[:2], rows[:0]) == [[], []]
    assert util.semantic_search(rows[:2], rows, top_k=0) == [[], []]
    twice = np.concatenate([rows, rows])
    for chunk in (500000, 10):
        ids = [hit["corpus_id"] for hit in util.semantic_search(rows[3], twice, corpus_chunk_size=chunk, top_k=2)[0]]
        assert ids == [3, 3 + len(rows)]  # equal scores in the order of the corpus
    broken = np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows)
    assert 3 not in [hit["corpus_id"] for hit in util.semantic_search(rows[3], broken, top_k=5)[0]]


@pytest.mark.parametrize("chunks", [(5000, 100000), (7, 9)])
@pytest.mark.parametrize(("most", "top_k"), [(500000, 100), (20, 100), (500000, 2)])
def test_paraphrases(rows: Any, chunks: tuple[int, int], most: int, top_k: int) -> None:
    scores = exact(rows, rows, "cos_sim")
    np.fill_diagonal(scores, -np.inf)
    near = np.argsort(-scores, axis=1)[:, :top_k]
    pairs = {(min(i, j), max(i, j)) for i, row in enumerate(near.tolist()) for j in row if i != j}
    expected = sorted(pairs, key=lambda pair: -scores[pair])[:most]
    found = util.paraphrase_mining_embeddings(rows, *chunks, max_pairs=most, top_k=top_k)
    assert {(i, j) for _, i, j in found} == set(expected)
    assert len(found) == len(expected)
    # Of two scores that differ by rounding alone, either may come first.
    np.testing.assert_allclose([score for score, _, _ in found], [scores[pair] for pair in expected], atol=1e-6)
    np.testing.assert_allclose([scores[i, j] for _, i, j in found], [score for score, _, _ in found], atol=1e-6)


def test_paraphrases_of_texts(model: SentenceTransformer) -> None:
    texts = [*TEXTS, "a dog", "the cat sat on the mat"]
    found = util.paraphrase_mining(model, texts, prompt="query : ", truncate_dim=8)
    assert {tuple(pair[1:]) for pair in found[:2]} == {(0, 8), (1, 7)}
    assert found == util.paraphrase_mining_embeddings(model.encode(texts, prompt="query : ", truncate_dim=8))


def test_communities(rows: Any) -> None:
    scores = exact(rows, rows, "cos_sim")
    found = util.community_detection(rows, threshold=0.75, min_community_size=4, batch_size=7)
    assert len(found) > 3
    assert [len(group) for group in found] == sorted(map(len, found), reverse=True)
    members = [row for group in found for row in group]
    assert len(set(members)) == len(members)
    for centre, *others in found:
        assert (scores[centre, others] >= 0.75 - 1e-6).all()
        assert len(others) >= 3
    assert util.community_detection(rows, 0.75, 4) == found
    assert util.community_detection(rows[:3], 0.75, 4) == []
    assert util.community_detection([], 0.75) == []


def test_bar_of_communities(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    util.community_detection(rows, 0.75, 4, show_progress_bar=True)
    assert "Finding communities" in capsys.readouterr().err


def test_hard_negatives_need_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers.util", None)
    with pytest.raises(ImportError, match="pip install sentence-transformers datasets"):
        util.mine_hard_negatives([], None)


def test_public_names() -> None:
    assert {"SimilarityFunction", "quantize_embeddings"} <= set(fastattn.__all__)
    assert fastattn.util is util
    assert util.SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert util.SimilarityFunction.DOT is util.SimilarityFunction.DOT_PRODUCT


def test_similarity_function_of_a_model(model: SentenceTransformer) -> None:
    model.similarity_fn_name = util.SimilarityFunction.DOT_PRODUCT
    assert model.similarity_fn_name == "dot"


@pytest.mark.filterwarnings("ignore")
def test_as_theirs(rows: Any, theirs: Any) -> None:
    torch = pytest.importorskip("torch")
    tensors = torch.from_numpy(rows)
    for name in SIMILARITIES:
        for function in (name, f"pairwise_{name}"):
            found, expected = (getattr(module, function)(tensors[:20], rows[20:40]) for module in (util, theirs))
            assert isinstance(found, torch.Tensor)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for options in ({}, {"top_k": 3, "query_chunk_size": 7, "corpus_chunk_size": 9}):
        for name in ("cos_sim", "dot_score"):
            found = util.semantic_search(rows[::3], rows, score_function=getattr(util, name), **options)
            same(found, theirs.semantic_search(rows[::3], rows, score_function=getattr(theirs, name), **options))
    for options in ({}, {"top_k": 2, "max_pairs": 12}):
        same(util.paraphrase_mining_embeddings(rows, **options), theirs.paraphrase_mining_embeddings(tensors, **options))
    for size in (3, 4, 8):
        found, expected = (module.community_detection(rows, min_community_size=size) for module in (util, theirs))
        assert [(group[0], set(group)) for group in found] == [(group[0], set(group)) for group in expected]


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, other in zip(found, expected, strict=True):
        if isinstance(ours, list) and ours and isinstance(ours[0], dict):
            assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in other]
            np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in other], rtol=1e-5, atol=1e-5)
        else:
            assert ours[0] == pytest.approx(other[0], abs=1e-5)
            assert ours[1:] in [pair[1:] for pair in expected]


def test_signatures_are_theirs(theirs: Any) -> None:
    for name in util.__all__:
        if name in ("mine_hard_negatives", "SimilarityFunction"):
            continue
        ours, other = (dict(inspect.signature(getattr(module, name)).parameters) for module in (util, theirs))
        # More that can be given by name alone is no difference to who calls theirs.
        ours = {key: p for key, p in ours.items() if key in other or p.kind is not p.KEYWORD_ONLY or p.default is p.empty}
        assert list(ours) == list(other), name
        defaults = [[p.default for p in x.values() if not callable(p.default) or p.default is p.empty] for x in (ours, other)]
        assert defaults[0] == defaults[1], name
