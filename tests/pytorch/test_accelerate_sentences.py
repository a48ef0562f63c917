"""Programs around an accelerated MiniLM: sentence-transformers, cross-encoders, pipelines."""

import copy
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.texts import texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")

import fastattn
from fastattn.checkpoint.hub import find_model
from fastattn.pytorch import transformers_forward

pytestmark = [
    pytest.mark.jit,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::fastattn.FallbackWarning"),
]
FOLDER = str(find_model())
TOLERANCE = 1e-5  # largest difference of an element, of unit-length embeddings and of scores in 0 .. 1
FLOAT32 = {"dtype": torch.float32}
TEXTS = texts()[:72]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the calls that reach the kernels."""
    seen: list[Any] = []
    real = transformers_forward.PretrainedForward.run

    def counted(self: Any, plan: Any, given: Any) -> Any:
        seen.append(given)
        return real(self, plan, given)

    monkeypatch.setattr(transformers_forward.PretrainedForward, "run", counted)
    return seen


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Any]:
    """Return MiniLM with a head of random weights, and the tokenizer."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(FOLDER)


def test_sentence_transformer(runs: list[Any]) -> None:
    original = sentence_transformers.SentenceTransformer(FOLDER, device="cpu", model_kwargs=FLOAT32)
    model = copy.deepcopy(original)
    assert fastattn.accelerate(model) is model
    found = model.encode(TEXTS)
    assert isinstance(model, sentence_transformers.SentenceTransformer) and len(runs) == 3
    assert found.dtype == np.float32 and np.abs(found - original.encode(TEXTS)).max() <= TOLERANCE
    assert np.abs(found - fastattn.SentenceTransformer().encode(TEXTS)).max() <= TOLERANCE
    some = model.encode(TEXTS[:9], output_value="token_embeddings")
    expected = original.encode(TEXTS[:9], output_value="token_embeddings")
    for ours, theirs in zip(some, expected, strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 10 * TOLERANCE
    tensor = model.encode(TEXTS[:3], convert_to_tensor=True, normalize_embeddings=True)
    assert isinstance(tensor, torch.Tensor) and np.abs(tensor.numpy() - found[:3]).max() <= TOLERANCE
    fastattn.restore(model)
    count = len(runs)
    assert np.array_equal(model.encode(TEXTS[:3]), original.encode(TEXTS[:3])) and len(runs) == count


def test_sentence_transformer_from_many_threads(runs: list[Any]) -> None:
    model = fastattn.accelerate(sentence_transformers.SentenceTransformer(FOLDER, device="cpu", model_kwargs=FLOAT32))
    expected = [model.encode(TEXTS[i : i + 5]) for i in range(0, 40, 5)]
    found: dict[int, Any] = {}

    def encode(i: int) -> None:
        found[i] = model.encode(TEXTS[5 * i : 5 * i + 5])

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], expected[i]) for i in range(8))


def test_cross_encoder(classifier: tuple[Any, Any], runs: list[Any], tmp_path: Path) -> None:
    for part in classifier:
        part.save_pretrained(tmp_path)
    original = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    model = fastattn.accelerate(copy.deepcopy(original))
    pairs = list(zip(TEXTS[:36], TEXTS[36:], strict=True))
    found, expected = model.predict(pairs), original.predict(pairs)
    assert len(runs) == 2 and np.ptp(expected) > 0.2
    assert np.abs(found - expected).max() <= TOLERANCE
    ranked = [one["corpus_id"] for one in model.rank(TEXTS[0], TEXTS[1:20])]
    assert ranked == [one["corpus_id"] for one in original.rank(TEXTS[0], TEXTS[1:20])]


def test_pipeline(classifier: tuple[Any, Any], runs: list[Any]) -> None:
    """A pipeline is no module: its `model` is accelerated."""
    model, tokenizer = classifier
    original = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    pipe = transformers.pipeline("text-classification", model=copy.deepcopy(model), tokenizer=tokenizer, device="cpu")
    assert fastattn.accelerate(pipe) is pipe
    options = {"truncation": True, "batch_size": 8}
    found, expected = pipe(TEXTS[:20], **options), original(TEXTS[:20], **options)
    assert runs
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["label"] == theirs["label"] and abs(ours["score"] - theirs["score"]) <= TOLERANCE


def test_encoder_from_sentence_transformer() -> None:
    """Hidden states of its tokens equal, bit for bit, those of the encoder read from the checkpoint."""
    model = sentence_transformers.SentenceTransformer(FOLDER, device="cpu", model_kwargs=FLOAT32)
    ids = model.tokenizer(TEXTS[:8], padding=True, truncation=True, max_length=64, return_tensors="np")
    inputs = ids["input_ids"], ids["attention_mask"]
    expected = fastattn.Encoder.from_pretrained(FOLDER)(*inputs)
    assert np.array_equal(fastattn.Encoder.from_torch(model)(*inputs), expected)
