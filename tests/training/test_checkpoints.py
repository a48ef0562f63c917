"""Checkpoints: that of the best model, and that of this run and no other."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fastattn import SentenceTransformer
from fastattn.modules import StaticEmbedding
from fastattn.training import SentenceTransformerTrainer, TrainableEncoder
from tests.support.models import WORDS, write_sentence_model
from tests.training.test_language_modeling import causal_model
from tests.training.test_static import tokenizer
from tests.training.test_trainer import PAIRS, TEXTS, arguments, same_bits, trained, weights
from tests.training.test_trainer_state import words_trainer

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


def changed(folder: Path, **changes: Any) -> None:
    """Change a folder's files of JSON, by their keys."""
    for key, (name, value) in changes.items():
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), key: value}), encoding="utf-8")


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: array * np.float32(1.5) for name, array in tensors.items()}, folder / "model.safetensors")


def other_words(folder: Path) -> None:
    words = {word: i for i, word in enumerate([*WORDS[:4], *reversed(WORDS[4:])])}
    changed(folder, model=("tokenizer.json", {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}))


class TestAnotherModel:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (other_weights, "its weights at the beginning are others"),
            (other_words, "its tokenizer is another"),
            (
                lambda folder: changed(folder, pooling_mode_cls_token=("1_Pooling/config.json", True)),
                "its 1_Pooling's pooling_mode_cls_token is False, here it is True",
            ),
            (
                lambda folder: changed(folder, max_seq_length=("sentence_bert_config.json", 5)),
                "its max_seq_length is 12, here it is 5",
            ),
            (
                lambda folder: changed(folder, hidden_act=("config.json", "relu")),
                "its encoder's activation is 'gelu', here it is 'relu'",
            ),
            (
                lambda folder: write_sentence_model(folder, normalize=True),
                "its modules is .*Pooling'., here it is .*Normalize'.",
            ),
        ],
    )
    def test_is_refused(self, change: Any, message: str, folder: Path, tmp_path: Path) -> None:
        trained(folder, tmp_path, **SAVED)
        change(folder)
        before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=f"checkpoint-6: a checkpoint of another run: {message}"):
            trained(folder, tmp_path, resume=True, **SAVED)
        assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def test_is_refused_after_a_resumption(self, folder: Path, tmp_path: Path) -> None:
        trained(folder, tmp_path, **SAVED)
        trained(folder, tmp_path, resume=str(tmp_path / "out" / "checkpoint-2"), **SAVED)
        trained(folder, tmp_path, resume=True, **SAVED)
        other_weights(folder)
        with pytest.raises(ValueError, match="another run: its weights at the beginning are others"):
            trained(folder, tmp_path, resume=str(tmp_path / "out" / "checkpoint-4"), **SAVED)

    def test_a_static_table(self, tmp_path: Path) -> None:
        for seed, refused in ((0, False), (0, False), (1, True)):
            model = SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=8, seed=seed)])
            trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **SAVED), PAIRS)
            with pytest.raises(ValueError, match="its weights at the beginning are others") if refused else nullcontext():
                trainer.train(str(tmp_path / "out" / "checkpoint-4") if (tmp_path / "out").exists() else None)


class TestTheSameModel:
    def test_trained_since(self, folder: Path, tmp_path: Path) -> None:
        model, trainer = trained(folder, tmp_path, **SAVED)
        whole, half = weights(trainer), str(tmp_path / "out" / "checkpoint-2")
        trainer.train(half)
        assert same_bits(whole, weights(trainer))
        for args in (arguments(tmp_path / "other"), arguments(tmp_path, **SAVED)):
            again = SentenceTransformerTrainer(model, args, PAIRS)
            again.train(half if args.max_steps == 6 else None)
        assert same_bits(whole, weights(again))
        # What it wrote is of the first run.
        assert same_bits(whole, weights(trained(folder, tmp_path, resume=str(tmp_path / "out" / "checkpoint-4"), **SAVED)[1]))

    def test_that_began_with_trained_weights(self, folder: Path, tmp_path: Path) -> None:
        model, _ = trained(folder, tmp_path / "first")
        model.save_pretrained(str(tmp_path / "saved"))
        second = SentenceTransformerTrainer(model, arguments(tmp_path, **SAVED), PAIRS)
        second.train()
        resumed = trained(tmp_path / "saved", tmp_path, resume=str(tmp_path / "out" / "checkpoint-4"), **SAVED)[1]
        assert same_bits(weights(second), weights(resumed))
        with pytest.raises(ValueError, match="its weights at the beginning are others"):
            trained(folder, tmp_path, resume=True, **SAVED)

    def test_of_the_checkpoint_itself(self, folder: Path, tmp_path: Path) -> None:
        whole, half = weights(trained(folder, tmp_path, **SAVED)[1]), tmp_path / "out" / "checkpoint-2"
        assert same_bits(whole, weights(trained(half, tmp_path, resume=half, **SAVED)[1]))
        assert same_bits(whole, weights(trained(folder, tmp_path, resume=tmp_path / "out" / "checkpoint-4", **SAVED)[1]))
        model = causal_model()
        words_trainer(model, tmp_path / "words", **SAVED).train()
        half = tmp_path / "words" / "out" / "checkpoint-2"
        again = TrainableEncoder(half)
        words_trainer(again, tmp_path / "words", **SAVED).train(half)
        assert same_bits(*({each.name: each.data for each in found.trained()} for found in (model, again)))


def test_what_a_killed_save_left_is_removed_when_it_is_old(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old, new, mine = (out / name for name in (".checkpoint-2.0123abcd", ".checkpoint-4.0123abcd", ".checkpoint-4.mine"))
    for path in (old, new, mine):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x")
    for path in (old, mine):
        for each in (path / "model.safetensors", path):
            os.utime(each, (0, 0))
    # Another run may be writing a file in it.
    os.utime(new, (0, 0))
    trained(folder, tmp_path, max_steps=1)
    assert old.exists(), "a run that saves nothing changes nothing"
    trained(folder, tmp_path, save_strategy="steps", save_steps=9)
    assert sorted(path.name for path in out.iterdir()) == [new.name, mine.name]
