"""Classifiers of texts: learned, saved, made new on an encoder that has none, and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, EncoderForSequenceClassification, EncoderForTokenClassification
from fastattn.checkpoint.folder import CheckpointError
from fastattn.training import ClassificationTrainer, TrainableEncoder, TrainingArguments
from tests.support.models import WORDS, C, write_sentence_model

pytestmark = pytest.mark.jit

TEXTS = [f"{word} {other}" for word in WORDS[13:21] for other in WORDS[21:25]]
DATA: dict[str, Any] = {"text": TEXTS, "label": [i // 4 % 3 for i in range(len(TEXTS))]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def arguments(tmp_path: Path, **changes: Any) -> TrainingArguments:
    given = {"max_steps": 60, "learning_rate": 5e-3, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    return TrainingArguments(str(tmp_path / "run"), **{**given, **changes})


def test_a_new_classifier_learns_and_is_saved(folder: Path, tmp_path: Path) -> None:
    model = TrainableEncoder(folder, "sequence-classification", num_labels=3)
    trainer = ClassificationTrainer(model, arguments(tmp_path), DATA, DATA)
    assert trainer.evaluate()["eval_accuracy"] < 0.8
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1
    model.save_pretrained(tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / "config.json").read_text("utf-8"))
    assert content["architectures"] == ["BertForSequenceClassification"] and len(content["id2label"]) == 3
    saved, ids = EncoderForSequenceClassification.from_pretrained(tmp_path / "saved"), model.tokenizer(TEXTS)["input_ids"]
    assert [int(saved(np.array([row])).argmax()) for row in ids] == DATA["label"]
    # Goes on from its own classifier, with the same loss.
    again = TrainableEncoder(tmp_path / "saved", "sequence-classification", num_labels=3)
    found = ClassificationTrainer(again, arguments(tmp_path), eval_dataset=DATA).evaluate()
    assert found["eval_loss"] == trainer.evaluate()["eval_loss"]
    assert CrossEncoder(str(tmp_path / "saved")).num_labels == 3


def test_another_number_of_classes_makes_a_new_classifier(folder: Path, tmp_path: Path) -> None:
    TrainableEncoder(folder, "sequence-classification", num_labels=3).save_pretrained(tmp_path / "three")
    model = TrainableEncoder(tmp_path / "three", "sequence-classification", num_labels=5, seed=1)
    assert len(model.id2label) == 5 and model.parameters["head.1.weight"].shape == (5, C)
    with pytest.raises(CheckpointError, match="there is no head for sequence classification"):
        TrainableEncoder(folder, "sequence-classification")


def test_transformers_reads_a_new_classifier(folder: Path, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = TrainableEncoder(folder, "sequence-classification", num_labels=3)
    model.save_pretrained(tmp_path / "saved")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = np.array([[2, 5, 6, 3]])
    ours = EncoderForSequenceClassification.from_pretrained(tmp_path / "saved")(ids)
    with torch.no_grad():
        assert ours == pytest.approx(theirs.eval()(torch.from_numpy(ids)).logits.numpy(), abs=1e-5)


WORD_DATA: dict[str, Any] = {"words": [text.split() for text in TEXTS], "labels": [[1, i % 4 // 2] for i in range(len(TEXTS))]}


def test_words_of_texts(folder: Path, tmp_path: Path) -> None:
    model = TrainableEncoder(folder, "token-classification", num_labels=2)
    trainer = ClassificationTrainer(model, arguments(tmp_path), WORD_DATA, WORD_DATA)
    data = trainer.train_data[""]
    assert data.texts[0][0].tolist() == model.tokenizer.encode(TEXTS[0])
    assert data.texts[1][2].tolist() == [-100, 1, 1, -100]
    assert trainer.evaluate()["eval_accuracy"] < 1
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1
    model.save_pretrained(tmp_path / "saved")
    found = EncoderForTokenClassification.from_pretrained(tmp_path / "saved")(np.array([data.texts[0][2]]))
    assert found.argmax(axis=-1)[0, 1:3].tolist() == [1, 1]


def test_long_rows_of_words_are_cut_and_pieces_have_no_class(folder: Path, tmp_path: Path) -> None:
    model = TrainableEncoder(folder, "token-classification", num_labels=2)
    # The tokenizer cuts words at punctuation.
    given = {"words": [["cat:dog", *["the"] * 40]], "labels": [[1, *[-100] * 3, *[0] * 37]]}
    data = ClassificationTrainer(model, arguments(tmp_path), given).train_data[""]
    ids, classes = data.texts[0][0], data.texts[1][0]
    assert len(ids) == model.max_seq_length == 24 and ids[0] == 2 and ids[-1] == 3
    assert classes[:8].tolist() == [-100, 1, -100, -100, -100, -100, -100, 0] and classes[-1] == -100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": [["a"]], "labels": [[2]]}, "row 0: labels must be in 0 .. 1 for the 2 classes of the model, got 2"),
        ({"words": [["a", "b"]], "labels": [[1]]}, "row 0: labels must be a whole number for each of the 2 words, got .1"),
        ({"words": ["a b"], "labels": [[1]]}, "row 0: expected a list of words, got str"),
        ({"words": [["a"]]}, "must have one column of lists of words and one named labels, got words"),
        ({"words": [], "labels": []}, "train_dataset has no rows"),
    ],
)
def test_bad_words(folder: Path, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    model = TrainableEncoder(folder, "token-classification", num_labels=2)
    with pytest.raises((ValueError, TypeError), match=message):
        ClassificationTrainer(model, arguments(tmp_path), given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [5] * len(TEXTS)}, r"labels must be in 0 .. 2 for the 3 classes of the model, got 5 in row 0"),
        ({"label": [0.5] * len(TEXTS)}, "labels must be whole numbers, one a text, got float32"),
        ({"other": TEXTS}, "must have one column of texts and one named label, got text, other and labels"),
    ],
)
def test_bad_data(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = TrainableEncoder(folder, "sequence-classification", num_labels=3)
    with pytest.raises(ValueError, match=message):
        ClassificationTrainer(model, arguments(tmp_path), {**DATA, **changes})


def test_bad_models(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be a TrainableEncoder, got str"):
        ClassificationTrainer("model", arguments(tmp_path), DATA)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_labels must be at least 1, and is of a classification alone, got 0"):
        TrainableEncoder(folder, "sequence-classification", num_labels=0)
    with pytest.raises(ValueError, match="got 3 for 'masked-lm'"):
        TrainableEncoder(folder, "masked-lm", num_labels=3)
