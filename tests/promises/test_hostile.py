"""Hostile input: a right answer or a documented exception, never a signal, a hang or unbounded memory."""

import mmap
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fastattn
from fastattn import Encoder, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from soak import _hostile_case, hostile
from soak._hostile_case import Case, attempt
from tests.support.models import bert_tensors, write_bert, write_json, write_sentence_model

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")


@pytest.mark.jit
@pytest.mark.parametrize("kind", hostile.CASES)
def test_a_part_of_the_soak(kind: str) -> None:
    count = max(40, hostile.CASES[kind] // 80)
    assert sum(hostile.run_kind(kind, count).values()) >= count


def _case(run: Any, check: Any = lambda result: None, size: int = 0, must_answer: bool = False) -> Case:
    return Case("a case", run, check, (ValueError,), size, must_answer)


def _raise(error: BaseException) -> None:
    raise error


def test_what_passes() -> None:
    assert attempt(_case(lambda: 1)) == "answer"
    assert attempt(_case(lambda: _raise(CheckpointError("x")))) == "CheckpointError"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (_case(lambda: _raise(KeyError("x"))), "KeyError is not documented"),
        (_case(lambda: _raise(SystemError("x"))), "SystemError is not documented"),
        (_case(lambda: _raise(ValueError("x")), must_answer=True), "right arguments were refused"),
        (_case(lambda: 1, lambda result: _raise(AssertionError("wrong"))), "wrong"),
        (_case(lambda: np.ones(2**20).sum() and None), "bytes for an input of 0"),
    ],
)
def test_what_does_not(case: Case, message: str) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(AssertionError, match=message):
            attempt(case)
    finally:
        tracemalloc.stop()


def _mapped(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def _in_rust(size: int) -> None:
    from tokenizers import normalizers

    # The tokenizers library keeps 16 bytes of offsets per byte of text.
    normalizers.Replace("a", "b" * (size // 16)).normalize_str("a")


@LINUX
@pytest.mark.parametrize("take", [_mapped, _in_rust])
def test_memory_that_python_does_not_allocate(take: Any) -> None:
    most = _hostile_case.SLACK
    with pytest.raises(AssertionError, match=r"the process grew by [0-9,]+ bytes for an input of 0"):
        attempt(_case(lambda: take(3 * most)))
    # The peak is reset for every case, and the limit grows with the input.
    assert attempt(_case(lambda: 1)) == "answer"
    assert attempt(_case(lambda: take(3 * most), size=most)) == "answer"


@LINUX
def test_memory_is_limited() -> None:
    code = "from soak._hostile_case import limit_memory; limit_memory(2**30); bytearray(2**29); bytearray(2**31)"
    child = subprocess.run([sys.executable, "-c", code], cwd=hostile.ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 1 and child.stderr.splitlines()[-1] == "MemoryError"


def test_a_loop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soak._hostile_case.SECONDS", 0.01)
    end = time.process_time() + 0.05

    def loop() -> None:
        while time.process_time() < end:
            pass

    with pytest.raises(AssertionError, match="took"):
        attempt(_case(loop))


@pytest.mark.parametrize("ending", ["import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "raise KeyError"])
def test_a_process_that_ends_is_found(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(hostile.ROOT / "soak", tmp_path / "soak")
    source = tmp_path / "soak" / "hostile.py"
    source.write_text(source.read_text("utf-8").replace("        run()\n", f"        {ending}\n"), "utf-8")
    monkeypatch.setattr(hostile, "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="ended with"):
        hostile.run_kind("jsonl", 1)


HUGE = np.broadcast_to(np.float32(1), (2**40, 4))


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("gelu", [HUGE]),
        ("softmax", [HUGE]),
        ("layer_norm", [HUGE]),
        ("rms_norm", [HUGE]),
        ("linear", [HUGE, np.ones((3, 4), np.float32)]),
        ("linear", [np.empty((2**40, 0), np.float32), np.empty((2**40, 0), np.float32)]),
        ("splade_pooling", [HUGE, np.ones((3, 4), np.float32)]),
        ("splade_pooling", [np.empty((0, 0), np.float32), np.empty((2**40, 0), np.float32)]),
        ("scaled_dot_product_attention", [HUGE, HUGE, HUGE]),
        ("attention_weights", [np.empty((2**20, 0), np.float32)] * 2),
        ("rotary_embedding", [HUGE, HUGE[:, :2], HUGE[:, :2]]),
        ("maxsim", [HUGE[:3], HUGE, [0, 2**40]]),
        ("embedding_bag", [np.zeros((1, 1), np.int64), HUGE]),
    ],
)
def test_more_than_any_memory(op: str, arguments: list[Any]) -> None:
    with pytest.raises(MemoryError):
        getattr(fastattn, op)(*arguments)


def test_elements_of_out_share_memory() -> None:
    x = np.ones((3, 4), np.float32)
    for strides in ((0, 4), (4, 4), (16, 0), (0, 0)):
        with pytest.raises(ValueError, match="out must not have elements that share memory"):
            fastattn.gelu(x, out=as_strided(np.zeros(20, np.float32), x.shape, strides))
    # Strides of axes of length 1 are arbitrary.
    one = as_strided(np.zeros(4, np.float32), (1, 4), (0, 4))
    assert fastattn.gelu(x[:1], out=one) is one


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: fastattn.softmax(x, 1.0), "axis"),
        (lambda x: fastattn.layer_norm(x, eps=10**400), "eps"),
        (lambda x: fastattn.layer_norm(x, eps="small"), "eps"),
        (lambda x: fastattn.rms_norm(x, eps=10**400), "eps"),
        (lambda x: fastattn.rms_norm(x, eps="small"), "eps"),
        (lambda x: fastattn.attention_weights(x, x, scale=10**400), "scale"),
        (lambda x: fastattn.attention_weights(x, x, scale=1j), "scale"),
        (lambda x: fastattn.attention_weights(x, x, softcap=[]), "softcap"),
        (lambda x: fastattn.attention_weights(x, x, window=(np.inf, 1)), "window"),
        (lambda x: fastattn.gelu([[1.0], [1.0, 2.0]]), "x"),
        (lambda x: fastattn.maxsim(x, x, [0.0, 3.0]), "offsets"),
    ],
)
def test_a_number_that_is_none(call: Any, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"\b{name} must be"):
        call(np.ones((3, 4), np.float32))


def test_other_byte_order() -> None:
    for dtype in ("f4", "f8"):
        q, k, v = (np.random.default_rng(i).standard_normal((2, 5, 4)).astype(dtype) for i in range(3))
        swapped = [x.astype(x.dtype.newbyteorder()) for x in (q, k, v)]
        np.testing.assert_array_equal(
            fastattn.scaled_dot_product_attention(*swapped), fastattn.scaled_dot_product_attention(q, k, v), strict=True
        )
        np.testing.assert_array_equal(fastattn.attention_weights(*swapped[:2]), fastattn.attention_weights(q, k), strict=True)


LINKED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "1_Pooling",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_sentence_model(tmp_path / "hub" / "models--a--b" / "snapshots" / "revision")
    for name in ("tokenizer_config.json", "config_sentence_transformers.json"):
        write_json(folder / name, {})
    return folder


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_out_of_the_folder(model: Path, name: str, relative: bool, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    path, target = model / name, other / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(os.path.relpath(target, path.parent) if relative else target)
    with pytest.raises(CheckpointError, match="link out of"):
        SentenceTransformer(str(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json"])
def test_a_link_to_itself(model: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).symlink_to(name)
    with pytest.raises((CheckpointError, FileNotFoundError)):
        SentenceTransformer(str(model))


def test_links_of_the_hub(model: Path) -> None:
    expected = SentenceTransformer(str(model)).encode("the cat")
    blobs = model.parent.parent / "blobs"
    blobs.mkdir()
    for i, file in enumerate([path for path in model.rglob("*") if path.is_file()]):
        file.rename(blobs / str(i))
        file.symlink_to(os.path.relpath(blobs / str(i), file.parent))
    np.testing.assert_array_equal(SentenceTransformer(str(model)).encode("the cat"), expected)
    # A link to the model folder itself is allowed.
    link = model.parent.parent.parent / "link"
    link.symlink_to(model)
    np.testing.assert_array_equal(SentenceTransformer(str(link)).encode("the cat"), expected)


def test_a_link_inside_the_folder(model: Path) -> None:
    (model / "config.json").rename(model / "other.json")
    (model / "config.json").symlink_to("other.json")
    SentenceTransformer(str(model))


@pytest.mark.parametrize("name", ["README.md", "vocab.txt"])
def test_saving_copies_nothing_from_outside(model: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="link out of"):
        SentenceTransformer(str(model)).save(str(tmp_path / "saved"))


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "link/model.safetensors", "shard"])
def test_a_shard_outside_the_folder(tmp_path: Path, name: str) -> None:
    write_bert(tmp_path / "other")
    folder = write_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "shard").symlink_to(tmp_path / "other" / "model.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(bert_tensors(), name)})
    with pytest.raises(CheckpointError, match=r"out of|not the name"):
        read_encoder(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"]
)
def test_brackets_without_end(model: Path, name: str) -> None:
    """Python's JSON parser recurses: its RecursionError must become a CheckpointError."""
    (model / name).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"not a (JSON file|tokenizer)"):
        SentenceTransformer(str(model))


def test_a_pickle_under_the_name_of_safetensors(tmp_path: Path) -> None:
    folder = write_bert(tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_encoder(folder)


def test_a_header_is_not_trusted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safetensors headers are checked by our parser too, since the library's may read the same bytes differently."""
    import safetensors

    class Accepting:
        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *args: object) -> None:
            pass

    folder = write_bert(tmp_path)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    monkeypatch.setattr(safetensors, "safe_open", Accepting)
    Encoder.from_pretrained(folder)
    for old, new in (
        (b'"data_offsets": [0, 5120]', b'"data_offsets": [-8,5112]'),
        (b'"data_offsets": [0, 5120]', b'"data_offsets": "0, 5120"'),
        (b'"data_offsets": [0, 5120]', b'"data_offsetz": [0, 5120]'),
        (b'"shape": [40, 32]', b'"shape": [40, -3]'),
        (b'"shape": [40, 32]', b'"shape": [4.0,32]'),
        (b'{"__metadata__"', b'["__metadata__"'),
    ):
        assert old in raw and len(old) == len(new)
        path.write_bytes(raw.replace(old, new, 1))
        with pytest.raises(CheckpointError):
            Encoder.from_pretrained(folder)
    path.write_bytes(raw[:-4])
    with pytest.raises(CheckpointError, match="not a safetensors header"):
        Encoder.from_pretrained(folder)
