"""What a run does at its edges: odd data, runs that are broken off, several trainers, epochs that differ."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fastattn import EncoderConfig, SentenceTransformer
from fastattn.modules import Dense, Pooling, Transformer
from fastattn.training import (
    LanguageModelingTrainer,
    SentenceTransformerTrainer,
    TrainableEncoder,
    TrainerState,
    TrainingArguments,
    losses,
    new_tokenizer,
)
from fastattn.training.data import TrainingData, epoch_batches
from fastattn.training.graph import Tensor
from tests.support.models import C, write_sentence_model
from tests.training.test_trainer import PAIRS, TEXTS, arguments, trained

pytestmark = pytest.mark.jit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


BAD_DATA = [
    ({"anchor": "abc", "positive": "abd"}, TypeError, "column 'anchor': expected a list with a value for each row, got str"),
    ({"anchor": ["a"], "positive": None}, TypeError, "column 'positive': expected a list with a value for each row, got NoneType"),
    ({"a": ["x", "y"], "b": ["y", "z"], "score": [0.5, math.nan]}, ValueError, "column 'score', row 1: labels must be finite"),
    ({"a": ["x", "y"], "b": ["y", "z"], "score": [[0.5, 1.0], [math.inf, 0.0]]}, ValueError, "row 1: labels must be finite"),
    ({"a": ["x", "y"], "b": ["y", "z"], "score": [1, None]}, TypeError, "row 1: labels must be numbers, got None"),
    ({"a": ["x", "y"], "b": ["y", "z"], "score": ["1", "2"]}, TypeError, "row 0: labels must be numbers, got '1'"),
]


@pytest.mark.parametrize(("dataset", "error", "message"), BAD_DATA)
def test_bad_data(dataset: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        TrainingData(dataset)


def test_rows_may_name_their_columns_in_any_order() -> None:
    data = TrainingData([{"a": "x", "b": "y"}, {"b": "w", "a": "z"}])
    assert data.names == ["a", "b"] and data.texts == [["x", "z"], ["y", "w"]]


BAD_ARGUMENTS = [
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"data_seed": 1.5}, "data_seed must be a whole number"),
    ({"max_steps": 2.5}, "max_steps must be a whole number, got 2.5"),
    ({"save_total_limit": 1.5}, "save_total_limit must be a whole number"),
    ({"num_train_epochs": math.inf}, "num_train_epochs must be greater than 0 and finite"),
    ({"fixed_parameters": "embeddings"}, "fixed_parameters must be a sequence"),
    ({"prompts": 3}, "prompts must be a text"),
    ({"num_train_epochs": "3"}, "num_train_epochs must be greater than 0 and finite, got '3'"),
    ({"learning_rate": True}, "learning_rate must be a number of at least 0, got True"),
    ({"warmup_ratio": 7}, "warmup_ratio must be a number in 0 .. 1, got 7"),
    ({"warmup_ratio": "x"}, "warmup_ratio must be a number in 0 .. 1, got 'x'"),
    ({"eval_steps": "x"}, "eval_steps must be a number of at least 0, got 'x'"),
    ({"optim_args": 5}, "optim_args must be a mapping, got 5"),
    ({"learning_rate_mapping": ["a"]}, "learning_rate_mapping must be a mapping"),
    ({"fixed_parameters": 5}, "fixed_parameters must be a sequence"),
    ({"lr_scheduler_type": "step"}, "lr_scheduler_type must be one of 'linear'"),
    ({"train_sampling_strategy": "group_by_length", "batch_sampler": "no_duplicates"}, '"group_by_length" cannot go with'),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**changes)


@pytest.mark.parametrize(
    ("every", "evaluated", "fits"),
    [(2, 2, True), (2, 4, True), (4, 2, False), (2, 3, False), (0.1, 0.2, True), (0.2, 0.1, False), (1, 0.5, False), (0, 2, False)],
)
def test_the_best_model_needs_a_checkpoint_of_each_evaluation(every: float, evaluated: float, fits: bool) -> None:
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": evaluated, "save_steps": every}
    TrainingArguments(**options)
    if fits:
        TrainingArguments(**options, load_best_model_at_end=True)
    else:
        with pytest.raises(ValueError, match="load_best_model_at_end needs a checkpoint at each evaluation"):
            TrainingArguments(**options, load_best_model_at_end=True)
    with pytest.raises(ValueError, match="load_best_model_at_end needs"):
        TrainingArguments(save_strategy="no", eval_strategy="epoch", load_best_model_at_end=True)


def test_fixed_parameters_that_are_no_expression(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fixed_parameters: '\(' is no regular expression"):
        SentenceTransformerTrainer(SentenceTransformer(str(folder)), arguments(tmp_path, fixed_parameters=("(",)), PAIRS)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learning_rate_mapping": {"(": 1.0}}, ValueError, r"learning_rate_mapping: '\(' is no regular expression"),
        ({"learning_rate_mapping": {"none": 1.0}}, ValueError, "learning_rate_mapping: no parameter's name matches 'none'"),
        ({"prompts": {"query": "q: "}}, ValueError, "prompts: there is no column or dataset 'query', only anchor, positive"),
        ({"prompts": {"anchor": 3}}, TypeError, r"prompts\['anchor'\] must be a text, or texts by column, got int"),
    ],
)
def test_what_names_nothing(changes: dict[str, Any], error: Any, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        SentenceTransformerTrainer(SentenceTransformer(str(folder)), arguments(tmp_path, **changes), PAIRS).train()


def test_a_metric_that_there_is_not_ends_the_run(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    with pytest.raises(ValueError, match="there is neither eval_dataset nor evaluator"):
        SentenceTransformerTrainer(model, arguments(tmp_path), PAIRS).evaluate()
    changes = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_accuracy"}
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **changes), PAIRS, PAIRS)
    with pytest.raises(ValueError, match="metric_for_best_model: there is no 'eval_accuracy', only eval_loss"):
        trainer.train()


def test_a_checkpoint_on_other_fixed_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    changes = {"fixed_parameters": ("embeddings[.]",), "save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    trained(folder, tmp_path, **changes)
    trained(folder, tmp_path, resume=True, **changes)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: array + np.float32("embeddings" in name) for name, array in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="a checkpoint of another run: its weights that do not learn"):
        trained(folder, tmp_path, resume=True, **changes)


def test_a_warm_up_of_all_steps(folder: Path, tmp_path: Path) -> None:
    _, trainer = trained(folder, tmp_path, max_steps=4, warmup_ratio=1.0)
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    # Of the next step each; the last would be behind the end.
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 0])


def test_an_output_that_is_no_folder_is_found_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    steps: list[Any] = []
    model, args = SentenceTransformer(str(folder)), arguments(tmp_path, output_dir=str(tmp_path / "file"), save_strategy="steps")
    trainer = SentenceTransformerTrainer(model, args, PAIRS, callbacks=[lambda *given: steps.append(given)])
    with pytest.raises(FileExistsError, match="file"):
        trainer.train()
    assert not steps


class _Interrupted(losses.MultipleNegativesRankingLoss):
    calls = 0

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().compute_loss_from_embeddings(embeddings, labels)


def test_a_run_that_is_broken_off_leaves_a_model_that_encodes_as_it_is_saved(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    before = model.encode(TEXTS)
    with pytest.raises(KeyboardInterrupt):
        SentenceTransformerTrainer(model, arguments(tmp_path), PAIRS, loss=_Interrupted).train()
    after = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "saved"))
    assert not np.array_equal(before, after)
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), after)


def test_a_trainer_sees_what_another_one_of_the_model_learned(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    first, second = (
        SentenceTransformerTrainer(model, arguments(tmp_path, learning_rate=1e-2), PAIRS, eval_dataset=PAIRS) for _ in range(2)
    )
    before = first.evaluate()["eval_loss"]
    second.train()
    assert first.evaluate()["eval_loss"] == second.evaluate()["eval_loss"] != before


def test_what_one_trainer_fixed_another_may_learn(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(TEXTS, causal=False, model_max_length=16)
    sizes: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "ff_dim": 48, "max_positions": 16}
    sizes |= {"type_vocab_size": 1, "positions": "learned"}
    model = TrainableEncoder.from_config(EncoderConfig(vocab_size=len(tokenizer), **sizes), tokenizer)
    run = {"output_dir": str(tmp_path / "out"), "max_steps": 2, "save_strategy": "no", "disable_tqdm": True}
    for fixed in (("embeddings[.]",), ()):
        trainer = LanguageModelingTrainer(model, TrainingArguments(**run, fixed_parameters=fixed), TEXTS)
        before = {name: each.data.copy() for name, each in trainer.graph.parameters.items()}
        trainer.train()
        kept = [name for name, each in trainer.graph.parameters.items() if np.array_equal(before[name], each.data)]
        assert bool(kept) == bool(fixed)


def test_an_evaluation_weighs_rows_alike(folder: Path, tmp_path: Path) -> None:
    data = {**{name: texts[:5] for name, texts in PAIRS.items()}, "score": [0.0, 0.1, 0.5, 0.9, 1.0]}
    found = []
    for size in (1, 2, 4, 5):
        model = SentenceTransformer(str(folder))
        args = arguments(tmp_path, per_device_eval_batch_size=size)
        trainer = SentenceTransformerTrainer(model, args, eval_dataset=data, loss=losses.CosineSimilarityLoss)
        found.append(trainer.evaluate()["eval_loss"])
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_evaluators_may_return_a_number_and_nan_is_never_the_best(folder: Path, tmp_path: Path) -> None:
    scores = iter([math.nan, 0.5, 0.7, math.nan])
    args = arguments(
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="evaluator",
        load_best_model_at_end=True,
        save_strategy="steps",
        save_steps=1,
    )
    trainer = SentenceTransformerTrainer(SentenceTransformer(str(folder)), args, PAIRS, evaluator=lambda model: next(scores))
    trainer.train()
    assert trainer.state.best_metric == 0.7 and str(trainer.state.best_model_checkpoint).endswith("checkpoint-3")


@pytest.mark.parametrize("limit", [0, -1, None])
def test_no_limit_keeps_all_checkpoints(limit: int | None, folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=limit)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("name", ["ReLU", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Identity"])
def test_a_dense_may_name_its_activation_as_torch_does(name: str, folder: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, C), np.float32)
    dense = Dense(C, 8, bias=False, activation_function=name, init_weight=weight)
    model = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(C), dense])
    SentenceTransformerTrainer(model, arguments(tmp_path, max_steps=2), PAIRS).train()
    assert not np.array_equal(dense.weight, weight)
    model.save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), model.encode(TEXTS))


def test_arguments_of_another_package_are_named_with_it(folder: Path) -> None:
    class SentenceTransformerTrainingArguments:
        pass

    with pytest.raises(TypeError, match=r"must be fastattn\.training\.\w+, got tests\..*SentenceTransformerTrainingArguments"):
        SentenceTransformerTrainer(SentenceTransformer(str(folder)), SentenceTransformerTrainingArguments(), PAIRS)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_checkpoint_may_be_named(kind: Any, folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, max_steps=4, save_strategy="steps", save_steps=1)
    _, trainer = trained(folder, tmp_path, resume=kind(tmp_path / "out" / "checkpoint-2"), max_steps=4)
    assert [entry["step"] for entry in trainer.state.log_history if "learning_rate" in entry] == [1, 2, 3, 4]
    assert trainer.state.log_history[-1]["train_samples_per_second"] > 0


def test_other_data_are_named_as_such(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, save_strategy="steps", save_steps=4)
    with pytest.raises(ValueError, match="a checkpoint of another run: its train_dataset has other rows"):
        trained(folder, tmp_path, dataset={**PAIRS, "anchor": TEXTS[::-1]}, resume=True)


class _Number(losses.Loss):
    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any) -> Any:
        return 0.5


class _Vector(losses.Loss):
    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any) -> Tensor:
        return embeddings[0]


@pytest.mark.parametrize(("loss", "found"), [(_Number, "float"), (_Vector, r"\(8, 32\)")])
def test_a_loss_of_a_user_must_be_one_number_with_a_gradient(loss: Any, found: str, folder: Path, tmp_path: Path) -> None:
    trainer = SentenceTransformerTrainer(SentenceTransformer(str(folder)), arguments(tmp_path), PAIRS, loss=loss)
    with pytest.raises(
        TypeError, match=rf"{loss.__name__}.compute_loss_from_embeddings must return a Tensor of shape \(\), got .*{found}"
    ):
        trainer.train()


def test_batches_without_duplicates_of_many_rows_are_made_in_no_time(tmp_path: Path) -> None:
    count = 100_000
    data = {
        "": TrainingData({"a": list(map(str, range(count))), "b": ["the same"] * 8 + list(map(str, range(count, 2 * count - 8)))})
    }
    started = time.process_time()
    batches = epoch_batches(data, arguments(tmp_path, batch_sampler="no_duplicates", train_sampling_strategy="sequential"), 0)
    # A tenth of a second; as the square of the rows, it was three.
    assert time.process_time() - started < 1.5
    assert [int(row) for row in batches[0].rows] == [0, *range(8, 15)] and batches[1].rows[0] == 1


TEXT = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, st.integers(0, 3)), min_size=1, max_size=40),
    size=st.integers(1, 9),
    sampler=st.sampled_from(["batch_sampler", "no_duplicates", "group_by_label"]),
    order=st.sampled_from(["random", "sequential", "group_by_length"]),
    drop=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_batches_of_any_data(rows: list[Any], size: int, sampler: str, order: str, drop: bool, epoch: int) -> None:
    data = {"": TrainingData([{"a": a, "b": b, "label": label} for a, b, label in rows])}
    order = "random" if sampler != "batch_sampler" and order == "group_by_length" else order
    args = TrainingArguments(
        batch_sampler=sampler, train_sampling_strategy=order, dataloader_drop_last=drop, per_device_train_batch_size=size
    )
    batches = [batch.rows.tolist() for batch in epoch_batches(data, args, epoch)]
    seen = sorted(row for batch in batches for row in batch)
    assert len(set(seen)) == len(seen) and all(1 <= len(batch) <= size for batch in batches)
    if drop:
        assert all(len(batch) == size for batch in batches)
    elif sampler != "group_by_label":
        assert seen == list(range(len(rows)))
    if sampler == "no_duplicates":
        for batch in batches:
            texts = [text for row in batch for text in set(rows[row][:2])]
            assert len(set(texts)) == len(texts)


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(TEXT, min_size=1, max_size=30),
    size=st.integers(1, 6),
    accumulated=st.integers(1, 4),
    total=st.integers(1, 40),
    done=st.integers(0, 40),
)
def test_each_step_has_batches_and_a_resumed_run_has_the_same(
    words: list[str], size: int, accumulated: int, total: int, done: int
) -> None:
    trainer = object.__new__(SentenceTransformerTrainer)
    trainer.args = TrainingArguments(
        batch_sampler="no_duplicates", per_device_train_batch_size=size, gradient_accumulation_steps=accumulated
    )
    trainer.train_data = {"": TrainingData({"a": words, "b": [f"{word}!" for word in words]})}
    per_epoch = math.ceil(len(epoch_batches(trainer.train_data, trainer.args, 0)) / accumulated)

    def steps(first: int) -> list[list[list[int]]]:
        trainer.state = TrainerState(global_step=first, max_steps=total)
        return [[batch.rows.tolist() for batch in step] for step in trainer._steps(per_epoch)]

    found = steps(0)
    assert len(found) == total and all(found)
    for start in range(0, total - per_epoch + 1, per_epoch):
        seen = {row for step in found[start : start + per_epoch] for batch in step for row in batch}
        assert seen == set(range(len(words)))
    assert steps(min(done, total)) == found[min(done, total) :]
