"""`fastattn check`: it says what loading says, and reads the headers of an encoder's weights only."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, Encoder, MultiVectorEncoder, SentenceTransformer
from fastattn.checkpoint import weights
from fastattn.cli.check import check_model
from tests.support import late_interaction, sparse_cases
from tests.support.command_line import run
from tests.support.golden_models import FAMILIES, GOLDEN
from tests.support.models import V, bert_tensors, write_bert, write_json, write_safetensors, write_sentence_model, write_tokenizer
from tests.support.peer_cases import write_cross_encoder

STATIC = Path(__file__).parents[1] / "data" / "static"
ALL = ["float32", "bfloat16", "int8"]
HEADS = {
    "pooler": "EncoderWithPooler",
    "sequence-classification": "EncoderForSequenceClassification",
    "token-classification": "EncoderForTokenClassification",
    "masked-lm": "EncoderForMaskedLM",
    "projection": "EncoderWithProjection",
}


def golden(family: str, folder: Path) -> Path:
    """A family's golden model with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / family / name, folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def no_numbers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let a test fail that reads the numbers of a model's weights; Dense and adapters are read as a whole."""
    if "reads" in request.fixturenames:
        return

    def refused(*args: Any) -> Any:
        raise AssertionError("numbers were read")

    monkeypatch.setattr(weights, "_float32", refused)


@pytest.fixture
def reads() -> None:
    """Let a test read weights."""


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    report = check_model(str(golden(family, tmp_path)))
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    is_classifier = str(content.get("architectures")).endswith("ForSequenceClassification']")
    assert report["loads"] and report["precisions"] == ALL and report["family"] == content["model_type"]
    kind, modules = ("CrossEncoder", ["Transformer"]) if is_classifier else ("SentenceTransformer", ["Transformer", "Pooling"])
    assert report["as"] == kind and report["modules"] == modules
    with np.load(GOLDEN / family / "outputs.npz") as file:
        tasks = {name.split(".")[0] for name in file.files}
    assert report["also"][0] == "Encoder" and {name for task, name in HEADS.items() if task in tasks} <= set(report["also"])
    if not is_classifier:
        assert report["width"] == content.get("hidden_size", report["width"])


def test_sentence_model(tmp_path: Path) -> None:
    report = check_model(str(write_sentence_model(tmp_path, normalize=True)))
    assert report["modules"] == ["Transformer", "Pooling", "Normalize"] and report["width"] == 32
    assert report["also"] == ["Encoder", "EncoderWithPooler"]


def test_reranker(tmp_path: Path) -> None:
    report = check_model(str(write_cross_encoder(tmp_path, 3)))
    assert report["loads"] and report["as"] == "CrossEncoder" and report["width"] == 3, report


@pytest.mark.parametrize("name", ["whole", "truncated", "model2vec", "model2vec-reduced"])
def test_static(name: str, tmp_path: Path, reads: None) -> None:
    report = check_model(str(STATIC / name))
    assert report["loads"] and report["modules"][0] == "StaticEmbedding" and report["width"] == 19 and report["precisions"] == ALL
    shutil.copytree(STATIC / name, tmp_path / "bare")
    (tmp_path / "bare" / "modules.json").unlink()
    assert check_model(str(tmp_path / "bare"))["loads"] == name.startswith("model2vec")


def spoiled_config(**changes: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text("utf-8"))
        write_json(folder / "config.json", {**content, **changes})

    return spoil


def spoiled_tensor(name: str, array: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        found = {**bert_tensors(), name: array}
        write_safetensors(folder / "model.safetensors", {key: value for key, value in found.items() if value is not None})

    return spoil


FAULTS: dict[str, Callable[[Path], Any]] = {
    "another family": spoiled_config(model_type="llama"),
    "code in the folder": spoiled_config(model_type="other", auto_map={"AutoModel": "model.Other"}),
    "another activation": spoiled_config(hidden_act="snake"),
    "quantised weights": spoiled_config(quantization_config={"bits": 4}),
    "no config": lambda p: (p / "config.json").unlink(),
    "no weights": lambda p: (p / "model.safetensors").unlink(),
    "no tokenizer": lambda p: (p / "tokenizer.json").unlink(),
    "a tensor that is missing": spoiled_tensor("encoder.layer.1.output.dense.bias", None),
    "a tensor of another shape": spoiled_tensor("encoder.layer.1.output.dense.bias", np.zeros(3, np.float32)),
    "a tensor too many": spoiled_tensor("encoder.layer.1.output.gate.weight", np.zeros(3, np.float32)),
    "truncated weights": lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-8]),
    "unknown module": lambda p: write_json(p / "modules.json", [{"type": "x.Transformer"}, {"type": "x.LSTM", "path": "1"}]),
    "no pooling": lambda p: write_json(p / "modules.json", [{"type": "x.Transformer", "path": ""}]),
    "another width": lambda p: write_json(p / "1_Pooling" / "config.json", {"word_embedding_dimension": 5}),
    "classes": spoiled_config(id2label={"0": []}),
    "length": lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": True}),
    "less than the special tokens": lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": 1}),
    "side of truncation": lambda p: write_json(
        p / "sentence_bert_config.json", {"processor_kwargs": {"truncation_side": "middle"}}
    ),
    "lengths by task": lambda p: write_json(p / "sentence_bert_config.json", {"query_length": 8}),
    "default prompt": lambda p: write_json(p / "config_sentence_transformers.json", {"default_prompt_name": "x"}),
    "task": lambda p: write_json(p / "sentence_bert_config.json", {"transformer_task": []}),
    "modules of a static embedding": lambda p: (
        shutil.copytree(STATIC / "model2vec-reduced", p, dirs_exist_ok=True), write_json(p / "modules.json", []),
    ),
    "similarity": lambda p: write_json(p / "config_sentence_transformers.json", {"similarity_fn_name": "euclid"}),
    "prompts": lambda p: write_json(p / "config_sentence_transformers.json", {"prompts": 3}),
    "a pickle of code": lambda p: (
        (p / "model.safetensors").unlink(),
        (p / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_those_of_loading(fault: str, tmp_path: Path, reads: None) -> None:
    FAULTS[fault](write_sentence_model(tmp_path))
    with pytest.raises((OSError, ValueError)) as caught:
        SentenceTransformer(tmp_path)
    report = check_model(str(tmp_path))
    assert report["problem"] == " ".join(str(caught.value).split())
    assert not report["loads"] and report["advice"] and "as" not in report


def test_other_kinds_and_heads(tmp_path: Path, reads: None) -> None:
    folder = write_sentence_model(tmp_path / "other")
    write_json(folder / "config_sentence_transformers.json", {"model_type": "TimeSeriesEncoder"})
    assert "a model of type 'TimeSeriesEncoder' is not supported; supported: Sent" in check_model(str(folder))["problem"]
    write_json(write_bert(tmp_path / "headless", architectures=["BertForSequenceClassification"]) / "tokenizer_config.json", {})
    write_tokenizer(tmp_path / "headless")
    with pytest.raises(ValueError, match="there is no head") as caught:
        CrossEncoder(str(tmp_path / "headless"))
    assert check_model(str(tmp_path / "headless"))["problem"] == str(caught.value)
    assert Encoder.from_pretrained(tmp_path / "headless").config.num_layers == 2


def test_settings_of_heads(tmp_path: Path, reads: None) -> None:
    """What only a head reads keeps no encoder from being loaded."""
    folder = golden("modernbert", tmp_path)
    spoiled_config(classifier_pooling=["a"])(folder)
    report = check_model(str(folder))
    assert SentenceTransformer(folder).get_embedding_dimension() == report["width"] and report["also"] == ["Encoder"], report


@pytest.mark.parametrize("name", ["max", "settings", "an older name"])
def test_sparse(name: str, tmp_path: Path) -> None:
    report = check_model(str(sparse_cases.MODELS[name](tmp_path)))
    assert report["loads"] and report["as"] == "SparseEncoder" and report["modules"] == ["Transformer", "SpladePooling"], report
    assert report["width"] == V and report["family"] == "bert" and report["also"] == ["Encoder", "EncoderForMaskedLM"]


def test_router(tmp_path: Path, reads: None) -> None:
    report = check_model(str(sparse_cases.write_router(tmp_path)))
    assert report["loads"] and report["as"] == "SparseEncoder" and report["modules"] == ["Router"], report


def test_a_reranker_of_words(tmp_path: Path, reads: None) -> None:
    folder = golden("qwen3", tmp_path)
    spoiled_config(architectures=["Qwen3ForCausalLM"])(folder)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    with pytest.raises(ValueError, match="its tokenizer has no token 'yes'") as caught:
        CrossEncoder(str(folder))
    assert check_model(str(folder))["problem"] == " ".join(str(caught.value).split())


@pytest.mark.parametrize("case", late_interaction.CASES)
def test_late_interaction(case: str, tmp_path: Path, reads: None) -> None:
    """Folders of each library, as `MultiVectorEncoder` loads them; those of PyLate and Stanford may name no kind."""
    late_interaction.CASES[case].write(tmp_path)
    report = check_model(str(tmp_path))
    assert report["loads"] and report["as"] == "MultiVectorEncoder", report
    assert report["width"] == MultiVectorEncoder(tmp_path).get_embedding_dimension() == late_interaction.D


def test_advice_of_a_known_family(tmp_path: Path) -> None:
    """A folder whose own code is not needed is repaired; another one is not the answer."""
    folder = golden("neobert", tmp_path)
    (folder / "tokenizer.json").unlink()
    assert json.loads((folder / "config.json").read_text("utf-8"))["auto_map"]
    assert "repair what is named" in check_model(str(folder))["advice"]


def test_advice(tmp_path: Path) -> None:
    FAULTS["code in the folder"](write_sentence_model(tmp_path))
    assert "brings its own code (auto_map in config.json), which is never run" in check_model(str(tmp_path))["advice"]
    assert check_model(str(tmp_path / "nowhere"))["folder"] is None


def test_command(tmp_path: Path) -> None:
    folder = str(write_sentence_model(tmp_path / "model"))
    lines = run("check", folder).stdout.splitlines()
    assert lines[0].split() == ["loads", "as", "SentenceTransformer"]
    assert any(line.split() == ["precisions", "float32,", "bfloat16,", "int8"] for line in lines)
    report = json.loads(run("check", folder, "--json").stdout)
    assert report == check_model(folder) and report["loads"] is True
    (tmp_path / "model" / "model.safetensors").unlink()
    shown = run("check", folder, code=1).stdout
    assert shown.startswith("does not load") and "no model.safetensors" in shown and "what to do" in shown
    assert json.loads(run("check", folder, "--json", code=1).stdout)["loads"] is False
