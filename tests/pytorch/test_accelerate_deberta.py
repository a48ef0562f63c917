"""Programs around DeBERTa: zero-shot and token classification of transformers, accelerated; cross-encoders of both libraries."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

import fastattn
from fastattn.tokenizer.sentence_piece import read_sentence_piece

pytestmark = [
    pytest.mark.jit,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::fastattn.FallbackWarning"),
]
DATA = Path(__file__).parents[1] / "data" / "sentence_piece"
TEXTS = [
    "the cat sat on the mat", "a dog and a cat ran home, far away!", "hello world", "what is the answer to the question?",
    "it's 12.50 euros " * 20,
]  # fmt: skip
PAIRS = [(first, second) for first in TEXTS for second in TEXTS[:3]]
V3 = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 16, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
TOLERANCE = 2e-5


def tokenizer() -> Any:
    return transformers.DebertaV2Tokenizer(vocab=read_sentence_piece(DATA / "spm.model").pieces, model_max_length=128)


def model(head: str, labels: list[str]) -> Any:
    """Return a small DeBERTa-v3 of random weights, far enough from 0 that every term of the scores counts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 90}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    module = getattr(transformers, f"DebertaV2For{head}")(transformers.DebertaV2Config(**sizes, **V3, **names))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.eval()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(batch_size: int, multi_label: bool) -> None:
    original = model("SequenceClassification", ["entailment", "neutral", "contradiction"])
    module = fastattn.accelerate(copy.deepcopy(original))
    found, expected = (
        transformers.pipeline("zero-shot-classification", model=one, tokenizer=tokenizer(), batch_size=batch_size)(
            TEXTS, candidate_labels=["a cat", "the world", "new york"], multi_label=multi_label
        )
        for one in (module, original)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["labels"] == theirs["labels"]
        np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=TOLERANCE)
    (count,) = fastattn.calls(module).values()
    assert count.kernels and not count.fallbacks


@pytest.mark.parametrize("batch_size", [1, 3])
def test_token_classification(batch_size: int) -> None:
    original = model("TokenClassification", ["O", "B-cat", "I-cat"])
    module = fastattn.accelerate(copy.deepcopy(original))
    found, expected = (
        transformers.pipeline("token-classification", model=one, tokenizer=tokenizer(), batch_size=batch_size)(TEXTS)
        for one in (module, original)
    )
    assert any(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one["entity"] for one in ours] == [one["entity"] for one in theirs]
        assert [one["index"] for one in ours] == [one["index"] for one in theirs]
        np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in theirs], atol=TOLERANCE)
    (count,) = fastattn.calls(module).values()
    assert count.kernels and not count.fallbacks


@pytest.mark.parametrize("labels", [["score"], ["entailment", "neutral", "contradiction"]])
def test_cross_encoder(tmp_path: Path, labels: list[str]) -> None:
    """A folder that sentence-transformers wrote, end to end; accelerated and read without torch."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model("SequenceClassification", labels).save_pretrained(tmp_path / "made")
    tokenizer().save_pretrained(tmp_path / "made")
    original = sentence_transformers.CrossEncoder(str(tmp_path / "made"), device="cpu")
    original.save_pretrained(str(tmp_path / "saved"))
    expected = original.predict(PAIRS)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(fastattn.CrossEncoder(str(tmp_path / "saved")).predict(PAIRS), expected, atol=TOLERANCE)
    np.testing.assert_allclose(fastattn.accelerate(original).predict(PAIRS), expected, atol=TOLERANCE)
    (count,) = fastattn.calls(original).values()
    assert count.kernels and not count.fallbacks


def test_sentence_transformer(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model("SequenceClassification", ["score"]).deberta.save_pretrained(tmp_path / "made")
    tokenizer().save_pretrained(tmp_path / "made")
    original = sentence_transformers.SentenceTransformer(str(tmp_path / "made"), device="cpu")
    original.save_pretrained(str(tmp_path / "saved"))
    ours, expected = fastattn.SentenceTransformer(str(tmp_path / "saved")), original.encode(TEXTS)
    assert ours.max_seq_length == original.max_seq_length
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=TOLERANCE)


def test_changed_embeddings_of_distances_are_packed_again() -> None:
    original = model("SequenceClassification", ["score"])
    module = fastattn.accelerate(copy.deepcopy(original))
    ids = torch.arange(12)[None] + 4
    with torch.inference_mode():
        before = module(ids).logits
    with torch.no_grad():
        for one in (original, module):
            table = one.deberta.encoder.rel_embeddings.weight
            table.copy_(table.flip(0))
    with torch.inference_mode():
        found, expected = module(ids).logits, original(ids).logits
    assert (found - before).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
