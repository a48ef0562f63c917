"""A loss for each dataset: what each of them learns, the names of its weights, datasets without one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import SentenceTransformerTrainer, losses
from tests.support.models import C, write_sentence_model
from tests.training.test_trainer import PAIRS, TEXTS, arguments, same_bits, weights

pytestmark = pytest.mark.jit

CLASSES = [i % 2 for i in range(len(TEXTS))]
LABELLED = {**PAIRS, "label": CLASSES}
BOTH = {"nli": LABELLED, "qqp": LABELLED}


def softmax(model: SentenceTransformer, classes: int, seed: int = 0) -> losses.SoftmaxLoss:
    return losses.SoftmaxLoss(model, C, classes, seed=seed)


def names(trainer: SentenceTransformerTrainer) -> set[str]:
    return set(trainer._more_parameters())


def test_the_weights_of_each_loss_learn(model: SentenceTransformer, tmp_path: Path) -> None:
    both = {"nli": softmax(model, 3), "qqp": softmax(model, 2)}
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path), BOTH, loss=both)
    before = [each.data.copy() for loss in both.values() for each in loss.parameters()]
    trainer.train()
    after = [each.data for loss in both.values() for each in loss.parameters()]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    places = ((key, i, part) for key in both for i, part in enumerate(("weight", "bias")))
    assert names(trainer) == {f"loss.{key}.{i}.classifier.{part}" for key, i, part in places}


def test_a_loss_of_several_datasets_learns_once_in_a_step(model: SentenceTransformer, tmp_path: Path) -> None:
    loss = softmax(model, 2)
    args = arguments(tmp_path, max_steps=1, optim="sgd", max_grad_norm=0)
    trainer = SentenceTransformerTrainer(model, args, BOTH, loss={"nli": loss, "qqp": loss})
    assert names(trainer) == {"loss.0.classifier.weight", "loss.1.classifier.bias"}
    trainer.train()
    # Losses that share what they learn: it has one name.
    inner = {"nli": losses.MatryoshkaLoss(model, loss, [C]), "qqp": loss}
    assert names(SentenceTransformerTrainer(model, args, BOTH, loss=inner)) == {
        "loss.0.classifier.weight",
        "loss.1.classifier.bias",
    }


def test_one_loss_with_weights_has_the_names_that_it_has_alone(model: SentenceTransformer, tmp_path: Path) -> None:
    wanted = {"loss.0.classifier.weight", "loss.1.classifier.bias"}
    alone = SentenceTransformerTrainer(model, arguments(tmp_path), LABELLED, loss=softmax(model, 2))
    beside = {"nli": losses.MultipleNegativesRankingLoss(model), "qqp": softmax(model, 2)}
    assert names(alone) == names(SentenceTransformerTrainer(model, arguments(tmp_path), BOTH, loss=beside)) == wanted


def test_a_run_with_several_losses_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    folder, found = write_sentence_model(tmp_path / "model"), []
    args = arguments(tmp_path, save_strategy="steps", save_steps=3)
    for resume in (False, True):
        model = SentenceTransformer(str(folder))
        both = {"nli": softmax(model, 2), "qqp": softmax(model, 2, seed=1)}
        trainer = SentenceTransformerTrainer(model, args, BOTH, loss=both)
        trainer.train(resume)
        found.append(weights(trainer) | {name: each.data for name, each in trainer._more_parameters().items()})
    assert same_bits(*found)


@pytest.mark.parametrize(
    ("train", "evaluated", "message"),
    [
        (BOTH, {**BOTH, "sts": LABELLED}, r"loss has no entry for eval_dataset\['sts'\], only for 'nli', 'qqp'"),
        (BOTH, LABELLED, "loss has entries for datasets by name, and eval_dataset is one without a name"),
        ({**BOTH, "a": PAIRS, "b": PAIRS}, None, r"loss has no entry for train_dataset\['a'\], train_dataset\['b'\], only"),
        (LABELLED, None, "loss has entries for datasets by name, and train_dataset is one without a name"),
        (None, {"sts": LABELLED}, r"loss has no entry for eval_dataset\['sts'\]"),
    ],
)
def test_a_dataset_without_a_loss(train: Any, evaluated: Any, message: str, model: SentenceTransformer, tmp_path: Path) -> None:
    kinds = {"nli": losses.CoSENTLoss, "qqp": losses.CosineSimilarityLoss}
    with pytest.raises(ValueError, match=message):
        SentenceTransformerTrainer(model, arguments(tmp_path), train, evaluated, loss=kinds)
