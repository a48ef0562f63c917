"""BGEM3FlagModel: three kinds of embeddings, by their definitions; and its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import BGEM3FlagModel, Encoder, reference
from fastattn.checkpoint.folder import CheckpointError
from tests.support.late_interaction import DOCUMENTS, P, write_bge_m3
from tests.support.models import C, write_safetensors
from tests.support.peer_cases import weights

TEXTS = [*DOCUMENTS, "the the the cat", "zebra"]
# [PAD], [UNK], [CLS], [SEP]: the last is the end of a text too.
UNUSED = {0, 1, 2, 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bge_m3(tmp_path_factory.mktemp("bge"))


@pytest.fixture(scope="module")
def model(folder: Path) -> BGEM3FlagModel:
    return BGEM3FlagModel(folder)


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("normalized", [True, False])
def test_definitions(folder: Path, normalized: bool) -> None:
    """From the hidden states, in float64."""
    model, encoder = BGEM3FlagModel(folder, normalize_embeddings=normalized), Encoder.from_pretrained(folder)
    found = model.encode(TEXTS, return_sparse=True, return_colbert_vecs=True)
    sparse, colbert = weights(1, weight=(1, C), bias=(1,)), weights(2, weight=(C, C), bias=(C,))
    scale = unit if normalized else lambda x: x
    assert found["dense_vecs"].shape == (len(TEXTS), C)
    for i, text in enumerate(TEXTS):
        ids = model.tokenizer(text)["input_ids"]
        hidden = encoder(np.array([ids]))[0].astype(np.float64)
        np.testing.assert_allclose(found["dense_vecs"][i], scale(hidden[0]), rtol=1e-5, atol=1e-6)
        vectors = scale(hidden[1:] @ colbert["weight"].T + colbert["bias"])
        np.testing.assert_allclose(found["colbert_vecs"][i], vectors, rtol=1e-4, atol=1e-5)
        each = np.maximum(hidden @ sparse["weight"][0] + sparse["bias"][0], 0)
        expected: dict[str, float] = {}
        for token, weight in zip(ids, each, strict=True):
            if token not in UNUSED and weight > 0:
                expected[str(token)] = max(weight, expected.get(str(token), 0))
        assert found["lexical_weights"][i].keys() == expected.keys()
        for token, weight in found["lexical_weights"][i].items():
            assert weight == pytest.approx(expected[token], rel=1e-4, abs=1e-5)
    assert any(found["lexical_weights"])


def test_inputs(model: BGEM3FlagModel) -> None:
    found = model.encode("the cat", return_sparse=True, return_colbert_vecs=True)
    assert found["dense_vecs"].shape == (C,)
    assert isinstance(found["lexical_weights"], dict)
    assert found["colbert_vecs"].shape == (3, C)
    several = model.encode([*TEXTS, "the cat"], return_sparse=True, return_colbert_vecs=True)
    np.testing.assert_array_equal(several["dense_vecs"][-1], found["dense_vecs"])
    np.testing.assert_array_equal(several["colbert_vecs"][-1], found["colbert_vecs"])
    assert several["lexical_weights"][-1] == found["lexical_weights"]
    plain = model.encode(["the cat"])
    assert plain["lexical_weights"] is None
    assert plain["colbert_vecs"] is None
    assert model.encode("the cat " * 9, max_length=5, return_colbert_vecs=True)["colbert_vecs"].shape == (4, C)
    assert model.counts.truncated == 1
    assert model.encode([])["dense_vecs"].shape == (0, C)
    with pytest.raises(TypeError, match=r"sentences\[1\]"):
        model.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="max_seq_length"):
        model.encode("a", max_length=P + 1)


def test_scores(model: BGEM3FlagModel) -> None:
    found = model.encode(TEXTS, return_sparse=True, return_colbert_vecs=True)
    first, second = found["colbert_vecs"][0], found["colbert_vecs"][3]
    expected = reference.maxsim(first, second, np.array([0, len(second)]), length_normalize=True)
    assert model.colbert_score(first, second) == pytest.approx(float(expected[0]), rel=1e-5)
    assert model.compute_lexical_matching_score({"7": 2.0, "8": 1.0}, {"8": 0.5, "7": 3.0, "9": 9.0}) == 6.5
    assert model.convert_id_to_token({"16": 1.0}) == {"cat": 1.0}
    assert model.convert_id_to_token([{"16": 1.0}, {}]) == [{"cat": 1.0}, {}]


def test_another_width(tmp_path: Path) -> None:
    model = BGEM3FlagModel(write_bge_m3(tmp_path, 5))
    assert model.encode("the cat", return_colbert_vecs=True)["colbert_vecs"].shape == (3, 5)


def test_pickled_heads(folder: Path, tmp_path: Path) -> None:
    """The heads as the Hub has them: state_dicts of torch.nn.Linear."""
    torch = pytest.importorskip("torch")
    write_bge_m3(tmp_path)
    for name, tensors in (
        ("sparse_linear", weights(1, weight=(1, C), bias=(1,))),
        ("colbert_linear", weights(2, weight=(C, C), bias=(C,))),
    ):
        torch.save({key: torch.from_numpy(x) for key, x in tensors.items()}, tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.safetensors").unlink()
    kinds = {"return_sparse": True, "return_colbert_vecs": True}
    found, expected = BGEM3FlagModel(tmp_path).encode("the cat", **kinds), BGEM3FlagModel(folder).encode("the cat", **kinds)
    np.testing.assert_array_equal(found["colbert_vecs"], expected["colbert_vecs"])
    assert found["lexical_weights"] == expected["lexical_weights"]


def test_files(folder: Path, tmp_path: Path) -> None:
    write_bge_m3(tmp_path)
    (tmp_path / "sparse_linear.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"sparse_linear\.safetensors: no such file, nor sparse_linear\.pt"):
        BGEM3FlagModel(tmp_path)
    write_safetensors(tmp_path / "sparse_linear.safetensors", weights(1, weight=(2, C), bias=(2,)))
    with pytest.raises(CheckpointError, match=r"sparse_linear\.safetensors: weight must have shape"):
        BGEM3FlagModel(tmp_path)
    write_safetensors(tmp_path / "sparse_linear.safetensors", weights(1, kernel=(1, C)))
    with pytest.raises(CheckpointError, match="expected a matrix 'weight' and a 'bias', found kernel"):
        BGEM3FlagModel(tmp_path)
