"""LoRA: gradients in several families, what a configuration chooses, saved files, same bits, every trainer, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, Encoder, SentenceTransformer, reference
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.checkpoint.weights import Tensors
from fastattn.modules import Dense, Pooling, Transformer
from fastattn.training import (
    ClassificationTrainer,
    CrossEncoderTrainer,
    EncoderGraph,
    LanguageModelingTrainer,
    LoraConfig,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    TrainableEncoder,
    losses,
)
from fastattn.training.functions import Dropout
from fastattn.training.lora import LoraGraph
from tests.encoder.test_configurations import close
from tests.support.cases import normal
from tests.support.golden_models import GOLDEN, tensors, write
from tests.support.linear_gradients import each_thread_count
from tests.support.models import WORDS, bert_tensors, write_bert, write_sentence_model, write_tokenizer
from tests.training.test_encoder_graph import STEP, TOLERANCE

pytestmark = pytest.mark.jit

TEXTS = [f"{a} {b}" for a in WORDS[13:21] for b in WORDS[21:25]]
PAIRS = {"anchor": TEXTS, "positive": [f"the {text}" for text in TEXTS]}
LABELS = [i // 4 % 2 for i in range(len(TEXTS))]
LAYER = "encoder.layer.0.attention.self"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model")


def arguments(tmp_path: Path, **changes: Any) -> SentenceTransformerTrainingArguments:
    given = {"output_dir": str(tmp_path / "out"), "max_steps": 8, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    return SentenceTransformerTrainingArguments(**{**given, "learning_rate": 1e-2, **changes})


def trained(folder: Path, tmp_path: Path, config: dict[str, Any] | None = None, resume: Any = None, **changes: Any) -> Any:
    model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.1})
    model.add_adapter(LoraConfig(**{"r": 3, "lora_dropout": 0.2, **(config or {})}))
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path, **changes), PAIRS)
    trainer.train(resume)
    return trainer


def weights(trainer: Any) -> dict[str, Any]:
    return {name: each.data.copy() for name, each in trainer._learning().items()}


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def adapted(folder: Path, **config: Any) -> TrainableCheckpoint:
    checkpoint = TrainableCheckpoint(folder)
    checkpoint.add_adapter(LoraConfig(**{"r": 3, "lora_alpha": 5, "init_lora_weights": False, **config}))
    return checkpoint


# Of separate weights, of one that all layers share, and of ones that hold queries, keys and values, or a network and its gate.
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "nomic_bert", "gte", "qwen3", "t5"])
def test_gradients_of_families(family: str) -> None:
    checkpoint = adapted(GOLDEN / family, target_modules="all-linear", use_rslora=family == "bert")
    assert checkpoint.adapter is not None
    config, exact = checkpoint.config, {name: array.astype(np.float64) for name, array in checkpoint.parameters.items()}
    graph = EncoderGraph(config, checkpoint.parameters)
    lora = LoraGraph.of(checkpoint.adapter, graph, None)
    assert lora is not None
    parts = {name: each.data.astype(np.float64) for name, each in lora.parameters.items()}

    def merged(parts: dict[str, Any]) -> dict[str, Any]:
        found = dict(exact)
        for name, array in checkpoint.parameters.items():
            assert checkpoint.adapter is not None
            change = checkpoint.adapter.change_of(array)
            if change is not None:
                module, rows = change[0].name, change[1]
                b = next(name for name in (f"{module}.lora_B.weight", f"{module}.lora_B.weight.{rows.start}") if name in parts)
                found[name] = exact[name] + change[0].scale * parts[b] @ parts[f"{module}.lora_A.weight"]
        return found

    lengths = [5, 1, 9]
    offsets, rng = np.cumsum([0, *lengths]), np.random.default_rng(0)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    x = rng.integers(2, config.vocab_size or 0, mask.shape)
    hidden = graph(x[mask].astype(np.int32), offsets)

    def states(parts: dict[str, Any]) -> Any:
        return reference.encoder(merged(parts), x, mask, **config.reference_options())[mask]

    close(hidden.data, states(parts))
    upstream = normal(*hidden.shape, seed=3)
    hidden.backward(upstream)
    assert all(each.grad is None for each in graph.parameters.values())
    for seed, (name, parameter) in enumerate(lora.parameters.items()):
        direction = normal(*parameter.shape, seed=seed).astype(np.float64)
        sides = [float((states({**parts, name: parts[name] + sign * STEP * direction}) * upstream).sum()) for sign in (1, -1)]
        expected = (sides[0] - sides[1]) / (2 * STEP)
        assert parameter.grad is not None
        found = float((parameter.grad * direction).sum())
        scale = 1 + np.linalg.norm(parameter.grad) * np.linalg.norm(direction)
        assert abs(found - expected) <= TOLERANCE * scale, f"{name}: {found} instead of {expected}"


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "qwen3"])
def test_the_graph_computes_what_the_merged_checkpoint_does(family: str, tmp_path: Path) -> None:
    checkpoint = adapted(GOLDEN / family, target_modules="all-linear")
    assert checkpoint.adapter is not None
    before = {name: array.copy() for name, array in checkpoint.parameters.items()}
    graph = EncoderGraph(checkpoint.config, checkpoint.parameters)
    LoraGraph.of(checkpoint.adapter, graph, None)
    ids, offsets = np.arange(2, 14, dtype=np.int32), np.array([0, 5, 12])
    found = graph(ids, offsets).data
    # Merged by hand, by the tensors' names.
    stored = Tensors(GOLDEN / family)
    prefix = next(name for name in stored.names() if name.endswith(f"{checkpoint.adapter.changes[0].name}.weight"))
    prefix = prefix.removesuffix(f"{checkpoint.adapter.changes[0].name}.weight")
    tensors = {name: np.array(stored.read(name, stored.shape(name))) for name in stored.names()}
    for change in checkpoint.adapter.changes:
        tensors[f"{prefix}{change.name}.weight"] += np.float32(change.scale) * (change.b @ change.a)
    close(found, Encoder.from_pretrained(write(tmp_path / "hand", family, tensors)).forward_packed(ids, offsets))
    target = write(tmp_path / "saved", family)
    checkpoint.write(target / "model.safetensors")
    close(found, Encoder.from_pretrained(target).forward_packed(ids, offsets))
    assert same_bits(before, checkpoint.parameters)


def test_dropout_before_a_in_training_alone(folder: Path) -> None:
    checkpoint = adapted(folder, lora_dropout=0.5)
    graph = EncoderGraph(checkpoint.config, checkpoint.parameters)
    LoraGraph.of(checkpoint.adapter, graph, None)
    ids, offsets = np.arange(4, 16, dtype=np.int32), np.array([0, 5, 12])

    def run(key: tuple[int, ...]) -> Any:
        return graph(ids, offsets, None, Dropout(0.0, key)).data

    assert np.array_equal(run((1,)), run((1,))) and not np.array_equal(run((1,)), run((2,)))
    assert np.array_equal(run(()), graph(ids, offsets).data) and not np.array_equal(run((1,)), run(()))


def test_an_adapter_learns_and_the_model_encodes_at_once(folder: Path, tmp_path: Path) -> None:
    base = SentenceTransformer(str(folder)).encode(TEXTS)
    options = {"target_modules": "all-linear", "r": 8, "lora_dropout": 0.0}
    trainer = trained(folder, tmp_path, options, max_steps=40, learning_rate=0.03)
    model, logs = trainer.model, [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert np.mean(logs[-5:]) < 0.8 * np.mean(logs[:5])
    after = model.encode(TEXTS)
    assert not np.array_equal(base, after) and model.active_adapters() == ["default"]
    # The weights below the adapter are those of the folder.
    plain = TrainableCheckpoint(folder)
    assert same_bits(plain.parameters, model[0]._learned.checkpoint.parameters)
    model.save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), after)
    model.save_adapter(tmp_path / "adapter")
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["peft_type"] == "LORA" and content["base_model_name_or_path"] == str(folder) and content["r"] == 8
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    inside = (*parts, "intermediate.dense", "output.dense")
    assert sorted(content["target_modules"]) == sorted(f"encoder.layer.{i}.{part}" for i in range(2) for part in inside)
    again = SentenceTransformer(str(folder))
    again.load_adapter(tmp_path / "adapter")
    assert np.array_equal(again.encode(TEXTS), after)
    # It learns on, and beside the weights of the folder it is merged as any adapter of peft.
    further = SentenceTransformerTrainer(again, arguments(tmp_path, max_steps=1, learning_rate=0.0), PAIRS)
    assert further.train().training_loss < 0.8 * np.mean(logs[:5]) and np.array_equal(again.encode(TEXTS), after)
    for path in (tmp_path / "adapter").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    np.testing.assert_allclose(SentenceTransformer(str(folder)).encode(TEXTS), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_weights_with_the_adapter_are_packed_in_the_model_s_precision(precision: Any, folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder), precision=precision)
    model.add_adapter(LoraConfig(init_lora_weights=False, target_modules="all-linear"))
    SentenceTransformerTrainer(model, arguments(tmp_path, max_steps=2), PAIRS).train()
    model.save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(SentenceTransformer(str(tmp_path / "saved"), precision=precision).encode(TEXTS), model.encode(TEXTS))


def test_same_bits_for_any_number_of_threads_and_another_seed_differs(folder: Path, tmp_path: Path) -> None:
    found = [weights(trained(folder, tmp_path)) for _ in each_thread_count()]
    assert all(same_bits(found[0], each) for each in found[1:])
    assert not same_bits(found[0], weights(trained(folder, tmp_path, {"seed": 1})))


def test_a_run_that_is_resumed_has_the_bits_of_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole = weights(trained(folder, tmp_path, save_strategy="steps", save_steps=3))
    assert any("lora_A" in name for name in whole)
    for step in (3, 6):
        resumed = trained(folder, tmp_path, resume=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert same_bits(whole, weights(resumed))
    with pytest.raises(ValueError, match="a checkpoint of another run: its adapter's lora_alpha is 8, here it is 9"):
        trained(folder, tmp_path, {"lora_alpha": 9}, resume=str(tmp_path / "out" / "checkpoint-3"))
    # A checkpoint holds the model with the adapter.
    assert np.isfinite(SentenceTransformer(str(tmp_path / "out" / "checkpoint-6")).encode(TEXTS)).all()


@pytest.mark.parametrize(
    ("bias", "found"),
    [("none", []), ("lora_only", [f"{LAYER}.query.bias"]), ("all", [f"{LAYER}.query.bias", "embeddings.LayerNorm.bias"])],
)
def test_biases_that_learn(bias: str, found: list[str], folder: Path, tmp_path: Path) -> None:
    trainer = trained(folder, tmp_path, {"bias": bias, "target_modules": ["query"]})
    adapter = trainer.model[0]._learned.checkpoint.adapter
    assert set(found) <= set(adapter.whole) and len(adapter.whole) == {"none": 0, "lora_only": 2, "all": 17}[bias]
    plain, now = TrainableCheckpoint(folder)._named(), trainer.model[0]._learned.checkpoint._named()
    assert {name for name in now if not np.array_equal(plain[name], now[name])} <= set(adapter.whole)
    # A key's bias adds the same number to all scores of a query.
    assert all(not np.array_equal(plain[name], now[name]) for name in adapter.whole if not name.endswith("key.bias"))
    after = trainer.model.encode(TEXTS)
    trainer.model.save_adapter(tmp_path / "adapter")
    again = SentenceTransformer(str(folder))
    again.load_adapter(tmp_path / "adapter")
    assert np.array_equal(again.encode(TEXTS), after)


def test_modules_behind_the_transformer_learn_as_before(folder: Path, tmp_path: Path) -> None:
    dense = Dense(32, 8, init_weight=normal(8, 32), init_bias=normal(8))
    model = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32), dense])
    model.add_adapter(LoraConfig())
    trainer = SentenceTransformerTrainer(model, arguments(tmp_path), PAIRS)
    before = {name: each.data.copy() for name, each in trainer.graph.parameters.items()}
    trainer.train()
    changed = {name for name, each in trainer.graph.parameters.items() if not np.array_equal(each.data, before[name])}
    assert {name for name in changed if "lora_" not in name} == {"2.linear.weight", "2.linear.bias"}


def write_classifier(folder: Path, tmp_path: Path, classes: int) -> Path:
    TrainableEncoder(folder, "sequence-classification", num_labels=classes).save_pretrained(tmp_path / "classifier")
    write_tokenizer(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_cross_encoder_with_its_classifier(folder: Path, tmp_path: Path) -> None:
    source = write_classifier(folder, tmp_path, 1)
    model = CrossEncoder(str(source))
    model.add_adapter(LoraConfig(target_modules="all-linear", task_type="SEQ_CLS", lora_alpha=16))
    data = {"a": TEXTS, "b": PAIRS["positive"], "label": LABELS}
    trainer = CrossEncoderTrainer(model, arguments(tmp_path, max_steps=30), data)
    losses_of = trainer.train() and [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert np.mean(losses_of[-5:]) < 0.8 * np.mean(losses_of[:5])
    names = list(model.get_adapter_state_dict())
    start = "base_model.model"
    assert f"{start}.bert.pooler.dense.lora_A.weight" in names and f"{start}.classifier.weight" in names
    pairs = list(zip(TEXTS, PAIRS["positive"], strict=True))
    after = model.predict(pairs)
    model.save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(CrossEncoder(str(tmp_path / "saved")).predict(pairs), after)
    model.save_adapter(tmp_path / "adapter")
    again = CrossEncoder(str(source))
    again.load_adapter(tmp_path / "adapter")
    assert np.array_equal(again.predict(pairs), after)


def test_encoders_with_heads(folder: Path, tmp_path: Path) -> None:
    model = TrainableEncoder(folder, "sequence-classification", num_labels=2)
    model.add_adapter(LoraConfig(task_type="SEQ_CLS"))
    trainer = ClassificationTrainer(model, arguments(tmp_path, max_steps=40), {"text": TEXTS, "label": LABELS})
    before, first = {name: each.data.copy() for name, each in model.parameters.items()}, trainer.train().training_loss
    changed = {name for name, each in model.parameters.items() if not np.array_equal(each.data, before[name])}
    assert changed == {name for name in before if "lora_" in name or name.startswith("head.1.")}
    model.save_pretrained(tmp_path / "saved")
    again = TrainableEncoder(tmp_path / "saved", "sequence-classification")
    found = ClassificationTrainer(again, arguments(tmp_path), eval_dataset={"text": TEXTS, "label": LABELS}).evaluate()
    assert found["eval_loss"] < 0.5 * first


def test_a_language_model(tmp_path: Path) -> None:
    from tests.training.test_language_modeling import BOOK, causal_model

    model = causal_model()
    model.add_adapter(LoraConfig(target_modules="all-linear", lora_dropout=0.1))
    assert all(name.startswith("model.layers.") for name in model.adapter.parameters) if model.adapter else False
    trainer = LanguageModelingTrainer(model, arguments(tmp_path, max_steps=30), [BOOK])
    trainer.train()
    logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert logs[-1] < logs[0]
    model.save_pretrained(tmp_path / "saved")
    again = TrainableEncoder(tmp_path / "saved")
    evaluations = [LanguageModelingTrainer(each, arguments(tmp_path), eval_dataset=[BOOK]).evaluate() for each in (model, again)]
    assert evaluations[0]["eval_loss"] == pytest.approx(evaluations[1]["eval_loss"], rel=1e-5)
    model.save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match="the model has an adapter already"):
        model.load_adapter(tmp_path / "adapter")


def test_a_new_head_learns_as_a_whole(tmp_path: Path) -> None:
    """DistilBERT's has a product before the classifier, and a BERT may lack the pooler."""
    given = {name: array for name, array in tensors("distilbert").items() if "classifier" not in name}
    plain = {name: array for name, array in bert_tensors().items() if not name.startswith("pooler.")}
    for folder, new in (
        (write(tmp_path / "distilbert", "distilbert", given), "pre_classifier"),
        (write_bert(tmp_path / "bert", plain), "bert.pooler.dense"),
    ):
        write_tokenizer(folder)
        model = TrainableEncoder(folder, "sequence-classification", num_labels=2)
        model.add_adapter(LoraConfig(target_modules="all-linear"))
        before = {name: each.data.copy() for name, each in model.parameters.items()}
        ClassificationTrainer(model, arguments(tmp_path, max_steps=4), {"text": TEXTS, "label": LABELS}).train()
        changed = {name for name, each in model.parameters.items() if not np.array_equal(each.data, before[name])}
        assert {name for name in before if name.startswith("head.")} <= changed
        assert not any(name.startswith(("layers.", "embeddings.")) for name in changed)
        model.save_adapter(tmp_path / "adapter")
        content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert content["modules_to_save"] == sorted([new, "classifier"]) and new not in content["target_modules"]


def test_products_in_bfloat16(folder: Path, tmp_path: Path) -> None:
    found = [trained(folder, tmp_path, bf16=True, max_steps=6) for _ in each_thread_count()]
    assert all(same_bits(weights(found[0]), weights(each)) for each in found[1:])
    runs = [found[0], trained(folder, tmp_path, max_steps=6)]
    low, exact = ([log["loss"] for log in run.state.log_history if "loss" in log] for run in runs)
    assert low != exact
    np.testing.assert_allclose(low, exact, rtol=0.01)


def test_an_adapter_takes_the_precision_and_a_head_that_has_computed_what_it_brings(folder: Path, tmp_path: Path) -> None:
    source, x = write_classifier(folder, tmp_path, 2), normal(3, 32)
    config = LoraConfig(target_modules=["pooler.dense"], task_type="SEQ_CLS", init_lora_weights=False)

    def scores(model: TrainableEncoder) -> Any:
        return model.head.next_scores(x)

    late, early = (TrainableEncoder(source, "sequence-classification") for _ in range(2))
    late.add_adapter(config)
    late.set_precision("bfloat16")
    early.set_precision("bfloat16")
    before = scores(early)
    early.add_adapter(config)
    assert np.array_equal(scores(late), scores(early)) and not np.array_equal(before, scores(early))
    assert late.adapter is not None
    both = scores(late)
    late.adapter.set_precision("float32")
    assert not np.array_equal(both, scores(late))
    late.set_precision("bfloat16")
    for name, each in late.parameters.items():
        each.data += np.float32(name.startswith("head.1."))
    late.save_adapter(tmp_path / "adapter")
    late.refresh()
    loaded = TrainableEncoder(source, "sequence-classification")
    loaded.set_precision("bfloat16")
    scores(loaded)
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(scores(loaded), scores(late))


def test_an_encoder_that_is_made_of_a_model_that_learns_leaves_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, or another thread, sees the weights as they learn at any time."""
    checkpoint = adapted(folder, target_modules="all-linear")
    before = {name: array.copy() for name, array in checkpoint.parameters.items()}
    parameters, _ = checkpoint.applied()
    assert same_bits(before, checkpoint.parameters) and not same_bits(before, parameters)

    def broken(*given: Any) -> None:
        assert same_bits(before, checkpoint.parameters)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastattn.checkpoint.trainable.write_tensors", broken)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(folder / "model.safetensors")
    assert same_bits(before, checkpoint.parameters)


def test_a_loss_with_a_gradient_cache(folder: Path, tmp_path: Path) -> None:
    found = []
    for kind, options in (
        (losses.MultipleNegativesRankingLoss, {}),
        (losses.CachedMultipleNegativesRankingLoss, {"mini_batch_size": 5}),
    ):
        model = SentenceTransformer(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
        model.add_adapter(LoraConfig(init_lora_weights=False))
        args = arguments(tmp_path, max_steps=1, optim="sgd", per_device_train_batch_size=16, max_grad_norm=0.0)
        trainer = SentenceTransformerTrainer(model, args, PAIRS, loss=kind(model, **options))
        trainer.train()
        found.append(weights(trainer))
    for name, one in found[0].items():
        np.testing.assert_allclose(one, found[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
