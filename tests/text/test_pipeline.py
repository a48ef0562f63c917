"""Texts through the pipeline: slices, the tokenising thread, the progress bar."""

import logging
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, SentenceTransformer
from fastattn.text import pipeline
from fastattn.text.pipeline import Pipeline
from soak._child import ROOT
from tests.support.embedding import TEXTS, ids_of
from tests.support.models import write_sentence_model

pytestmark = pytest.mark.jit


def test_same_bits_alone_and_sliced(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = TEXTS * 20
    expected = model.encode(inputs)
    assert np.array_equal(expected, np.stack([model.encode(text) for text in inputs]))
    monkeypatch.setattr(pipeline, "_SLICE", 7)
    monkeypatch.setattr("fastattn.text.batches._TOKENS_PER_FORWARD", 20)
    assert np.array_equal(model.encode(inputs), expected)
    assert model.counts.texts == len(inputs)
    assert model.counts.tokens == sum(len(ids_of(text)) for text in inputs)


def test_a_bad_text_in_a_later_slice(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_SLICE", 2)
    with pytest.raises(ValueError, match=r"inputs\[5\] is not valid Unicode"):
        model.encode([*TEXTS[:5], "\ud800", "a"])


AT_THE_END = {
    "the main thread has ended": "threading.Thread(target=work).start()",
    "atexit": "atexit.register(work)",
}


@pytest.mark.parametrize("when", AT_THE_END)
def test_many_texts_at_the_end_of_the_process(when: str, folder: Path) -> None:
    """`encode` works at interpreter shutdown, when executors start no threads any more."""
    code = (
        "import atexit, sys, threading, time, fastattn\n"
        "model = fastattn.SentenceTransformer(sys.argv[1]); few = model.encode(['a'])\n"
        "def work():\n"
        "    while not atexit_began and threading.main_thread().is_alive(): time.sleep(0.01)\n"
        "    print((model.encode(['a'] * 3000) == few).all())\n"
        f"atexit_began = {when == 'atexit'}\n{AT_THE_END[when]}"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr


def test_where_no_thread_can_be_started(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`encode` works without threads: refused from the start, and refused on the way."""
    expected, submit = model.encode(TEXTS * 9), ThreadPoolExecutor.submit
    monkeypatch.setattr(pipeline, "_SLICE", 7)
    for most in (0, 3):
        calls: list[None] = []

        def refuse(*args: Any, calls: list[None] = calls, most: int = most) -> Any:
            calls.append(None)
            if len(calls) > most:
                raise RuntimeError("can't start new thread")
            return submit(*args)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
        assert np.array_equal(model.encode(TEXTS * 9), expected)
        assert len(calls) == 8


def test_waiting_where_nothing_interrupts_it(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait has a timeout: on Windows, Ctrl-C does not interrupt a wait without one."""
    done: list[bool] = []
    tokenize, wait, result = pipeline.tokenize, pipeline.wait, Future.result

    def slowly(*args: Any) -> Any:
        time.sleep(0.02)
        return tokenize(*args)

    def waited(futures: Any, timeout: float) -> Any:
        assert timeout == 0.001
        found = wait(futures, timeout)
        done.append(bool(found.done))
        return found

    def of_one_that_is_done(future: Any, timeout: float | None = None) -> Any:
        assert future.done()
        return result(future, timeout)

    for where, name, value in ((pipeline, "tokenize", slowly), (pipeline, "wait", waited), (Future, "result", of_one_that_is_done)):
        monkeypatch.setattr(where, name, value)
    monkeypatch.setattr(pipeline, "_LOOK_UP", 0.001)
    monkeypatch.setattr(pipeline, "_SLICE", 7)
    model.encode(TEXTS * 9)
    assert done.count(True) == 8 and done.count(False) > 8


def test_long_texts_are_tokenised_a_few_at_a_time(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are small, because after Ctrl-C the tokenising thread finishes its group."""
    expected, sizes, tokenize = model.encode(TEXTS * 9), [], pipeline.tokenize

    def watched(tokenizer: Any, inputs: Any, *rest: Any) -> Any:
        sizes.append(sum(map(len, inputs)))
        return tokenize(tokenizer, inputs, *rest)

    monkeypatch.setattr("fastattn.text.batches.LONG", 40)
    monkeypatch.setattr(pipeline, "tokenize", watched)
    assert np.array_equal(model.encode(TEXTS * 9), expected)
    assert sum(sizes) == sum(map(len, TEXTS * 9)) and max(sizes) <= 40


def test_several_threads_at_once(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: model.encode(TEXTS), range(40)):
            assert np.array_equal(found, expected)


def test_texts_that_are_taken_away_meanwhile(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.text.pipeline._SLICE", 4)
    texts = ["a cat"] * 20
    model.encode("a cat")
    embed = Pipeline.embed

    def taking(self: Pipeline, *arguments: Any) -> Any:
        texts.clear()
        return embed(self, *arguments)

    monkeypatch.setattr(Pipeline, "embed", taking)
    with pytest.raises(RuntimeError, match="inputs had 20 items and lost some of them while the call ran"):
        model.encode(texts)


def test_progress_bar(model: SentenceTransformer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model.encode(TEXTS)
    assert capfd.readouterr().err == ""
    model.encode(TEXTS, show_progress_bar=True)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capfd.readouterr().err
    monkeypatch.setattr(logging.getLogger("fastattn.text.sentence_transformer"), "level", logging.INFO)
    logging.getLogger("fastattn.text.sentence_transformer").manager._clear_cache()
    model.encode(TEXTS)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capfd.readouterr().err


def test_a_progress_bar_leaves_the_start_method_open() -> None:
    """`set_start_method` still works after a progress bar, although tqdm's lock would fix the start method."""
    code = (
        "import multiprocessing\nfrom fastattn.text.pipeline import _progress_bar\n"
        "for method in (None, 'spawn'):\n"
        "    multiprocessing.set_start_method(method, force=True)\n"
        "    with _progress_bar(3, True, 'x') as advance: advance(3)\n"
        "    print(multiprocessing.get_start_method(allow_none=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "None\nspawn\n", done.stderr


def test_no_progress_bar_without_stderr(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.encode(TEXTS)
    monkeypatch.setattr(sys, "stderr", None)
    assert np.array_equal(model.encode(TEXTS, show_progress_bar=True), expected)


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_kernels_are_loaded_before_the_bar_starts(
    prompt: str | None, model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first compilation takes half a minute, and would be counted in the first texts a second."""
    model.set_pooling_include_prompt(False)
    happened: list[str] = []
    bar, run = pipeline._progress_bar, Encoder.forward_packed

    def shown(*arguments: Any) -> Any:
        happened.append("bar")
        return bar(*arguments)

    def encoded(encoder: Encoder, ids: Any, *rest: Any, **options: Any) -> Any:
        happened.append(f"{len(ids)} tokens")
        return run(encoder, ids, *rest, **options)

    monkeypatch.setattr(pipeline, "_progress_bar", shown)
    monkeypatch.setattr(Encoder, "forward_packed", encoded)
    for _ in range(2):
        model.encode("a cat", prompt=prompt)
    count = f"{len(ids_of((prompt or '') + 'a cat'))} tokens"
    assert happened == ["1 tokens", "bar", count, "bar", count]


def test_kernels_without_compilation_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = SentenceTransformer(write_sentence_model(tmp_path / "model"))
    monkeypatch.setattr(pipeline, "JIT", False)
    for _ in range(2):
        model.encode("the cat")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["NUMBA_DISABLE_JIT is set"]
