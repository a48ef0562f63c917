"""Prompts in training: put before the texts of a column, and left out of the pooling where the model leaves them out."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.training import (
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    TrainableEncoder,
    losses,
)
from fastattn.training.graph import Parameter
from fastattn.training.pooling import pooled
from tests.support.cases import normal
from tests.support.models import C, write_sentence_model, write_tokenizer

pytestmark = pytest.mark.jit

DATA: dict[str, Any] = {
    "a": ["the cat", "w14", "a dog sat", ""],
    "b": ["mat", "w15 w16 w17", "on", "w18"],
    "label": [0.1, 0.9, 0.4, 0.6],
}
PROMPTS = {"a": "query : ", "b": "the "}


def trainer_of(tmp_path: Path, include_prompt: bool, mode: str, loss: Any, prompts: Any) -> Any:
    pooling = {"word_embedding_dimension": C, f"pooling_mode_{mode}": True, "include_prompt": include_prompt}
    if mode != "mean_tokens":
        pooling["pooling_mode_mean_tokens"] = False
    folder = write_sentence_model(tmp_path / "model", pooling)
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True, prompts=prompts
    )
    return SentenceTransformerTrainer(model, args, DATA, DATA, loss=loss(model))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token", "weightedmean_tokens"])
def test_the_loss_is_that_of_what_encode_returns(include_prompt: bool, mode: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, include_prompt, mode, losses.CosineSimilarityLoss, PROMPTS)
    a, b = (trainer.model.encode(DATA[name], prompt=prompt).astype(np.float64) for name, prompt in PROMPTS.items())
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = float(np.mean((cosines - DATA["label"]) ** 2))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert trainer.train().training_loss == pytest.approx(expected, rel=1e-4)


PAIRS = {"a": ["the cat", "w14", "a dog sat", ""], "b": ["mat", "w15 w16 w17", "on", "w18"], "label": [0.0, 1.0, 0.0, 1.0]}


def scorer(tmp_path: Path) -> CrossEncoder:
    folder = write_sentence_model(tmp_path / "plain")
    TrainableEncoder(folder, "sequence-classification", num_labels=1).save_pretrained(tmp_path / "scorer")
    write_tokenizer(tmp_path / "scorer")
    return CrossEncoder(str(tmp_path / "scorer"), config_kwargs={"hidden_dropout_prob": 0.0})


@pytest.mark.parametrize("prompts", ["query : ", {"one": "query : "}])
def test_the_loss_of_a_cross_encoder_is_that_of_what_predict_returns(prompts: Any, tmp_path: Path) -> None:
    model, data = scorer(tmp_path), {"one": PAIRS} if isinstance(prompts, dict) else PAIRS
    pairs = list(zip(PAIRS["a"], PAIRS["b"], strict=True))
    found, plain = (model.predict(pairs, prompt=prompt, activation_fn=lambda x: x) for prompt in ("query : ", None))
    x, y = np.asarray(found, np.float64), np.asarray(PAIRS["label"])
    assert np.abs(found - plain).max() > 1e-3
    args = CrossEncoderTrainingArguments(str(tmp_path / "out"), save_strategy="no", disable_tqdm=True, prompts=prompts)
    metrics = CrossEncoderTrainer(model, args, data, data).evaluate()
    assert next(iter(metrics.values())) == pytest.approx(float(np.mean(np.log1p(np.exp(x)) - x * y)), rel=1e-4)


@pytest.mark.parametrize("prompts", [{"a": "query : "}, {"one": {"a": "query : "}}])
def test_prompts_of_the_columns_of_pairs(prompts: Any, tmp_path: Path) -> None:
    args = CrossEncoderTrainingArguments(str(tmp_path / "out"), prompts=prompts)
    with pytest.raises(ValueError, match="prompts of a CrossEncoder must be a text, or a text for each dataset, here one: "):
        CrossEncoderTrainer(scorer(tmp_path), args, {"one": PAIRS})


def test_a_gradient_cache_leaves_out_the_same_tokens(tmp_path: Path) -> None:
    found = []
    for kind in (losses.MultipleNegativesRankingLoss, losses.CachedMultipleNegativesRankingLoss):
        options = {} if kind is losses.MultipleNegativesRankingLoss else {"mini_batch_size": 3}

        def loss(model: Any, kind: Any = kind, options: Any = options) -> Any:
            return kind(model, **options)

        trainer = trainer_of(tmp_path, False, "mean_tokens", loss, PROMPTS)
        trainer.train()
        found.append(trainer.state.log_history[-1]["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"])
def test_gradients_with_a_number_of_tokens_for_each_text(mode: str) -> None:
    offsets, skips = np.array([0, 3, 4, 9, 11, 11]), np.array([1, 1, 2, 0, 0])
    hidden, upstream = Parameter(normal(11, 5)), normal(5, 5, seed=1)
    out = pooled(hidden, offsets, mode, skips)
    for text, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = pooled(Parameter(hidden.data[start:stop]), np.array([0, stop - start]), mode, np.array([skips[text]]))
        assert np.array_equal(out.data[text], alone.data[0])
    out.backward(upstream)
    assert hidden.grad is not None
    step, direction = 1e-2, normal(11, 5, seed=2)
    sides = [(pooled(Parameter(hidden.data + s * step * direction), offsets, mode, skips).data * upstream).sum() for s in (1, -1)]
    assert (hidden.grad * direction).sum() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-2, abs=1e-2)
    left_out = np.concatenate([np.arange(a, min(a + skip, b)) for a, b, skip in zip(offsets, offsets[1:], skips, strict=False)])
    assert not hidden.grad[left_out].any()
