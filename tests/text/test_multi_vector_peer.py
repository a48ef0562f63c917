"""MultiVectorEncoder agrees with sentence-transformers' on the same folders: from a golden file, and live if it is installed."""

import importlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn.modules
from fastattn import MultiVectorEncoder
from tests.support.late_interaction import CASES, DOCUMENTS, QUERIES, answers, write_case
from tests.support.peer_cases import DATA
from tests.support.tolerance import assert_matches_reference

FILE = DATA / "late_interaction.npz"
EMPTY = -1e8


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(FILE) as stored:
        assert json.loads(str(stored["about"]))["version"] == 1, "write the file again with tests/data/make_late_interaction.py"
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers.multi_vector_encoder")
        spec = importlib.util.spec_from_file_location("make_late_interaction", DATA / "make_late_interaction.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def ours(name: str, folder: Path) -> dict[str, Any]:
    pooling = CASES[name].pooling
    made = None if pooling is None else getattr(fastattn.modules, pooling[0])(**pooling[1])
    return answers(MultiVectorEncoder(folder), made)


def compare(name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare all answers to a case; a document without tokens has a score of its own."""
    known = {key.removeprefix(f"{name}/").rpartition("/")[0] for key in expected if key.startswith(f"{name}/")}
    assert known == set(found)
    for key, array in found.items():
        truth, yardstick = (expected[f"{name}/{key}/{dtype}"].copy() for dtype in ("float64", "float32"))
        assert array.shape == truth.shape, key
        empty = truth < EMPTY
        np.testing.assert_allclose(array[empty], truth[empty], rtol=1e-6)
        for x in (array, truth, yardstick):
            x[empty] = 0
        # Similarities are float32 in both.
        assert_matches_reference(array, truth.astype(np.float64), yardstick)


def test_signatures(peer: Any) -> None:
    """Parameters of sentence-transformers come first, in its order, with its defaults but for `convert_to_numpy`."""
    theirs = peer.sentence_transformers.MultiVectorEncoder
    for name in (
        "__init__",
        "encode",
        "encode_query",
        "encode_document",
        "similarity",
        "similarity_pairwise",
        "save",
        "is_singular_input",
    ):
        known = {parameter: p.default for parameter, p in inspect.signature(getattr(theirs, name)).parameters.items()}
        found = {parameter: p.default for parameter, p in inspect.signature(getattr(MultiVectorEncoder, name)).parameters.items()}
        assert [parameter for parameter in found if parameter in known] == list(known), name
        assert set(found) - set(known) <= {"precision", "task"}, name
        assert {parameter for parameter in known if known[parameter] != found[parameter]} <= {"convert_to_numpy"}, name


@pytest.mark.parametrize("name", CASES)
def test_as_stored(name: str, tmp_path: Path, golden: dict[str, Any]) -> None:
    compare(name, ours(name, write_case(name, tmp_path)), golden)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_live(name: str, tmp_path: Path, peer: Any) -> None:
    expected = peer.answer(name, tmp_path)
    compare(name, ours(name, tmp_path), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pairs_live(tmp_path: Path, peer: Any) -> None:
    """A pair is two segments, as in sentence-transformers."""
    folder, pairs = str(write_case("plain", tmp_path)), [("a cat", "the dog"), ("the", "mat on a dog")]
    theirs = peer.sentence_transformers.MultiVectorEncoder(folder).encode(pairs, convert_to_numpy=True)
    for found, expected in zip(MultiVectorEncoder(folder).encode(pairs), theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pooling is None])
def test_saved_for_sentence_transformers(name: str, tmp_path: Path, peer: Any) -> None:
    """What is saved here, sentence-transformers loads, and answers alike; older folders become ones of its own kind."""
    write_case(name, tmp_path / "source")
    model = MultiVectorEncoder(tmp_path / "source")
    model.save(str(tmp_path / "saved"))
    again = peer.sentence_transformers.MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    for key, array in answers(again).items():
        expected = answers(model)[key]
        assert array.shape == expected.shape, key
        np.testing.assert_allclose(np.maximum(array, EMPTY), np.maximum(expected, EMPTY), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["fixed", "min, attend, token", "plain"])
def test_padded_batches(name: str, tmp_path: Path, peer: Any) -> None:
    """Arrays of `preprocess`, and what a call of the model makes of them."""
    write_case(name, tmp_path)
    model, theirs = MultiVectorEncoder(tmp_path), peer.sentence_transformers.MultiVectorEncoder(str(tmp_path), device="cpu")
    for task, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        columns, expected = model.preprocess(texts, task=task), theirs.preprocess(texts, task=task)
        there = expected["attention_mask"].numpy() > 0
        if task == "query" and name != "plain":
            np.testing.assert_array_equal(columns["query_expansion_positions"], expected["query_expansion_positions"])
            there |= expected["query_expansion_positions"].numpy()
        np.testing.assert_array_equal(columns["attention_mask"], expected["attention_mask"])
        np.testing.assert_array_equal(columns["input_ids"][there], expected["input_ids"].numpy()[there])
        found = model(columns, task=task)
        with peer.torch.inference_mode():
            truth = theirs(dict(expected), task=task)
            tensors = model({key: x for key, x in expected.items() if peer.torch.is_tensor(x)}, task=task)
        mask = truth["attention_mask"].numpy().astype(bool)
        np.testing.assert_array_equal(found["attention_mask"], mask)
        np.testing.assert_allclose(found["token_embeddings"][mask], truth["token_embeddings"].numpy()[mask], atol=1e-5)
        np.testing.assert_array_equal(tensors["token_embeddings"].numpy(), found["token_embeddings"])
