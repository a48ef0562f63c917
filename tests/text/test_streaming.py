"""`encode_iter` and `predict_iter`: the bits of `encode` and `predict`, in order, a bounded number of inputs ahead."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer, SparseEncoder
from fastattn.runtime.threads import JIT
from fastattn.text import streaming
from tests.support import sparse_cases
from tests.support.embedding import TEXTS
from tests.support.peer_cases import PAIRS, write_cross_encoder

pytestmark = pytest.mark.jit


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_SLICE", 7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_embeddings": True, "truncate_dim": 5},
        {"prompt": "query: "},
        {"processing_kwargs": {"text": {"max_length": 4}}},
    ],
    ids=str,
)
def test_the_bits_of_encode(options: dict[str, Any], model: SentenceTransformer) -> None:
    texts = TEXTS * 9
    expected = model.encode(texts, **options)
    counts = model.counts
    for batch_tokens in (None, 20):
        found = list(model.encode_iter((text for text in texts), batch_tokens=batch_tokens, **options))
        assert np.array_equal(np.stack(found), expected)
        assert model.counts == counts
    assert list(model.encode_iter([])) == []


def test_kinds_of_inputs(model: SentenceTransformer) -> None:
    pairs = [(text, "a dog") for text in TEXTS]
    assert np.array_equal(list(model.encode_iter(iter(pairs))), model.encode(pairs))
    assert np.array_equal(list(model.encode_iter({"text": text} for text in TEXTS)), model.encode(TEXTS))
    model.prompts["cat"] = "cat: "
    assert np.array_equal(list(model.encode_iter(TEXTS, prompt_name="cat")), model.encode(TEXTS, prompt_name="cat"))


def test_float16(folder: Path) -> None:
    half = SentenceTransformer(folder, model_kwargs={"dtype": "float16"})
    found = np.stack(list(half.encode_iter(TEXTS)))
    assert found.dtype == np.float16 and np.array_equal(found, half.encode(TEXTS))


def test_bits_of_predict(tmp_path: Path) -> None:
    for labels, options in ((1, {}), (3, {}), (3, {"apply_softmax": True}), (1, {"activation_fn": np.tanh}), (1, {"prompt": "a "})):
        model = CrossEncoder(write_cross_encoder(tmp_path / f"{labels}{len(options)}", labels))
        pairs = PAIRS * 5
        expected = model.predict(pairs, **options)  # type: ignore[arg-type]
        counts = model.counts
        assert np.array_equal(list(model.predict_iter(iter(pairs), batch_tokens=50, **options)), expected)  # type: ignore[arg-type]
        assert model.counts == counts
    with pytest.raises(ValueError, match="activation_fn must return a row for each of"):
        list(model.predict_iter(PAIRS, activation_fn=np.sum))


def test_long_texts_end_a_slice(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LEAST", 10)
    monkeypatch.setattr(streaming, "_CHARACTERS", 10)
    items = ["a" * 4] * 4 + ["b" * 30] + [("c" * 6, "d" * 6), None, {"text": "e" * 9}]
    sizes = [len(slice) for _, slice in streaming.slices(items, lambda: 10)]
    assert sizes == [3, 2, 1, 2]
    assert np.array_equal(list(model.encode_iter(TEXTS)), model.encode(TEXTS))


def until(reached: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    return reached()


def test_computing_goes_on_while_the_caller_is_busy(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices are ahead of the first embedding, no more; the caller's thread takes the texts, another one computes."""
    taken: list[int] = []
    computed: list[int] = []
    computing, taking = set(), set()
    embeddings = model._pipeline.embeddings

    def watched(batch: Any, *rest: Any) -> Any:
        computing.add(threading.get_ident())
        computed.extend(batch.rows.tolist())
        return embeddings(batch, *rest)

    def texts() -> Iterator[str]:
        for i in range(100):
            taken.append(i)
            taking.add(threading.get_ident())
            yield TEXTS[i % len(TEXTS)]

    monkeypatch.setattr(model._pipeline, "embeddings", watched)
    found = model.encode_iter(texts())
    assert taken == []
    next(found)
    assert len(taken) == 21
    assert until(lambda: sorted(computed) == list(range(21)))
    assert len(list(found)) == 99 and len(taken) == 100
    assert taking == {threading.get_ident()} and threading.get_ident() not in computing and len(computing) == 1


def test_a_caller_that_leaves(model: SentenceTransformer) -> None:
    before = set(threading.enumerate())
    found = model.encode_iter(TEXTS * 50)
    next(found)
    assert set(threading.enumerate()) - before
    found.close()  # type: ignore[attr-defined]
    assert until(lambda: not {thread for thread in threading.enumerate() if "ThreadPool" in thread.name} - before)


def test_where_no_thread_can_be_started(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.encode(TEXTS * 9)

    def refuse(*args: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    assert np.array_equal(list(model.encode_iter(TEXTS * 9)), expected)
    monkeypatch.undo()
    monkeypatch.setattr(streaming, "starts_greenlets", lambda: True)
    assert np.array_equal(list(model.encode_iter(TEXTS * 9)), expected)


@pytest.mark.skipif(not JIT, reason="counts Numba's threads")
def test_the_callers_number_of_threads(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    most, seen = numba.get_num_threads(), []
    monkeypatch.setattr(
        model._pipeline, "embeddings", lambda batch, *rest: seen.append(numba.get_num_threads()) or [0] * len(batch.rows)
    )
    monkeypatch.setattr("fastattn.text.streaming.as_dtype", lambda rows, dtype: rows)
    try:
        numba.set_num_threads(1)
        list(model.encode_iter(TEXTS))
        assert set(seen) == {1}
    finally:
        numba.set_num_threads(most)
    list(model.encode_iter(TEXTS))
    assert seen[-1] == most


def test_memory_does_not_grow(model: SentenceTransformer) -> None:
    """Forty times as many texts take the same memory."""
    list(model.encode_iter(TEXTS * 20))
    peaks = []
    tracemalloc.start()
    try:
        for count in (100, 4000):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in model.encode_iter(TEXTS[i % len(TEXTS)] for i in range(count)):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000
    # The embeddings alone take more.
    assert peaks[1] < 4000 * model.get_embedding_dimension() * 4


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "a single text": (lambda model: model.encode_iter("a"), TypeError, "inputs must be an iterable of str, got str"),
    "a set": (lambda model: model.encode_iter({"a"}), TypeError, "has no order"),
    "no tokens": (lambda model: model.encode_iter(["a"], batch_tokens=0), ValueError, "batch_tokens must be a positive integer"),
    "no such argument": (
        lambda model: model.encode_iter(["a"], normalise=True),
        ValueError,
        "encode_iter has no argument normalise",
    ),
    "no such prompt": (lambda model: model.encode_iter(["a"], prompt_name="x"), ValueError, "there is no prompt 'x'"),
    "no width": (lambda model: model.encode_iter(["a"], truncate_dim=0), ValueError, "truncate_dim must be"),
    "a number": (lambda model: list(model.encode_iter(["a"] * 9 + [5])), TypeError, r"inputs\[9\] must be a str"),
    "pairs and texts": (
        lambda model: list(model.encode_iter(["a"] * 8 + [("a", "b")])),
        TypeError,
        r"inputs\[8\] must be a str, as",
    ),
    "surrogate": (lambda model: list(model.encode_iter(["a"] * 20 + ["\ud800"])), ValueError, r"inputs\[20\] is not valid Unicode"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str, model: SentenceTransformer) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(model)


@pytest.mark.parametrize("name", ["max", "settings", "static queries", "autoencoder"])
def test_bits_of_sparse_embeddings(name: str, tmp_path: Path) -> None:
    model, texts = SparseEncoder(sparse_cases.MODELS[name](tmp_path)), TEXTS * 4
    for options in (
        {},
        {"task": "query"},
        {"prompt": "the "},
        {"max_active_dims": 3},
        {"processing_kwargs": {"text": {"max_length": 4}}},
    ):
        expected: Any = model.encode(texts, **options)
        counts = model.counts
        for batch_tokens in (None, 20):
            found = list(model.encode_iter((text for text in texts), batch_tokens=batch_tokens, **options))
            assert model.counts == counts and len(found) == len(texts)
            for one, other in zip(found, expected, strict=True):
                assert one.shape == other.shape and np.array_equal(one.indices, other.indices)
                assert one.data.tobytes() == other.data.tobytes()
    assert list(model.encode_iter([])) == []
    half = SparseEncoder(tmp_path, model_kwargs={"dtype": "float16"})
    assert next(half.encode_iter(texts)).dtype == np.float16


def test_arguments_of_sparse_streams(tmp_path: Path) -> None:
    model = SparseEncoder(sparse_cases.write_router(tmp_path))
    for options, message in (
        ({"max_active_dims": 0}, "max_active_dims must be a positive integer"),
        ({"batch_tokens": 0}, "batch_tokens must be a positive integer"),
        ({"prompt_name": "x"}, "x"),
        ({"top_k": 3}, "top_k"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.encode_iter(TEXTS, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"inputs\[1\] must be"):
        list(model.encode_iter(["a cat", 3]))
