"""Training runs follow those of torch and sentence-transformers, step by step: each loss, each optimiser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.training import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from tests.support.models import WORDS, C, write_sentence_model

pytestmark = [pytest.mark.jit, pytest.mark.peers]

STEPS, BATCH, RATE, SCALE = 100, 8, 1e-4, 0.1
TEXTS = [f"{a} {b} {c}" for a in WORDS[4:9] for b in WORDS[13:17] for c in WORDS[17:19]]
OTHERS = [f"the {text}" for text in TEXTS]
LABELS = np.random.default_rng(0)
# Of a SoftmaxLoss, which begins at random on either side.
CLASSIFIER = np.random.default_rng(1).standard_normal((3, 3 * C)).astype(np.float32) / 10

LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "MultipleNegativesRankingLoss": (None, {}),
    "CachedMultipleNegativesRankingLoss": (None, {"mini_batch_size": 3}),
    "CosineSimilarityLoss": (LABELS.random(len(TEXTS)).astype(np.float32), {}),
    "CoSENTLoss": (LABELS.random(len(TEXTS)).astype(np.float32), {}),
    "ContrastiveLoss": (LABELS.integers(0, 2, len(TEXTS)), {}),
    "TripletLoss": (None, {}),
    "MarginMSELoss": (LABELS.random(len(TEXTS)).astype(np.float32), {}),
    "SoftmaxLoss": (LABELS.integers(0, 3, len(TEXTS)), {}),
    "MatryoshkaLoss": (None, {}),
}
OPTIMISERS: dict[str, dict[str, Any]] = {
    "adamw_torch": {"weight_decay": 0.01},
    "adam": {},
    "sgd": {"momentum": 0.9},
    "rmsprop": {"momentum": 0.5},
    "adagrad": {},
}


def loss_of(kinds: Any, name: str, model: Any) -> Any:
    """Return a loss of our module of losses or of theirs."""
    if name == "SoftmaxLoss":
        return kinds.SoftmaxLoss(model, C, 3)
    if name == "MatryoshkaLoss":
        return kinds.MatryoshkaLoss(model, kinds.MultipleNegativesRankingLoss(model), [C, C // 2, C // 4], [1, 0.5, 2])
    return getattr(kinds, name)(model, **LOSSES[name][1])


def columns(name: str) -> dict[str, list[str]]:
    found = {"a": TEXTS, "b": OTHERS}
    return {**found, "c": OTHERS[1:] + OTHERS[:1]} if name in ("TripletLoss", "MarginMSELoss") else found


def theirs(folder: Path, name: str, optim: str) -> list[float]:
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("sentence_transformers")
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = peer.SentenceTransformer(str(folder), device="cpu", config_kwargs=off).train()
    labels = LOSSES[name][0]
    loss = loss_of(pytest.importorskip("sentence_transformers.losses"), name, model)
    if name == "SoftmaxLoss":
        with torch.no_grad():
            loss.classifier.weight.copy_(torch.from_numpy(CLASSIFIER))
            loss.classifier.bias.zero_()
    plain, bare = [], []
    # Those of the loss, beside the model's.
    named = {**dict(model.named_parameters()), **{f"loss.{key}": each for key, each in loss.named_parameters()}}
    for key, each in {id(each): (key, each) for key, each in named.items()}.values():
        (bare if key.endswith("bias") or "LayerNorm" in key else plain).append(each)
    kinds = {"adamw_torch": "AdamW", "adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
    settings = dict(OPTIMISERS[optim])
    decay = settings.pop("weight_decay", 0.0)
    groups = [{"params": plain, "weight_decay": decay}, {"params": bare, "weight_decay": 0.0}]
    optimizer = getattr(torch.optim, kinds[optim])(groups, lr=RATE, **settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    found = []
    for step in range(STEPS):
        rows = slice(step * BATCH % len(TEXTS), step * BATCH % len(TEXTS) + BATCH)
        features = [model.preprocess(texts[rows]) for texts in columns(name).values()]
        value = loss(features, None if labels is None else torch.from_numpy(labels[rows]))
        value.backward()
        torch.nn.utils.clip_grad_norm_(plain + bare, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


def ours(folder: Path, name: str, optim: str, tmp_path: Path) -> list[float]:
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
    labels = LOSSES[name][0]
    settings = dict(OPTIMISERS[optim])
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=settings.pop("weight_decay", 0.0),
        optim=optim,
        optim_args=settings,
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    dataset = {**columns(name), **({} if labels is None else {"label": labels.tolist()})}
    loss = loss_of(losses, name, model)
    if name == "SoftmaxLoss":
        weight, bias = loss.parameters()
        weight.data[...], bias.data[...] = CLASSIFIER, 0
    trainer = SentenceTransformerTrainer(model, args, dataset, loss=loss)
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize(
    ("name", "optim"), [*((name, "adamw_torch") for name in LOSSES), *(("CoSENTLoss", each) for each in OPTIMISERS)]
)
def test_losses_of_a_run(name: str, optim: str, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model")
    found, expected = np.array(ours(folder, name, optim, tmp_path)), np.array(theirs(folder, name, optim))
    assert len(found) == STEPS and abs(expected[-1] - expected[0]) > 1e-3 * abs(expected[0])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max() * SCALE)
