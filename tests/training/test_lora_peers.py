"""LoRA follows torch with peft step by step, and each reads the adapters that the other writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, Encoder, SentenceTransformer
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.training import LoraConfig, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, TrainableEncoder, losses
from tests.support.golden_models import GOLDEN
from tests.support.models import write_sentence_model, write_tokenizer
from tests.training.test_trainer_peers import OTHERS, TEXTS

# peft asks transformers by a name that transformers will give up.
pytestmark = [
    pytest.mark.jit,
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

STEPS, BATCH, RATE = 40, 8, 1e-3
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "usual": {"r": 4, "lora_alpha": 8},
    "all": {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear", "bias": "all"},
    "patterns": {"target_modules": ["query", "output.dense"], "rank_pattern": {"query": 2}, "alpha_pattern": {"0.output.dense": 3}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_weights_of_a_run(name: str, tmp_path: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    peer = pytest.importorskip("sentence_transformers")
    folder = write_sentence_model(tmp_path / "model")
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
    model.add_adapter(LoraConfig(**CONFIGS[name]))
    begun = model.get_adapter_state_dict()
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(model, args, {"a": TEXTS, "b": OTHERS}, loss=losses.MultipleNegativesRankingLoss(model))
    trainer.train()
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]

    theirs = peer.SentenceTransformer(str(folder), device="cpu", config_kwargs=OFF).train()
    theirs.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", **CONFIGS[name]))
    inner = theirs.transformers_model
    # peft's own start of A and B has the same distribution, and other numbers.
    for key, each in inner.named_parameters():
        if "lora_" in key and "pooler" not in key:
            each.data.copy_(torch.from_numpy(begun[f"base_model.model.{key.replace('.default', '')}"]))
    learned = [each for key, each in inner.named_parameters() if each.requires_grad and "pooler" not in key]
    assert sorted(tuple(each.shape) for each in learned) == sorted(array.shape for array in begun.values())
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    loss = pytest.importorskip("sentence_transformers.losses").MultipleNegativesRankingLoss(theirs)
    expected = []
    for step in range(STEPS):
        rows = slice(step * BATCH % len(TEXTS), step * BATCH % len(TEXTS) + BATCH)
        value = loss([theirs.preprocess(texts[rows]) for texts in (TEXTS, OTHERS)], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(value.item())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * max(expected))
    assert abs(expected[-1] - expected[0]) > 0.05 * expected[0]
    state = {key.replace(".default", ""): each.detach().numpy() for key, each in inner.named_parameters()}
    for key, array in model.get_adapter_state_dict().items():
        # Adam divides a gradient near zero by its own size: such elements may go either way, as all of a key's bias, whose gradient
        # is zero, do.
        close = np.isclose(array, state[key.removeprefix("base_model.model.")], rtol=1e-2, atol=1e-3)
        assert close.mean() > 0.99 or key.endswith("key.base_layer.bias"), key


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "qwen3", "t5"])
def test_peft_reads_what_is_written(family: str, tmp_path: Path) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    checkpoint = TrainableCheckpoint(GOLDEN / family)
    checkpoint.add_adapter(LoraConfig(target_modules="all-linear", init_lora_weights=False, bias="all"))
    checkpoint.write_adapter(tmp_path / "adapter", str(GOLDEN / family))
    ours = Encoder(checkpoint.config, parameters=checkpoint.applied()[0])
    kind = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel
    theirs = kind.from_pretrained(GOLDEN / family, dtype=torch.float32).eval()
    plain = ours(np.arange(2, 10)[None])
    with torch.no_grad():
        base = theirs(torch.arange(2, 10)[None]).last_hidden_state.numpy()
        both = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()(torch.arange(2, 10)[None])
    np.testing.assert_allclose(plain, both.last_hidden_state.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(base - plain).max() > 1e-2


def test_transformers_reads_the_adapter_of_a_classifier(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = write_sentence_model(tmp_path / "model")
    TrainableEncoder(folder, "sequence-classification", num_labels=1).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    model = CrossEncoder(str(tmp_path / "base"))
    model.add_adapter(LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, target_modules="all-linear"))
    classifier = model[0]._learned.checkpoint.adapter.whole["classifier.weight"]
    classifier[...] *= 3
    model.save_adapter(tmp_path / "adapter")
    loaded = CrossEncoder(str(tmp_path / "base"))
    loaded.load_adapter(tmp_path / "adapter")
    pairs = [("w1 w2", "w3"), ("w4", "the w5")]
    expected = loaded.predict(pairs, activation_fn=lambda x: x)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", dtype=torch.float32)
    both = pytest.importorskip("peft").PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    for pair, score in zip(pairs, expected, strict=True):
        features = {key: torch.from_numpy(array) for key, array in loaded.preprocess([pair]).items() if "_" in key}
        with torch.no_grad():
            logits = both(**features)
        assert float(logits.logits[0, 0]) == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"bias": "all"}, {"target_modules": "all-linear", "use_rslora": True}])
def test_what_peft_writes_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    peer = pytest.importorskip("sentence_transformers")
    folder = write_sentence_model(tmp_path / "model")
    theirs = peer.SentenceTransformer(str(folder), device="cpu").eval()
    config = peft.LoraConfig(init_lora_weights=False, exclude_modules=["pooler.dense"], **options)
    both = peft.get_peft_model(theirs.transformers_model, config)
    with torch.no_grad():
        for each in both.parameters():
            if each.requires_grad:
                each.add_(0.1)
    both.save_pretrained(str(tmp_path / "adapter"))
    expected = theirs.encode(TEXTS)
    ours = SentenceTransformer(str(folder))
    before = ours.encode(TEXTS)
    ours.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(ours.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(before - ours.encode(TEXTS)).max() > 1e-2
