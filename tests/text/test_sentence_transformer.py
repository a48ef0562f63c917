"""SentenceTransformer: embeddings by their definition, shapes, truncation, similarity, and types of results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer, reference
from tests.support.embedding import LEGACY, TEXTS, close, hidden_of, ids_of
from tests.support.models import WORDS, C, P, write_bert, write_json, write_sentence_model, write_tokenizer

pytestmark = pytest.mark.jit


def test_embeddings_follow_the_definition(folder: Path, model: SentenceTransformer) -> None:
    close(model.encode(TEXTS), np.stack([reference.pooling(hidden_of(folder, text), "mean") for text in TEXTS]))


@pytest.mark.parametrize("mode", LEGACY)
@pytest.mark.parametrize("legacy", [True, False])
def test_pooling(tmp_path: Path, mode: str, legacy: bool) -> None:
    chosen = {key: name == mode for name, key in LEGACY.items()} if legacy else {"pooling_mode": mode}
    model = SentenceTransformer(write_sentence_model(tmp_path, chosen))
    close(model.encode(TEXTS), np.stack([reference.pooling(hidden_of(tmp_path, text), mode) for text in TEXTS]))


def test_poolings_are_concatenated(tmp_path: Path) -> None:
    model = SentenceTransformer(write_sentence_model(tmp_path, {key: True for key in LEGACY.values()}, normalize=True))
    assert model.get_embedding_dimension() == 6 * C
    rows = [np.concatenate([reference.pooling(hidden_of(tmp_path, text), mode) for mode in LEGACY]) for text in TEXTS]
    close(model.encode(TEXTS), np.stack([row / np.linalg.norm(row) for row in rows]))


def test_normalize_module(tmp_path: Path, model: SentenceTransformer) -> None:
    normalized = SentenceTransformer(write_sentence_model(tmp_path, normalize=True)).encode(TEXTS)
    expected = model.encode(TEXTS)
    close(normalized, expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_plain_hugging_face_folder_gets_mean_pooling(tmp_path: Path, model: SentenceTransformer) -> None:
    write_tokenizer(write_bert(tmp_path))
    plain = SentenceTransformer(str(tmp_path))
    assert plain.max_seq_length == P
    assert np.array_equal(plain.encode(TEXTS), model.encode(TEXTS))


def test_transformer_in_its_own_folder(tmp_path: Path, model: SentenceTransformer) -> None:
    write_tokenizer(write_bert(tmp_path / "0_Transformer"))
    write_json(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 12})
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    names = {"Transformer": "0_Transformer", "Pooling": "1_Pooling"}
    write_json(tmp_path / "modules.json", [{"type": f"a.b.{kind}", "path": path} for kind, path in names.items()])
    assert np.array_equal(SentenceTransformer(tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_lower_case(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    assert not np.array_equal(SentenceTransformer(tmp_path).encode("A CAT"), SentenceTransformer(tmp_path).encode("a cat"))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": True})
    lower = SentenceTransformer(tmp_path)
    assert np.array_equal(lower.encode("A CAT"), lower.encode("a cat"))


def test_shapes(model: SentenceTransformer) -> None:
    assert model.encode("a cat").shape == (C,)
    assert model.encode(["a cat"]).shape == (1, C)
    assert model.encode("").shape == (C,)
    assert model.encode([""]).shape == (1, C)
    empty = model.encode([])
    assert empty.shape == (0, C)
    assert empty.dtype == np.float32


def test_inputs_of_any_kind(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    for inputs in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), (text for text in TEXTS)):
        assert np.array_equal(model.encode(inputs), expected)
    assert np.array_equal(model.encode(sentences=TEXTS), expected)
    assert np.array_equal(model.encode_query(sentences=TEXTS), expected)
    assert np.array_equal(model.encode_document(inputs=TEXTS), expected)


def test_long_texts_are_cut_and_counted(model: SentenceTransformer) -> None:
    long = "the cat sat on the mat a dog sat on a cat the dog"
    found = model.encode([long, "a cat", long])
    assert model.counts == (3, 12 + 4 + 12, 2)
    rows = model.tokenizer.rows([long], model.max_seq_length).ids
    assert [row.tolist() for row in rows] == [ids_of(long)]
    assert rows[0][-1] == WORDS.index("[SEP]")
    assert np.array_equal(found[0], model.encode(" ".join(long.split()[:10])))
    model.max_seq_length = 5
    assert np.array_equal(model.encode(long), model.encode("the cat sat"))


def test_texts_are_cut_on_the_left_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"truncation_side": "left"})
    model = SentenceTransformer(tmp_path)
    model.max_seq_length = 4
    assert np.array_equal(model.encode("the dog sat on a mat"), model.encode("a mat"))


def test_tokenizer_limit_where_the_model_has_none(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {})
    for limit, expected in ((9, 9), (10**30, P), (1e30, P)):
        write_json(tmp_path / "tokenizer_config.json", {"model_max_length": limit})
        assert SentenceTransformer(tmp_path).max_seq_length == expected


def test_normalize_and_truncate(model: SentenceTransformer) -> None:
    full = model.encode(TEXTS)
    short = model.encode(TEXTS, truncate_dim=8)
    assert np.array_equal(short, full[:, :8])
    close(model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True), short / np.linalg.norm(short, axis=1)[:, None])
    assert model.encode([], truncate_dim=8).shape == (0, 8)
    with model.truncate_embeddings(8):
        assert np.array_equal(model.encode(TEXTS), short)
        assert model.get_sentence_embedding_dimension() == 8
    assert np.array_equal(model.encode(TEXTS, truncate_dim=1000), full)
    assert model.get_embedding_dimension() == C


def test_truncate_dim_of_the_model(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(folder, truncate_dim=np.int64(4))  # type: ignore[arg-type]
    assert model.encode("a").shape == (4,)
    assert model.encode("a", truncate_dim=np.int32(3)).shape == (3,)  # type: ignore[arg-type]
    for value in (0, -1, True, 4.0, "4"):
        with pytest.raises(ValueError, match=f"truncate_dim must be a positive integer or None, got {value!r}"):
            model.truncate_dim = value  # type: ignore[assignment]
    model.save(str(tmp_path))
    assert SentenceTransformer(tmp_path).truncate_dim == 4
    model.truncate_dim = None
    assert model.encode("a").shape == (C,)


def test_similarity(folder: Path) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    definitions: dict[str, Callable[[Any, Any], float]] = {
        "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "dot": lambda x, y: x @ y,
        "euclidean": lambda x, y: -np.linalg.norm(x - y),
        "manhattan": lambda x, y: -np.abs(x - y).sum(),
    }
    for name, definition in definitions.items():
        model = SentenceTransformer(folder, similarity_fn_name=name)
        expected = np.array([[definition(x, y) for y in b] for x in a])
        np.testing.assert_allclose(model.similarity(a, b), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.similarity_pairwise(a, b), np.diag(expected), rtol=1e-5, atol=1e-6)
        assert model.similarity(a[0], b).shape == (1, 3)
        assert model.similarity_pairwise(a[0], b[0]).shape == ()
        for one, many in ((a[0], b), (a[:1], b), (b, a[0])):
            row, rows = (one, many) if one.size < many.size else (many, one)
            each = np.stack([model.similarity_pairwise(row.reshape(-1), other) for other in rows])
            np.testing.assert_allclose(model.similarity_pairwise(one, many), each, rtol=1e-6)
        with pytest.raises(ValueError, match=r"\(3, 7\) and \(3, 6\)"):
            model.similarity(a, b[:, :6])
    with pytest.raises(ValueError, match=r"similarity_fn_name must be one of cosine, .* got 'maxsim'"):
        SentenceTransformer(folder, similarity_fn_name="maxsim")


def test_torch_tensors(model: SentenceTransformer) -> None:
    torch = pytest.importorskip("torch")
    expected = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), expected)
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert all(np.array_equal(row.numpy(), vector) for row, vector in zip(rows, expected, strict=True))
    assert model.encode("a", convert_to_tensor=True).shape == (C,)
