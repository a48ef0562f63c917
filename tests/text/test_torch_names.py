"""Names of torch, transformers and sentence-transformers on models: configuration, device, dtype, methods that change nothing."""

import copy
import dataclasses
import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, EncoderConfig, SentenceTransformer, __version__
from fastattn.modules import Pooling, Transformer
from fastattn.text.quantization import quantize_embeddings
from tests.support.models import HEADS, LAYERS, C, F, P, V, write_json
from tests.support.peer_cases import PAIRS, TEXTS, pooling, write_cross_encoder, write_model

pytestmark = pytest.mark.jit


@pytest.fixture(scope="module")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("scorer"), 3)


@pytest.fixture
def scorer(scorer_folder: Path) -> CrossEncoder:
    return CrossEncoder(scorer_folder)


def test_configuration_under_transformers_names(model: SentenceTransformer, scorer: CrossEncoder) -> None:
    config = model.config
    assert config is model[0].auto_model.config is model.transformers_model.config is model.encoder.config is model[0].config
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert (*found, config.max_position_embeddings, config.vocab_size) == (C, LAYERS, HEADS, F, P, V)
    assert config.model_type == "bert"
    labels = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    for found in (scorer.config, scorer.model.config):
        assert (found.num_labels, found.id2label, found.label2id["LABEL_2"]) == (3, labels, 2)
    assert config.to_dict()["hidden_size"] == C
    with pytest.raises(AttributeError, match="has no attribute 'hidden_sise'"):
        config.hidden_sise  # noqa: B018


def test_configuration_is_an_encoder_config(model: SentenceTransformer) -> None:
    config = model.encoder.config
    plain = EncoderConfig(**dataclasses.asdict(config))
    assert (config, plain) == (plain, config)
    assert hash(config) == hash(plain)
    assert dataclasses.replace(config, num_layers=1) != config
    assert dataclasses.replace(config, num_layers=1).num_hidden_layers == 1
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.to_dict() == config.to_dict()


def test_sizes_of_a_family_with_other_names(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "data" / "golden" / "distilbert"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / name, tmp_path / name)
    shutil.copy(write_model(tmp_path / "other", pooling("mean")) / "tokenizer.json", tmp_path / "tokenizer.json")
    config = Transformer(tmp_path).config
    stored = json.loads((golden / "config.json").read_text())
    assert "hidden_size" not in stored
    assert (config.hidden_size, config.num_hidden_layers) == (stored["dim"], stored["n_layers"])


def test_device_and_dtype_without_torch(model: SentenceTransformer, scorer: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for one in (model, model.encoder, scorer.model):
        assert (one.device, one.device.type, str(one.device), one.dtype) == ("cpu", "cpu", "cpu", np.float32)


def test_device_and_dtype_where_torch_is_loaded(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"float32": "torch's float32", "float16": "torch's float16", "device": lambda name: ("device", name)}
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(**names))
    assert (model.device, model.dtype, model.half().dtype) == (("device", "cpu"), "torch's float32", "torch's float16")


def test_device_and_dtype_of_torch(model: SentenceTransformer) -> None:
    torch = pytest.importorskip("torch")
    assert model.device == torch.device("cpu")
    assert (model.dtype, model.half().dtype) == (torch.float32, torch.float16)


def test_methods_that_change_nothing(model: SentenceTransformer, scorer: CrossEncoder) -> None:
    for one in (model, scorer, model.encoder, scorer.model):
        assert one.eval() is one.train(False) is one.requires_grad_(False) is one.float() is one.cpu() is one.to("cpu") is one
        assert not one.training
        for method in (one.train, one.requires_grad_):
            with pytest.raises(NotImplementedError):
                method(True)
    assert list(model.children()) == list(model)
    assert list(model.named_children()) == [("0", model[0]), ("1", model[1])]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["float16", np.float16, np.dtype("float16")], ids=repr)
def test_float16_is_the_type_of_the_results(folder: Path, model: SentenceTransformer, name: str, value: Any) -> None:
    half = SentenceTransformer(folder, model_kwargs={name: value})
    expected = model.encode(TEXTS)
    found = half.encode(TEXTS)
    assert found.dtype == np.float16
    assert np.array_equal(found, expected.astype(np.float16))
    assert np.array_equal(half.encode(TEXTS, precision="binary"), model.encode(TEXTS, precision="binary"))
    everything = half.encode(TEXTS[0], output_value=None)
    assert everything["token_embeddings"].dtype == everything["sentence_embedding"].dtype == np.float16
    assert everything["input_ids"].dtype == np.int64
    assert np.array_equal(half.float().encode(TEXTS), expected)
    assert np.array_equal(half.half().encode(TEXTS), found)


def test_scores_of_a_float16_model_are_float32(scorer_folder: Path, scorer: CrossEncoder) -> None:
    half = CrossEncoder(scorer_folder, model_kwargs={"dtype": "float16"})
    assert np.array_equal(half.predict(PAIRS), scorer.predict(PAIRS))


def test_activation_can_be_called(scorer: CrossEncoder, tmp_path: Path) -> None:
    x = np.array([[0.5, -1.0, 2.0]], np.float32)
    one = CrossEncoder(write_cross_encoder(tmp_path, 1))
    assert (repr(one.activation_fn), repr(scorer.activation_fn)) == ("Sigmoid()", "Identity()")
    np.testing.assert_allclose(one.activation_fn(x), 1 / (1 + np.exp(-x)), rtol=1e-6)
    assert np.array_equal(scorer.activation_fn(x), x)
    one.activation_fn = "torch.nn.modules.activation.Tanh"
    np.testing.assert_array_equal(one.activation_fn(x), np.tanh(x))
    assert pickle.loads(pickle.dumps(one)).activation_fn == "Tanh"
    one.save(str(tmp_path / "saved"))
    assert repr(CrossEncoder(tmp_path / "saved").activation_fn) == "Tanh()"


def test_activation_of_tensors(scorer: CrossEncoder) -> None:
    torch = pytest.importorskip("torch")
    scorer.activation_fn = "Sigmoid"
    x = torch.tensor([[0.5, -1.0]])
    torch.testing.assert_close(scorer.activation_fn(x), torch.sigmoid(x))


def test_overridden_methods_are_called_by_keyword(folder: Path, tmp_path: Path) -> None:
    class Embedder(SentenceTransformer):
        def encode(self, inputs: Any, **kwargs: Any) -> Any:
            return inputs, kwargs

    class Scorer(CrossEncoder):
        def predict(self, inputs: Any, **kwargs: Any) -> Any:
            return np.arange(len(inputs))

    model = Embedder(folder)
    for method in (model.encode_query, model.encode_document):
        inputs, options = method(["a"], None, None, 8, True, normalize_embeddings=True)
        assert (inputs, options["batch_size"], options["show_progress_bar"]) == (["a"], 8, True)
        assert options["normalize_embeddings"]
    with pytest.raises(TypeError):
        model.encode_query()  # type: ignore[call-arg]
    assert model.encode_multi_process(["a"], {})[0] == ["a"]
    scorer = Scorer(write_cross_encoder(tmp_path, 1))
    assert [hit["corpus_id"] for hit in scorer.rank("a", ["b", "c"])] == [1, 0]


def test_arguments_of_a_transformer(folder: Path, model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def find(name: Any, **options: Any) -> Path:
        asked.append((name, options))
        return folder

    monkeypatch.setattr("fastattn.text.modules.transformer.find_model", find)
    module = Transformer(
        "org/name",
        max_seq_length=6,
        model_args={"dtype": "float32", "revision": "v1"},
        tokenizer_args={"truncation_side": "left"},
        config_args={},
        cache_dir="/there",
        backend="torch",
    )  # type: ignore[call-arg]
    assert asked == [("org/name", {"cache_folder": "/there", "revision": "v1"})]
    assert (module.max_seq_length, module.tokenizer.truncation_side) == (6, "left")
    built = SentenceTransformer(modules=[module, Pooling(C)])
    assert np.array_equal(built.encode("the cat sat on a mat"), model.encode("sat on a mat"))
    for wrong in ({"backend": "onnx"}, {"model_kwargs": {"dtype": "float16"}}, {"config_kwargs": {"num_labels": 3}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Transformer(folder, **wrong)  # type: ignore[arg-type]


def test_nothing_to_save_or_to_quantise(model: SentenceTransformer) -> None:
    model.save(None)
    for precision in ("float32", "int8", "ubinary"):
        assert quantize_embeddings([], precision) == []


def test_data_of_the_model_card(folder: Path, model: SentenceTransformer) -> None:
    card = model.model_card_data
    assert (card.base_model, card.model_id, card.model_name, card.language, card.tags) == (str(folder), None, None, [], [])
    card.set_model_id("org/name")
    card.set_base_model("org/base", revision="v1")
    assert (card.model_id, card.base_model, card.base_model_revision) == ("org/name", "org/base", "v1")


def test_versions_in_the_saved_settings(tmp_path: Path) -> None:
    write_model(tmp_path / "model", pooling("mean"), __version__={"sentence_transformers": "2.0.0"})
    SentenceTransformer(tmp_path / "model").save(str(tmp_path / "saved"))
    settings = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert settings["__version__"] == {"sentence_transformers": "2.0.0", "fastattn": __version__}
    write_json(tmp_path / "saved" / "config_sentence_transformers.json", {**settings, "__version__": 3})
    SentenceTransformer(tmp_path / "saved")


def test_reprs(folder: Path, model: SentenceTransformer, scorer: CrossEncoder) -> None:
    lines = repr(model).splitlines()
    assert lines[:2] == ["SentenceTransformer(", f"  folder: {folder}"]
    assert "'architecture': 'bert', 'num_hidden_layers': 2, 'hidden_size': 32" in lines[2]
    assert lines[3] == "  (1): Pooling({'embedding_dimension': 32, 'pooling_mode': 'mean', 'include_prompt': True})"
    assert "'architecture': 'BertForSequenceClassification'" in repr(scorer)
