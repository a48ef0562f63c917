"""LoRA adapters of a checkpoint: what a configuration chooses, how learning begins, and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fastattn import SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.checkpoint.trainable import TrainableCheckpoint
from tests.support.golden_models import GOLDEN
from tests.support.models import write_sentence_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def test_chosen_products() -> None:
    products = {f"layer.{i}.{name}": name != "key" for i in range(3) for name in ("query", "key", "value")}
    usual = [name for name in products if "key" not in name]
    assert LoraConfig().chosen(products) == usual and LoraConfig(target_modules="all-linear").chosen(products) == list(products)
    assert LoraConfig(target_modules=["key", "layer.0.value"]).chosen(products) == [
        "layer.0.key",
        "layer.0.value",
        "layer.1.key",
        "layer.2.key",
    ]
    assert LoraConfig(target_modules=r".*\.[12]\.key").chosen(products) == ["layer.1.key", "layer.2.key"]
    assert LoraConfig(exclude_modules=["query"]).chosen(products) == [name for name in usual if "value" in name]
    assert LoraConfig(layers_to_transform=1).chosen(products) == ["layer.1.query", "layer.1.value"]
    config = LoraConfig(rank_pattern={"1.query": 2}, alpha_pattern={"query": 12})
    assert [config.rank_of(name) for name in usual[:3]] == [8, 8, 2]
    assert [config.scale_of(name) for name in usual[:3]] == [1.5, 1, 6]
    assert LoraConfig(r=4, lora_alpha=6, use_rslora=True).scale_of("query") == 3


def test_how_learning_begins(folder: Path) -> None:
    def changes(**config: Any) -> Any:
        checkpoint = TrainableCheckpoint(folder)
        checkpoint.add_adapter(LoraConfig(**{"r": 16, "target_modules": "all-linear", **config}))
        assert checkpoint.adapter is not None
        return checkpoint.adapter.changes

    for change in changes():
        bound = change.weight.shape[1] ** -0.5
        assert not change.b.any() and 0.9 * bound < np.abs(change.a).max() <= bound and abs(change.a.mean()) < 0.2 * bound
    assert all(not change.b.any() and abs(change.a.std() - 1 / 16) < 0.01 for change in changes(init_lora_weights="gaussian"))
    assert all(change.b.any() for change in changes(init_lora_weights=False))
    first, second, third = (changes(seed=seed)[0].a for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_have_an_order(kind: Any) -> None:
    names, layers = [f"query{i}" for i in range(20)], [8, 1, 0]
    given: dict[str, Any] = {"target_modules": kind(names), "exclude_modules": kind(names), "modules_to_save": kind(names)}
    config = LoraConfig(**given, layers_to_transform=kind(layers)).to_dict()
    assert all(config[name] == sorted(names) for name in given) and config["layers_to_transform"] == [0, 1, 8]
    of_peft = LoraConfig.of({"peft_type": "LORA", "inference_mode": False, **given})
    assert "inference_mode" not in LoraConfig(inference_mode=False).to_dict()
    assert of_peft.to_dict() == {**config, "layers_to_transform": None}


BAD = [
    ({"r": 0}, "r must be a whole number of at least 1, got 0"),
    ({"rank_pattern": {"query": 0}}, r"rank_pattern\['query'\] must be a whole number of at least 1"),
    ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, got nan"),
    ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\), got 1.0"),
    ({"bias": "some"}, "bias must be one of none, all, lora_only, got 'some'"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights must be True, False or \"gaussian\", got 'pissa'"),
    ({"modules_to_save": "classifier"}, "modules_to_save must be a sequence of names"),
    ({"modules_to_save": [3]}, r"modules_to_save must be a sequence of names, got \[3\]"),
    ({"layers_to_transform": "1"}, "layers_to_transform must be numbers of layers, got '1'"),
    ({"layers_to_transform": [0, "1"]}, "layers_to_transform must be numbers of layers"),
    ({"task_type": "SEQ_CLASS"}, "task_type must be one of SEQ_CLS, .*, got 'SEQ_CLASS'"),
    ({"alpha_pattern": {"query": "x"}}, r"alpha_pattern\['query'\] must be a finite number, got 'x'"),
    ({"alpha_pattern": {"(": 1}}, r"alpha_pattern: '\(' is no regular expression"),
    ({"rank_pattern": {"*": 1}}, r"rank_pattern: '\*' is no regular expression"),
    ({"rank_pattern": {"(?i)query": 1}}, "rank_pattern: '.*' is no regular expression"),
    ({"rank_pattern": {3: 1}}, "rank_pattern must map patterns to numbers"),
    ({"rank_pattern": ["query"]}, "rank_pattern must map patterns to numbers"),
    ({"lora_dropout": "0.1"}, r"lora_dropout must be in \[0, 1\), got '0.1'"),
    ({"target_modules": "*"}, "target_modules: '\\*' is no regular expression"),
    ({"target_modules": [3]}, r"target_modules must be names, got \[3\]"),
    ({"inference_mode": True}, "inference_mode must be False"),
    ({"seed": -1}, "seed must be a whole number of at least 0"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**config)


BAD_MODULES = [
    ({"target_modules": ["q_proj"]}, r"has the name 'q_proj'; it has encoder.layer.N.attention.self.query, .*output.dense$"),
    ({"target_modules": ["query", "pooler.dense"]}, "has the name 'pooler.dense'"),
    ({"target_modules": "query"}, "has the name 'query'"),
    ({"target_modules": ["word_embeddings"]}, "has the name 'word_embeddings'"),
    ({"exclude_modules": ["query", "value"]}, "exclude_modules and layers_to_transform leave no product"),
    ({"layers_to_transform": [7]}, "exclude_modules and layers_to_transform leave no product"),
    (
        {"target_modules": ["query"], "modules_to_save": ["attention.self.query"]},
        "target_modules: encoder.layer.N.attention.self.query learn as a whole, by modules_to_save or task_type",
    ),
    ({"modules_to_save": ["classifier"]}, "modules_to_save: the model has no module 'classifier'"),
]


@pytest.mark.parametrize(("config", "message"), BAD_MODULES)
def test_names_that_no_product_has(config: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(str(folder)).add_adapter(LoraConfig(**config))


def test_bad_adapters(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    assert model.active_adapters() == []
    with pytest.raises(ValueError, match="the model has no adapter: add_adapter adds one"):
        model.save_adapter(tmp_path / "adapter")
    with pytest.raises(TypeError, match=r"adapter_config must be a fastattn.training.LoraConfig, got int"):
        model.add_adapter(3)
    with pytest.raises(ValueError, match="adapter_config must be of LoRA, got one of IA3"):
        model.add_adapter({"peft_type": "IA3"})
    with pytest.raises(ValueError, match="adapter_config: use_dora True is not supported"):
        model.add_adapter({"peft_type": "LORA", "use_dora": True})
    with pytest.raises(FileNotFoundError, match=r"no adapter of peft: there is no adapter_config.json"):
        model.load_adapter(folder)
    model.add_adapter(LoraConfig())
    with pytest.raises(ValueError, match="the model has an adapter already"):
        model.add_adapter(LoraConfig())
    model.save_adapter(tmp_path / "adapter")
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**content, "r": 4}))
    with pytest.raises(CheckpointError, match=r"query: A has shape \(8, 32\), expected \(4, 32\)"):
        SentenceTransformer(str(folder)).load_adapter(tmp_path / "adapter")
    # What is refused has changed nothing: a bias that fits stands before an A that does not.
    wide = write_sentence_model(tmp_path / "wide")
    checkpoint = TrainableCheckpoint(wide)
    checkpoint.add_adapter(LoraConfig(bias="all", init_lora_weights=False))
    for array in checkpoint.adapter.whole.values() if checkpoint.adapter else ():
        array += 1
    checkpoint.write_adapter(tmp_path / "biases", str(wide))
    arrays = load_file(tmp_path / "biases" / "adapter_model.safetensors")
    last = next(name for name in reversed(arrays) if name.endswith("bias"))
    save_file({**arrays, last: np.zeros(3, np.float32)}, tmp_path / "biases" / "adapter_model.safetensors")
    plain, refusing = TrainableCheckpoint(wide), TrainableCheckpoint(wide)
    with pytest.raises(CheckpointError, match=r"bias has shape \(3,\), expected"):
        refusing.load_adapter(tmp_path / "biases")
    assert refusing.adapter is None
    assert all(np.array_equal(array, plain.parameters[name]) for name, array in refusing.parameters.items())
    with pytest.raises(CheckpointError, match=r"adapts 'encoder.layer.0.attention.self.query', and the model has no such product"):
        TrainableCheckpoint(GOLDEN / "modernbert").load_adapter(tmp_path / "adapter")
