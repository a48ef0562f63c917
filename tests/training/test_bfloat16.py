"""Training with products in bfloat16: the encoder, runs and their bits, the warning, what is refused."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, EncoderConfig, SentenceTransformer, reference
from fastattn.encoder import slower
from fastattn.kernels.products import kinds
from fastattn.parameters import random_parameters
from fastattn.training import (
    ClassificationTrainer,
    CrossEncoderTrainer,
    LanguageModelingTrainer,
    SentenceTransformerTrainer,
    TrainableEncoder,
    TrainingArguments,
    new_tokenizer,
)
from fastattn.training.encoder import EncoderGraph
from fastattn.training.functions import Dropout
from fastattn.training.graph import Parameter
from tests.support.cases import normal
from tests.support.linear_gradients import each_thread_count
from tests.training.test_trainer import PAIRS, TEXTS, arguments, folder, same_bits, trained, weights

__all__ = ["folder"]

pytestmark = pytest.mark.jit

CONFIG = EncoderConfig(2, 2, 64, 96, vocab_size=40, positions="learned", type_vocab_size=2)
IDS, OFFSETS = np.arange(60, dtype=np.int32) % 40, np.array([0, 7, 60])


def graph(precision: Any) -> EncoderGraph:
    return EncoderGraph(CONFIG, random_parameters(CONFIG, 0), precision=precision)


def gradients(found: EncoderGraph) -> dict[str, Any]:
    hidden = found(IDS, OFFSETS)
    hidden.backward(normal(*hidden.shape, seed=1))
    made = {name: each.grad for name, each in found.parameters.items()}
    for each in found.trained():
        each.grad = None
    return made


def test_the_forward_is_the_reference_with_these_products() -> None:
    """It is much nearer to the reference in bfloat16 than that is to the one in float32."""
    parameters = random_parameters(CONFIG, 0)
    found = graph("bfloat16")(IDS, OFFSETS).data
    options = CONFIG.reference_options()
    rows = [IDS[None, a:b] for a, b in itertools.pairwise(OFFSETS)]
    low, exact = (
        np.concatenate([reference.encoder(parameters, each, linear=reference.mixed_linear(kind), **options)[0] for each in rows])
        for kind in ("bfloat16", "float32")
    )
    assert np.abs(found - low).max() < 0.1 * np.abs(exact - low).max()


def test_the_gradient_points_where_that_of_float32_does() -> None:
    exact, found = gradients(graph("float32")), gradients(graph("bfloat16"))
    for name, one in exact.items():
        a, b = one.astype(np.float64).ravel(), found[name].astype(np.float64).ravel()
        # The gradient of the keys' biases is 0 but for rounding: adding one number to all scores changes no weight.
        if name.endswith("key.bias"):
            continue
        assert a @ b > 0.999 * np.linalg.norm(a) * np.linalg.norm(b), name
        # No product lies between the last bias and the result.
        assert np.array_equal(a, b) == (name == "layers.1.feed_forward.layer_norm.bias"), name


def test_the_precision_can_be_set_and_set_back() -> None:
    one = graph("float32")
    before = gradients(one)
    one.set_precision("bfloat16")
    assert same_bits(gradients(one), gradients(graph("bfloat16")))
    one.set_precision("float32")
    assert same_bits(gradients(one), before)
    with pytest.raises(ValueError, match=r"^precision must be float32 or bfloat16 in training, got 'int8'$"):
        one.set_precision("int8")


def test_a_run_has_its_bits_for_any_number_of_threads_and_when_it_is_resumed(folder: Path, tmp_path: Path) -> None:
    found = []
    for _ in each_thread_count():
        found.append(weights(trained(folder, tmp_path, bf16=True)[1]))
    assert same_bits(*found)
    assert not same_bits(found[0], weights(trained(folder, tmp_path)[1]))
    trained(folder, tmp_path, bf16=True, save_strategy="steps", save_steps=3)
    half = str(tmp_path / "out" / "checkpoint-3")
    assert same_bits(found[0], weights(trained(folder, tmp_path, resume=half, bf16=True)[1]))
    with pytest.raises(ValueError, match="another run: its bf16 is True, here it is False"):
        trained(folder, tmp_path, resume=half)


def test_the_loss_follows_that_of_float32(folder: Path, tmp_path: Path) -> None:
    """The mean of the last of 40 steps, in which the loss falls by a third, is within 1 %."""
    runs = [trained(folder, tmp_path, max_steps=40, learning_rate=5e-3, bf16=bf16)[1] for bf16 in (False, True)]
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in runs]
    assert np.mean(losses[0][-8:]) < 0.7 * np.mean(losses[0][:8])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(np.mean(losses[1][-8:]), np.mean(losses[0][-8:]), rtol=0.01)


def language_model() -> TrainableEncoder:
    tokenizer = new_tokenizer([" ".join(TEXTS)], causal=True, model_max_length=16)
    config = EncoderConfig(
        1, 2, 32, 64, vocab_size=len(tokenizer), max_positions=16, is_causal=True, norm="rms", norm_first=True, gated=True,
        activation="silu", positions="rotary",
    )  # fmt: skip
    return TrainableEncoder.from_config(config, tokenizer)


def test_heads_take_it_too() -> None:
    """Scores and the loss of a vocabulary change with the precision of the head alone."""
    model = language_model()
    hidden, words = normal(9, 32), np.arange(9) % 3

    def found() -> tuple[float, Any]:
        return model.head.cross_entropy(Parameter(hidden), words, Dropout()).item(), model.head.next_scores(hidden)

    exact = found()
    model.head.set_precision("bfloat16")
    low = found()
    assert low[0] != exact[0] and not np.array_equal(low[1], exact[1])
    np.testing.assert_allclose(low[0], exact[0], rtol=1e-2)
    np.testing.assert_allclose(low[1], exact[1], atol=0.02 * np.abs(exact[1]).max())
    model.set_precision("float32")
    assert found()[0] == exact[0]


@pytest.mark.usefixtures("reranker")
def test_every_trainer_takes_it(folder: Path, tmp_path: Path) -> None:
    """Each has another loss after a step than in float32, near it; the next trainer of a model sets it back."""
    given: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "disable_tqdm": True}
    model = language_model()
    labelled = {"text": TEXTS, "label": [i % 2 for i in range(len(TEXTS))]}
    pairs = {**PAIRS, "label": [i % 2 for i in range(len(TEXTS))]}

    def losses(make: Any) -> list[float]:
        return [make(TrainingArguments(str(tmp_path / "out"), bf16=bf16, **given)).train().training_loss for bf16 in (False, True)]

    def classifier() -> TrainableEncoder:
        return TrainableEncoder(folder, "sequence-classification", num_labels=2)

    for make in (
        lambda args: LanguageModelingTrainer(language_model(), args, TEXTS),
        lambda args: ClassificationTrainer(classifier(), args, labelled),
        lambda args: SentenceTransformerTrainer(SentenceTransformer(str(folder)), args, PAIRS),
        lambda args: CrossEncoderTrainer(CrossEncoder(str(tmp_path / "reranker")), args, pairs),
    ):
        exact, found = losses(make)
        assert exact != found
        np.testing.assert_allclose(found, exact, rtol=0.01)
    measured = [
        LanguageModelingTrainer(model, TrainingArguments(str(tmp_path), bf16=bf16, **given), None, TEXTS).evaluate()["eval_loss"]
        for bf16 in (False, True, False)
    ]
    assert measured[0] == measured[2] != measured[1]


def test_one_warning_of_a_cpu_without_the_instruction(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(slower, "_warned", set())
    monkeypatch.setattr(kinds, "slower", lambda precision: None if precision == "float32" else f"no {precision} here")
    with pytest.warns(UserWarning, match="^precision 'bfloat16' is slower than float32 on this CPU: no bfloat16 here$") as caught:
        trained(folder, tmp_path, bf16=True, max_steps=1)
    assert len(caught) == 1 and Path(caught[0].filename).name == "test_trainer.py"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(folder, tmp_path, bf16=True, max_steps=1)


def test_arguments(tmp_path: Path) -> None:
    assert arguments(tmp_path, bf16=True).bf16
    with pytest.raises(ValueError, match="fp16 must be False"):
        arguments(tmp_path, fp16=True)
