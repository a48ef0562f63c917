"""preprocess, forward and the other values of output_value: token ids and each module's features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from tests.support.models import C, write_typed_tokenizer
from tests.support.peer_cases import TEXTS, pooling, write_model

pytestmark = pytest.mark.jit


def test_tokens_and_everything(tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path, pooling("mean"), ("Normalize", {})))
    tokens = model.encode(TEXTS, output_value="token_embeddings")
    everything = model.encode(TEXTS, output_value=None, prompt="a ")
    assert [len(rows) for rows in tokens] == [len(model.tokenizer.encode(text, truncation=True)) for text in TEXTS]
    assert all(rows.base is None for rows in tokens)  # no array is a view that keeps the others alive
    for text, found in zip(TEXTS, everything, strict=True):
        assert list(found) == [
            *("input_ids", "attention_mask", "modality", "prompt_length", "token_embeddings"),
            "sentence_embedding",
        ]
        ids = model.tokenizer.encode("a " + text, truncation=True)
        assert found["input_ids"].tolist() == ids
        assert found["token_embeddings"].shape == (len(ids), C)
    single = model.encode(TEXTS[0], output_value="token_embeddings")
    assert np.array_equal(single, tokens[0])
    assert isinstance(model.encode(TEXTS[0], output_value=None), dict)
    levels = model.encode(TEXTS, output_value="token_embeddings", precision="uint8")
    assert [level.shape for level in levels] == [rows.shape for rows in tokens]
    assert all(level.dtype == np.uint8 for level in levels)


def test_forward_of_a_padded_batch(tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path, pooling("mean"), ("Normalize", {})))
    batch = model.preprocess(TEXTS)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(TEXTS), 12)
    found = model(batch)
    np.testing.assert_allclose(found["sentence_embedding"], model.encode(TEXTS), atol=1e-6)
    padded = batch["attention_mask"] == 0
    assert padded.any()
    assert not found["token_embeddings"][padded].any()
    assert np.array_equal(model.forward({**batch, "attention_mask": ~padded})["token_embeddings"], found["token_embeddings"])
    assert model.tokenize(TEXTS)["input_ids"].tolist() == batch["input_ids"].tolist()
    assert model.preprocess([]) == {}
    additive = np.where(padded, -np.inf, 0).astype(np.float32)
    with pytest.raises(ValueError, match=r"attention_mask must hold bool or 0 and 1 \(1 is a real token\), got float32"):
        model({**batch, "attention_mask": additive})
    with pytest.raises(ValueError, match="input must have input_ids, got attention_mask"):
        model({"attention_mask": additive})
    for shape in ((1, 12), (len(TEXTS),), (), (len(TEXTS), 12, 1)):
        with pytest.raises(ValueError, match=rf"token_type_ids must have shape \({len(TEXTS)}, 12\), got "):
            model({**batch, "token_type_ids": np.zeros(shape, int)})
    for dtype in (float, bool, object):
        with pytest.raises(TypeError, match=f"input_ids must be whole numbers, got {np.dtype(dtype)}"):
            model({**batch, "input_ids": batch["input_ids"].astype(dtype)})
    for length in (np.inf, 1.5, "x", None, np.array([1, 2])):
        with pytest.raises(TypeError, match="prompt_length must be a whole number, got "):
            model({**batch, "prompt_length": length})
    with pytest.raises(ValueError, match="prompt_length must be at least 0, got -3"):
        model({**batch, "prompt_length": -3})
    model.set_pooling_include_prompt(False)
    skipped = model({**batch, "prompt_length": 2})["sentence_embedding"]
    assert np.array_equal(model({**batch, "prompt_length": np.int64(2)})["sentence_embedding"], skipped)
    assert not np.array_equal(found["sentence_embedding"], skipped)
    with pytest.raises(ValueError, match="preprocess has no argument colour"):
        model.preprocess(TEXTS, colour=1)


def test_token_types_of_single_texts(tmp_path: Path) -> None:
    plain = SentenceTransformer(write_model(tmp_path, pooling("mean"))).encode(TEXTS)
    write_typed_tokenizer(tmp_path, model_max_length=12)
    model = SentenceTransformer(tmp_path)
    batch = model.preprocess(TEXTS)
    expected = model.tokenizer(TEXTS, truncation=True, padding=True)
    assert batch["token_type_ids"].tolist() == expected["token_type_ids"]
    found = model.encode(TEXTS)
    np.testing.assert_allclose(found, model(batch)["sentence_embedding"], atol=1e-6)
    assert not np.allclose(found, plain, atol=1e-3)
    for text, every in zip(TEXTS, model.encode(TEXTS, output_value=None), strict=True):
        assert every["token_type_ids"].tolist() == model.tokenizer(text, truncation=True)["token_type_ids"]
    model.tokenizer.model_input_names.remove("token_type_ids")
    assert np.array_equal(model.encode(TEXTS), plain)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("a", "b"), "cd"], r"inputs\[1\] must be a pair of str, as inputs\[0\] is, got str"),
        (["ab", "c", ("d", "e")], r"inputs\[2\] must be a str, as inputs\[0\] is, got tuple"),
        ([("a", "b", "c")], r"inputs\[0\] must be a str or a pair of str, got tuple of 3"),
        (["a", ("a",)], r"inputs\[1\] must be a str or a pair of str, got tuple of 1"),
        ([()], r"inputs\[0\] must be a str or a pair of str, got tuple of 0"),
        ([{"a": 1}], r"inputs\[0\] must be a str, a pair of str or {\"text\": ...}, got dict with keys 'a'"),
        ([("a", None)], r"inputs\[0\]\[1\] must be a str, got NoneType"),
        ([3], r"inputs\[0\] must be a str or a pair of str, got int"),
    ],
)
def test_what_cannot_be_preprocessed(inputs: Any, message: str, tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path, pooling("mean")))
    for call in (model.preprocess, model.tokenize):
        with pytest.raises(TypeError, match=message):
            call(inputs)


def test_a_bad_prompt_that_pooling_leaves_out(tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path, pooling("mean", include_prompt=False)))
    with pytest.raises(ValueError, match="prompt is not valid Unicode: it holds half a surrogate pair"):
        model.encode("a", prompt="\ud800")
