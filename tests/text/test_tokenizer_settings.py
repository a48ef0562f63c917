"""Settings of the tokenizer in sentence_bert_config.json and in processor_kwargs: each acts, or is refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.modules import Transformer
from tests.support.models import V, bert_tensors, write_bert, write_json, write_sentence_model
from tests.support.tokenizer_folders import write_folder

CASED = "BertTokenizer, bert, vocab.txt: lower"


def write_model(folder: Path, case: str = CASED, **settings: Any) -> Path:
    """Write a sentence-transformers folder with the tokenizer of a case, whose ids the model's table has."""
    write_sentence_model(folder)
    (folder / "tokenizer.json").unlink()
    write_folder(folder, case)
    vocab = (folder / "vocab.txt").read_text("utf-8").split("\n")[:V]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    write_bert(folder)
    if settings:
        write_json(folder / "sentence_bert_config.json", settings)
    return folder


def tokens(model: Any, text: str = "Hello World") -> Any:
    return model.tokenizer.tokenize(text)


@pytest.mark.parametrize("name", ["processor_kwargs", "tokenizer_kwargs"])
def test_a_given_case(name: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    kwargs: dict[str, Any] = {name: {"do_lower_case": False}}
    assert tokens(SentenceTransformer(tmp_path)) == ["hello", "world"]
    assert tokens(SentenceTransformer(tmp_path, **kwargs)) == ["Hello", "[UNK]"]
    assert tokens(Transformer(tmp_path, processor_kwargs={"do_lower_case": False})) == ["Hello", "[UNK]"]


def test_a_given_case_of_a_cross_encoder(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "modules.json").unlink()
    tensors = {"classifier.weight": np.zeros((1, 32), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    write_bert(tmp_path, {**bert_tensors(), **tensors}, num_labels=1)
    assert tokens(CrossEncoder(tmp_path, tokenizer_kwargs={"do_lower_case": False})) == ["Hello", "[UNK]"]


@pytest.mark.parametrize("name", ["processor_kwargs", "tokenizer_args"])
def test_arguments_in_the_file(name: str, tmp_path: Path) -> None:
    arguments = {"model_max_length": 9, "do_lower_case": False, "truncation_side": "left"}
    write_model(tmp_path, max_seq_length=12, **{name: arguments})
    model = SentenceTransformer(tmp_path)
    assert (model.max_seq_length, model.tokenizer.truncation_side, tokens(model)) == (9, "left", ["Hello", "[UNK]"])
    given = SentenceTransformer(tmp_path, processor_kwargs={"do_lower_case": True, "model_max_length": 8})
    assert (given.max_seq_length, tokens(given)) == (8, ["hello", "world"])
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(tmp_path / "saved")
    assert (again.max_seq_length, again.tokenizer.truncation_side, tokens(again)) == (9, "left", ["Hello", "[UNK]"])


def test_loading_options_in_the_file(tmp_path: Path) -> None:
    """Options that change no result are accepted, and so is a type of the weights: the computation is in float32."""
    options = {"attn_implementation": "sdpa", "trust_remote_code": True, "torch_dtype": "float16"}
    write_model(tmp_path, max_seq_length=12, model_args=options, config_args={"trust_remote_code": True}, processor_kwargs={})
    assert SentenceTransformer(tmp_path).max_seq_length == 12


TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


def test_an_output_that_is_the_default(tmp_path: Path) -> None:
    write_model(
        tmp_path, max_seq_length=12, modality_config={"text": TEXT}, module_output_name="token_embeddings", unpad_inputs=False
    )
    assert SentenceTransformer(tmp_path).max_seq_length == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config_kwargs": {"num_hidden_layers": 1}}, "config_kwargs: num_hidden_layers is not supported"),
        ({"config_args": {"hidden_act": "relu"}}, "config_kwargs: hidden_act is not supported"),
        ({"model_kwargs": {"num_labels": 3}}, "model_kwargs: num_labels is not supported"),
        ({"model_args": {"subfolder": "x"}}, "model_kwargs: subfolder is not supported"),
        ({"tokenizer_args": {"pad_token": "x"}}, "processor_kwargs: pad_token is not supported"),
        ({"processor_kwargs": {"do_lower_case": "no"}}, "processor_kwargs: do_lower_case must be True or False, got 'no'"),
        ({"processor_kwargs": {"truncation_side": "up"}}, "processor_kwargs: truncation_side must be"),
        ({"processor_kwargs": {"model_max_length": -1}}, "must be a positive number, found -1"),
        ({"processor_kwargs": [1]}, "processor_kwargs must be a mapping"),
        ({"processing_kwargs": {"text": {"padding": True}}}, "processing_kwargs .* is not supported"),
        ({"tokenizer_name_or_path": "another"}, "tokenizer_name_or_path 'another' is not supported"),
        ({"modality_config": {"image": TEXT}}, "modality_config with text None is not supported"),
        ({"modality_config": {"text": {**TEXT, "method_output_name": "pooler_output"}}}, "pooler_output"),
    ],
)
def test_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_model(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=rf"sentence_bert_config\.json: .*{message}"):
        SentenceTransformer(tmp_path)


def test_no_modules(tmp_path: Path) -> None:
    """A folder without modules.json comes from transformers: the settings of sentence-transformers do not hold."""
    write_model(tmp_path, max_seq_length=9, do_lower_case=False)
    (tmp_path / "modules.json").unlink()
    model = SentenceTransformer(tmp_path)
    assert model.max_seq_length == 24
    assert Transformer(tmp_path).max_seq_length == 9
    assert SentenceTransformer(tmp_path, processor_kwargs={"model_max_length": 7}).max_seq_length == 7


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model in this folder: .*config\.json: no such file"):
        SentenceTransformer(tmp_path)


def test_a_given_case_of_modules(tmp_path: Path) -> None:
    modules = list(SentenceTransformer(write_model(tmp_path)))
    with pytest.raises(ValueError, match="processor_kwargs: do_lower_case needs a folder"):
        SentenceTransformer(modules=modules, processor_kwargs={"do_lower_case": False})


def test_far_fewer_tokens_than_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path)
    with caplog.at_level(logging.WARNING):
        SentenceTransformer(tmp_path)
    assert not caplog.text
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with caplog.at_level(logging.WARNING):
        SentenceTransformer(tmp_path)
    assert f"its tokenizer has 5 tokens, and its model {V}" in caplog.text
