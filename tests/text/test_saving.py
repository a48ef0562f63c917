"""Models written over other folders, and copied."""

import contextlib
import copy
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.kernels.ops.linear import linear_kernel
from tests.support.models import C, bert_tensors, write_json, write_safetensors
from tests.support.peer_cases import TEXTS, dense, pooling, write_cross_encoder, write_model

pytestmark = pytest.mark.jit


def split(folder: Path) -> Path:
    """Write the weights of a folder as two files with an index."""
    tensors, names = bert_tensors(), [*bert_tensors()]
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        write_safetensors(folder / file, {name: tensors[name] * 2 for name in some})
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": {name: file for file in parts for name in parts[file]}})
    return folder


@pytest.mark.parametrize("order", [1, -1])
def test_saved_over_weights_of_another_form(order: int, tmp_path: Path) -> None:
    one, other = (write_model(tmp_path / str(i), pooling("mean")) for i in range(2))
    source, target = [one, split(other)][::order]
    model, old = SentenceTransformer(source), SentenceTransformer(target)
    assert not np.array_equal(model.encode(TEXTS), old.encode(TEXTS))
    model.save(str(target))
    assert np.array_equal(SentenceTransformer(target).encode(TEXTS), model.encode(TEXTS))


def test_what_was_read_is_saved_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model", pooling("mean"))
    monkeypatch.chdir(tmp_path)
    model = SentenceTransformer("model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model.save("saved")
    assert np.array_equal(SentenceTransformer("saved").encode(TEXTS), model.encode(TEXTS))
    write_safetensors(tmp_path / "model" / "model.safetensors", {name: x * 2 for name, x in bert_tensors().items()})
    with pytest.raises(CheckpointError, match="files were changed after they were read"):
        model.save("saved")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="model"):
        model.save("saved")
    assert np.array_equal(SentenceTransformer("saved").encode(TEXTS), model.encode(TEXTS))


@pytest.mark.skipif(os.name != "posix", reason="a file that is open cannot be replaced")
def test_saved_over_a_folder_that_is_in_use(tmp_path: Path) -> None:
    """Saving replaces every file by a new inode, so open files and memory maps keep the old content."""
    (write_model(tmp_path / "model", pooling("mean"), dense(C, 24)) / "README.md").write_text("A model.")
    model = SentenceTransformer(tmp_path / "model")
    model.save(str(tmp_path / "saved"))
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
        before = {path: path.read_bytes() for path in files}
        assert {"README.md", "model.safetensors", "tokenizer.json", "modules.json"} <= {path.name for path in files}
        model.save(str(tmp_path / "saved"))
        assert {path for path in (tmp_path / "saved").rglob("*") if path.is_file()} == set(files)
        for path, file in files.items():
            assert not os.path.samestat(os.fstat(file.fileno()), path.stat()), path
            assert file.read() == path.read_bytes() == before[path]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceTransformer(write_model(tmp_path / "model", pooling("mean")))
    model.save(str(tmp_path / "saved"))
    before = {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()}

    def fail(source: Any, target: Any, length: int) -> None:
        target.write(source.read(100))
        raise OSError("No space left on device")

    monkeypatch.setattr("fastattn.runtime.files.shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save(str(tmp_path / "saved"))
    assert {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()} == before


def test_a_tokenizer_of_ones_own_is_saved_over_another(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.normalizers import Lowercase

    model = SentenceTransformer(write_model(tmp_path / "model", pooling("mean")))
    model.save(str(tmp_path / "saved"))
    backend = Backend.from_file(str(tmp_path / "model" / "tokenizer.json"))
    backend.normalizer = Lowercase()
    model.tokenizer = backend
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(tmp_path / "saved")
    assert np.array_equal(again.encode("A CAT"), model.encode("a cat"))


def test_copies(tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path / "a", pooling("mean"), dense(C, 24, "torch.nn.modules.activation.GELU")))
    scorer = CrossEncoder(write_cross_encoder(tmp_path / "b", 1))
    pairs = [(text, "a") for text in TEXTS]
    for again in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert np.array_equal(again(model).encode(TEXTS), model.encode(TEXTS))
        assert np.array_equal(again(scorer).predict(pairs), scorer.predict(pairs))


def test_copies_whose_bytes_are_read_only(tmp_path: Path) -> None:
    """Weights over read-only buffers, such as shared memory, become writable: a read-only array would compile the kernels anew."""
    steps = (pooling("mean"), dense(C, 24), ("LayerNorm", {"dimension": 24}))
    model = SentenceTransformer(write_model(tmp_path / "a", *steps))
    scorer = CrossEncoder(write_cross_encoder(tmp_path / "b", 1))

    def again(x: Any) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(x, 5, buffer_callback=buffers.append)
        return pickle.loads(content, buffers=[bytes(buffer) for buffer in buffers])

    pairs = [(text, "a") for text in TEXTS]
    embeddings, scores = model.encode(TEXTS), scorer.predict(pairs)
    before = list(linear_kernel.dispatcher.overloads)
    assert np.array_equal(again(model).encode(TEXTS), embeddings)
    assert np.array_equal(again(scorer).predict(pairs), scores)
    assert list(linear_kernel.dispatcher.overloads) == before
