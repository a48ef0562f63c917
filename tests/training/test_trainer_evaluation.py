"""An evaluation in a run changes nothing of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import SentenceTransformerTrainer, losses
from fastattn.training.arithmetic import mean, square
from fastattn.training.graph import Tensor
from tests.support.models import C, write_sentence_model
from tests.training.test_trainer import PAIRS, arguments, same_bits, weights

pytestmark = pytest.mark.jit

WIDTHS = [C, C // 2, C // 4, C // 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


class _Noisy(losses.Loss):
    """Draws, also in an evaluation."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.rng = np.random.default_rng(0)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any) -> Tensor:
        return mean(square(embeddings[0] - embeddings[1])) * float(self.rng.uniform(0.5, 2))


def _matryoshka(model: SentenceTransformer) -> losses.Loss:
    return losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), WIDTHS, n_dims_per_step=2)


@pytest.mark.parametrize("kind", [_matryoshka, _Noisy])
def test_an_evaluation_changes_no_bit_of_the_training(kind: Any, folder: Path, tmp_path: Path) -> None:
    found = []
    for options in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        model = SentenceTransformer(str(folder))
        trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **options), PAIRS, PAIRS, loss=kind(model))
        trainer.train()
        found.append(weights(trainer))
    assert same_bits(*found)


def test_an_evaluation_takes_all_widths(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    all_widths = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), WIDTHS)
    found = [
        SentenceTransformerTrainer(model, arguments(tmp_path), eval_dataset=PAIRS, loss=loss).evaluate()["eval_loss"]
        for loss in (_matryoshka(model), _matryoshka(model), all_widths)
    ]
    assert found[0] == found[1] == found[2]
