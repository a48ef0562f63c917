"""CrossEncoder: pairs, activations, ranking, the same bits in every batch, and refused arguments."""

import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, EncoderForSequenceClassification, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError
from fastattn.text import pipeline
from tests.support.models import write_json
from tests.support.peer_cases import PAIRS, pooling, write_cross_encoder, write_model

pytestmark = pytest.mark.jit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("pairs"), 1)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("three"), 3)


@pytest.fixture
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder))


def logits(model: CrossEncoder, pairs: Any = PAIRS) -> Any:
    return model.predict(pairs, activation_fn="Identity")


def test_scores_are_the_heads(folder: Path, model: CrossEncoder) -> None:
    encoder = EncoderForSequenceClassification.from_pretrained(folder)
    batch = model.preprocess(PAIRS)
    expected = encoder(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"])[:, 0]
    assert np.array_equal(logits(model), expected)
    assert batch["token_type_ids"].any()
    np.testing.assert_allclose(model.predict(PAIRS), 1 / (1 + np.exp(-expected.astype(np.float64))), rtol=1e-6)
    scores = model(batch)["scores"]
    assert np.array_equal(scores[:, 0], expected)


def test_shapes(model: CrossEncoder, three: Path) -> None:
    assert model.predict(PAIRS).shape == (len(PAIRS),)
    assert model.predict(PAIRS).dtype == np.float32
    assert model.predict(("a", "b")).shape == ()
    assert model.predict(["a", "b"]) == model.predict([["a", "b"]])[0]
    assert model.predict([]).shape == (0,)
    several = CrossEncoder(three)
    assert (several.num_labels, model.num_labels) == (3, 1)
    assert several.predict(PAIRS).shape == (len(PAIRS), 3)
    assert several.predict(PAIRS[0]).shape == (3,)
    assert several.predict([]).shape == (0, 3)


def test_inputs_of_any_kind(model: CrossEncoder) -> None:
    expected = model.predict(PAIRS)
    for inputs in (
        [list(pair) for pair in PAIRS],
        tuple(PAIRS),
        np.array(PAIRS),
        (pair for pair in PAIRS),
        np.array(PAIRS, dtype=object),
    ):
        assert np.array_equal(model.predict(inputs), expected)
    assert np.array_equal(model.predict(sentences=PAIRS), expected)
    assert model.predict(np.array(PAIRS[0])) == expected[0]


def test_same_bits_in_every_batch(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = PAIRS * 8
    expected = logits(model, pairs)
    assert np.array_equal(expected, np.array([logits(model, pair) for pair in pairs]))
    assert np.array_equal(expected[::-1], logits(model, pairs[::-1]))
    monkeypatch.setattr(pipeline, "_SLICE", 7)
    monkeypatch.setattr("fastattn.text.batches._TOKENS_PER_FORWARD", 150)
    assert np.array_equal(logits(model, pairs), expected)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: logits(model, pairs), range(12)):
            assert np.array_equal(found, expected)


def test_long_pairs_are_cut_and_counted(model: CrossEncoder) -> None:
    model.predict(PAIRS)
    assert model.counts.texts == len(PAIRS)
    assert model.counts.truncated == 3
    model.max_length = 9
    assert model.max_seq_length == 9
    assert model.preprocess([("a a a a a a a a", "a b")])["input_ids"].shape == (1, 9)
    short = CrossEncoder(model.folder, max_length=9)
    assert np.array_equal(short.predict(PAIRS), model.predict(PAIRS))
    assert not np.array_equal(short.predict(PAIRS), CrossEncoder(model.folder).predict(PAIRS))
    with pytest.raises(ValueError, match="max_seq_length must be an integer from 2 to 96, got 97"):
        CrossEncoder(model.folder, max_length=97)
    model.max_length = 3
    assert model.preprocess([("a", "b")])["input_ids"].shape == (1, 3)
    with pytest.raises(ValueError, match="max_seq_length must be an integer from 3 to 96, got 2"):
        model.max_length = 2
    with pytest.raises(ValueError, match="max_seq_length must be an integer from 3 to 96, got 2"):
        CrossEncoder(model.folder, max_length=2)


def test_a_tokenizer_that_gives_no_token_types(model: CrossEncoder) -> None:
    expected = model.predict(PAIRS)
    model.tokenizer.model_input_names.remove("token_type_ids")
    found = model.predict(PAIRS)
    assert not np.allclose(found, expected, atol=1e-3)
    assert np.array_equal(logits(model), model(model.preprocess(PAIRS))["scores"][:, 0])


def test_activations(model: CrossEncoder, three: Path) -> None:
    raw = logits(model)
    for function in (np.tanh, "torch.nn.modules.activation.Tanh", "torch.nn.Tanh", "Tanh"):
        np.testing.assert_array_equal(model.predict(PAIRS, activation_fn=function), np.tanh(raw))
        np.testing.assert_array_equal(CrossEncoder(model.folder, activation_fn=function).predict(PAIRS), np.tanh(raw))
    np.testing.assert_array_equal(model.predict(PAIRS, activation_fct=np.tanh), np.tanh(raw))
    model.activation_fn = np.sin
    np.testing.assert_array_equal(model.predict(PAIRS), np.sin(raw))
    several = CrossEncoder(three)
    np.testing.assert_array_equal(several.predict(PAIRS), logits(several))
    np.testing.assert_allclose(several.predict(PAIRS, apply_softmax=True).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.predict(PAIRS, apply_softmax=True), np.sin(raw))


def test_torch(model: CrossEncoder) -> None:
    torch = pytest.importorskip("torch")
    raw = logits(model)
    for function in (torch.nn.Tanh(), torch.tanh, torch.nn.functional.tanh):
        np.testing.assert_allclose(model.predict(PAIRS, activation_fn=function), np.tanh(raw), atol=1e-6)
    tensor = model.predict(PAIRS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), model.predict(PAIRS))
    rows = model.predict(PAIRS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert all(isinstance(row, torch.Tensor) for row in rows)
    batch = {name: torch.as_tensor(value) if name != "modality" else value for name, value in model.preprocess(PAIRS).items()}
    assert isinstance(model(batch)["scores"], torch.Tensor)


def test_rank(model: CrossEncoder) -> None:
    documents = ["on the mat", "a dog", "", "a dog", "the moon"]
    scores = model.predict([("the cat", document) for document in documents])
    found = model.rank("the cat", documents)
    assert [hit["corpus_id"] for hit in found] == sorted(range(5), key=lambda i: -scores[i])
    assert [hit["score"] for hit in found] == sorted(scores.tolist(), reverse=True)
    assert [set(hit) for hit in found] == [{"corpus_id", "score"}] * 5
    best = model.rank("the cat", documents, top_k=2, return_documents=True, convert_to_tensor=True)
    assert best == [{**hit, "text": documents[hit["corpus_id"]]} for hit in found[:2]]
    equal = [hit["corpus_id"] for hit in found if hit["corpus_id"] in (1, 3)]
    assert equal == [1, 3]  # documents with equal scores keep their order
    assert model.rank("the cat", []) == []
    with pytest.raises(TypeError, match=r"inputs\[0\]\[0\] must be a str, got list of 1"):
        model.rank(["the cat"], documents)  # type: ignore[arg-type]


def test_prompts(folder: Path) -> None:
    model = CrossEncoder(folder, prompts={"query": "the "}, default_prompt_name="query")
    expected = CrossEncoder(folder).predict([("the " + first, second) for first, second in PAIRS])
    assert np.array_equal(model.predict(PAIRS), expected)
    assert np.array_equal(model.predict(PAIRS, prompt=""), CrossEncoder(folder).predict(PAIRS))
    with pytest.raises(ValueError, match="there is no prompt 'document'; prompts: query"):
        model.predict(PAIRS, prompt_name="document")


def test_saved_and_read_again(model: CrossEncoder, tmp_path: Path) -> None:
    model.max_seq_length = 20
    model.activation_fn = "Tanh"
    model.save_pretrained(str(tmp_path / "saved"))
    again = CrossEncoder(tmp_path / "saved")
    assert again.max_seq_length == 20
    assert np.array_equal(again.predict(PAIRS), model.predict(PAIRS))
    assert json.loads((tmp_path / "saved/config_sentence_transformers.json").read_text())["model_type"] == "CrossEncoder"


@pytest.mark.filterwarnings("ignore")
def test_saved_for_sentence_transformers(model: CrossEncoder, tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    model.max_seq_length = 20
    model.activation_fn = "Tanh"
    model.save_pretrained(str(tmp_path))
    np.testing.assert_allclose(peer.CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS), model.predict(PAIRS), atol=1e-5)


def test_scores_of_a_dense_module(tmp_path: Path) -> None:
    dense = ("Dense", {"in_features": 32, "out_features": 2, "bias": True, "module_output_name": "scores"})
    write_model(tmp_path, pooling("mean"), dense, model_type="CrossEncoder")
    model = CrossEncoder(tmp_path)
    assert model.num_labels == 2
    pair = ("the cat", "a dog")
    assert model.predict([pair]).shape == (1, 2)


def test_embeddings_of_a_cross_encoder(model: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model.save_pretrained(str(tmp_path))
    embedder = SentenceTransformer(tmp_path)
    assert "is a CrossEncoder: only its encoder is used, as a SentenceTransformer" in caplog.text
    assert embedder.encode("the cat").shape == (32,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("a", 3)], r"inputs\[0\]\[1\] must be a str, got int"),
        ([("a", "b"), ("a",)], r"inputs\[1\] must be a pair of str, got tuple of 1"),
        ([(["a"], "b")], r"inputs\[0\]\[0\] must be a str, got list of 1"),
        ([("a", "b", "c")], r"inputs\[0\] must be a pair of str, got tuple of 3"),
        (["a", "b", "c"], r"inputs\[0\] must be a pair of str, got list of 3"),
        ([("a", "b"), "c"], r"inputs\[1\] must be a pair of str, got str"),
        ("a", "inputs must be pairs of str, got str"),
        (None, "inputs must be pairs of str, got NoneType"),
    ],
)
def test_inputs_that_are_no_pairs(model: CrossEncoder, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.predict(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"colour": "red"}, "predict has no argument colour"),
        ({"device": "cuda"}, "device must be None or \"cpu\", got 'cuda'"),
        ({"activation_fn": "Tansh"}, "activation function 'Tansh' is not supported; supported: CELU"),
        ({"activation_fn": "torch.nn.Unknown"}, "activation function 'torch.nn.Unknown' is not supported"),
    ],
)
def test_arguments_of_predict(model: CrossEncoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(PAIRS, **options)


def test_activation_that_cannot_be_called(model: CrossEncoder) -> None:
    with pytest.raises(TypeError, match="an activation function must be callable or a name, got int"):
        model.predict(PAIRS, activation_fn=3)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (len(PAIRS), 0), (len(PAIRS) + 1,)])
def test_activation_without_a_row_for_each_pair(model: CrossEncoder, shape: tuple[int, ...]) -> None:
    message = f"activation_fn must return a row for each of {len(PAIRS)} pairs, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.predict(PAIRS, activation_fn=lambda x: np.zeros(shape, np.float32))


@pytest.mark.parametrize("options", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_tensors_without_torch(model: CrossEncoder, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    counts = model.counts
    with pytest.raises(ImportError, match=re.escape("tensors need torch: pip install 'fastattn[torch]'")):
        model.predict(PAIRS, **options)
    assert model.counts is counts  # no forward ran


def test_half_a_surrogate_pair(model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match=r"inputs\[1\] is not valid Unicode"):
        model.predict([("a", "b"), ("a", "\ud800")])


FAULTS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type[Exception], str]] = {
    "no head": (
        lambda p: write_model(p, pooling("mean")),
        {},
        CheckpointError,
        r"there is no head for sequence classification.*; to add one, train it: sentence_transformers\.CrossEncoder\(folder",
    ),
    "modules without a score": (
        lambda p: write_model(p, pooling("mean"), model_type="CrossEncoder"),
        {},
        CheckpointError,
        "modules Transformer, Pooling give a pair no score",
    ),
    "a language model's score": (
        lambda p: write_model(p, ("LogitScore", {"true_token_id": 1}), model_type="CrossEncoder"),
        {},
        CheckpointError,
        "LogitScore reads causal_logits, which no module before it writes; there are token_embeddings",
    ),
    "other labels": (
        lambda p: write_cross_encoder(p, 3),
        {"num_labels": 2},
        ValueError,
        "num_labels must be what .* has, 3, got 2",
    ),
    "unknown activation": (
        lambda p: write_cross_encoder(p, 1, config={"sbert_ce_default_activation_function": "torch.nn.Unknown"}),
        {},
        CheckpointError,
        r"config\.json: activation function 'torch.nn.Unknown' is not supported",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_folder(tmp_path: Path, fault: str) -> None:
    write, options, kind, message = FAULTS[fault]
    write(tmp_path)
    with pytest.raises(kind, match=message):
        CrossEncoder(tmp_path, **options)


def test_activation_that_is_not_torchs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_cross_encoder(tmp_path, 1, config={"sentence_transformers": {"activation_fn": "mine.Activation"}})
    model = CrossEncoder(tmp_path)
    assert model.activation_fn == "Sigmoid"
    assert "'mine.Activation' is not torch's" in caplog.text


def test_rank_needs_one_label(three: Path) -> None:
    with pytest.raises(ValueError, match="rank needs a model with one label, and this one has 3: use predict"):
        CrossEncoder(three).rank("a", ["b"])


def test_there_is_no_default() -> None:
    with pytest.raises(ValueError, match="model_name_or_path must be a folder or a name, got None"):
        CrossEncoder()


def test_names_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"Hugging Face Hub cross-encoder/ms-marco \(huggingface_hub is not installed\)"):
        CrossEncoder("ms-marco")


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path, 1)
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    config["model"]["vocab"]["mat"] = 40_000
    write_json(tmp_path / "tokenizer.json", config)
    with pytest.raises(ValueError, match=r"token id 40000 \('mat'\), and the model has 30522 words, ids 0 \.\. 30521"):
        CrossEncoder(tmp_path).predict(PAIRS)
