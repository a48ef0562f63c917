"""MiniLM on docstrings: embeddings agree with sentence-transformers, and their bits never vary."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastattn import SentenceTransformer
from soak._child import LAYERS, missing
from tests.support.texts import texts

pytestmark = pytest.mark.jit

TOLERANCE = 1e-5  # largest difference of an element of unit-length embeddings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return SentenceTransformer()


@pytest.fixture(scope="module")
def embeddings(model: SentenceTransformer) -> Any:
    return model.encode(texts())


def test_golden_file(model: SentenceTransformer) -> None:
    with np.load(Path(__file__).parents[1] / "data" / "minilm.npz") as golden:
        about, chosen, expected = (
            json.loads(str(golden["about"])),
            json.loads(str(golden["texts"])),
            golden["embeddings"],
        )
    assert about["version"] == 1, "write the file again with tests/data/make_minilm.py"
    found = model.encode(chosen)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers(model: SentenceTransformer, embeddings: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("sentence_transformers")
    torch = importlib.import_module("torch")
    theirs = peer.SentenceTransformer(str(model.folder), device="cpu", model_kwargs={"torch_dtype": torch.float32})
    expected = theirs.encode(texts())
    assert expected.dtype == np.float32
    assert np.abs(embeddings - expected).max() <= TOLERANCE


def test_lengths_are_mixed(model: SentenceTransformer) -> None:
    rows, _, truncated = model.tokenizer.rows(texts(), model.max_seq_length)
    lengths = {len(row) for row in rows}
    assert min(lengths) == 2
    assert max(lengths) == 256
    assert len(lengths) > 150
    assert truncated > 10


@pytest.mark.parametrize("size", [1, 7, 32, 256])
def test_same_bits_in_any_batch(model: SentenceTransformer, embeddings: Any, size: int) -> None:
    for start in range(0, len(texts()), size):
        batch = texts()[start : start + size]
        assert np.array_equal(model.encode(batch), embeddings[start : start + size]), start


def test_same_bits_in_any_order(model: SentenceTransformer, embeddings: Any) -> None:
    order = np.random.default_rng(0).permutation(len(texts()))
    assert np.array_equal(model.encode([texts()[i] for i in order]), embeddings[order])


def test_same_bits_with_any_batch_size(model: SentenceTransformer, embeddings: Any) -> None:
    assert np.array_equal(model.encode(texts()[:100], batch_size=3), embeddings[:100])


def test_same_bits_with_one_thread(model: SentenceTransformer, embeddings: Any) -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert np.array_equal(model.encode(texts()), embeddings)
    finally:
        numba.set_num_threads(before)


CHILD = """
import hashlib, json, sys
import numpy as np
from fastattn import SentenceTransformer
from fastattn.runtime.threads import threading_layer
texts = json.load(sys.stdin)
model = SentenceTransformer()
together = model.encode(texts)
alone = np.stack([model.encode(text) for text in texts])
print(threading_layer(), *(hashlib.sha256(x.tobytes()).hexdigest() for x in (together, alone)))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_same_bits_under_every_threading_layer(embeddings: Any, layer: str, threads: int) -> None:
    if reason := missing(layer):
        pytest.skip(reason)
    chosen = texts()[:120]
    environment = {
        **os.environ,
        "NUMBA_THREADING_LAYER": layer,
        "NUMBA_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
    }
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(chosen),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    digest = hashlib.sha256(embeddings[:120].tobytes()).hexdigest()
    assert child.stdout.split() == [layer, digest, digest]
