"""A LoRA adapter beside base weights is merged; weights merged by hand, and every option that is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.kernels.ops.linear import linear
from tests.support.models import (
    C,
    V,
    assert_reads_the_same,
    bert_tensors,
    write_bert,
    write_json,
    write_safetensors,
    write_tokenizer,
)

R, ALPHA = 4, 6
QUERY = "encoder.layer.0.attention.self.query"
KEY = "encoder.layer.1.attention.self.key"
PLAIN = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "target_modules": ["query", "key"], "bias": "none", "lora_dropout": 0.1}


def arrays(*modules: str, rank: int = R) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    sizes = {"lora_A.weight": (rank, C), "lora_B.weight": (C, rank)}
    return {
        f"base_model.model.{module}.{part}": rng.standard_normal(shape, np.float32)
        for module in modules
        for part, shape in sizes.items()
    }


def write(folder: Path, adapter: dict[str, Any], tensors: Any = None, **changes: Any) -> Path:
    write_bert(folder, tensors)
    write_safetensors(folder / "adapter_model.safetensors", adapter)
    write_json(folder / "adapter_config.json", {**PLAIN, **changes})
    return folder


def merged(adapter: dict[str, Any], scales: dict[str, float]) -> dict[str, Any]:
    """Return the base tensors with ``scale B A`` added."""
    tensors = bert_tensors()
    for module, scale in scales.items():
        a, b = (adapter[f"base_model.model.{module}.lora_{name}.weight"] for name in "AB")
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + np.float32(scale) * (b @ a)
    return tensors


@pytest.mark.parametrize(
    ("changes", "query", "key"),
    [
        ({}, ALPHA / R, ALPHA / R),
        ({"use_rslora": True}, ALPHA / math.sqrt(R), ALPHA / math.sqrt(R)),
        ({"alpha_pattern": {"key": 10}}, ALPHA / R, 10 / R),
        ({"alpha_pattern": {r"layer\.\d+\.attention.self.query": 3, "query": 9}}, 3 / R, ALPHA / R),
        ({"rank_pattern": {"query|key": R}, "r": 32}, ALPHA / R, ALPHA / R),
        ({"fan_in_fan_out": True, "init_lora_weights": "gaussian", "task_type": "FEATURE_EXTRACTION"}, ALPHA / R, ALPHA / R),
    ],
)
def test_linear_maps(tmp_path: Path, changes: dict[str, Any], query: float, key: float) -> None:
    adapter = arrays(QUERY, KEY)
    expected = merged(adapter, {QUERY: query, KEY: key})
    assert np.abs(expected[f"{QUERY}.weight"] - bert_tensors()[f"{QUERY}.weight"]).max() > 1
    assert_reads_the_same(write(tmp_path, adapter, **changes), expected)


def test_base_weights_of_half_precision_do_not_round_the_adapter(tmp_path: Path) -> None:
    adapter = {name: array * np.float32(1e-3) for name, array in arrays(QUERY).items()}
    folder = write(tmp_path, adapter)
    write_safetensors(folder / "model.safetensors", bert_tensors(), "F16")
    base = bert_tensors()[f"{QUERY}.weight"].astype(np.float16).astype(np.float32)
    a, b = adapter.values()
    found = read_encoder(folder)[1]["layers.0.attention.query.weight"]
    np.testing.assert_array_equal(found, base + np.float32(ALPHA / R) * linear(b, np.ascontiguousarray(a.T)))


def test_the_change_is_the_product_of_a_kernel(tmp_path: Path) -> None:
    """That of a BLAS has other bits, which may depend on the number of threads."""
    rank = 64
    adapter = arrays(QUERY, rank=rank)
    a, b = adapter.values()
    found = read_encoder(write(tmp_path, adapter, r=rank))[1]["layers.0.attention.query.weight"]
    change = np.float32(ALPHA / rank) * linear(b, np.ascontiguousarray(a.T))
    np.testing.assert_array_equal(found, bert_tensors()[f"{QUERY}.weight"] + change)


def test_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    name = "embeddings.word_embeddings"
    a, b = rng.standard_normal((R, V), np.float32), rng.standard_normal((C, R), np.float32)
    adapter = {f"base_model.model.{name}.lora_embedding_A": a, f"base_model.model.{name}.lora_embedding_B": b}
    tensors = bert_tensors()
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + (np.float32(ALPHA / R) * (b @ a)).T
    assert_reads_the_same(write(tmp_path, adapter), tensors)


@pytest.mark.parametrize("wrapper", ["", ".base_layer", ".modules_to_save"])
def test_tensors_that_were_trained_as_a_whole(tmp_path: Path, wrapper: str) -> None:
    whole = {f"{QUERY}.bias": np.full(C, 3, np.float32), "embeddings.LayerNorm.weight": np.full(C, 2, np.float32)}
    adapter = {
        f"base_model.model.{name.rpartition('.')[0]}{wrapper}.{name.rpartition('.')[2]}": array for name, array in whole.items()
    }
    assert_reads_the_same(write(tmp_path, adapter, bias="all"), {**bert_tensors(), **whole})


@pytest.mark.parametrize(("base", "adapted"), [("bert.", ""), ("", "bert.")])
def test_prefixes(tmp_path: Path, base: str, adapted: str) -> None:
    adapter = arrays(QUERY)
    expected = merged(adapter, {QUERY: ALPHA / R})
    named = {name.replace(QUERY, f"{adapted}{QUERY}"): array for name, array in adapter.items()}
    assert_reads_the_same(write(tmp_path, named, {f"{base}{name}": x for name, x in bert_tensors().items()}), expected)


def test_head(tmp_path: Path) -> None:
    weight = np.random.default_rng(3).standard_normal((2, C), np.float32)
    base = {**bert_tensors(), "classifier.weight": weight, "classifier.bias": weight[:, 0]}
    folder = write(tmp_path, {"base_model.model.classifier.weight": 2 * weight}, base, modules_to_save=["classifier"])
    np.testing.assert_array_equal(read_head(folder, "token-classification").steps[0].weight, 2 * weight)


@pytest.mark.jit
def test_saved_with_its_adapter(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapted", arrays(QUERY))
    write_tokenizer(folder)
    model = SentenceTransformer(folder)
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "saved").encode("the cat"), model.encode("the cat"))
    write_tokenizer(write_bert(tmp_path / "plain"))
    plain = SentenceTransformer(tmp_path / "plain")
    assert np.abs(plain.encode("the cat") - model.encode("the cat")).max() > 0.01
    plain.save(tmp_path / "saved")
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "saved").encode("the cat"), plain.encode("the cat"))


@pytest.mark.jit
def test_trained_with_its_adapter(tmp_path: Path) -> None:
    weight = np.full(C, 2, np.float32)
    folder = write(tmp_path / "adapted", {**arrays(QUERY), "base_model.model.embeddings.LayerNorm.weight": weight})
    expected = read_encoder(folder)[1]
    checkpoint = TrainableCheckpoint(folder)
    assert all(np.array_equal(array, expected[name]) for name, array in checkpoint.parameters.items())
    checkpoint.parameters["layers.0.attention.query.weight"][...] = 3
    write_bert(tmp_path / "saved")
    checkpoint.write(tmp_path / "saved" / "model.safetensors")
    found = read_encoder(tmp_path / "saved")[1]
    assert (found.pop("layers.0.attention.query.weight") == 3).all()
    assert all(np.array_equal(array, expected[name]) for name, array in found.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; supported: LORA"),
        ({"use_dora": True}, "use_dora True is not supported; merge the adapter with peft"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is not supported: it changes the base weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"something_new": 1}, "something_new 1 is not supported"),
        ({"r": 8}, r"A has shape \(4, 32\) and B \(32, 4\) for a rank of 8"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern must map patterns to numbers"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_encoder(write(tmp_path, arrays(QUERY), **change))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (arrays("encoder.layer.7.attention.self.query"), "has no such tensor"),
        ({"base_model.model.x.lora_A.weight": np.zeros((R, C), np.float32)}, "one of lora_A.weight and lora_B.weight is missing"),
        ({f"base_model.model.{QUERY}.lora_magnitude_vector": np.zeros(C, np.float32)}, "lora_magnitude_vector' is not supported"),
        ({f"base_model.model.{QUERY}.lora_B.bias": np.zeros(C, np.float32)}, "lora_B.bias' is not supported"),
        ({f"base_model.model.{QUERY}.bias": np.zeros(7, np.float32)}, r"query.bias' has shape \(7,\)"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_encoder(write(tmp_path, adapter))


def test_adapter_without_its_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path, {})
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors: no such file"):
        read_encoder(folder)
