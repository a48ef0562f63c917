"""Encoders with a head: shapes, bits, labels, tied tables, and missing heads.

Comparisons with transformers are in test_families.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import EncoderForMaskedLM, EncoderForSequenceClassification, EncoderForTokenClassification, EncoderWithPooler
from fastattn.checkpoint.reader import CheckpointError, read_head
from tests.support.golden_models import GOLDEN, Array, golden, tensors, write
from tests.support.models import bert_tensors, write_bert

MODELS = (EncoderWithPooler, EncoderForSequenceClassification, EncoderForTokenClassification, EncoderForMaskedLM)
PER_TOKEN = (EncoderForTokenClassification, EncoderForMaskedLM)


def ragged(family: str) -> tuple[Array, Array]:
    arrays = golden(family)
    return arrays["input_ids"], arrays["attention_mask"].astype(bool)


@pytest.mark.jit
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_the_same_bits_in_every_batch(kind: Any) -> None:
    model = kind.from_pretrained(GOLDEN / "bert")
    ids, mask = ragged("bert")
    ids, mask = np.tile(ids, (20, 1)), np.tile(mask, (20, 1))
    together = model(ids, mask)
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    packed = model.forward_packed(ids[mask], offsets)
    np.testing.assert_array_equal(packed, together[mask] if kind in PER_TOKEN else together)
    for b in range(4):
        alone = model(ids[b : b + 1, : mask[b].sum()])[0]
        np.testing.assert_array_equal(alone, together[b, mask[b]] if kind in PER_TOKEN else together[b])
        np.testing.assert_array_equal(together[b], together[b + 76])


@pytest.mark.jit
def test_the_mean_has_the_same_bits_in_every_batch() -> None:
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "modernbert-biased")
    ids, mask = ragged("modernbert-biased")
    together = model(ids, mask)
    for b, row in enumerate(mask):
        np.testing.assert_array_equal(model(ids[b : b + 1, : row.sum()])[0], together[b])


@pytest.mark.jit
@pytest.mark.parametrize("kind", PER_TOKEN, ids=lambda kind: kind.__name__)
def test_padding_comes_back_as_zeros(kind: Any) -> None:
    ids, mask = ragged("roberta")
    out = kind.from_pretrained(GOLDEN / "roberta")(ids, mask)
    assert out.dtype == np.float32
    assert not out[~mask].any()
    assert out[mask].any(axis=1).all()


@pytest.mark.jit
def test_padding_on_the_left_changes_nothing() -> None:
    ids, mask = ragged("roberta")
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "roberta")
    left = [np.roll(array, -row.sum()) for array, row in zip(ids, mask, strict=True)]
    np.testing.assert_array_equal(model(left, mask[:, ::-1]), model(ids, mask))


@pytest.mark.jit
def test_nothing_in_nothing_out() -> None:
    empty = np.zeros((0, 5), np.int64)
    for kind, shape in zip(MODELS, ((0, 32), (0, 3), (0, 5, 3), (0, 5, 97)), strict=True):
        assert kind.from_pretrained(GOLDEN / "bert")(empty).shape == shape


@pytest.mark.jit
def test_vectors_for_token_embeddings() -> None:
    ids, mask = ragged("bert")
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "bert")
    table = tensors("bert")["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(model(table[ids], mask), model(ids, mask))


def test_attributes() -> None:
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "xlm-roberta")
    assert model.id2label == {0: "lion", 1: "witch", 2: "wardrobe"}
    assert model.num_labels == 3
    assert model.config is model.encoder.config
    assert model.config.max_positions == 46
    assert EncoderForTokenClassification.from_pretrained(GOLDEN / "bert").num_labels == 3


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m(np.zeros(3, np.int64)), ValueError, r"x must have shape \(B, T\) .*\(3,\)"),
        (lambda m: m(np.zeros((1, 3), bool)), TypeError, "token ids must be whole numbers, got bool"),
        (lambda m: m(np.zeros((1, 3, 5), np.float32)), ValueError, r"must have shape \(3, 32\), got \(3, 5\)"),
        (lambda m: m(np.zeros((1, 3), np.int64), np.ones((3, 1))), ValueError, r"attention_mask must have shape .*\(1, 3\)"),
        (lambda m: m([[1, 2]], [[-1e9, 0.0]]), ValueError, "attention_mask must hold bool or 0 and 1"),
        (lambda m: m([[1, 2]], token_type_ids=[0, 0]), ValueError, r"token_type_ids must have shape \(1, 2\), got \(2,\)"),
        (lambda m: m([[1, 2]], token_type_ids=[[0, 2]]), ValueError, "token_type_ids must be in 0 .. 1, got 2"),
        (lambda m: m([[1, 97]]), ValueError, "token ids must be in 0 .. 96, got 97"),
        (lambda m: m(np.zeros((1, 49), np.int64)), ValueError, "a sequence of 49 tokens is longer than the 48 positions"),
        (lambda m: m.forward_packed(np.zeros(3, np.int64), [0, 2]), ValueError, "offsets must rise from 0 to N = 3"),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], message: str) -> None:
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "bert")
    with pytest.raises(kind, match=message):
        call(model)


def test_precision() -> None:
    with pytest.raises(ValueError, match="precision must be"):
        EncoderForSequenceClassification.from_pretrained(GOLDEN / "bert", precision="float7")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EncoderForMaskedLM.from_pretrained(tmp_path / "nowhere")


def test_folder_without_a_head(tmp_path: Path) -> None:
    """The message names the missing tensors, and the folder's other tensors and architectures."""
    folder = write_bert(tmp_path, architectures=["BertModel"])
    with pytest.raises(CheckpointError) as caught:
        EncoderForSequenceClassification.from_pretrained(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: there is no head for sequence classification (tensors missing: classifier.weight, "
        "classifier.bias); tensors beside the encoder's: pooler.dense.weight, pooler.dense.bias; architectures in config.json: "
        "['BertModel']; to add one, train it: sentence_transformers.CrossEncoder(folder, num_labels=1) makes an untrained "
        "head, and its save_pretrained a folder that is read here"
    )
    assert EncoderWithPooler.from_pretrained(folder).task == "pooler"


def test_folder_with_another_head(tmp_path: Path) -> None:
    stored = {name: array for name, array in tensors("roberta").items() if not name.startswith("classifier")}
    folder = write(tmp_path, "roberta", stored)
    message = r"no head for sequence classification \(tensors missing: classifier\.dense\.weight, .*lm_head\.dense\.weight"
    with pytest.raises(CheckpointError, match=message):
        EncoderForSequenceClassification.from_pretrained(folder)


def test_many_other_tensors_are_cut_short(tmp_path: Path) -> None:
    stored = bert_tensors() | {f"adapter.{i}": np.zeros(1, np.float32) for i in range(20)}
    folder = write_bert(tmp_path, stored)
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias, adapter\.0, .* and 14 more; architectures"):
        read_head(folder, "masked-lm")


def test_family_without_a_pooler() -> None:
    with pytest.raises(CheckpointError, match=r"there is no pooler \(distilbert has none\)"):
        EncoderWithPooler.from_pretrained(GOLDEN / "distilbert")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "a", "1": "b"}, r"id2label has the classes \[0, 1\], but 'classifier\.weight' in .* has 3 rows"),
        ({"0": "a", "1": "b", "3": "c"}, r"id2label has the classes \[0, 1, 3\]"),
        ({"a": "a"}, "id2label must map numbers to names"),
        (["a", "b", "c"], "id2label must map numbers to names"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        EncoderForTokenClassification.from_pretrained(write(tmp_path, "bert", id2label=labels))


def test_labels_without_names(tmp_path: Path) -> None:
    model = EncoderForTokenClassification.from_pretrained(write(tmp_path, "bert", id2label=None))
    assert model.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


DECODERS = {
    "bert": ("cls.predictions.decoder", "bert.embeddings.word_embeddings.weight"),
    "roberta": ("lm_head.decoder", "roberta.embeddings.word_embeddings.weight"),
    "mpnet": ("lm_head.decoder", "mpnet.embeddings.word_embeddings.weight"),
    "distilbert": ("vocab_projector", "distilbert.embeddings.word_embeddings.weight"),
    "electra": ("generator_lm_head", "electra.embeddings.word_embeddings.weight"),
    "albert": ("predictions.decoder", "albert.embeddings.word_embeddings.weight"),
    "modernbert": ("decoder", "model.embeddings.tok_embeddings.weight"),
    "nomic_bert": ("cls.predictions.decoder", "nomic_bert.embeddings.word_embeddings.weight"),
}


@pytest.mark.parametrize("family", DECODERS)
def test_decoder(tmp_path: Path, family: str) -> None:
    """The decoder is the token table, unless the folder has a decoder; untied by the configuration, its absence is an error."""
    name, table = DECODERS[family]
    stored = tensors(family)
    np.testing.assert_array_equal(read_head(GOLDEN / family, "masked-lm").steps[-1].weight, stored[table])
    with pytest.raises(CheckpointError, match=rf"masked-language modelling \(tensors missing: {name}\.weight\)"):
        read_head(write(tmp_path, family, tie_word_embeddings=False), "masked-lm")
    other = stored[table] + np.float32(1)
    for tied in (True, False):
        folder = write(tmp_path, family, stored | {f"{name}.weight": other}, tie_word_embeddings=tied)
        np.testing.assert_array_equal(read_head(folder, "masked-lm").steps[-1].weight, other)


def test_bias_of_the_decoder_under_its_own_name(tmp_path: Path) -> None:
    stored = tensors("bert")
    stored["cls.predictions.decoder.bias"] = stored.pop("cls.predictions.bias") + np.float32(1)
    head = read_head(write(tmp_path, "bert", stored), "masked-lm")
    np.testing.assert_array_equal(head.steps[-1].bias, stored["cls.predictions.decoder.bias"])


def test_gamma_and_beta(tmp_path: Path) -> None:
    stored = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tensors("bert").items()
    }
    ours, expected = (read_head(folder, "masked-lm") for folder in (write(tmp_path, "bert", stored), GOLDEN / "bert"))
    np.testing.assert_array_equal(ours.steps[0].norm_bias, expected.steps[0].norm_bias)


@pytest.mark.parametrize("change", [{"classifier_pooling": "max"}, {"classifier_activation": "softsign"}, {"classifier_bias": 3}])
def test_options_of_modernbert(tmp_path: Path, change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(CheckpointError, match=f"{key} .*(is not supported; supported: |must be true or false)"):
        EncoderForSequenceClassification.from_pretrained(write(tmp_path, "modernbert", **change))


def test_wrong_shape(tmp_path: Path) -> None:
    stored = tensors("bert") | {"bert.pooler.dense.weight": np.zeros((32, 31), np.float32)}
    with pytest.raises(CheckpointError, match=r"'bert\.pooler\.dense\.weight' has shape \(32, 31\), expected \(32, 32\)"):
        EncoderForSequenceClassification.from_pretrained(write(tmp_path, "bert", stored))


def test_scalar_for_a_classifier(tmp_path: Path) -> None:
    stored = tensors("bert") | {"classifier.weight": np.array(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"id2label has the classes \[0, 1, 2\], but 'classifier\.weight' in .* has 0 rows"):
        EncoderForTokenClassification.from_pretrained(write(tmp_path, "bert", stored))


def test_heads_are_public() -> None:
    assert {kind.__name__ for kind in MODELS} <= set(fastattn.__all__)
