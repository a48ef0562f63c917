"""MultiVectorEncoder: its own rules, without sentence-transformers."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import MultiVectorEncoder, SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.modules import (
    Dense,
    HierarchicalTokenPooling,
    LambdaTokenPooling,
    MultiVectorMask,
    Normalize,
    Transformer,
)
from fastattn.text import maxsim_similarity
from tests.support.late_interaction import (
    CASES,
    DOCUMENTS,
    QUERIES,
    C,
    D,
    P,
    answers,
    native,
    projection,
    pylate,
    stanford,
    write_case,
)
from tests.support.models import write_json, write_sentence_model

FIXED = {"strategy": "fixed", "length": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    native({"query_expansion": FIXED, "document_length": 11}, {"skiplist_words": [",", "."]})(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(folder)


@pytest.mark.parametrize("name", ["fixed", "fixed, attend", "min", "pooled"])
def test_same_bits_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    model = MultiVectorEncoder(write_case(name, tmp_path))
    for encode, texts in ((model.encode_query, QUERIES), (model.encode_document, DOCUMENTS)):
        together = encode(texts * 7)
        for text, rows in zip(texts * 7, together, strict=True):
            np.testing.assert_array_equal(encode(text), rows)
        for rows, again in zip(encode(texts[::-1])[::-1], together, strict=False):
            np.testing.assert_array_equal(rows, again)


@pytest.mark.jit
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_precisions(precision: Any, tmp_path: Path) -> None:
    write_case("fixed", tmp_path)
    model, exact = MultiVectorEncoder(tmp_path, precision=precision), MultiVectorEncoder(tmp_path)
    for encode, truth, texts in (
        (model.encode_query, exact.encode_query, QUERIES),
        (model.encode_document, exact.encode_document, DOCUMENTS),
    ):
        for text, rows, expected in zip(texts, encode(texts), truth(texts), strict=True):
            np.testing.assert_array_equal(encode(text), rows)
            assert rows.shape == expected.shape
            assert not np.array_equal(rows, expected)
            # Random layers amplify the rounding of their inputs; a wrong mask would give cosines around 0.
            assert (rows * expected).sum(axis=1).mean() > 0.9


def test_inputs(model: MultiVectorEncoder) -> None:
    rows = model.encode_query("a cat")
    assert isinstance(rows, np.ndarray)
    assert rows.shape == (12, D)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(model.encode_query({"text": "a cat"}), rows)
    np.testing.assert_array_equal(model.encode_query(iter(["a cat"]))[0], rows)
    assert model.encode_query([]) == []
    assert model.counts.texts == 0
    assert model.get_embedding_dimension() == D
    for bad in (7, [3], [b"a"]):
        with pytest.raises(TypeError, match="inputs"):
            model.encode(bad)
    model.encode_document(DOCUMENTS)
    assert model.counts.truncated == 2


def test_unit_length(folder: Path) -> None:
    whole = MultiVectorEncoder(folder)
    model = MultiVectorEncoder(modules=list(whole)[:-1])
    plain = model.encode_document(DOCUMENTS)
    assert not np.allclose(np.linalg.norm(plain[0], axis=1), 1, atol=1e-2)
    for rows, expected in zip(
        model.encode_document(DOCUMENTS, normalize_embeddings=True), whole.encode_document(DOCUMENTS), strict=True
    ):
        np.testing.assert_array_equal(rows, expected)


def test_all_features(model: MultiVectorEncoder) -> None:
    one = model.encode_query("a cat", output_value=None)
    assert one["input_ids"].tolist()[:4] == [2, 15, 16, 3]
    assert one["input_ids"].tolist()[4:] == [4] * 8
    assert one["query_expansion_positions"].tolist() == [False] * 4 + [True] * 8
    assert one["attention_mask"].all()
    assert one["modality"] == "text"
    np.testing.assert_array_equal(one["token_embeddings"], model.encode_query("a cat"))
    one = model.encode_document("a cat, far.", output_value=None)
    assert one["attention_mask"].tolist() == [True, True, True, False, True, False, True]
    np.testing.assert_array_equal(one["token_embeddings"][one["attention_mask"]], model.encode_document("a cat, far."))
    pooled = model.encode_document("a cat, far.", output_value=None, token_pooling=LambdaTokenPooling(lambda x: x[:2]))
    assert pooled["attention_mask"].tolist() == [True, True] + [False] * 5


def test_lengths_can_be_changed(folder: Path) -> None:
    model = MultiVectorEncoder(folder)
    first = model[0]
    assert isinstance(first, Transformer)
    assert first.query_expansion == {**FIXED, "attend": False, "token": None}
    first.query_expansion = None
    assert len(model.encode_query("a cat")) == 4
    first.query_length = 3
    assert len(model.encode_query("a cat")) == 3
    assert len(model.encode_query("a cat", processing_kwargs={"text": {"max_length": 20}})) == 4
    first.query_length = 1000
    assert len(model.encode_query("a cat " * 90)) == P
    assert len(model.encode("a dog " * 90)) == P
    assert len(model.encode_document("a dog " * 90)) == 11


def test_prompts(folder: Path) -> None:
    model = MultiVectorEncoder(folder, prompts={"query": "query: ", "document": "a "})
    plain = MultiVectorEncoder(folder)
    np.testing.assert_array_equal(model.encode_query("cat"), plain.encode_query("query: cat"))
    np.testing.assert_array_equal(model.encode_document("cat"), plain.encode_document("a cat"))
    np.testing.assert_array_equal(model.encode_query("cat", prompt=""), plain.encode_query("cat"))
    np.testing.assert_array_equal(model.encode("cat", "query", task="query"), model.encode_query("cat"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_value": "sentence_embedding"}, ValueError, "output_value"),
        ({"convert_to_tensor": True}, ValueError, "convert_to_tensor"),
        ({"token_pooling": 2}, TypeError, "token_pooling"),
        ({"task": 2}, TypeError, "task"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"device": "cuda"}, ValueError, "cuda"),
        ({"prompt_name": "summary"}, ValueError, "summary"),
    ],
)
def test_bad_arguments(model: MultiVectorEncoder, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.encode(["a cat"], **options)


@pytest.mark.parametrize(
    ("expansion", "message"),
    [
        ({"strategy": "most", "length": 9}, "strategy"),
        ({"strategy": "fixed"}, "length is missing"),
        ({"strategy": "fixed", "length": 0}, "length"),
        ({"strategy": "fixed", "length": 1}, "length must be from 2"),
        ({"strategy": "fixed", "length": 1000}, f"length must be from 2 to {P}"),
        ({"strategy": "fixed", "length": 9, "attend": 1}, "attend"),
        ({"strategy": "fixed", "length": 9, "token": "zebra"}, "zebra"),
        ({"strategy": "fixed", "length": 9, "count": 1}, "count"),
        (32, "mapping"),
    ],
)
def test_bad_expansions(tmp_path: Path, expansion: Any, message: str) -> None:
    native({"query_expansion": expansion})(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        MultiVectorEncoder(tmp_path)
    assert "sentence_bert_config.json" in str(caught.value)


def test_query_length_below_the_expansion(tmp_path: Path) -> None:
    native({"query_expansion": FIXED, "query_length": 5})(tmp_path)
    with pytest.raises(CheckpointError, match="query_length 5 is less"):
        MultiVectorEncoder(tmp_path)


def test_other_models_do_not_tell_queries_from_documents(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"query_length": 9})
    with pytest.raises(CheckpointError, match="query_length 9 is not supported here: load it as a MultiVectorEncoder"):
        SentenceTransformer(tmp_path)


def test_masks_and_poolings_of_tokens_need_this_model(tmp_path: Path) -> None:
    plain = SentenceTransformer(write_sentence_model(tmp_path))
    for module in (MultiVectorMask(), HierarchicalTokenPooling(2)):
        with pytest.raises(ValueError, match="works in a MultiVectorEncoder"):
            SentenceTransformer(modules=[plain[0], module, plain[1]]).encode("a")


def test_other_folders(tmp_path: Path) -> None:
    write_sentence_model(tmp_path / "sentence")
    with pytest.raises(CheckpointError, match="another kind of model; a MultiVectorEncoder is a folder of"):
        MultiVectorEncoder(tmp_path / "sentence")
    (tmp_path / "sentence" / "modules.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no modules\.json, and its architectures in config\.json are None"):
        MultiVectorEncoder(tmp_path / "sentence")
    with pytest.raises(ValueError, match="no default model"):
        MultiVectorEncoder()
    pylate(query_prefix=3)(tmp_path / "pylate")
    with pytest.raises(CheckpointError, match=r"config_sentence_transformers\.json: query_prefix must be a text"):
        MultiVectorEncoder(tmp_path / "pylate")
    pylate(query_prefix="[Q] ", skiplist_words="abc")(tmp_path / "pylate")
    with pytest.raises(CheckpointError, match="skiplist_words must be a list of str"):
        MultiVectorEncoder(tmp_path / "pylate")
    stanford(query_token_id=7)(tmp_path / "stanford")
    with pytest.raises(CheckpointError, match=r"artifact\.metadata: query_token_id"):
        MultiVectorEncoder(tmp_path / "stanford")


def test_markers_are_one_token(tmp_path: Path) -> None:
    stanford()(tmp_path / "stanford")
    model = MultiVectorEncoder(tmp_path / "stanford")
    assert model.prompts == {"query": "[unused0] ", "document": "[unused1] "}
    assert model.encode_query("a", output_value=None)["input_ids"].tolist()[:5] == [2, 5, 15, 3, 4]
    assert model.encode_document("a,", output_value=None)["input_ids"].tolist() == [2, 6, 15, 8, 3]
    assert len(model.encode_query("a")) == 32
    model.save(str(tmp_path / "saved"))
    again = MultiVectorEncoder(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())["prompts"] == model.prompts
    for name, array in answers(again).items():
        np.testing.assert_array_equal(array, answers(model)[name])
    mine = MultiVectorEncoder(tmp_path / "stanford", prompts={"query": "the "})
    assert mine.prompts["query"] == "the "


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pooling is None])
def test_saved_and_read(name: str, tmp_path: Path) -> None:
    model = MultiVectorEncoder(write_case(name, tmp_path / "source"))
    model.save(str(tmp_path / "saved"))
    again = MultiVectorEncoder(tmp_path / "saved")
    assert again.similarity_fn_name == model.similarity_fn_name
    assert [repr(module) for module in again][1:] == [repr(module) for module in model][1:]
    expected = answers(model)
    for key, array in answers(again).items():
        np.testing.assert_array_equal(array, expected[key])


def test_skip_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    native(mask={"skiplist_words": ["zebra", "cat"]})(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = MultiVectorEncoder(tmp_path)
    assert "'zebra' are no tokens of this vocabulary" in caplog.text
    assert len(model.encode_document("zebra cat")) == 3
    mask = model[2]
    assert isinstance(mask, MultiVectorMask)
    mask.skiplist_words = ["[UNK]"]
    mask.resolve_with_tokenizer(model.tokenizer)
    assert len(model.encode_document("zebra cat")) == 3
    assert len(model.encode_query("zebra cat")) == 4
    for bad in (
        {"skiplist_words": "abc"},
        {"skiplist_tasks": [2]},
        {"keep_only_token_ids": ["a"]},
        {"keep_only_token_ids": [True]},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            MultiVectorMask(**bad)  # type: ignore[arg-type]


def test_expansion_without_a_mask(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = MultiVectorEncoder(folder)
    with caplog.at_level(logging.WARNING):
        model = MultiVectorEncoder(modules=[whole[0], whole[1], whole[3]])
    assert "without a MultiVectorMask" in caplog.text
    assert len(model.encode_query("a cat")) == 4


def test_from_modules(folder: Path) -> None:
    dense = Dense(C, D, False, None, projection(), module_input_name="token_embeddings")
    modules = [Transformer(folder), dense, MultiVectorMask([",", "."]), Normalize("token_embeddings")]
    model, whole = MultiVectorEncoder(modules=modules), MultiVectorEncoder(folder)
    for name, array in answers(model).items():
        np.testing.assert_array_equal(array, answers(whole)[name])
    with pytest.raises(ValueError, match="token_embeddings"):
        MultiVectorEncoder(modules=[modules[0], Dense(C, D, False, None, projection()), modules[2]])


def test_similarity(model: MultiVectorEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = model.encode_query(QUERIES), [*model.encode_document(DOCUMENTS), np.empty((0, D), np.float32)]
    scores = model.similarity(queries, documents)
    assert scores.shape == (len(queries), len(documents))
    for (i, query), (j, document) in itertools.product(enumerate(queries), enumerate(documents[:-1])):
        np.testing.assert_allclose(scores[i, j], (query @ document.T).max(axis=1).sum(), rtol=1e-5)
    assert (scores[:, -1] == -1e9).all()
    monkeypatch.setattr(maxsim_similarity, "_COPIED", 1)
    np.testing.assert_array_equal(model.similarity(queries, documents), scores)
    pairs = model.similarity_pairwise(queries, documents[-len(queries) :])
    np.testing.assert_array_equal(pairs, np.diagonal(scores[:, -len(queries) :]))
    np.testing.assert_array_equal(model.similarity(queries[0], documents[0]), scores[:1, :1])
    padded = np.zeros((len(documents), 30, D), np.float32)
    for row, document in zip(padded, documents, strict=True):
        row[: len(document)] = document
    np.testing.assert_array_equal(model.similarity(queries, padded), scores)
    mask = np.arange(30) < 2
    found = model.similarity(queries, padded[:2], b_mask=[mask, mask])
    np.testing.assert_array_equal(found, model.similarity(queries, [document[:2] for document in documents[:2]]))
    counts = np.array([len(query) for query in queries], np.float32)[:, None]
    np.testing.assert_allclose(model.similarity(queries, documents, length_normalize=True), scores / counts, rtol=1e-6)
    assert model.similarity([], documents).shape == (0, len(documents))
    assert model.similarity(queries, []).shape == (len(queries), 0)
    with pytest.raises(ValueError, match="as many queries as documents"):
        model.similarity_pairwise(queries, documents)
    with pytest.raises(ValueError, match="similarity has no argument mean"):
        model.similarity(queries, documents, mean=True)
    with pytest.raises(ValueError, match="embeddings1 must be a list"):
        model.similarity([queries[0][0]], documents)
    with pytest.raises(ValueError, match="similarity_fn_name"):
        model.similarity_fn_name = "cosine"


def test_similarity_by_name(folder: Path) -> None:
    model = MultiVectorEncoder(folder, similarity_fn_name="meanmaxsim")
    assert model.similarity_fn_name == "meanmaxsim"
    queries, documents = model.encode_query(QUERIES), model.encode_document(DOCUMENTS)
    summed = model.similarity(queries, documents, length_normalize=False)
    np.testing.assert_allclose(model.similarity(queries, documents) * 12, summed, rtol=1e-6)


def test_maxsim_takes_packed_documents(model: MultiVectorEncoder) -> None:
    documents = model.encode_document(DOCUMENTS)
    offsets = np.cumsum([0, *map(len, documents)])
    query = model.encode_query(QUERIES[0])
    np.testing.assert_array_equal(fastattn.maxsim(query, np.concatenate(documents), offsets), model.similarity(query, documents)[0])


def test_encode_iter_has_the_bits_of_encode(model: MultiVectorEncoder) -> None:
    texts = DOCUMENTS * 3
    for options in ({}, {"task": "document"}, {"task": "query", "normalize_embeddings": True}, {"prompt": "a "}):
        expected = model.encode(texts, **options)
        counts = model.counts
        found = list(model.encode_iter((text for text in texts), batch_tokens=40, **options))
        assert model.counts == counts and len(found) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(TypeError, match="token_pooling must be a token pooling"):
        model.encode_iter(texts, token_pooling=3)
