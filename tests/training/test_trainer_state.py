"""What a run leaves behind, and what one trainer changes for another: gradients, what learns, adapters, precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import LanguageModelingTrainer, LoraConfig, SentenceTransformerTrainer, TrainableEncoder, TrainingArguments
from tests.support.models import write_sentence_model
from tests.training.test_bfloat16 import language_model
from tests.training.test_trainer import PAIRS, TEXTS, arguments, same_bits, trained, weights

pytestmark = pytest.mark.jit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def words_trainer(model: TrainableEncoder, tmp_path: Path, **changes: Any) -> LanguageModelingTrainer:
    given: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "disable_tqdm": True, **changes}
    return LanguageModelingTrainer(model, TrainingArguments(str(tmp_path / "out"), **given), TEXTS)


def changed(trainer: Any) -> set[str]:
    """Train; return the names of the parameters that have other numbers afterwards."""
    before = {name: each.data.copy() for name, each in trainer.graph.parameters.items()}
    trainer.train()
    return {name for name, each in trainer.graph.parameters.items() if not np.array_equal(before[name], each.data)}


def test_gradients_of_a_step_that_was_broken_off_are_forgotten(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3}
    whole = weights(trained(folder, tmp_path / "whole", **options)[1])
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.1})
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **options), PAIRS)
    add, calls = trainer._add_gradients, 0

    def breaks(*given: Any) -> float:
        nonlocal calls
        calls += 1
        loss = add(*given)
        if calls == 10:
            raise KeyboardInterrupt
        return loss

    trainer._add_gradients = breaks  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert all(each.grad is None for each in trainer.graph.parameters.values())
    # Gradients that are there when a run begins are none of its own.
    for each in trainer.graph.trained():
        each.grad = np.ones_like(each.data)
    trainer.train(resume_from_checkpoint=True)
    assert same_bits(whole, weights(trainer))


def test_what_learns_is_what_the_arguments_of_the_run_say(tmp_path: Path) -> None:
    model = language_model()
    first, second = (words_trainer(model, tmp_path, fixed_parameters=(name,)) for name in ("^embeddings[.]", "^layers[.]"))
    kept = [trainer.kept_digest for trainer in (first, second)]
    for trainer, fixed in ((first, "embeddings."), (second, "layers.")):
        found = changed(trainer)
        assert found and not any(name.startswith(fixed) for name in found)
        assert any(name.startswith("layers.") for name in found) == (fixed == "embeddings.")
    # The weights of the second were those that the first trained.
    assert [trainer.kept_digest for trainer in (first, second)] != kept


def test_a_trainer_of_an_encoder_that_got_an_adapter(tmp_path: Path) -> None:
    model = language_model()
    trainer = words_trainer(model, tmp_path, fixed_parameters=("embeddings[.]",))
    model.add_adapter(LoraConfig(modules_to_save=["embed_tokens"]))
    found = changed(trainer)
    assert found and all("lora_" in name for name in found)


def test_a_trainer_of_a_model_that_got_an_adapter(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder))
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, max_steps=1), PAIRS, PAIRS)
    model.add_adapter(LoraConfig())
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match="model has an adapter that its trainer does not know: make the trainer after"):
            run()
    SentenceTransformerTrainer(model, arguments(tmp_path, max_steps=1), PAIRS).train()


def test_a_run_ends_in_float32(tmp_path: Path) -> None:
    model = language_model()
    words_trainer(model, tmp_path, bf16=True, learning_rate=0.0).train()
    hidden = np.random.default_rng(0).standard_normal((3, 32), np.float32)
    assert np.array_equal(model.head.next_scores(hidden), language_model().head.next_scores(hidden))
