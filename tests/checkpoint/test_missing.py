"""Folders that are no whole model: one message with everything that is missing, and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastattn import Encoder, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError
from tests.support.models import CONFIG, write_bert, write_json, write_sentence_model


def neither_type_nor_weights(folder: Path) -> None:
    write_bert(folder, model_type=None, architectures=["ElectraForPreTraining"])
    (folder / "model.safetensors").unlink()


def checkpoint_of_a_trainer(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.ckpt").touch()
    write_json(folder / "hf_text" / "config.json", CONFIG)


def only_onnx(folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").touch()
    (folder / "training_args.bin").touch()


CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "empty": (Path.mkdir, ["no model in this folder", "config.json: no such file", "no model.safetensors"]),
    "neither weights nor model_type": (
        neither_type_nor_weights,
        ["not a whole model", 'add the family, for example "model_type": "electra", to the file', "no model.safetensors"],
    ),
    "trainer": (
        checkpoint_of_a_trainer,
        ["config.json: no such file (there is hf_text/config.json", "not supported: model.ckpt: `fastattn convert "],
    ),
    "only ONNX": (only_onnx, ["config.json: no such file", "not supported: onnx/model.onnx: ONNX holds a program"]),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_in_one_message(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    write, expected = CASES[case]
    write(tmp_path / "model")
    for load in (Encoder.from_pretrained, SentenceTransformer):
        with pytest.raises((FileNotFoundError, CheckpointError)) as caught:
            load(tmp_path / "model")
        message = str(caught.value)
        assert [part for part in expected if part not in message] == [], message
        assert ("tokenizer.json: no such file" in message) == (load is SentenceTransformer)
        assert "save_pretrained" not in message


def test_one_fault_is_told_alone(tmp_path: Path) -> None:
    write_bert(tmp_path, model_type="gpt2")
    with pytest.raises(CheckpointError, match=r"^[^(]*config\.json: model_type 'gpt2' is not supported"):
        Encoder.from_pretrained(tmp_path)


def test_model_type_that_is_missing_is_named_after_the_architecture(tmp_path: Path) -> None:
    write_bert(tmp_path, model_type=None, architectures=["XLMRobertaModel"])
    with pytest.raises(CheckpointError, match='"model_type": "xlm-roberta"'):
        Encoder.from_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**content, "architectures": None})
    with pytest.raises(CheckpointError, match='"model_type": "bert"'):
        Encoder.from_pretrained(tmp_path)


def test_a_link_without_its_file(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "blobs" / "removed")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: links to a file that is missing: download the model again"):
        SentenceTransformer(folder)
