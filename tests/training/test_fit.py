"""`fit`, sentence-transformers' older interface: as the trainers learn, with its names, evaluations and folders."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.training import (
    Adam,
    InputExample,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    cross_encoder_losses,
    losses,
)
from tests.support.models import WORDS

pytestmark = pytest.mark.jit

TEXTS = [f"{a} {b}" for a in WORDS[13:21] for b in WORDS[21:25]]
POSITIVES = [f"the {text}" for text in TEXTS]
QUICK: dict[str, Any] = {"warmup_steps": 0, "show_progress_bar": False, "optimizer_params": {"lr": 1e-3}}


def examples(labels: Any = None) -> list[InputExample]:
    labels = [0] * len(TEXTS) if labels is None else labels
    return [InputExample(texts=[a, b], label=label) for a, b, label in zip(TEXTS, POSITIVES, labels, strict=True)]


class Loader:
    """Yields batches through `collate_fn`, as a DataLoader."""

    def __init__(self, rows: list[InputExample], batch_size: int) -> None:
        self.rows, self.batch_size, self.collate_fn = rows, batch_size, _refused

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.rows), self.batch_size):
            yield self.collate_fn(self.rows[start : start + self.batch_size])


def _refused(batch: list[InputExample]) -> Any:
    raise TypeError("examples are no tensors")


def test_fit_gives_the_weights_of_the_trainer(model: SentenceTransformer, tmp_path: Path) -> None:
    args = SentenceTransformerTrainingArguments(
        "out", num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, weight_decay=0.01, save_strategy="no"
    )
    data = {"sentence_0": TEXTS, "sentence_1": POSITIVES}
    other = SentenceTransformer(str(tmp_path / "model"))
    before = model.encode(TEXTS)
    # Several datasets have names, from which the order of rows follows: one has the same.
    SentenceTransformerTrainer(other, args, {"_dataset_1": data}, loss=losses.MultipleNegativesRankingLoss(other)).train()
    batches = [examples()[start : start + 8] for start in range(0, len(TEXTS), 8)]
    for given in (examples(), batches, Loader(examples(), 8)):
        fitted = SentenceTransformer(str(tmp_path / "model"))
        fitted.fit([(given, losses.MultipleNegativesRankingLoss(fitted))], epochs=2, **QUICK)
        assert np.array_equal(fitted.encode(TEXTS), other.encode(TEXTS))
    assert not np.array_equal(before, other.encode(TEXTS))
    model.fit([(Loader(examples(), 4), losses.MultipleNegativesRankingLoss(model))], epochs=2, **QUICK)
    assert not np.array_equal(model.encode(TEXTS), other.encode(TEXTS))


def test_the_loader_keeps_its_collate_fn(model: SentenceTransformer) -> None:
    loader = Loader(examples(), 8)
    model.fit([(loader, losses.MultipleNegativesRankingLoss)], steps_per_epoch=1, **QUICK)
    assert loader.collate_fn is _refused


def test_several_objectives_give_a_batch_in_turn(model: SentenceTransformer, tmp_path: Path) -> None:
    scored = examples(np.linspace(0, 1, len(TEXTS)).tolist())
    objectives = [(examples(), losses.MultipleNegativesRankingLoss(model)), (scored[:8], losses.CosineSimilarityLoss(model))]
    model.fit(objectives, checkpoint_path=str(tmp_path / "c"), checkpoint_save_steps=1, **QUICK)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_the_best_model_is_written(model: SentenceTransformer, tmp_path: Path) -> None:
    found: list[Any] = []
    encoded = []

    def evaluator(given: Any, output_path: str, epoch: float, steps: int) -> float:
        assert given is model and output_path == str(tmp_path / "best" / "eval")
        encoded.append(model.encode(TEXTS))
        return [0.1, 0.7, 0.3, 0.2][len(encoded) - 1]

    objective = (examples(), losses.MultipleNegativesRankingLoss(model))
    options = {**QUICK, "output_path": str(tmp_path / "best"), "evaluator": evaluator, "evaluation_steps": 3}
    model.fit([objective], epochs=2, callback=lambda *args: found.append(args), **options)
    assert found == [(0.1, 0.75, 3), (0.7, 1.0, 4), (0.3, 1.5, 6), (0.2, 2.0, 8)]
    assert np.array_equal(SentenceTransformer(str(tmp_path / "best")).encode(TEXTS), encoded[1])
    assert np.array_equal(model.encode(TEXTS), encoded[3])


def test_the_last_model_is_written_without_a_best(model: SentenceTransformer, tmp_path: Path) -> None:
    model.fit([(examples(), losses.MultipleNegativesRankingLoss(model))], output_path=str(tmp_path / "last"), **QUICK)
    assert np.array_equal(SentenceTransformer(str(tmp_path / "last")).encode(TEXTS), model.encode(TEXTS))


def test_fit_resumes_to_the_same_bits(model: SentenceTransformer, tmp_path: Path) -> None:
    options = {**QUICK, "checkpoint_path": str(tmp_path / "c"), "resume_from_checkpoint": True}
    model.fit([(examples(), losses.MultipleNegativesRankingLoss(model))], checkpoint_save_steps=3, **options)
    again = SentenceTransformer(str(tmp_path / "model"))
    again.fit([(examples(), losses.MultipleNegativesRankingLoss(again))], checkpoint_save_steps=100, **options)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_cross_encoder_learns(reranker: CrossEncoder, tmp_path: Path) -> None:
    labels = [float(i % 2) for i in range(len(TEXTS))]
    rows = [InputExample(texts=[text, "w1" if label else "w2"], label=label) for text, label in zip(TEXTS, labels, strict=True)]
    pairs = [row.texts for row in rows]
    reranker.fit(rows, epochs=8, output_path=str(tmp_path / "out"), **{**QUICK, "optimizer_params": {"lr": 1e-2}})
    scores = reranker.predict(pairs)  # type: ignore[arg-type]
    assert scores[1::2].min() > scores[::2].max()
    assert np.array_equal(CrossEncoder(str(tmp_path / "out")).predict(pairs), scores)  # type: ignore[arg-type]
    reranker.fit(rows, loss_fct=cross_encoder_losses.MSELoss, optimizer_class=Adam, scheduler="constantlr", **QUICK)


BAD = [
    ({"train_objectives": []}, ValueError, "train_objectives must be pairs"),
    ({"train_objectives": [examples()]}, ValueError, "train_objectives must be pairs"),
    ({"train_objectives": [([], None)]}, ValueError, r"train_objectives\[0\] has no examples"),
    ({"train_objectives": [(3, None)]}, TypeError, "must be examples, batches of them or a DataLoader, got int"),
    ({"train_objectives": [(["a", "b"], None)]}, TypeError, "example 0: expected an InputExample with texts, got str"),
    ({"train_objectives": [([InputExample(texts="ab")], None)]}, TypeError, "example 0: expected an InputExample"),  # type: ignore[arg-type]
    (
        {"train_objectives": [([InputExample(texts=["a", "b"]), InputExample(texts=["a"])], None)]},
        ValueError,
        "example 1 has 1 texts, and the first has 2",
    ),
    ({"scheduler": "odd"}, ValueError, "scheduler must be one of constantlr"),
    ({"optimizer_class": "Lion"}, ValueError, "optimizer_class must be one of AdamW"),
    ({"use_amp": True}, ValueError, "use_amp must be False"),
    ({"epochs": 0}, ValueError, "num_train_epochs must be"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_input(changes: dict[str, Any], error: Any, message: str, model: SentenceTransformer) -> None:
    given = {"train_objectives": [(examples(), losses.MultipleNegativesRankingLoss)], **QUICK, **changes}
    with pytest.raises(error, match=message):
        model.fit(**given)


def test_input_example() -> None:
    assert str(InputExample("7", ["a", "b"], 1)) == "<InputExample> label: 1, texts: a; b"
    assert InputExample().texts is None and InputExample().label == 0


def test_names_and_defaults_are_those_of_sentence_transformers() -> None:
    theirs = pytest.importorskip("sentence_transformers")
    for ours, name in ((SentenceTransformer, "SentenceTransformer"), (CrossEncoder, "CrossEncoder")):
        wanted = inspect.signature(getattr(theirs, name).fit).parameters
        found = inspect.signature(ours.fit).parameters
        assert list(found) == list(wanted)
        # Classes of torch stand for their names.
        for key in set(found) - {"optimizer_class", "activation_fct"}:
            assert found[key].default == wanted[key].default, key
    example, other = theirs.InputExample("7", ["a", "b"], 1), InputExample("7", ["a", "b"], 1)
    assert vars(example) == vars(other) and str(example) == str(other)


def test_a_loader_of_torch(model: SentenceTransformer) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(examples(), batch_size=8, shuffle=True)
    before = model.encode(TEXTS)
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))], **QUICK)
    assert not np.array_equal(before, model.encode(TEXTS))
