"""Modules of a model: the same bits in every batch, saving and loading, construction by hand, and refused arguments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.text import pipeline
from fastattn.text.modules import Dense, Dropout, LayerNorm, Module, Normalize, Pooling, Transformer
from tests.support.models import C, write_json, write_safetensors, write_sentence_model
from tests.support.peer_cases import MODELS, TEXTS, dense, pooling, weights, write_cross_encoder, write_model

pytestmark = pytest.mark.jit


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> SentenceTransformer:
    steps, settings = MODELS[request.param]
    return SentenceTransformer(write_model(tmp_path / "model", *steps, **settings))


def test_same_bits_in_every_batch(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = TEXTS * 9
    for options in ({}, {"prompt": "query: "}):
        expected = model.encode(inputs, **options)
        assert np.array_equal(expected, np.stack([model.encode(text, **options) for text in inputs]))
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "_SLICE", 7)
            patch.setattr("fastattn.text.batches._TOKENS_PER_FORWARD", 20)
            assert np.array_equal(model.encode(inputs, **options), expected)


def test_saved_and_read_again(model: SentenceTransformer, tmp_path: Path) -> None:
    model.max_seq_length = 7
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(tmp_path / "saved")
    assert again.max_seq_length == 7
    assert (again.prompts, again.default_prompt_name) == (model.prompts, model.default_prompt_name)
    assert (again.similarity_fn_name, again.truncate_dim) == (model.similarity_fn_name, model.truncate_dim)
    assert [repr(module) for module in again] == [repr(module) for module in model]
    assert np.array_equal(again.encode(TEXTS, prompt="query: "), model.encode(TEXTS, prompt="query: "))


@pytest.mark.filterwarnings("ignore")
def test_saved_for_sentence_transformers(model: SentenceTransformer, tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    model.save_pretrained(str(tmp_path / "saved"))
    theirs = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert theirs.max_seq_length == model.max_seq_length
    np.testing.assert_allclose(theirs.encode(TEXTS, prompt="a "), model.encode(TEXTS, prompt="a "), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["forward", "__call__", "preprocess"])
@pytest.mark.parametrize("base", [SentenceTransformer, CrossEncoder, Module, Pooling])
def test_an_override_that_would_not_be_called(base: Any, name: str) -> None:
    with pytest.warns(UserWarning, match=rf"Own\.{name} is not called by encode and predict, which pack texts") as caught:
        type("Own", (base,), {name: lambda self, features: features, "__module__": __name__})
    assert caught[0].filename == __file__
    type("Own", (base,), {"encode": lambda self, inputs: inputs})


def test_a_replaced_forward_would_not_be_called(tmp_path: Path) -> None:
    model = SentenceTransformer(write_model(tmp_path, pooling("mean")))
    for part in (model, model[0], model[1]):
        with pytest.warns(UserWarning, match=rf"{type(part).__name__}\.forward is not called by encode and predict"):
            part.forward = lambda features: features  # type: ignore[attr-defined, method-assign]


def test_built_by_hand(tmp_path: Path) -> None:
    write_model(tmp_path, pooling("mean"), dense(C, 24), ("LayerNorm", {"dimension": 24}), ("Normalize", {}))
    expected = SentenceTransformer(tmp_path).encode(TEXTS)
    linear, norm = weights(2, w=(24, C), b=(24,)), weights(3, w=(24,), b=(24,))
    modules = [
        Transformer(tmp_path),
        Pooling(C, "mean"),
        Dense(C, 24, init_weight=linear["w"], init_bias=linear["b"]),
        LayerNorm(24, norm["w"], norm["b"]),
        Dropout(0.1),
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules)
    assert np.array_equal(model.encode(TEXTS), expected)
    assert (len(model), model[1], list(model), model[-1]) == (6, modules[1], modules, modules[-1])
    assert model.get_embedding_dimension() == 24
    assert "(2): Dense({'in_features': 32" in repr(model)
    own = Dense(C, 24, activation_function=np.sin, init_weight=linear["w"])
    raw = SentenceTransformer(modules=[*modules[:2], Dense(C, 24, activation_function=None, init_weight=linear["w"])]).encode(TEXTS)
    assert np.array_equal(SentenceTransformer(modules=[*modules[:2], own]).encode(TEXTS), np.sin(raw))


def test_pooling_can_leave_the_prompt_out(tmp_path: Path) -> None:
    write_model(tmp_path, pooling("mean"))
    model = SentenceTransformer(tmp_path)
    with_prompt = model.encode(TEXTS, prompt="query: ")
    model.set_pooling_include_prompt(False)
    without = model.encode(TEXTS, prompt="query: ")
    assert not np.array_equal(with_prompt, without)
    write_model(tmp_path, pooling("mean", include_prompt=False))
    assert np.array_equal(SentenceTransformer(tmp_path).encode(TEXTS, prompt="query: "), without)


def test_pools_and_devices(tmp_path: Path) -> None:
    model = SentenceTransformer(
        write_model(tmp_path, pooling("mean")), device="cpu", trust_remote_code=True, model_card_data=object()
    )
    expected = model.encode(TEXTS)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    assert np.array_equal(model.encode(TEXTS, pool=pool, chunk_size=2), expected)
    assert np.array_equal(model.encode_multi_process(TEXTS, pool), expected)
    assert np.array_equal(model.encode(TEXTS, device=["cpu", "cpu"]), expected)
    SentenceTransformer.stop_multi_process_pool(pool)
    with pytest.raises(ValueError, match="pool must be what start_multi_process_pool returned, and not stopped"):
        model.encode(TEXTS, pool=pool)
    with pytest.raises(ValueError, match="got 'cuda:0'"):
        model.start_multi_process_pool(["cuda:0"])
    assert (model.device, model.device.type, str(model.device), model.dtype) == ("cpu", "cpu", "cpu", np.float32)
    assert model.to("cpu") is model.eval() is model.cpu() is model
    with pytest.raises(ValueError, match="got 'mps'"):
        model.to("mps")
    assert (model.get_backend(), model.get_model_kwargs(), model.modalities) == ("torch", [], ["text"])
    assert model.supports("text")
    assert not model.supports("image")
    assert model.is_singular_input("a")
    assert not model.is_singular_input(["a"])
    assert model.evaluate(lambda found, path: (found, path), str(tmp_path / "results")) == (model, str(tmp_path / "results"))
    assert (tmp_path / "results").is_dir()


def test_settings_of_the_tokenizer(tmp_path: Path) -> None:
    write_model(tmp_path, pooling("mean"))
    model = SentenceTransformer(tmp_path, tokenizer_kwargs={"model_max_length": 5, "truncation_side": "left"}, token="t")
    assert model.max_seq_length == model.get_max_seq_length() == model.tokenizer.model_max_length == 5
    assert np.array_equal(model.encode("the cat sat on a mat"), model.encode("on a mat"))
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(tmp_path / "saved")
    assert np.array_equal(again.encode("the cat sat on a mat"), model.encode("on a mat"))
    model.tokenizer.model_max_length = 10**9
    assert model.max_seq_length == 24
    model.tokenizer = model.tokenizer.backend_tokenizer
    assert model.encode("a").shape == (C,)
    assert model.processor is model.tokenizer
    lower = SentenceTransformer(tmp_path, processor_kwargs={"do_lower_case": True}, model_kwargs={"torch_dtype": "float32"})
    assert np.array_equal(lower.encode("A CAT"), lower.encode("a cat"))


def test_similarity_by_name(tmp_path: Path) -> None:
    class Similarity:
        value = "dot"

    model = SentenceTransformer(write_model(tmp_path, pooling("mean")), similarity_fn_name=Similarity())
    assert model.similarity_fn_name == "dot"
    model.similarity_fn_name = "manhattan"
    rows = model.encode(TEXTS)
    assert model.similarity(rows, rows[0])[0, 0] == 0
    model.similarity_fn_name = None
    assert model.similarity_fn_name == "cosine"
    listed = model.similarity(list(rows), list(rows))
    assert np.array_equal(listed, model.similarity(rows, rows))


def test_tensors_for_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = SentenceTransformer(write_model(tmp_path, pooling("mean")), device=torch.device("cpu"))
    rows = model.encode(TEXTS)
    tensors = model.encode(TEXTS, convert_to_tensor=True)
    for name in ("similarity", "similarity_pairwise"):
        expected = getattr(model, name)(rows, rows)
        assert isinstance(expected, np.ndarray)
        for first, second in ((tensors, tensors), (rows, tensors), (list(tensors), rows)):
            found = getattr(model, name)(first, second)
            assert isinstance(found, torch.Tensor)
            assert np.array_equal(found.numpy(), expected)
    tokens = model.encode(TEXTS, output_value="token_embeddings", convert_to_tensor=True)
    assert all(isinstance(row, torch.Tensor) for row in tokens)
    everything = model.encode(TEXTS, output_value=None, convert_to_numpy=False)
    assert isinstance(everything[0]["sentence_embedding"], torch.Tensor)
    assert everything[0]["modality"] == "text"
    batch = {name: torch.as_tensor(value) if name != "modality" else value for name, value in model.preprocess(TEXTS).items()}
    assert isinstance(model(batch)["sentence_embedding"], torch.Tensor)


def change(folder: Path, index: int, **values: Any) -> None:
    (found,) = folder.glob(f"{index}_*")
    content = json.loads((found / "config.json").read_text())
    write_json(found / "config.json", {**content, **values})


SENTENCE, CLASSES = "sentence_embedding", "sequence-classification"


NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": ""}


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "width of a dense": (
        lambda p: change(p, 2, in_features=16),
        r"tensor 'linear.weight' has shape \(24, 32\), expected \(24, 16\)",
    ),
    "dense that does not fit": (
        lambda p: write_model(p, pooling("mean"), dense(16, 8)),
        "Dense expects sentence_embedding of 16 channels, and it has 32",
    ),
    "dense before the pooling": (
        lambda p: write_model(p, dense(C, 8), pooling("mean")),
        "Dense reads sentence_embedding, which no module before it writes; there are token_embeddings",
    ),
    "pooling of another width": (
        lambda p: change(p, 1, embedding_dimension=16),
        "Pooling expects tokens of 16 channels, and they have 32",
    ),
    "width that is no number": (lambda p: change(p, 2, out_features="8"), "out_features must be a positive integer, found '8'"),
    "activation that is no name": (lambda p: change(p, 2, activation_function=3), "activation_function must be a name, found 3"),
    "unknown activation": (
        lambda p: change(p, 2, activation_function="torch.nn.functional.relu"),
        "activation function 'torch.nn.functional.relu' is not supported; supported: CELU, ELU",
    ),
    "name of another kind": (lambda p: change(p, 2, module_input_name=3), "module_input_name and module_output_name must be names"),
    "tensor missing": (
        lambda p: write_safetensors(p / "2_Dense" / "model.safetensors", {"linear.weight": np.zeros((24, C), np.float32)}),
        "tensor 'linear.bias' is missing",
    ),
    "pickle": (
        lambda p: (p / "2_Dense" / "model.safetensors").rename(p / "2_Dense" / "pytorch_model.bin"),
        r"pytorch_model\.bin: not a whole file of pickled tensors",
    ),
    "layer norm of another width": (
        lambda p: write_model(p, pooling("mean"), ("LayerNorm", {"dimension": 8})),
        "LayerNorm expects sentence_embedding of 8 channels, and it has 32",
    ),
    "two transformers": (
        lambda p: write_json(p / "modules.json", [{"type": "x.Transformer", "path": ""}] * 2),
        "modules Transformer, Transformer; expected exactly one Transformer or StaticEmbedding, as the first module",
    ),
    "task of another kind": (
        lambda p: write_json(p / "sentence_bert_config.json", {"transformer_task": "question-answering"}),
        "transformer_task 'question-answering' is not supported; supported: feature-extraction, sequence-classification",
    ),
    "texts' rows of tokens'": (
        lambda p: write_model(p, pooling("mean"), dense(C, C, module_input_name="token_embeddings", module_output_name=SENTENCE)),
        "Dense makes sentence_embedding of token_embeddings, which has a row for each token",
    ),
    "tokens' rows of texts'": (
        lambda p: write_model(p, pooling("mean"), ("Normalize", {"module_output_name": "token_embeddings"}), pooling("mean")),
        "Normalize makes token_embeddings of sentence_embedding, which has a row for each text",
    ),
    "texts' rows of tokens' by another name": (
        lambda p: write_model(
            p,
            pooling("mean"),
            dense(C, C, module_input_name="token_embeddings", module_output_name="x"),
            dense(C, C, module_input_name="x", module_output_name=SENTENCE),
        ),
        "Dense makes sentence_embedding of x, which has a row for each token",
    ),
    "pooling of scores": (
        lambda p: write_json(write_cross_encoder(p, 1) / "sentence_bert_config.json", {"transformer_task": CLASSES}),
        "Pooling reads token_embeddings, which no module before it writes; there are scores",
    ),
    "more poolings than there are": (lambda p: write_model(p, pooling(*["mean"] * 7)), "pooling has 7 modes; supported: at most 6"),
    "more modules than anybody has": (
        lambda p: write_json(p / "modules.json", json.loads((p / "modules.json").read_text()) + [NORMALIZE] * 98),
        "101 modules; supported: at most 100",
    ),
    "output of another kind": (
        lambda p: write_json(p / "sentence_bert_config.json", {"module_output_name": "sentence_embedding"}),
        "module_output_name 'sentence_embedding' is not supported",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_module(tmp_path: Path, fault: str) -> None:
    write_model(tmp_path, pooling("mean"), dense(C, 24))
    damage, message = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        SentenceTransformer(tmp_path)


def test_modules_that_are_not_ours(tmp_path: Path) -> None:
    transformer = Transformer(write_sentence_model(tmp_path))
    with pytest.raises(TypeError, match=r"modules\[1\] must be one of fastattn.modules, got builtins.str"):
        SentenceTransformer(modules=[transformer, "pooling"])  # type: ignore[list-item]
    with pytest.raises(
        ValueError, match=r"the first module must be a fastattn.modules.Transformer or StaticEmbedding, got modules: Pooling"
    ):
        SentenceTransformer(modules=[Pooling(C)])
    with pytest.raises(ValueError, match="got modules: none"):
        SentenceTransformer(modules=[])
    with pytest.raises(ValueError, match="give a text no embedding"):
        SentenceTransformer(modules=[transformer])
    with pytest.raises(ValueError, match=r"init_weight must be an array of shape \(8, 32\)"):
        Dense(C, 8)
    with pytest.raises(ValueError, match=r"init_weight must have shape \(8, 32\), got \(32, 8\)"):
        Dense(C, 8, init_weight=np.zeros((C, 8)))
    with pytest.raises(ValueError, match=r"residual_weight must be an array of shape \(8, 32\)"):
        Dense(C, 8, init_weight=np.zeros((8, C)), use_residual=True)
    with pytest.raises(ValueError, match="safe_serialization must be True"):
        SentenceTransformer(tmp_path).save(str(tmp_path / "x"), safe_serialization=False)


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    class Half(Module):
        kind = "Half"

        def _apply(self, features: Any, offsets: Any, prompt_tokens: int) -> None:
            features["sentence_embedding"] = features["sentence_embedding"] / 2

    transformer = Transformer(write_sentence_model(tmp_path))
    whole = SentenceTransformer(modules=[transformer, Pooling(C)]).encode(TEXTS)
    assert np.array_equal(SentenceTransformer(modules=[transformer, Pooling(C), Half()]).encode(TEXTS), whole / 2)
