"""Answers agree with sentence-transformers' on the same folders: from a golden file, and live if it is installed."""

import importlib
import inspect
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import CrossEncoder, SentenceTransformer
from fastattn.text.modules.activations import TORCH_ACTIVATIONS
from fastattn.text.quantization import quantize_embeddings
from tests.support.peer_cases import DATA, PAIRS, assert_alike, embedding_answers, score_answers, write_cross_encoder
from tests.support.tolerance import assert_matches_reference

# Parameters that sentence-transformers does not have, behind its own.
OWN = {"__init__": ["precision"]}
# Defaults that differ: sparse results are no tensors unless they are asked for.
# Defaults of `fit` that are objects of torch there.
FIT_DEFAULTS = {"optimizer_class": "None", "activation_fct": "None", "optimizer_params": "mappingproxy({'lr': 2e-05})"}
DEFAULTS = {"convert_to_tensor": "None"}
# Methods that train, publish or move a model, and those of torch's own modules.
LEFT_OUT = {
    *(
        "active_adapter",
        "check_peft_compatible_model",
        "clear_placement_cache",
        "compile",
        "cuda",
    ),
    *("delete_adapter", "disable_adapters", "enable_adapters", "get_sentence_features"),
    *("gradient_checkpointing_enable", "has_peft_compatible_model", "merge", "model_card_data_class", "old_fit"),
    *("push_to_hub", "save_to_hub", "set_adapter", "smart_batching_collate", "smart_batching_collate_text_only"),
}
# Methods of the models that are trained; sentence-transformers passes the arguments on to transformers' methods.
ADAPTERS = {"active_adapters", "add_adapter", "get_adapter_state_dict", "load_adapter"}


def stored(part: str) -> dict[str, Any]:
    with np.load(DATA / "peer.npz") as golden:
        assert json.loads(str(golden["about"]))["version"] == 1, "write the file again with tests/data/make_peer.py"
        return {name.removeprefix(f"{part}/"): golden[name] for name in golden.files if name.startswith(f"{part}/")}


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
        spec = importlib.util.spec_from_file_location("make_peer", DATA / "make_peer.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.jit
def test_embeddings_as_stored(tmp_path: Path) -> None:
    assert_alike(embedding_answers(SentenceTransformer, tmp_path), stored("embed"))


@pytest.mark.jit
def test_scores_as_stored(tmp_path: Path) -> None:
    assert_alike(score_answers(CrossEncoder, tmp_path), stored("score"))


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
def test_embeddings_live(tmp_path: Path, peer: Any) -> None:
    assert_alike(embedding_answers(SentenceTransformer, tmp_path / "a"), embedding_answers(peer.load_embedder, tmp_path / "b"))


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
def test_scores_live(tmp_path: Path, peer: Any) -> None:
    assert_alike(score_answers(CrossEncoder, tmp_path / "a"), score_answers(peer.load_scorer, tmp_path / "b"))


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
def test_pairs_and_dicts_live(tmp_path: Path, peer: Any) -> None:
    folder = write_cross_encoder(tmp_path, 1)
    ours, theirs = SentenceTransformer(folder), peer.load_embedder(str(folder))
    theirs.max_seq_length = ours.max_seq_length
    for inputs in (PAIRS, np.array(PAIRS), [{"text": first} for first, _ in PAIRS], {"text": "a cat"}):
        for options in ({}, {"prompt": "query: "}, {"processing_kwargs": {"text": {"max_length": 9}}}):
            assert ours.is_singular_input(inputs) == theirs.is_singular_input(inputs)
            found, expected = ours.encode(inputs, **options), theirs.encode(inputs, **options)
            assert_alike({"encode": found}, {"encode": expected})
    for wrong in (np.array("a"), [["a"], ["b"]], {"ids": 1}, [None]):
        for model in (ours, theirs):
            with pytest.raises((TypeError, ValueError)):
                model.encode(wrong)


@pytest.mark.jit
@pytest.mark.parametrize("name", TORCH_ACTIVATIONS)
def test_activations(name: str) -> None:
    golden = stored("activation")
    assert_matches_reference(TORCH_ACTIVATIONS[name](golden["grid"]), golden[f"{name}/float64"], golden[f"{name}/float32"])


def test_quantized_as_theirs(caplog: pytest.LogCaptureFixture) -> None:
    golden = stored("quantize")
    rows, others = golden.pop("rows"), golden.pop("others")
    ranges = np.stack([others.min(axis=0), others.max(axis=0)])
    options: dict[str, dict[str, Any]] = {"own": {}, "calibrated": {"calibration_embeddings": others}, "ranges": {"ranges": ranges}}
    for name, expected in golden.items():
        precision, how, *number = name.split("/")
        if number:
            found = quantize_embeddings([rows[:50], rows[50:]], precision)[int(number[0])]
        else:
            found = quantize_embeddings(rows, precision, **options[how])
        assert found.dtype == expected.dtype, name
        assert np.array_equal(found, expected), name
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        quantize_embeddings(rows[:99], "int8")
    assert "int8 ranges are taken from only 99 embeddings" in caplog.text
    with pytest.raises(TypeError, match="must be float, got int8"):
        quantize_embeddings(quantize_embeddings(rows, "int8"), "uint8")


def test_stored_signatures_are_theirs(peer: Any) -> None:
    assert peer.signatures() == {name: part for name, part in content().items() if name != "about"}


def content() -> dict[str, Any]:
    return dict(json.loads((DATA / "signatures.json").read_text("utf-8")))


@pytest.mark.parametrize("name", ["SentenceTransformer", "CrossEncoder", "SparseEncoder"])
def test_signatures(name: str) -> None:
    ours, theirs = getattr(fastattn, name), content()[name]
    for method, parameters in theirs["methods"].items():
        if method in LEFT_OUT or (method in ADAPTERS and name == "SparseEncoder"):
            assert not hasattr(ours, method), f"{name}.{method} is no longer left out"
            continue
        assert hasattr(ours, method), f"{name} has no {method}"
        found = inspect.signature(getattr(ours, method)).parameters.values()
        mine = [[p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)] for p in found if p.name != "self"]
        if method in ADAPTERS or method == "to":  # sentence-transformers passes the arguments on to torch's `to`
            continue
        if name == "SparseEncoder" and method.startswith("encode"):
            parameters = [[key, kind, DEFAULTS.get(key, default)] for key, kind, default in parameters]
        if method == "fit":
            parameters = [[key, kind, FIT_DEFAULTS.get(key, default)] for key, kind, default in parameters]
        own = [parameter[0] for parameter in mine[len(parameters) :]]
        assert own == OWN.get(method, []), f"{name}.{method} has the parameters {own} too"
        assert mine[: len(parameters)] == parameters, f"{name}.{method}: {mine} instead of {parameters}"
    missing = [key for key in theirs["properties"] if not hasattr(ours, key) and not key.startswith("_")]
    assert set(missing) <= {"num_labels"}, missing
