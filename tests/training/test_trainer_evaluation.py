"""What an evaluation in a run is given, what it writes, and that it changes nothing of the run."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import SentenceTransformerTrainer, evaluation, losses
from fastattn.training.arithmetic import mean, square
from fastattn.training.graph import Tensor
from tests.support.models import C, write_sentence_model
from tests.training.test_trainer import PAIRS, TEXTS, arguments, same_bits, weights

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


def test_a_line_for_each_evaluation_is_written(folder: Path, tmp_path: Path) -> None:
    scores = np.linspace(0, 1, len(TEXTS))
    evaluator = evaluation.EmbeddingSimilarityEvaluator(TEXTS, PAIRS["positive"], scores, name="sts")
    silent = evaluation.TripletEvaluator(TEXTS, PAIRS["positive"], TEXTS[::-1], write_csv=False)
    args = arguments(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2)
    trainer = SentenceTransformerTrainer(SentenceTransformer(str(folder)), args, PAIRS, evaluator=[evaluator, silent])
    trainer.train()
    (path,) = (tmp_path / "out" / "eval").iterdir()
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    logged = [entry for entry in trainer.state.log_history if "eval_sts_spearman_cosine" in entry]
    assert [(float(line["epoch"]), int(line["steps"])) for line in lines] == [(entry["epoch"], entry["step"]) for entry in logged]
    assert [int(line["steps"]) for line in lines] == [2, 4]


def test_an_evaluator_is_told_what_it_takes(folder: Path, tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    def nothing(steps: Any) -> float:
        found["nothing"] = type(steps)
        return 1.0

    def by_place(given: Any, output_path: Any = None, epoch: Any = -1, steps: Any = -1) -> float:
        found["by_place"] = (output_path, epoch, steps)
        return 1.0

    def by_name(model: Any, *, steps: int) -> float:
        found["by_name"] = steps
        return 1.0

    def others(model: Any, limit: int = 3, **more: Any) -> float:
        found["others"] = limit, more
        return 1.0

    evaluators = [nothing, by_place, by_name, others, len]
    args = arguments(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer = SentenceTransformerTrainer(SentenceTransformer(str(folder)), args, PAIRS, evaluator=evaluators)
    trainer.train()
    where = {"output_path": str(tmp_path / "out" / "eval"), "epoch": trainer.state.epoch, "steps": 1}
    assert found == {"nothing": SentenceTransformer, "by_place": tuple(where.values()), "by_name": 1, "others": (3, where)}
    # Nobody has written.
    assert not (tmp_path / "out").exists()
