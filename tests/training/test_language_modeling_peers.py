"""Steps of masked and causal language modelling beside transformers on the same small weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.training import LanguageModelingTrainer, TrainableEncoder, TrainingArguments
from fastattn.training.language_modeling import mask_tokens
from tests.training.test_language_modeling import BOOK, SENTENCES, causal_model, masked_model

pytestmark = pytest.mark.jit

STEPS, RATE, SEED, ROWS = 10, 3e-3, 5, 8


def batch(trainer: LanguageModelingTrainer, step: int) -> tuple[Any, Any]:
    """Return a step's ids and labels as transformers takes them: padded, -100 where nothing is predicted."""
    model, rows = trainer.model, [row.astype(np.int64) for row in trainer.train_data[""].texts[0][step * ROWS : (step + 1) * ROWS]]
    width = max(map(len, rows))
    ids, labels = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -100)
    if model.task == "causal-lm":
        for i, row in enumerate(rows):
            ids[i, : len(row)] = labels[i, : len(row)] = row
        return ids, labels
    flat, tokenizer = np.concatenate(rows), model.tokenizer
    rng = np.random.default_rng([1, SEED, step, 0])
    out, places = mask_tokens(flat.astype(np.int32), tokenizer.all_special_ids, 4, len(tokenizer), rng)
    wanted = np.full(len(flat), -100)
    wanted[places] = flat[places]
    start = 0
    for i, row in enumerate(rows):
        ids[i, : len(row)], labels[i, : len(row)] = out[start : start + len(row)], wanted[start : start + len(row)]
        start += len(row)
    return ids, labels


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_losses_and_weights_follow_torch(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = masked_model() if kind == "masked" else causal_model()
    # Sentences of several lengths, so that torch pads and we do not.
    texts = [sentence[: 8 + i % 9] for i, sentence in enumerate(SENTENCES)] * 3 if kind == "masked" else [BOOK * 2]
    args = TrainingArguments(
        str(tmp_path / "run"), max_steps=STEPS, per_device_train_batch_size=ROWS, learning_rate=RATE, lr_scheduler_type="constant",
        train_sampling_strategy="sequential", seed=SEED, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "start")
    trainer = LanguageModelingTrainer(model, args, texts)
    trainer.train()
    ours = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]
    loader = transformers.AutoModelForMaskedLM if kind == "masked" else transformers.AutoModelForCausalLM
    theirs = loader.from_pretrained(tmp_path / "start", dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, weight_decay=0.0)
    found = []
    for step in range(STEPS):
        ids, labels = (torch.from_numpy(array) for array in batch(trainer, step))
        mask = torch.from_numpy((ids != 0).numpy().astype(np.int64))
        loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    assert np.array(ours) == pytest.approx(np.array(found), rel=1e-4)
    model.save_pretrained(tmp_path / "end")
    ended = loader.from_pretrained(tmp_path / "end", dtype=torch.float32).state_dict()
    for name, tensor in theirs.state_dict().items():
        difference = (tensor - ended[name]).abs().max().item()
        assert difference < 0.02 * RATE * STEPS, name
    assert isinstance(TrainableEncoder(tmp_path / "end"), TrainableEncoder)
