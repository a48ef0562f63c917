"""Prompts: by name, of the model, of queries and documents, and left out of pooling."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer, reference
from tests.support.embedding import LEGACY, close, hidden_of
from tests.support.models import write_json, write_sentence_model

pytestmark = pytest.mark.jit


def test_prompts(folder: Path, tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    prompts = {"query": "query: ", "passage": "a ", "none": None}
    write_json(tmp_path / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "passage"})
    plain, model = SentenceTransformer(folder), SentenceTransformer(tmp_path)
    text = "cat sat"
    expected = {prompt: plain.encode(prompt + text) for prompt in ("", "query: ", "a ", "the ")}
    for found, prompt in (
        (model.encode(text), "a "),
        (model.encode(text, prompt_name="query"), "query: "),
        (model.encode(text, "query"), "query: "),
        (model.encode(text, prompt="the "), "the "),
        (model.encode(text, prompt_name="query", prompt="the "), "the "),
        (model.encode(text, prompt=""), ""),
        (model.encode(text, prompt_name="none"), ""),
        (model.encode_query(text), "query: "),
        (model.encode_document(text), ""),
        (SentenceTransformer(tmp_path, prompts={"query": "the "}).encode_query(text), "the "),
        (SentenceTransformer(tmp_path, default_prompt_name="query").encode(text), "query: "),
    ):
        assert np.array_equal(found, expected[prompt]), prompt


@pytest.mark.parametrize("mode", LEGACY)
def test_prompt_left_out_of_pooling(tmp_path: Path, mode: str) -> None:
    write_sentence_model(tmp_path, {"pooling_mode": mode, "include_prompt": False})
    found = SentenceTransformer(tmp_path).encode(["cat sat", ""], prompt="query: ")
    for row, text in zip(found, ["query: cat sat", "query: "], strict=True):
        hidden = hidden_of(tmp_path, text)
        kept = hidden[3:]  # without [CLS] query :
        if mode == "weightedmean":
            weights = np.arange(4, len(hidden) + 1)
            close(row, (weights[:, None] * kept).sum(axis=0) / weights.sum())
        else:
            close(row, reference.pooling(kept, mode))


def test_encode_query_calls_the_encode_of_a_subclass(folder: Path) -> None:
    class Loud(SentenceTransformer):
        def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return inputs, args, kwargs

    model = Loud(folder, prompts={"query": "q: ", "passage": "p: "})
    del model.prompts["document"]
    assert model.encode_query("a", batch_size=2) == ("a", (), {"prompt_name": "query", "task": "query", "batch_size": 2})
    assert model.encode_document(sentences="a") == ("a", (), {"prompt_name": "passage", "task": "document"})
    options = {"prompt_name": None, "prompt": "mine", "batch_size": 5, "task": "query"}
    assert model.encode_query("a", None, "mine", 5) == ("a", (), options)


def test_encode_query_has_the_signature_and_the_docstring_of_encode() -> None:
    parameters = inspect.cleandoc(str(SentenceTransformer.encode.__doc__)).partition("\n")[2]
    for name, summary in (("encode_query", "Embed queries.\n"), ("encode_document", "Embed documents.\n")):
        method = getattr(SentenceTransformer, name)
        assert inspect.signature(method) == inspect.signature(SentenceTransformer.encode)
        assert (method.__name__, method.__qualname__) == (name, f"SentenceTransformer.{name}")
        assert method.__doc__.startswith(summary) and method.__doc__.endswith(parameters) and "Parameters\n" in parameters
