"""Faults in a model folder: each message names the file."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError
from tests.support.models import write_json, write_sentence_model

pytestmark = pytest.mark.jit


def edit_modules(folder: Path, *kinds: str) -> None:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    write_json(folder / "modules.json", [{"type": f"x.{kind}", "path": paths.get(kind, "2_X")} for kind in kinds])


def write_settings(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "config_sentence_transformers.json", content)


def write_config(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text("utf-8")), **content})


def write_module(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", content)


FAULTS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "unknown module": (
        lambda p: edit_modules(p, "Transformer", "Pooling", "LSTM"),
        CheckpointError,
        r"modules\.json: module 'LSTM' is not supported; supported: Transformer, StaticEmbedding, Pooling, Dense",
    ),
    "modules out of order": (
        lambda p: edit_modules(p, "Pooling", "Transformer"),
        CheckpointError,
        r"modules Pooling, Transformer; expected exactly one Transformer or StaticEmbedding, as the first module",
    ),
    "no pooling": (lambda p: edit_modules(p, "Transformer"), CheckpointError, "modules Transformer give a text no embedding"),
    "unknown pooling": (
        lambda p: write_json(p / "1_Pooling" / "config.json", {"pooling_mode": "median"}),
        CheckpointError,
        r"1_Pooling/config\.json: pooling \['median'\] is not supported; supported: cls, max",
    ),
    "pooling file missing": (
        lambda p: (p / "1_Pooling" / "config.json").unlink(),
        FileNotFoundError,
        r"1_Pooling/config\.json: no such file",
    ),
    "pooling file is a list": (
        lambda p: write_json(p / "1_Pooling" / "config.json", []),
        CheckpointError,
        "expected a JSON object, found list",
    ),
    "no tokenizer": (
        lambda p: (p / "tokenizer.json").unlink(),
        FileNotFoundError,
        r"tokenizer\.json: no such file; nor a vocabulary",
    ),
    "tokenizer is not JSON": (
        lambda p: (p / "tokenizer.json").write_text("{"),
        CheckpointError,
        r"tokenizer\.json: not a tokenizer",
    ),
    "tokenizer is something else": (
        lambda p: write_json(p / "tokenizer.json", {"a": 1}),
        CheckpointError,
        r"tokenizer\.json: not a tokenizer",
    ),
    "query expansion": (
        lambda p: write_json(p / "sentence_bert_config.json", {"query_expansion": {"length": 32}}),
        CheckpointError,
        r"sentence_bert_config\.json: query_expansion: strategy must be",
    ),
    "no room for a token": (
        lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": 1}),
        ValueError,
        "max_seq_length must be an integer from 2",
    ),
    "max_seq_length is text": (
        lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": "12"}),
        CheckpointError,
        r"sentence_bert_config\.json: max_seq_length must be a positive number, found '12'",
    ),
    "settings damaged": (
        lambda p: (p / "config_sentence_transformers.json").write_text("nope"),
        CheckpointError,
        r"config_sentence_transformers\.json: not a JSON file",
    ),
    "prompts damaged": (
        lambda p: write_json(p / "config_sentence_transformers.json", {"prompts": {"query": 3}}),
        CheckpointError,
        "prompts must map names to texts",
    ),
    **{
        f"similarity {value!r}": (
            functools.partial(write_settings, {"similarity_fn_name": value}),
            CheckpointError,
            rf"similarity_fn_name must be one of cosine, .*, got {re.escape(repr(value))}",
        )
        for value in ("euclid", ["cosine"], 3)
    },
    **{
        f"{name} {value!r}": (
            functools.partial(write_settings, {name: value}),
            CheckpointError,
            rf"config_sentence_transformers\.json: {name} must .*, found {re.escape(repr(value))}",
        )
        for name, values in (
            ("prompts", (["x"], [], "query", 0, False, {"query": ["x"]})),
            ("default_prompt_name", (["x"], {}, {"a": 1}, 5, True)),
            ("truncate_dim", (-5, 0, True, False, 8.0, "8", [8])),
        )
        for value in values
    },
    **{
        f"{name} {value!r:.20}": (functools.partial(write_config, {name: value}), CheckpointError, rf"config\.json: {message}")
        for name, values, message in (
            ("id2label", ([1], "x", 5, {"a": "b"}, {"0": []}, {"0": {"a": 1}}), "id2label must map numbers to names"),
            ("num_labels", ("x", -1, 2.5, 2**70, True), "num_labels must be a whole number from 0 to 1,000,000"),
        )
        for value in values
    },
    **{
        f"{name} {value!r}": (functools.partial(write_module, {name: value}), CheckpointError, rf"bert_config\.json: {message}")
        for name, values, message in (
            ("transformer_task", ([], {}, 3, "any-to-any", None), "transformer_task .* is not supported; supported: feature-ext"),
            ("modality_config", ([1], "x", 5), "modality_config must be an object"),
            ("max_seq_length", (True, [[]], "12", 0), "max_seq_length must be a positive number"),
        )
        for value in values
    },
    "a default prompt that is none": (
        functools.partial(write_settings, {"default_prompt_name": "haiku"}),
        CheckpointError,
        "default_prompt_name: there is no prompt 'haiku'; prompts: query, document",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_folder(tmp_path: Path, fault: str) -> None:
    damage, kind, message = FAULTS[fault]
    damage(write_sentence_model(tmp_path))
    with pytest.raises(kind, match=message):
        SentenceTransformer(tmp_path)


def test_tokenizer_with_more_words_than_the_model(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["zebra"] = 77
    write_json(tmp_path / "tokenizer.json", content)
    model = SentenceTransformer(tmp_path)
    with pytest.raises(ValueError, match=r"token id 77 \('zebra'\), and the model has 40 words, ids 0 \.\. 39"):
        model.encode("a zebra")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        SentenceTransformer(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file: not a model folder but a file"):
        SentenceTransformer(tmp_path / "file")
    with pytest.raises(TypeError, match="a name or a folder, got int"):
        SentenceTransformer(3)  # type: ignore[arg-type]
