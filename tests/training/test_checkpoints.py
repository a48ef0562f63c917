"""Checkpoints: that of the best model, and that of this run and no other."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import SentenceTransformerTrainer
from tests.support.models import write_sentence_model
from tests.training.test_trainer import PAIRS, TEXTS, arguments

pytestmark = pytest.mark.jit

SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
BEST: dict[str, Any] = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "evaluator",
    "eval_strategy": "steps",
    "eval_steps": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def scored(folder: Path, tmp_path: Path, scores: list[float], resume: Any = None, **changes: Any) -> SentenceTransformerTrainer:
    """Train with an evaluator that returns these scores in turn."""
    found = iter(scores)
    args = arguments(tmp_path, **{**SAVED, **BEST, **changes})
    trainer = SentenceTransformerTrainer(SentenceTransformer(str(folder)), args, PAIRS, evaluator=lambda model: next(found))
    trainer.train(resume)
    return trainer


class TestBest:
    @pytest.mark.parametrize(
        ("steps", "saved", "evaluated", "message"),
        [
            (15, 0.1, 0.2, r"of 15 steps, save_steps 0\.1 is every 2, and eval_steps 0\.2 every 3$"),
            (6, 2.5, 5.0, r"of 6 steps, save_steps 2\.5 is every 3, and eval_steps 5\.0 every 5$"),
        ],
    )
    def test_evaluations_between_checkpoints_are_refused_before_the_first_step(
        self, steps: int, saved: float, evaluated: float, message: str, folder: Path, tmp_path: Path
    ) -> None:
        changes = {"max_steps": steps, "save_steps": saved, "eval_steps": evaluated}
        with pytest.raises(ValueError, match=f"^load_best_model_at_end needs a checkpoint at each evaluation: {message}"):
            scored(folder, tmp_path, [], **changes)
        assert not (tmp_path / "out").exists()

    def test_shares_that_fit(self, folder: Path, tmp_path: Path) -> None:
        trainer = scored(folder, tmp_path, [0.1, 0.2, 0.3, 0.2, 0.4], max_steps=20, save_steps=0.1, eval_steps=0.2)
        assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-20")

    def test_a_run_that_moved_has_its_best_model(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scored(folder, tmp_path, [0.3, 0.1, 0.2])
        (tmp_path / "out").rename(tmp_path / "moved")
        monkeypatch.chdir(tmp_path)
        changes = {"output_dir": str(tmp_path / "moved"), "save_total_limit": 1}
        trainer = scored(folder, tmp_path, [0.2], str(Path("moved", "checkpoint-4")), **changes)
        assert Path(str(trainer.state.best_model_checkpoint)).resolve() == tmp_path / "moved" / "checkpoint-2"
        best = SentenceTransformer(str(tmp_path / "moved" / "checkpoint-2")).encode(TEXTS)
        assert np.array_equal(trainer.model.encode(TEXTS), best)

    def test_a_best_model_that_is_gone_is_missed_at_once(self, folder: Path, tmp_path: Path) -> None:
        scored(folder, tmp_path, [0.3, 0.1, 0.2])
        shutil.rmtree(tmp_path / "out" / "checkpoint-2")
        with pytest.raises(FileNotFoundError, match="checkpoint-2: the best checkpoint of the run is gone, and load_best_model"):
            scored(folder, tmp_path, [], str(tmp_path / "out" / "checkpoint-4"))
        scored(folder, tmp_path, [0.2], str(tmp_path / "out" / "checkpoint-4"), load_best_model_at_end=False)
