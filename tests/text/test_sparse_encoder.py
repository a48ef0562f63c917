"""SparseEncoder: answers as sentence-transformers', bits, kinds of results, memory, folders."""

import importlib.util
import json
import pickle
import re
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import EncoderForMaskedLM, SentenceTransformer, SparseEmbeddings, SparseEncoder, modules, reference
from fastattn.checkpoint.folder import CheckpointError
from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support.models import V, write_json, write_safetensors, write_sentence_model
from tests.support.peer_cases import DATA, TEXTS, assert_alike
from tests.support.rounded import LOW, assert_rounded
from tests.support.sparse_cases import (
    METHODS,
    MODELS,
    auto_encoder,
    dense_pooling,
    settings,
    sparse_answers,
    splade,
    write_masked,
    write_router,
    write_sparse,
)

pytestmark = pytest.mark.jit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("sparse"), splade())


@pytest.fixture(scope="module")
def model(folder: Path) -> SparseEncoder:
    return SparseEncoder(folder)


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
        spec = importlib.util.spec_from_file_location("make_peer", DATA / "make_peer.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_answers_as_stored(tmp_path: Path) -> None:
    with np.load(DATA / "sparse.npz") as golden:
        assert json.loads(str(golden["about"]))["version"] == 1, "write the file again with tests/data/make_peer.py"
        expected = {name: golden[name] for name in golden.files if name != "about"}
    assert len(expected) > 20 * len(MODELS)
    assert_alike(sparse_answers(SparseEncoder, tmp_path), expected)


@pytest.mark.filterwarnings("ignore")
def test_answers_live(tmp_path: Path, peer: Any) -> None:
    assert_alike(sparse_answers(SparseEncoder, tmp_path / "a"), sparse_answers(peer.load_sparse, tmp_path / "b"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_saved_folders_are_read_by_both(name: str, tmp_path: Path, peer: Any) -> None:
    """Ours is read by sentence-transformers, and what that writes by us; all four agree."""
    ours, theirs = SparseEncoder(MODELS[name](tmp_path / "given")), peer.load_sparse(str(tmp_path / "given"))
    ours.save_pretrained(str(tmp_path / "ours"))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again = [SparseEncoder(tmp_path / "ours"), SparseEncoder(tmp_path / "theirs"), peer.load_sparse(str(tmp_path / "ours"))]
    for method in METHODS:
        expected = getattr(ours, method)(TEXTS).toarray()
        for other in again:
            np.testing.assert_allclose(np.asarray(getattr(other, method)(TEXTS).to_dense()), expected, rtol=0, atol=1e-5)
    assert {other.max_active_dims for other in again} == {ours.max_active_dims}


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_copied(name: str, tmp_path: Path) -> None:
    model = SparseEncoder(MODELS[name](tmp_path / "given"))
    model.save(str(tmp_path / "saved"))
    for again in (SparseEncoder(tmp_path / "saved"), pickle.loads(pickle.dumps(model))):
        for method in METHODS:
            assert same(getattr(again, method)(TEXTS), getattr(model, method)(TEXTS))
        assert (again.similarity_fn_name, again.max_active_dims) == (model.similarity_fn_name, model.max_active_dims)
        assert again.prompts == model.prompts


def same(a: SparseEmbeddings, b: SparseEmbeddings) -> bool:
    """Tell whether two results are bit for bit the same."""
    arrays = ("indptr", "indices", "data")
    return a.shape == b.shape and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


@pytest.mark.parametrize("name", MODELS)
def test_same_bits_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    model = SparseEncoder(MODELS[name](tmp_path))
    texts = [*TEXTS, *(f"w{i} the cat w{i + 3}" for i in range(25)), "dog " * 40]
    for method in METHODS:
        encode = getattr(model, method)
        together = encode(texts)
        for i, text in enumerate(texts):
            assert same(encode(text), together[i])
        assert same(encode(texts[::-1]), together[::-1])
        assert np.array_equal(encode(texts, convert_to_sparse_tensor=False), together.toarray())


def test_the_definition(folder: Path, model: SparseEncoder) -> None:
    """An embedding is the reference's pooling of the logits of `EncoderForMaskedLM`, in either strategy."""
    masked, tokenizer = EncoderForMaskedLM.from_pretrained(folder), load_tokenizer(folder)
    for text in TEXTS[:4]:
        ids = tokenizer(text)["input_ids"]
        logits = masked(np.array([ids]))[0]
        identity = np.eye(V, dtype=np.float32)
        for options in ({}, {"pooling_strategy": "sum", "activation_function": "log1p_relu"}):
            expected = reference.splade_pooling(logits, identity, **options)
            found = masked.splade_pooling(ids, [0, len(ids)], **options)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
            if not options:
                assert np.array_equal(model.encode(text).toarray(), found[0])
    with pytest.raises(ValueError, match="pooling_strategy must be one of 'max', 'sum', got 'mean'"):
        masked.splade_pooling([1], [0, 1], pooling_strategy="mean")


def test_kinds_of_results(model: SparseEncoder) -> None:
    rows, dense = model.encode(TEXTS), model.encode(TEXTS, convert_to_sparse_tensor=False)
    assert isinstance(rows, SparseEmbeddings) and rows.shape == (len(TEXTS), V) and rows.dtype == np.float32
    assert isinstance(dense, np.ndarray) and np.array_equal(dense, rows.toarray())
    one = model.encode(TEXTS[0])
    assert one.shape == (V,) and same(one, rows[0]) and same(model.encode({"text": TEXTS[0]}), one)
    parts = model.encode(TEXTS, convert_to_tensor=False)
    assert isinstance(parts, list) and all(same(part, rows[i]) for i, part in enumerate(parts))
    assert model.encode([]).shape == (0, V) and model.encode([], convert_to_sparse_tensor=False).shape == (0, V)
    few = model.encode(TEXTS, max_active_dims=4)
    assert (np.diff(few.indptr) == 4).all() and same(few, rows._largest(4))
    assert model.counts.texts == len(TEXTS) and model.counts.truncated == 1
    half = pickle.loads(pickle.dumps(model)).half().encode(TEXTS)
    assert half.dtype == np.float16 and np.array_equal(half.data, rows.data.astype(np.float16))


def test_tensors(model: SparseEncoder) -> None:
    torch = pytest.importorskip("torch")
    rows = model.encode(TEXTS)
    for inputs in (TEXTS, TEXTS[0]):
        found = model.encode(inputs, convert_to_tensor=True)
        assert found.is_sparse and found.is_coalesced() and found.dtype == torch.float32
        assert np.array_equal(found.to_dense().numpy(), model.encode(inputs).toarray())
    dense = model.encode(TEXTS, convert_to_tensor=True, convert_to_sparse_tensor=False)
    assert not dense.is_sparse and np.array_equal(dense.numpy(), rows.toarray())
    for name in model.SUPPORTED_SIMILARITY_FN_NAMES:
        model.similarity_fn_name = name
        expected = model.similarity(rows, rows)
        for a in (rows.to_torch(), list(rows.to_torch()), rows.to_torch().to_dense()):
            found = model.similarity(a, rows)
            assert isinstance(found, torch.Tensor)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.similarity_pairwise(rows.to_torch(), rows).numpy(), expected.diagonal(), atol=1e-5)
    model.similarity_fn_name = None
    assert torch.equal(
        model.intersection(rows[0].to_torch(), rows).to_dense(), model.intersection(rows[0], rows).to_torch().to_dense()
    )
    assert model.decode(rows.to_torch(), top_k=3) == model.decode(rows, top_k=3)
    assert model.sparsity(rows.to_torch()) == model.sparsity(rows)


def test_tensors_without_torch(model: SparseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    counts = model.counts
    with pytest.raises(ImportError, match=re.escape("tensors need torch: pip install 'fastattn[torch]'")):
        model.encode(TEXTS, convert_to_tensor=True)
    assert model.counts is counts  # no forward ran


def test_forward(model: SparseEncoder, tmp_path: Path) -> None:
    rows = model.encode(TEXTS).toarray()
    out = model(model.preprocess(TEXTS))
    assert np.array_equal(out["sentence_embedding"], rows) and "token_embeddings" not in out and "logits" not in out
    router = SparseEncoder(write_router(tmp_path))
    for task in ("query", "document"):
        given = router.preprocess(TEXTS, task=task)
        assert (given["input_ids"][0][0] == 2) == (task == "document")  # [CLS]
        found = router(given, task=task)["sentence_embedding"]
        assert np.array_equal(found, getattr(router, f"encode_{task}")(TEXTS).toarray())
    with pytest.raises(ValueError, match=f"token ids must be in 0 .. {V - 1}, got {V}"):
        router({"input_ids": np.array([[1, V]])}, task="query")


def test_memory_is_not_that_of_the_logits(tmp_path: Path) -> None:
    """Texts of 8,000 tokens and 20,000 words have logits of 640 MB, and dense embeddings of 3 MB a forward."""
    words, tokens = 20_000, 200
    folder = write_masked(tmp_path, words, tokens)
    write_json(
        folder / "tokenizer_config.json", {**json.loads((folder / "tokenizer_config.json").read_text()), "model_max_length": tokens}
    )
    model = SparseEncoder(folder)
    texts = ["cat dog " * (tokens // 2)] * 40
    model.encode(texts[:1], max_active_dims=30)
    tracemalloc.start()
    rows = model.encode(texts, max_active_dims=30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.counts.tokens == 40 * tokens and rows.nnz == 40 * 30
    assert peak < 4 * words * 40 * tokens / 10


@pytest.mark.parametrize("precision", LOW)
def test_precisions(precision: Any, folder: Path, model: SparseEncoder) -> None:
    low = SparseEncoder(folder, precision=precision)
    assert low.precision == precision and model.precision == "float32"
    assert_rounded(low.encode(TEXTS).toarray(), model.encode(TEXTS).toarray())
    assert same(low.encode(TEXTS[5]), low.encode(TEXTS)[5])


def test_routes(tmp_path: Path) -> None:
    model = SparseEncoder(write_router(tmp_path / "a"))
    query, plain = model.encode_query("the cat sat on the cat"), model.encode("the cat")
    words = [word for word, _ in model.decode(query)]
    assert sorted(words) == ["cat", "sat", "the"]  # the weight of "on" is 0
    assert same(plain, model.encode_document("the cat"))
    with pytest.raises(ValueError, match="there is no route for the task 'classify'; routes: 'query', 'document'"):
        model.encode("a", task="classify")
    strict = SparseEncoder(write_router(tmp_path / "b", default_route=None, allow_empty_key=False))
    with pytest.raises(ValueError, match="no route for the task None; routes: 'query', 'document'; call encode_query or"):
        strict.encode("a")
    assert same(strict.encode_query("the cat sat on the cat"), query)
    with pytest.raises(ValueError, match="inputs must be texts, got pairs"):
        model.encode_query([("a", "b")])
    model.max_seq_length = 3
    assert model.encode_query("dog dog cat mat").nnz == 2 and model.max_seq_length == 3
    assert len(model) == 1 and isinstance(model[0], modules.Router) and list(model) == [model[0]]


def test_modules_of_ones_own(folder: Path, model: SparseEncoder) -> None:
    transformer = modules.Transformer(folder, transformer_task="fill-mask")
    document = [transformer, modules.SpladePooling("sum")]
    query = [modules.SparseStaticEmbedding(transformer.tokenizer)]
    own = SparseEncoder(modules=[modules.Router.for_query_document(query, document)])
    assert own.encode_query("the cat").data.tolist() == [1, 1]
    summed = SparseEncoder(modules=document)
    assert same(own.encode_document(TEXTS), summed.encode(TEXTS)) and not same(summed.encode(TEXTS), model.encode(TEXTS))
    assert modules.SparseStaticEmbedding(transformer.tokenizer.backend_tokenizer).get_embedding_dimension() == V
    assert own.get_embedding_dimension() == V == summed.get_embedding_dimension()


@pytest.mark.parametrize("pickled", [False, True])
def test_sparse_head_of_bge_m3(pickled: bool, tmp_path: Path) -> None:
    """relu(w h + b) per token, the greatest of a token id, without special tokens: by hand from the hidden states."""
    folder = write_sentence_model(tmp_path / "model")
    settings(folder)
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((1, 32)).astype(np.float32), np.array([3.0], np.float32)
    if pickled:
        torch = pytest.importorskip("torch")
        torch.save({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}, folder / "sparse_linear.pt")
    else:
        write_safetensors(folder / "sparse_linear.safetensors", {"weight": weight, "bias": bias})
    model = SparseEncoder(folder)
    assert isinstance(model[-1], modules.SparseLinear)
    special = range(4)  # [PAD], [UNK], [CLS], [SEP]
    found = model.encode(TEXTS).toarray()
    for i, text in enumerate(SentenceTransformer(folder).encode(TEXTS, output_value=None)):
        expected = np.zeros(V, np.float32)
        for token, hidden in zip(text["input_ids"], text["token_embeddings"], strict=True):
            if token not in special:
                expected[token] = max(expected[token], float(weight[0] @ hidden + bias[0]))
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5)
    assert found.any() and not found[:, special].any()
    model.save(str(tmp_path / "saved"))
    assert np.array_equal(SparseEncoder(tmp_path / "saved").encode(TEXTS).toarray(), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"max_active_dims": 0}, "max_active_dims must be a positive integer or None, got 0"),
        ({"max_active_dims": True}, "max_active_dims must be a positive integer or None, got True"),
        ({"normalize_embeddings": True}, "encode has no argument normalize_embeddings"),
        ({"device": "cuda"}, "device must be None or \"cpu\", got 'cuda'"),
        ({"prompt_name": "haiku"}, "there is no prompt 'haiku'; prompts: query, document"),
    ],
)
def test_arguments_of_encode(model: SparseEncoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name must be one of cosine, dot, euclidean, manhattan, got 'maxsim'"),
        ({"max_active_dims": -1}, "max_active_dims must be a positive integer or None, got -1"),
        ({"backend": "onnx"}, "backend must be"),
        ({"precision": "int4"}, "precision"),
    ],
)
def test_arguments_of_the_constructor(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseEncoder(folder, **options)


def test_no_model() -> None:
    with pytest.raises(ValueError, match="model_name_or_path must be a folder or a name, got None"):
        SparseEncoder()
    with pytest.raises(ValueError, match=r"the first module must be a fastattn\.modules\.Transformer or SparseStaticEmbedding"):
        SparseEncoder(modules=[modules.SpladePooling()])


def changed(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text("utf-8")), **changes})


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_SpladePooling/config.json", {"pooling_strategy": "mean"}, "pooling_strategy must be one of 'max', 'sum', got 'mean'"),
        ("1_SpladePooling/config.json", {"activation_function": 3}, "activation_function must be one of"),
        ("1_SpladePooling/config.json", {"embedding_dimension": 41}, "SpladePooling expects 41 logits a token, and there are 40"),
        ("1_SpladePooling/config.json", {"embedding_dimension": "x"}, "embedding_dimension must be a positive integer, found 'x'"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "feature-extraction"},
            "SpladePooling reads the logits of a Transformer",
        ),
        ("config_sentence_transformers.json", {"max_active_dims": 0}, "max_active_dims must be a positive integer or None, got 0"),
    ],
)
def test_faults_of_a_folder(file: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed(write_sparse(tmp_path, splade()) / file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        SparseEncoder(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": {"query": ["nothing"]}}, "structure must list names of types, 'nothing' is none"),
        ({"structure": {}}, "sub_modules must have routes with modules"),
        ({"types": {"../a": "x.SpladePooling"}}, "leads out of"),
        ({"types": {"query_0_SparseStaticEmbedding": "x.Mystery"}}, "module 'Mystery' is not supported"),
        ({"types": {"query_0_SparseStaticEmbedding": 3}}, "has type 3"),
        ({"types": []}, "types, structure and parameters must be JSON objects"),
        ({"parameters": {"default_route": "nowhere"}}, "there is no route 'nowhere'; routes: query, document"),
        ({"parameters": {"route_mappings": {"__import__('os')": "query"}}}, "malformed node|route_mappings"),
        ({"parameters": {"route_mappings": {"'a'": "query"}}}, "route_mappings must have keys of a task and a modality"),
    ],
)
def test_faults_of_a_router(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed(write_router(tmp_path) / "router_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        SparseEncoder(tmp_path)


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        ({"path": "weights.bin"}, None, "path must be the name of a JSON file, found 'weights.bin'"),
        ({"path": "idf.json"}, {"the": "heavy"}, "expected a JSON object of numbers by token"),
        ({"path": "idf.json"}, [1], "expected a JSON object of numbers by token"),
        ({"path": "/etc/other.json"}, {"the": 1.0}, "other.json: no such file"),
    ],
)
def test_faults_of_static_weights(config: dict[str, Any], content: Any, message: str, tmp_path: Path) -> None:
    query = write_router(tmp_path) / "query_0_SparseStaticEmbedding"
    write_json(query / "config.json", config)
    if content is not None:
        write_json(tmp_path / "idf.json", content)
    with pytest.raises((CheckpointError, FileNotFoundError), match=message):
        SparseEncoder(tmp_path)


def test_a_head_for_masked_words_before_another_module(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path, dense_pooling(), model_type="SentenceTransformer")
    changed(folder / "sentence_bert_config.json", transformer_task="fill-mask")
    with pytest.raises(CheckpointError, match="Pooling reads token_embeddings, which no module before it writes; there are logits"):
        SentenceTransformer(folder)


def test_heads_that_are_not_there(tmp_path: Path) -> None:
    """A model without a trained sparse head is refused: sentence-transformers would add an untrained one."""
    folder = write_sentence_model(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=r"architectures None name no masked language model.*untrained head"):
        SparseEncoder(folder)
    with pytest.raises(CheckpointError):
        SparseEncoder(write_sparse(tmp_path / "sparse", dense_pooling(), auto_encoder(input_dim=31)))
    (write_sparse(tmp_path / "lost", splade()) / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        SparseEncoder(tmp_path / "lost")
