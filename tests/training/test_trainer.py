"""Training runs of a tiny model: steps, same bits, resumption, evaluation, saved folders, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import (
    CrossEncoderTrainer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    TrainingArguments,
    losses,
)
from fastattn.training.arithmetic import mean
from fastattn.training.data import TrainingData, epoch_batches
from fastattn.training.graph import Tensor
from tests.support.linear_gradients import each_thread_count
from tests.support.models import WORDS, write_sentence_model

pytestmark = pytest.mark.jit

ROOT = Path(__file__).parents[2]
TEXTS = [f"{a} {b}" for a in WORDS[13:21] for b in WORDS[21:25]]
PAIRS = {"anchor": TEXTS, "positive": [f"the {text}" for text in TEXTS]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def arguments(tmp_path: Path, **changes: Any) -> SentenceTransformerTrainingArguments:
    given = {"output_dir": str(tmp_path / "out"), "max_steps": 8, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    return SentenceTransformerTrainingArguments(**{**given, "learning_rate": 1e-3, **changes})


def trained(folder: Path, tmp_path: Path, dataset: Any = None, resume: Any = None, **changes: Any) -> tuple[Any, Any]:
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.1})
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **changes), PAIRS if dataset is None else dataset)
    trainer.train(resume)
    return model, trainer


def weights(trainer: Any) -> dict[str, Any]:
    return {each.name: each.data.copy() for each in trainer.graph.trained()}


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_loss_falls_and_the_model_encodes_at_once(folder: Path, tmp_path: Path) -> None:
    before = SentenceTransformer(str(folder)).encode(TEXTS)
    model, trainer = trained(folder, tmp_path, max_steps=40, learning_rate=5e-3)
    logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 40 and np.mean(logs[-5:]) < 0.7 * np.mean(logs[:5])
    after = model.encode(TEXTS)
    assert not np.array_equal(before, after)
    model.save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), after)
    # A second run goes on from the trained weights.
    again = SentenceTransformerTrainer(model, arguments(tmp_path, max_steps=1, learning_rate=0.0), PAIRS)
    assert again.train().training_loss < 0.7 * np.mean(logs[:5])
    assert np.array_equal(model.encode(TEXTS), after)


def test_same_bits_for_any_number_of_threads_and_another_seed_differs(folder: Path, tmp_path: Path) -> None:
    found = []
    for _ in each_thread_count():
        found.append(weights(trained(folder, tmp_path)[1]))
    assert same_bits(*found)
    assert not same_bits(found[0], weights(trained(folder, tmp_path, seed=1)[1]))


def test_a_run_that_is_resumed_has_the_bits_of_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole = weights(trained(folder, tmp_path, gradient_accumulation_steps=2, optim="adamw_torch", warmup_steps=2)[1])
    options = {
        "gradient_accumulation_steps": 2,
        "warmup_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 2,
    }
    trained(folder, tmp_path, **options)
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept == ["checkpoint-3", "checkpoint-6"]
    for step in (3, 6):
        resumed = trained(
            folder, tmp_path, resume=str(tmp_path / "out" / f"checkpoint-{step}"), gradient_accumulation_steps=2, warmup_steps=2
        )
        assert same_bits(whole, weights(resumed[1]))
    assert same_bits(whole, weights(trained(folder, tmp_path, resume=True, gradient_accumulation_steps=2, warmup_steps=2)[1]))


@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_a_run_that_is_killed_leaves_whole_checkpoints(seconds: float, folder: Path, tmp_path: Path) -> None:
    whole = weights(trained(folder, tmp_path, max_steps=30)[1])
    code = (
        "import sys; from pathlib import Path; from tests.training.test_trainer import trained;"
        "trained(Path(sys.argv[1]), Path(sys.argv[2]), max_steps=30, save_strategy='steps', save_steps=1)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not list((tmp_path / "out").glob("checkpoint-*")) and running.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    running.send_signal(signal.SIGKILL)
    running.wait()
    for path in (tmp_path / "out").glob("checkpoint-*"):
        assert json.loads((path / "trainer_state.json").read_text())["global_step"] == int(path.name.split("-")[1])
    assert same_bits(whole, weights(trained(folder, tmp_path, resume=True, max_steps=30)[1]))


def test_a_gradient_cache_gives_the_gradient_of_the_whole_batch(folder: Path, tmp_path: Path) -> None:
    found = []
    for kind in (losses.MultipleNegativesRankingLoss, losses.CachedMultipleNegativesRankingLoss):
        model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
        options = {} if kind is losses.MultipleNegativesRankingLoss else {"mini_batch_size": 5}
        args = arguments(tmp_path, max_steps=1, optim="sgd", per_device_train_batch_size=16, max_grad_norm=0.0)
        trainer = SentenceTransformerTrainer(model, args, PAIRS, loss=kind(model, **options))
        trainer.train()
        found.append(weights(trainer))
    for name, one in found[0].items():
        np.testing.assert_allclose(one, found[1][name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optim", ["adamw_torch", "adam", "sgd", "rmsprop", "adagrad"])
def test_each_optimiser_lowers_the_loss(optim: str, folder: Path, tmp_path: Path) -> None:
    rate = 0.05 if optim == "sgd" else 0.01 if optim == "adagrad" else 1e-3
    _, trainer = trained(folder, tmp_path, max_steps=25, optim=optim, learning_rate=rate)
    logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert np.mean(logs[-5:]) < 0.9 * np.mean(logs[:5])


def test_evaluation_and_the_best_checkpoint(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, learning_rate=0.05, **options), PAIRS, eval_dataset=PAIRS)
    trainer.train()
    measured = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    assert sorted(measured) == [2, 4, 6, 8] and trainer.state.best_metric == min(measured.values())
    assert trainer.evaluate()["eval_loss"] == min(measured.values())


def test_fixed_parameters_stay(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, fixed_parameters=("embeddings[.]",)), PAIRS)
    before = {name: each.data.copy() for name, each in trainer.graph.parameters.items()}
    trainer.train()
    for name, each in trainer.graph.parameters.items():
        assert np.array_equal(before[name], each.data) == name.startswith("embeddings."), name


def test_batches_follow_from_the_arguments(tmp_path: Path) -> None:
    data = {"": TrainingData({"text": [f"w{i % 5}" for i in range(20)], "label": [i % 3 for i in range(20)]})}

    def rows(**changes: Any) -> list[list[int]]:
        return [batch.rows.tolist() for batch in epoch_batches(data, arguments(tmp_path, **changes), 0)]

    assert rows(train_sampling_strategy="sequential") == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    assert sorted(row for batch in rows() for row in batch) == list(range(20)) and rows() == rows() and rows(seed=1) != rows()
    assert [len(batch) for batch in rows(dataloader_drop_last=True)] == [8, 8]
    for batch in rows(batch_sampler="no_duplicates"):
        assert len({i % 5 for i in batch}) == len(batch)
    for batch in rows(batch_sampler="group_by_label", per_device_train_batch_size=4):
        labels = [i % 3 for i in batch]
        assert all(labels.count(label) >= 2 for label in labels)


class _Infinite(losses.Loss):
    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any) -> Tensor:
        return mean(embeddings[0]) * float("inf")


BAD_DATA = [
    ([], ValueError, "train_dataset has no rows"),
    ({"anchor": ["a"], "positive": ["b", "c"]}, ValueError, "columns of one length"),
    ({"label": [1, 2]}, ValueError, "no column of texts"),
    ({"anchor": ["a", None], "positive": ["b", "c"]}, TypeError, "column 'anchor', row 1: expected a text, got NoneType"),
    ([{"a": "x"}, {"b": "y"}], ValueError, "row 1 has the columns"),
    ({"a": ["x"], "b": ["y"], "label": ["z"]}, TypeError, "labels must be numbers"),
    (3, TypeError, "train_dataset must be a mapping"),
]


@pytest.mark.parametrize(("dataset", "error", "message"), BAD_DATA)
def test_bad_data(dataset: Any, error: Any, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        SentenceTransformerTrainer(SentenceTransformer(str(folder)), arguments(tmp_path), dataset)


BAD_ARGUMENTS = [
    ({"optim": "lion"}, "optim must be one of"),
    ({"learning_rate": -1.0}, "learning_rate must be"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be"),
    ({"fp16": True}, "fp16 must be False"),
    ({"save_strategy": "often"}, "save_strategy must be one of"),
    ({"train_sampling_strategy": "odd"}, "train_sampling_strategy must be one of"),
    ({"report_to": "wandb"}, "report_to must be"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS)
def test_bad_arguments(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**{"output_dir": str(tmp_path), **changes})


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    trainer = SentenceTransformerTrainer(
        model, arguments(tmp_path, train_sampling_strategy="sequential"), PAIRS, loss=_Infinite(model)
    )
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"step 1, of the rows \[0, 1, 2"):
        trainer.train()


def test_a_checkpoint_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, save_strategy="steps", save_steps=4)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="another run: its seed is 42, here it is 7"):
        trained(folder, tmp_path, resume=True, seed=7)
    with pytest.raises(ValueError, match="train_dataset"):
        trained(folder, tmp_path, dataset={**PAIRS, "anchor": TEXTS[::-1]}, resume=True)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        trained(folder, tmp_path / "elsewhere", resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_what_is_no_model_of_the_trainer(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    with pytest.raises(TypeError, match="model must be a CrossEncoder"):
        CrossEncoderTrainer(model, None, {"a": ["x"], "b": ["y"], "label": [1]})
    with pytest.raises(TypeError, match=r"loss must be a loss of fastattn\.training\.losses"):
        SentenceTransformerTrainer(model, arguments(tmp_path), PAIRS, loss=3)
    with pytest.raises(ValueError, match="no parameter's name matches"):
        SentenceTransformerTrainer(model, arguments(tmp_path, fixed_parameters=("nothing",)), PAIRS)
