"""Training of a StaticEmbedding: gradients, same bits, resumption, saved folders, torch's losses."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from fastattn import SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.modules import Dense, Normalize, StaticEmbedding
from fastattn.training import LoraConfig, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from fastattn.training.functions import Dropout
from fastattn.training.static import StaticGraph
from tests.support.cases import normal
from tests.support.linear_gradients import each_thread_count
from tests.support.models import WORDS, write_sentence_model

pytestmark = pytest.mark.jit

TEXTS = [f"{a} {b}" for a in WORDS[13:21] for b in WORDS[21:25]]
PAIRS = {"anchor": TEXTS, "positive": [f"the {text}" for text in TEXTS]}
V = len(WORDS)


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def trained(tmp_path: Path, model: Any = None, resume: Any = None, loss: Any = None, **changes: Any) -> Any:
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=16)]) if model is None else model
    given = {"max_steps": 20, "learning_rate": 0.1, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, **changes}
    args = SentenceTransformerTrainingArguments(str(tmp_path / "out"), **given)
    trainer = SentenceTransformerTrainer(model, args, PAIRS, loss=None if loss is None else loss(model))
    trainer.train(resume)
    return trainer


def table(trainer: Any) -> Any:
    return trainer.graph.parameters["embedding.weight"].data.copy()


# Of each token a row; of several tokens one, with factors.
@pytest.mark.parametrize("is_mapped", [False, True])
def test_gradients_of_the_table(is_mapped: bool) -> None:
    rows = 7 if is_mapped else V
    options = {"token_mapping": np.arange(V) % rows, "token_weights": normal(V, seed=4)} if is_mapped else {}
    module = StaticEmbedding(tokenizer(), normal(rows, 5), **options)
    graph = StaticGraph(module)
    offsets, ids = np.array([0, 4, 4, 5, 12]), np.array([3, 1, 3, 9, 8, 1, 1, 2, 10, 3, 31, 17], np.int32)
    upstream = normal(4, 5, seed=1)
    out = graph(ids, offsets, None, Dropout())
    assert np.array_equal(out.data, module._features(ids, offsets, None)) and not out.data[1].any()
    out.backward(upstream)
    expected = np.zeros((rows, 5))
    for text, (start, stop) in enumerate(itertools.pairwise(offsets)):
        for token in ids[start:stop]:
            factor = options["token_weights"][token] if is_mapped else 1.0
            expected[token % rows] += float(factor) * upstream[text].astype(np.float64) / (stop - start)
    grad = graph.parameters["embedding.weight"].grad
    assert grad is not None and grad.dtype == np.float32
    np.testing.assert_allclose(grad, expected, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_a_random_table_learns_and_is_saved(tmp_path: Path) -> None:
    trainer = trained(tmp_path, max_steps=40)
    logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert np.mean(logs[-5:]) < 0.5 * np.mean(logs[:5])
    after = trainer.model.encode(TEXTS)
    assert not np.array_equal(after, SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=16)]).encode(TEXTS))
    trainer.model.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"))
    assert np.array_equal(loaded.encode(TEXTS), after)
    # A model of a folder learns on, and is written with its new table.
    again = trained(tmp_path, loaded, max_steps=2)
    assert again.state.log_history[0]["loss"] < 0.6 * logs[0]
    loaded.save_pretrained(str(tmp_path / "again"))
    found = SentenceTransformer(str(tmp_path / "again")).encode(TEXTS)
    assert np.array_equal(found, loaded.encode(TEXTS)) and not np.array_equal(found, after)


def test_a_table_in_int8_is_trained_in_float32(tmp_path: Path) -> None:
    given = normal(V, 16)
    whole, packed = (
        SentenceTransformer(modules=[StaticEmbedding(tokenizer(), given, precision=precision)]) for precision in (None, "int8")
    )
    assert np.array_equal(table(trained(tmp_path, whole)), table(trained(tmp_path, packed)))
    assert 0 < np.abs(whole.encode(TEXTS) - packed.encode(TEXTS)).max() < 0.1


def test_same_bits_for_any_number_of_threads_and_after_a_checkpoint(tmp_path: Path) -> None:
    whole = [table(trained(tmp_path, max_steps=8)) for _ in each_thread_count()]
    assert all(np.array_equal(whole[0], each) for each in whole[1:])
    trained(tmp_path, max_steps=8, save_strategy="steps", save_steps=5)
    assert np.array_equal(table(trained(tmp_path, max_steps=8, resume=str(tmp_path / "out" / "checkpoint-5"))), whole[0])
    assert not np.array_equal(table(trained(tmp_path, max_steps=8, seed=1)), whole[0])


def test_with_modules_behind_it(tmp_path: Path) -> None:
    dense = Dense(16, 8, init_weight=normal(8, 16), init_bias=normal(8))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=16), dense, Normalize()])
    trainer = trained(tmp_path, model, loss=lambda model: losses.MultipleNegativesRankingLoss(model))
    logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert logs[-1] < logs[0] and sorted(trainer.graph.parameters) == ["1.linear.bias", "1.linear.weight", "embedding.weight"]
    with pytest.raises(ValueError, match="adapters need a model that begins with a Transformer, got a StaticEmbedding"):
        model.add_adapter(LoraConfig())


def test_a_random_table(tmp_path: Path) -> None:
    first, second, third = (StaticEmbedding(tokenizer(), embedding_dim=64, seed=seed)._given for seed in (0, 0, 1))
    assert first.shape == (V, 64) and np.array_equal(first, second) and not np.array_equal(first, third)
    assert abs(first.std() - 1) < 0.05 and abs(first.mean()) < 0.05
    with pytest.raises(ValueError, match="embedding_weights or embedding_dim, at least 1, must be given, got None and None"):
        StaticEmbedding(tokenizer())


@pytest.mark.parametrize("is_static", [True, False])
def test_files_that_were_changed_since_are_not_learned_from(is_static: bool, tmp_path: Path) -> None:
    if is_static:
        SentenceTransformer(modules=[StaticEmbedding(tokenizer(), normal(V, 16))]).save_pretrained(str(tmp_path / "model"))
    else:
        write_sentence_model(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"))
    path = next(path for path in (tmp_path / "model").rglob("model.safetensors"))
    save_file({name: array[:3].copy() for name, array in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match="its files were changed after they were read, so they may hold another model"):
        SentenceTransformerTrainer(model, None, PAIRS)


@pytest.mark.peers
@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_torch_takes_the_same_steps(optim: str, tmp_path: Path) -> None:
    torch, peer = pytest.importorskip("torch"), pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    of_loss = pytest.importorskip("sentence_transformers.losses")
    given, steps, batch = normal(V, 16), 100, 8

    def loss_of(kinds: Any, model: Any) -> Any:
        return kinds.MatryoshkaLoss(model, kinds.MultipleNegativesRankingLoss(model), [16, 8, 4])

    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer(), given)])
    rate = {"adamw_torch": 0.01, "sgd": 1.0}[optim]
    trainer = trained(
        tmp_path,
        model,
        loss=lambda model: loss_of(losses, model),
        max_steps=steps,
        optim=optim,
        learning_rate=rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
    )
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    theirs = peer.SentenceTransformer(modules=[modules.StaticEmbedding(tokenizer(), given.copy())], device="cpu")
    loss, expected = loss_of(of_loss, theirs), []
    kind = {"adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD}[optim]
    optimizer = kind(theirs.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        rows = slice(step * batch % len(TEXTS), step * batch % len(TEXTS) + batch)
        value = loss([theirs.preprocess(texts[rows]) for texts in PAIRS.values()], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(value.item())
    assert expected[-1] < 0.9 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * max(expected))
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), rtol=1e-5, atol=1e-6)
