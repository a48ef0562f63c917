"""Parameters that are computed from stored tensors: of a layer, or of the whole model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn.checkpoint.families import FAMILIES, Block, Stored
from fastattn.checkpoint.families.bert import EMBEDDINGS, NAMES
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.models import HEADS, LAYERS, C, bert_tensors, write_bert

Array = NDArray[np.float32]


def one_more(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
    return stored.read(name, shape) + np.float32(1)


def by_type(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
    """Rows or numbers of a layer's tensor and of its neighbour, with one outside the layers."""
    part = name.rpartition(".")[2]
    other = stored.read(f"{stored.layer}intermediate.dense.{part}", (48, *shape[1:]))
    norm = stored.read("embeddings.LayerNorm.weight", (C,))
    return stored.read(name, shape)[::-1] + other[: shape[0]] + norm * np.float32(stored.config.num_heads)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {**EMBEDDINGS, "embeddings.token": Block("embeddings.word_embeddings", derive=one_more)}
    inside = {
        **NAMES.inside,
        "attention.query": Block("attention.self.query", derive=by_type),
        "attention.layer_norm": Block("attention.output.LayerNorm", derive=one_more),
    }
    names = (NAMES._replace(outside=outside, inside=inside),)
    monkeypatch.setitem(FAMILIES, "bert", FAMILIES["bert"]._replace(names=names))


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
def test_values(tmp_path: Path, prefix: str) -> None:
    tensors = bert_tensors()
    _, parameters = read_encoder(write_bert(tmp_path, {f"{prefix}{name}": array for name, array in tensors.items()}))
    expected: dict[str, Any] = {"embeddings.token.weight": tensors["embeddings.word_embeddings.weight"] + 1}
    for i in range(LAYERS):
        ours, theirs = f"layers.{i}.attention", f"encoder.layer.{i}"
        for part in ("weight", "bias"):
            expected[f"{ours}.layer_norm.{part}"] = tensors[f"{theirs}.attention.output.LayerNorm.{part}"] + 1
            expected[f"{ours}.query.{part}"] = (
                tensors[f"{theirs}.attention.self.query.{part}"][::-1]
                + tensors[f"{theirs}.intermediate.dense.{part}"][:C]
                + tensors["embeddings.LayerNorm.weight"] * HEADS
            )
    for name, array in expected.items():
        assert parameters[name].dtype == np.float32
        assert parameters[name].flags.c_contiguous
        np.testing.assert_array_equal(parameters[name], array, err_msg=name)


def test_old_names_of_a_norm(tmp_path: Path) -> None:
    """LayerNorm's `gamma` and `beta` are found for a derived parameter as for others."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    expected = read_encoder(write_bert(tmp_path / "new"))[1]
    tensors = bert_tensors()
    for new, old in names.items():
        tensors = {name.replace(new, old): array for name, array in tensors.items()}
    for name, array in read_encoder(write_bert(tmp_path / "old", tensors))[1].items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("name", ["encoder.layer.1.attention.self.query.bias", "embeddings.LayerNorm.weight"])
def test_missing_source(tmp_path: Path, name: str) -> None:
    tensors = {other: array for other, array in bert_tensors().items() if other != name}
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor '{name}' is missing"):
        read_encoder(write_bert(tmp_path, tensors))


def test_shape_of_a_source(tmp_path: Path) -> None:
    tensors = bert_tensors() | {"embeddings.word_embeddings.weight": np.zeros((3, C), np.float32)}
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight' has shape \(3, 32\), expected \(40, 32\)"):
        read_encoder(write_bert(tmp_path, tensors))


def test_a_tensor_of_a_layer_that_only_a_derivation_reads_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no unknown tensor; where nothing reads it, it is."""
    tensors = bert_tensors() | {f"encoder.layer.{i}.attention.self.query.scale": np.full(1, 2, np.float32) for i in range(LAYERS)}
    folder = write_bert(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"bert has no tensor 'encoder\.layer\.0\.attention\.self\.query\.scale'"):
        read_encoder(folder)

    def scaled(stored: Stored, name: str, shape: tuple[int, ...]) -> Array:
        return stored.read(name, shape) * stored.read(f"{stored.layer}attention.self.query.scale", (1,))

    inside = {**NAMES.inside, "attention.query": Block("attention.self.query", derive=scaled)}
    monkeypatch.setitem(FAMILIES, "bert", FAMILIES["bert"]._replace(names=(NAMES._replace(inside=inside),)))
    _, parameters = read_encoder(folder)
    name = "encoder.layer.1.attention.self.query.weight"
    np.testing.assert_array_equal(parameters["layers.1.attention.query.weight"], tensors[name] * 2)
