"""Adapters by task, as jina-embeddings-v3 has them: parametrisations of the weights, merged for the task that is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import Encoder, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from tests.support.golden_models import Array, Tensors, settings, tensors, write
from tests.support.models import write_json, write_tokenizer

TASKS = ["retrieval.query", "text-matching", "separation"]
OTHERS = [*TASKS[:2], "translation"]
RANK, ALPHA = 2, 3
TABLES = ("embeddings.word_embeddings", "embeddings.token_type_embeddings")


def adapters() -> dict[str, tuple[Array, Array, Array]]:
    """Return base, A and B of every matrix and table under the original code's names: W + scale B A, of a table W + scale A B."""
    rng = np.random.default_rng(5)
    found = {}
    for name, base in tensors("jina_embeddings_v3").items():
        stem = name.removesuffix(".weight")
        if base.ndim != 2 or name.startswith("lm_head"):
            continue
        rows, columns = base.shape
        is_table = stem.removeprefix("roberta.") in TABLES
        shapes = ((rows, RANK), (RANK, columns)) if is_table else ((RANK, columns), (rows, RANK))
        a, b = (rng.standard_normal((len(TASKS), *shape), np.float32) * np.float32(0.3) for shape in shapes)
        found[stem] = (base, a, b)
    return found


def merged(index: int) -> dict[str, tuple[Array, Array]]:
    """Return the weights of a task in float64, and a bound of their rounding in float32."""
    found = {}
    for stem, (base, a, b) in adapters().items():
        left, right = (a, b) if a.shape[1] != RANK or stem.removeprefix("roberta.") in TABLES else (b, a)
        wide = [x[index].astype(np.float64) for x in (left, right)]
        size = np.abs(base) + ALPHA / RANK * np.abs(wide[0]) @ np.abs(wide[1])
        found[f"{stem}.weight"] = (base + ALPHA / RANK * wide[0] @ wide[1], 8 * np.finfo(np.float32).eps * size)
    return found


def write_adapted(folder: Path, left_out: tuple[str, ...] = (), **changes: Any) -> Path:
    """Write the golden jina-embeddings-v3 with adapters."""
    stored: Tensors = dict(tensors("jina_embeddings_v3"))
    for stem, (base, a, b) in adapters().items():
        del stored[f"{stem}.weight"]
        parts = {"original": base, "0.lora_A": a, "0.lora_B": b}
        stored |= {f"{stem}.parametrizations.weight.{part}": array for part, array in parts.items()}
    stored = {name: array for name, array in stored.items() if not name.endswith(left_out or ("\0",))}
    more = {"lora_adaptations": TASKS, "lora_rank": RANK, "lora_alpha": ALPHA, "load_trained_adapters": True}
    write(folder, "jina_embeddings_v3", stored)
    write_json(folder / "config.json", {**settings("jina_embeddings_v3"), **more, **changes})
    return folder


def plain(folder: Path, index: int) -> Path:
    """Write the model of a task without adapters."""
    weights = {name: weight.astype(np.float32) for name, (weight, _) in merged(index).items()}
    return write(folder, "jina_embeddings_v3", {**tensors("jina_embeddings_v3"), **weights})


@pytest.mark.parametrize("task", TASKS)
def test_merged(tmp_path: Path, task: str) -> None:
    index = TASKS.index(task)
    config, found = read_encoder(write_adapted(tmp_path), task)
    same, expected = read_encoder(plain(tmp_path / "plain", index))
    assert config == same and found.keys() == expected.keys()
    bounds = {bound.shape: bound.max() for _, bound in merged(index).values()}
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 2 * max(bounds.values()), name
    _, base = read_encoder(write(tmp_path / "base", "jina_embeddings_v3"))
    changed = [name for name in base if (base[name] != found[name]).any()]
    # Every matrix and both tables, of each of three layers.
    assert len(changed) == 2 + 3 * 6


@pytest.mark.parametrize("task", TASKS)
def test_each_weight_within_its_rounding(tmp_path: Path, task: str) -> None:
    from fastattn.checkpoint.config_json import Settings
    from fastattn.checkpoint.task_adapters import merge_task
    from fastattn.checkpoint.weights import Tensors as Stored

    folder = write_adapted(tmp_path)
    stored = Stored(folder)
    merge_task(Settings(folder / "config.json"), stored, task)
    for name, (weight, bound) in merged(TASKS.index(task)).items():
        assert (np.abs(stored.read(name, weight.shape) - weight) <= bound).all(), name
    assert not [name for name in stored.names() if "parametrizations" in name]


def test_head_is_adapted_too(tmp_path: Path) -> None:
    folder = write_adapted(tmp_path)
    weight, bound = merged(1)["roberta.pooler.dense.weight"]
    assert (np.abs(read_head(folder, "pooler", TASKS[1]).steps[0].weight - weight) <= bound).all()
    assert (read_head(folder, "pooler").steps[0].weight == adapters()["roberta.pooler.dense"][0]).all()


def test_below_the_adapters(tmp_path: Path) -> None:
    """Without a task the weights are the stored ones, as in the original code."""
    _, found = read_encoder(write_adapted(tmp_path))
    _, base = read_encoder(write(tmp_path / "base", "jina_embeddings_v3"))
    assert all((found[name] == base[name]).all() for name in base)


@pytest.mark.parametrize(
    ("changes", "left_out", "message"),
    [
        ({}, ("\0",), r"there is no adapter for the task 'translation'; adapters: retrieval\.query, text-matching, separation"),
        ({"lora_adaptations": None}, ("\0",), "there is no adapter for the task 'translation'; adapters: none"),
        ({"lora_adaptations": "translation"}, ("\0",), "lora_adaptations must be a list of tasks, found 'translation'"),
        ({"lora_adaptations": ["translation"]}, ("\0",), r"has shape \(3, .*, expected \(1, "),
        (
            {"lora_adaptations": [*TASKS[:2], "translation"]},
            ("lora_B",),
            r"tensor '.*\.0\.lora_B' is missing, of the adapters of '",
        ),
        (
            {"lora_adaptations": [*TASKS[:2], "translation"], "lora_rank": 0},
            ("\0",),
            "lora_rank must be a positive integer, found 0",
        ),
    ],
)
def test_fault(tmp_path: Path, changes: dict[str, Any], left_out: tuple[str, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_encoder(write_adapted(tmp_path, left_out, **changes), "translation")


def test_a_model_without_adapters(tmp_path: Path) -> None:
    folder = write(tmp_path, "bert")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: there is no adapter for the task 'x'; adapters: none"):
        Encoder.from_pretrained(folder, adapter="x")


@pytest.mark.jit
def test_sentence_transformer(tmp_path: Path) -> None:
    """The task is chosen as in the model's own code: `default_task` in model_kwargs."""
    folder = write_adapted(tmp_path / "model")
    write_tokenizer(folder)
    expected = plain(tmp_path / "plain", 1)
    write_tokenizer(expected)
    texts = ["the cat sat", "a dog on the mat"]
    model = SentenceTransformer(folder, model_kwargs={"default_task": TASKS[1]})
    wanted = SentenceTransformer(expected).encode(texts)
    np.testing.assert_allclose(model.encode(texts, task=TASKS[1]), wanted, atol=1e-5)
    assert np.abs(SentenceTransformer(folder).encode(texts) - wanted).max() > 0.01
    with pytest.raises(ValueError, match=r"task is 'separation', and the adapter that is loaded is 'text-matching': load"):
        model.encode(texts, task="separation")
    with pytest.raises(ValueError, match="task is 'separation', and the adapter that is loaded is none"):
        SentenceTransformer(folder).encode(texts, task="separation")
    np.testing.assert_array_equal(model.encode_query(texts), model.encode(texts))
    model.save(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "sentence_bert_config.json").read_text())["model_kwargs"] == {"default_task": TASKS[1]}
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "saved").encode(texts), model.encode(texts))
    with pytest.raises(CheckpointError, match="there is no adapter for the task 'translation'"):
        SentenceTransformer(folder, model_kwargs={"default_task": "translation"})
    with pytest.raises(ValueError, match="default_task must be the name of a task, got 3"):
        SentenceTransformer(folder, model_kwargs={"default_task": 3})


def test_the_original_modules(tmp_path: Path) -> None:
    """Modules of the folder's own code are known by name; the code is not run."""
    folder = write_adapted(tmp_path)
    write_tokenizer(folder)
    ran = tmp_path / "ran"
    (folder / "custom_st.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    kinds = {"": "custom_st.Transformer", "1_Pooling": "sentence_transformers.models.Pooling"}
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    entries[0]["kwargs"] = ["task"]
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    model = fastattn.SentenceTransformer(folder, trust_remote_code=True, model_kwargs={"default_task": TASKS[2]})
    assert [module.kind for module in model] == ["Transformer", "Pooling"] and not ran.exists()
