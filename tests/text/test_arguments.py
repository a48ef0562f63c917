"""Arguments of the constructor and of encode: accepted for compatibility, or refused with a message."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from tests.support.embedding import TEXTS
from tests.support.models import P

pytestmark = pytest.mark.jit


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", 3], r"inputs\[1\] must be a str or a pair of str, got int"),
        (["a", None], r"inputs\[1\] must be a str or a pair of str, got NoneType, perhaps a missing value"),
        ([("a", "b"), "c"], r"inputs\[1\] must be a pair of str, as inputs\[0\] is, got str"),
        ([b"a"], r"inputs\[0\] must be a str or a pair of str, got bytes"),
        (b"a", "inputs must be a str or a list of str, got bytes"),
        ({"a": 1}, r"inputs\[0\] must be a str, a pair of str or {\"text\": ...}, got dict with keys 'a'"),
        (None, "inputs must be a str or a list of str, got NoneType"),
        (3.5, "inputs must be a str or a list of str, got float"),
    ],
)
def test_texts_that_are_not_str(model: SentenceTransformer, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"colour": "red"}, "encode has no argument colour$"),
        ({"normalise": True}, r"encode has no argument normalise; did you mean normalize_embeddings\?"),
        ({"batchsize": 3}, r"encode has no argument batchsize; did you mean batch_size\?"),
        ({"output_value": "hidden"}, "output_value must be one of 'sentence_embedding', 'token_embeddings', None, got 'hidden'"),
        ({"output_value": None, "precision": "int8"}, "precision must be float32 where output_value is None, got 'int8'"),
        ({"precision": "float16"}, "precision must be one of float32, int8, .* got 'float16'"),
        ({"device": "cuda"}, "device must be None or \"cpu\", got 'cuda'"),
        ({"device": ["cpu", "cuda:1"]}, "device must be None or \"cpu\", got 'cuda:1'"),
        ({"pool": {}}, "pool must be what start_multi_process_pool returned, and not stopped"),
        ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
        ({"truncate_dim": 0}, "truncate_dim must be a positive integer or None, got 0"),
        ({"prompt_name": "haiku"}, "there is no prompt 'haiku'; prompts: query, document"),
    ],
)
def test_arguments_of_encode(model: SentenceTransformer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)


@pytest.mark.parametrize("name", ["batch_size", "chunk_size"])
@pytest.mark.parametrize("size", [1.5, 32.0, "32", [8], np.float32(8)])
def test_sizes_that_are_no_integers(model: SentenceTransformer, name: str, size: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a positive integer, got {re.escape(repr(size))}"):
        model.encode(["a"], **{name: size})


def test_batch_size_has_no_default_of_none(model: SentenceTransformer) -> None:
    with pytest.raises(TypeError, match="batch_size must be a positive integer, got None"):
        model.encode(["a"], batch_size=None)  # type: ignore[arg-type]


def test_compatible_arguments(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, device="cpu", chunk_size=3, task="query", batch_size=1), expected)
    assert np.array_equal(model.encode(TEXTS, batch_size=np.int64(2)), expected)


@pytest.mark.parametrize("options", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_tensors_without_torch(model: SentenceTransformer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    counts = model.counts
    with pytest.raises(ImportError, match=re.escape("tensors need torch: pip install 'fastattn[torch]'")):
        model.encode(TEXTS, **options)
    assert model.counts is counts  # no forward ran


@pytest.mark.parametrize("value", [1, P + 1, 0, -1, 3.5, "12", None])
def test_max_seq_length(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"max_seq_length must be an integer from 2 to {P}, got {value!r}"):
        model.max_seq_length = value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:0"}, 'device must be None or "cpu"'),
        ({"backend": "onnx"}, r'backend must be "torch" \(its default; torch is not used\), got \'onnx\''),
        (
            {"model_kwargs": {"torch_dtype": "float8"}},
            "model_kwargs: torch_dtype must be float32, bfloat16, float16 or \"auto\", got 'float8'",
        ),
        ({"model_kwargs": {"provider": "cpu"}}, "model_kwargs: provider is not supported; supported: dtype, cache_dir"),
        ({"processor_kwargs": {"add_eos": True}}, "processor_kwargs: add_eos is not supported; supported: do_lower_case"),
        ({"tokenizer_kwargs": {"truncation_side": "up"}}, 'truncation_side must be "left" or "right", got \'up\''),
        ({"config_kwargs": {"num_labels": 2}}, "config_kwargs: num_labels is not supported"),
        ({"token": "a", "use_auth_token": "b"}, "token and use_auth_token are the same"),
        ({"truncate_dim": -3}, "truncate_dim must be a positive integer"),
        ({"truncate_dim": True}, "truncate_dim must be a positive integer or None, got True"),
        ({"default_prompt_name": "haiku"}, "there is no prompt 'haiku'"),
    ],
)
def test_arguments_of_the_constructor(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ["a"]}, "prompts must be a mapping or None, got list"),
        ({"prompts": {"query": 5}}, r"prompts\['query'\] must be a str or None, got int"),
        ({"prompts": {1: "a"}}, "prompts: a name must be a str, got 1"),
        ({"model_kwargs": [1]}, "model_kwargs must be a mapping or None, got list"),
        ({"processor_kwargs": "a"}, "processor_kwargs must be a mapping or None, got str"),
        ({"config_kwargs": [1]}, "config_kwargs must be a mapping or None, got list"),
    ],
)
@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
def test_types_of_arguments_of_the_constructor(folder: Path, kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        kind(folder, **options)
