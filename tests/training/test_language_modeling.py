"""Masked and causal language modelling: what is masked, what is learned, what is saved, and errors."""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads

import fastattn
from fastattn import Encoder, EncoderConfig, SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.training import LanguageModelingTrainer, TrainableEncoder, TrainingArguments, generate, new_tokenizer
from fastattn.training.language_modeling import mask_tokens
from tests.support.golden_models import GOLDEN
from tests.support.language_model import write_language_model

pytestmark = pytest.mark.jit

WORDS = [f"w{i}" for i in range(96)]
# Three words of its own, each twice: a masked one follows from the others.
SENTENCES = [" ".join(WORDS[3 * i + j % 3] for j in range(6)) for i in range(32)]
BOOK = "the cat sat on the mat. the dog sat on the cat. the mat sat on the dog.\n" * 12


def masked_model(dropout: float = 0.0, seed: int = 0) -> TrainableEncoder:
    tokenizer = new_tokenizer(SENTENCES, vocab_size=400, model_max_length=16)
    sizes = {"positions": "learned", "vocab_size": len(tokenizer), "max_positions": 16, "type_vocab_size": 2}
    return TrainableEncoder.from_config(EncoderConfig(1, 2, 32, 64, dropout, **sizes), tokenizer, seed)


def causal_model(length: int = 16, seed: int = 0) -> TrainableEncoder:
    tokenizer = new_tokenizer([BOOK], causal=True, model_max_length=length)
    return TrainableEncoder.from_config(causal_config(vocab_size=len(tokenizer), max_positions=length), tokenizer, seed)


def causal_config(**changes: Any) -> EncoderConfig:
    config = EncoderConfig(
        2,
        2,
        32,
        64,
        activation="silu",
        norm="rms",
        norm_first=True,
        layer_norm_eps=1e-6,
        positions="rotary",
        is_causal=True,
        gated=True,
        vocab_size=30,
    )
    return dataclasses.replace(config, **changes)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    given: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 3,
        **changes,
    }
    return TrainingArguments(str(folder), **given)


def weights(model: TrainableEncoder) -> dict[str, Any]:
    return {name: each.data.copy() for name, each in model.parameters.items()}


def same_bits(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


class TestMask:
    def test_shares(self) -> None:
        ids = np.tile(np.arange(100, dtype=np.int32), 400)
        out, places = mask_tokens(ids, [0, 1, 2], 4, 100, np.random.default_rng(0))
        assert abs(len(places) / (97 * 400) - 0.15) < 0.01
        assert not np.isin(ids[places], [0, 1, 2]).any()
        same = np.ones(len(ids), bool)
        same[places] = False
        assert np.array_equal(out[same], ids[same])
        masked, kept = (out[places] == 4).mean(), (out[places] == ids[places]).mean()
        assert abs(masked - 0.8) < 0.02 and abs(kept - 0.1) < 0.02

    def test_a_token_at_least_is_chosen(self) -> None:
        for seed in range(20):
            out, places = mask_tokens(np.array([2, 9, 3], np.int32), [2, 3], 4, 10, np.random.default_rng(seed))
            assert places.tolist() == [1] and out[[0, 2]].tolist() == [2, 3]

    @pytest.mark.parametrize("ids", [[], [2, 3]])
    def test_of_nothing(self, ids: list[int]) -> None:
        out, places = mask_tokens(np.array(ids, np.int32), [2, 3], 4, 10, np.random.default_rng(0))
        assert out.tolist() == ids and not len(places)


class TestMasked:
    def test_overfits_and_is_read_by_all(self, tmp_path: Path) -> None:
        model = masked_model()
        rates = {"learning_rate": 1e-2, "adam_beta2": 0.98, "warmup_steps": 0.05}
        args = arguments(tmp_path, max_steps=250, per_device_train_batch_size=128, **rates)
        trainer = LanguageModelingTrainer(model, args, SENTENCES * 4, SENTENCES)
        out = trainer.train()
        assert trainer.evaluate()["eval_accuracy"] == 1
        assert out.training_loss > trainer.state.log_history[-3]["loss"]
        trainer.save_model(str(tmp_path / "saved"))
        folder = tmp_path / "saved"
        again = LanguageModelingTrainer(TrainableEncoder(folder), args, eval_dataset=SENTENCES)
        assert again.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
        ids = np.array([[2, 7, 8, 3]])
        assert np.array_equal(Encoder.from_pretrained(folder)(ids), model.encoder()(ids))
        assert SentenceTransformer(str(folder)).encode(SENTENCES[:2]).shape == (2, 32)
        logits = fastattn.EncoderForMaskedLM.from_pretrained(folder)(ids)
        assert logits.shape == (1, 4, len(model.tokenizer))

    def test_the_table_of_tokens_is_the_head(self) -> None:
        model = masked_model()
        assert sum(each.shape == (len(model.tokenizer), 32) for each in model.trained()) == 1

    def test_same_bits_for_any_threads_and_another_seed_differs(self, tmp_path: Path) -> None:
        found, before = [], get_num_threads()
        try:
            for threads, seed in ((1, 3), (2, 3), (2, 4)):
                set_num_threads(threads)
                model = masked_model(dropout=0.1)
                LanguageModelingTrainer(model, arguments(tmp_path, max_steps=4, seed=seed), SENTENCES).train()
                found.append(weights(model))
        finally:
            set_num_threads(before)
        assert same_bits(found[0], found[1])
        assert not same_bits(found[1], found[2])

    def test_same_bits_after_resume(self, tmp_path: Path) -> None:
        args = arguments(tmp_path, max_steps=7, save_strategy="steps", save_steps=3)
        whole = masked_model(dropout=0.1)
        LanguageModelingTrainer(whole, args, SENTENCES).train()
        resumed = masked_model(dropout=0.1)
        # Its weights are those of the checkpoint, whatever it learned since it was made.
        LanguageModelingTrainer(resumed, arguments(tmp_path / "other", max_steps=2, seed=9), SENTENCES).train()
        trainer = LanguageModelingTrainer(resumed, args, SENTENCES)
        out = trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert out.global_step == 7 and same_bits(weights(whole), weights(resumed))
        # The tokens of all 7 steps, not of the last 4.
        assert trainer.state.num_input_tokens_seen == 7 * 8 * 8

    def test_a_checkpoint_of_another_run(self, tmp_path: Path) -> None:
        args = arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
        LanguageModelingTrainer(masked_model(), args, SENTENCES).train()
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for model, texts, named in (
            (masked_model(), SENTENCES[::-1], "train_dataset"),
            (masked_model(0.5), SENTENCES, "dropout"),
            (masked_model(seed=9), SENTENCES, "weights at the beginning"),
        ):
            with pytest.raises(ValueError, match=f"checkpoint of another run: its {named}"):
                LanguageModelingTrainer(model, args, texts).train(resume_from_checkpoint=True)
        with pytest.raises(ValueError, match=r"its mlm_probability is 0[.]15, here it is 0[.]3"):
            LanguageModelingTrainer(masked_model(), args, SENTENCES, mlm_probability=0.3).train(resume_from_checkpoint=True)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def test_blocks_of_a_long_text(self, tmp_path: Path) -> None:
        model = masked_model()
        trainer = LanguageModelingTrainer(model, arguments(tmp_path), [" ".join(WORDS[:40]), "", "w1"], block_size=12)
        rows = trainer.train_data[""].texts[0]
        assert [len(row) for row in rows] == [12, 12, 12, 12, 3]
        assert all(row[0] == 2 and row[-1] == 3 for row in rows)
        inside = np.concatenate([row[1:-1] for row in rows[:4]])
        assert inside.tolist() == model.tokenizer.encode(" ".join(WORDS[:40]), add_special_tokens=False)


class TestCausal:
    def test_learns_more_than_frequencies_and_continues(self, tmp_path: Path) -> None:
        model = causal_model()
        args = arguments(tmp_path, max_steps=150, learning_rate=1e-2)
        trainer = LanguageModelingTrainer(model, args, [BOOK], [BOOK])
        trainer.train()
        counts = np.array(list(Counter(BOOK).values())) / len(BOOK)
        assert trainer.evaluate()["eval_loss"] < 0.5 * float(-(counts * np.log(counts)).sum())
        text = generate(model, "the cat ", 12)
        assert len(text) == 12 and text in BOOK
        assert generate(model, "the ", 30, temperature=2.0, seed=1) == generate(model, "the ", 30, temperature=2.0, seed=1)
        assert len({generate(model, "the ", 30, temperature=2.0, seed=seed) for seed in range(3)}) > 1
        assert generate(model, "", 0) == ""
        trainer.save_model(str(tmp_path / "saved"))
        again = TrainableEncoder(tmp_path / "saved")
        assert again.task == "causal-lm" and generate(again, "the cat ", 12) == text
        assert SentenceTransformer(str(tmp_path / "saved")).encode("the cat").shape == (32,)

    def test_each_token_is_predicted_once(self, tmp_path: Path) -> None:
        model = causal_model()
        trainer = LanguageModelingTrainer(model, arguments(tmp_path), ["the cat", "", "a dog sat on the mat"], block_size=4)
        rows, encode, end = trainer.train_data[""].texts[0], model.tokenizer.encode, model.tokenizer.get_vocab()["<eos>"]
        stream = [end, *encode("the cat"), end, *encode("a dog sat on the mat"), end]
        assert [token for row in rows for token in row[1:]] == stream[1:]
        assert [token for row in rows for token in row[:-1]] == stream[:-1]
        assert max(map(len, rows)) == 5

    def test_tokens_of_an_epoch_are_counted(self, tmp_path: Path) -> None:
        trainer = LanguageModelingTrainer(causal_model(), arguments(tmp_path, num_train_epochs=1), [BOOK])
        trainer.train()
        # The end of the text that stands before it; the one behind it is predicted alone.
        assert trainer.state.num_input_tokens_seen == len(BOOK) + 1

    def test_characters_come_back(self) -> None:
        text = "Tab\tline\nend  <eos> [é]"
        for size in (None, 300):
            tokenizer = new_tokenizer([text, text], causal=True, vocab_size=size)
            assert tokenizer.decode(tokenizer.encode(text.replace("<eos>", ""))) == text.replace("<eos>", "")

    def test_a_long_text_is_cut_where_lines_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = causal_model()
        whole = LanguageModelingTrainer(model, arguments(tmp_path), [BOOK]).train_data[""].texts[0]
        monkeypatch.setattr("fastattn.training.language_modeling.LONG", 100)
        parts = LanguageModelingTrainer(model, arguments(tmp_path), [BOOK]).train_data[""].texts[0]
        assert all(map(np.array_equal, whole, parts)) and len(whole) == len(parts)


def test_first_loss_is_that_of_chance(tmp_path: Path) -> None:
    for model, texts in ((masked_model(), SENTENCES), (causal_model(), [BOOK])):
        trainer = LanguageModelingTrainer(model, arguments(tmp_path), eval_dataset=texts)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(len(model.tokenizer)), rel=0.1)


MASK = {"mask_token": "<a>", "cls_token": "<bos>", "sep_token": "<eos>"}


@pytest.mark.parametrize(
    "family",
    ["roberta", "distilbert", "modernbert", "mpnet", "electra", "albert", "eurobert", "ernie", "qwen2", "qwen3"],
)
def test_checkpoints_of_families_learn_and_are_written_back(family: str, tmp_path: Path) -> None:
    folder = write_language_model(tmp_path / "m", family=family, **MASK)
    model = TrainableEncoder(folder, dropout=0.0)
    texts = [" ".join(f"w{(i * j) % 80 + 5}" for j in range(1, 9)) for i in range(16)]
    args = arguments(tmp_path, max_steps=6, learning_rate=1e-3)
    trainer = LanguageModelingTrainer(model, args, texts, texts, block_size=12)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < before
    model.save_pretrained(tmp_path / "saved")
    again = LanguageModelingTrainer(TrainableEncoder(tmp_path / "saved"), args, eval_dataset=texts, block_size=12)
    assert again.evaluate()["eval_loss"] == after


class TestErrors:
    def test_models(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="model must be a TrainableEncoder, got str"):
            LanguageModelingTrainer("model", arguments(tmp_path), SENTENCES)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="task must be one of"):
            TrainableEncoder(GOLDEN / "bert", "words")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
            TrainableEncoder(GOLDEN / "bert", dropout=1.0)

    def test_a_causal_head_over_an_encoder_that_sees_all(self, tmp_path: Path) -> None:
        folder = write_language_model(tmp_path / "m", family="qwen3-both-ways")
        with pytest.raises(CheckpointError, match="a layer sees what is behind a token"):
            TrainableEncoder(folder, "causal-lm")

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            ([], "train_dataset has no rows"),
            ([""], "train_dataset has no tokens to predict"),
            ([{"a": "x", "b": "y"}], "must have one column of texts, got a, b"),
            (["x", 3], "row 1: expected a text, got int"),
        ],
    )
    def test_datasets(self, tmp_path: Path, dataset: Any, message: str) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            LanguageModelingTrainer(masked_model(), arguments(tmp_path), dataset)

    def test_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"mlm_probability must be in \(0, 1\], got 0"):
            LanguageModelingTrainer(masked_model(), arguments(tmp_path), SENTENCES, mlm_probability=0)
        with pytest.raises(ValueError, match=r"block_size must be a whole number in 4 .. 16 for this model, got 17"):
            LanguageModelingTrainer(masked_model(), arguments(tmp_path), SENTENCES, block_size=17)

    def test_configurations_of_no_family(self) -> None:
        tokenizer = new_tokenizer(SENTENCES)
        for config, message in (
            (EncoderConfig(1, 2, 32, 64), "config must have a vocab_size"),
            (EncoderConfig(1, 2, 32, 64, vocab_size=50, positions="learned"), "type_vocab_size of at least 1"),
            (EncoderConfig(1, 2, 32, 64, vocab_size=50, type_vocab_size=1), "positions must be 'learned' .* got None"),
            (causal_config(gated=False), "gated must be True"),
            (EncoderConfig(1, 2, 32, 64, vocab_size=9), "vocab_size must be at least"),
        ):
            with pytest.raises(ValueError, match=message):
                TrainableEncoder.from_config(config, tokenizer)

    def test_generation(self) -> None:
        with pytest.raises(ValueError, match="must be of the task"):
            generate(masked_model(), "w1")
        with pytest.raises(ValueError, match="must be at least 0"):
            generate(causal_model(), "the", temperature=-1)

    def test_tokenizers(self) -> None:
        with pytest.raises(ValueError, match="vocab_size must be at least 7 for these texts"):
            new_tokenizer(["a a"], vocab_size=6)
        with pytest.raises(ValueError, match="texts must have a character"):
            new_tokenizer(["", ""])
        with pytest.raises(ValueError, match="vocab_size must be at least 259"):
            new_tokenizer(["a"], causal=True, vocab_size=258)


@pytest.mark.parametrize("causal", [False, True])
def test_a_trained_tokenizer_is_the_same_each_time(causal: bool) -> None:
    texts = ["the cats sat on the mats", "a dog, the dogs and the cat", "zebras sat"] * 3
    first, *others = (new_tokenizer(texts, causal=causal, vocab_size=300).get_vocab() for _ in range(4))
    assert [other == first for other in others] == [True] * 3


def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(state: Any, entry: Any) -> None:
        if state.global_step == 2:
            monkeypatch.setattr("shutil.disk_usage", lambda path: (10, 10, 0))
            monkeypatch.setattr("fastattn.runtime.files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))

    args = arguments(tmp_path, max_steps=5, save_strategy="steps", save_steps=2)
    monkeypatch.setattr(args, "save_steps", 1)
    with pytest.raises(OSError, match="No space left"):
        LanguageModelingTrainer(masked_model(), args, SENTENCES, callbacks=[stop]).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    monkeypatch.undo()
    out = LanguageModelingTrainer(masked_model(), args, SENTENCES).train(resume_from_checkpoint=True)
    assert out.global_step == 5
