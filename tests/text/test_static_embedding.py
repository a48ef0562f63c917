"""Models of static embeddings: folders of sentence-transformers and model2vec, and what those compute."""

import copy
import json
import math
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn
from fastattn import SentenceTransformer, reference
from fastattn.checkpoint.reader import CheckpointError
from fastattn.modules import Normalize, StaticEmbedding
from tests.support.models import write_json, write_safetensors
from tests.support.tolerance import assert_matches_reference

DATA = Path(__file__).parents[1] / "data" / "static"
FOLDERS = ("whole", "truncated", "model2vec", "model2vec-reduced")
TEXTS = [
    "The cat sat on the mat.",
    "",
    "tea for the dog and milk for the cat with a pot of tea on a mat",
    "unknown words",
    "zebra",
    "Query: the dog",
    "tea " * 700,
]
EPS = float(np.finfo(np.float32).eps)

Array = NDArray[Any]


def stored(name: str) -> Array:
    with np.load(DATA / "answers.npz") as answers:
        return np.asarray(answers[name])


def backend(folder: str = "whole") -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(DATA / folder / "tokenizer.json"))


def table(folder: str = "whole") -> Array:
    from safetensors.numpy import load_file

    return load_file(DATA / folder / "model.safetensors")["embedding.weight"]


def assert_near(found: Any, expected: Any, eps: float = 16) -> None:
    """Equal but for a few rounding errors of the largest number: both add the rows one after the other."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=eps * EPS * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", FOLDERS)
def test_answers_of_sentence_transformers(name: str) -> None:
    assert_near(SentenceTransformer(DATA / name).encode(TEXTS), stored(name))


@pytest.mark.parametrize("name", ["model2vec", "model2vec-reduced"])
def test_answers_of_model2vec(name: str) -> None:
    """model2vec leaves out unknown tokens: its texts had none."""
    known = [re.sub(r"zebra|unknown words|Query|\.", "", text) for text in TEXTS]
    # It adds 700 rows in pairs; one after the other, each addition may err by half an eps of the sum.
    assert_near(SentenceTransformer(DATA / name).encode(known), stored(f"{name}/own"), 700 / 2)


def test_definition() -> None:
    model, rows = SentenceTransformer(DATA / "whole"), table()
    for text, found in zip(TEXTS, model.encode(TEXTS), strict=True):
        ids = np.array(backend().encode(text, add_special_tokens=False).ids, np.int64)
        ids = ids[: len(text.replace(".", " .").replace(":", " :").split())]
        truth, yardstick = (reference.embedding_bag(ids, rows.astype(dtype), np.array([0]))[0] for dtype in ("f8", "f4"))
        assert_matches_reference(found, truth, yardstick)


def test_texts_without_tokens_are_zeros() -> None:
    model = SentenceTransformer(DATA / "whole")
    assert not model.encode(["", " ", "\n"]).any() and not model.encode("").any()
    assert model.encode([]).shape == (0, 19)
    assert not SentenceTransformer(DATA / "truncated").encode("").any()


def test_unknown_words_have_their_row() -> None:
    np.testing.assert_array_equal(SentenceTransformer(DATA / "whole").encode("zebra"), table()[1])


def test_same_bits_in_any_batch_order_and_number_of_threads() -> None:
    model = SentenceTransformer(DATA / "model2vec-reduced")
    texts = [" ".join(["tea", "pot", "the", "dog"] * (i % 37)) for i in range(300)]
    whole = model.encode(texts)
    for i in range(0, 300, 7):
        np.testing.assert_array_equal(model.encode(texts[i]), whole[i], strict=True)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(model.encode([texts[i] for i in order]), whole[order], strict=True)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(model.encode(texts), whole, strict=True)
    finally:
        numba.set_num_threads(threads)


def test_arguments_of_encode() -> None:
    model = SentenceTransformer(DATA / "whole", prompts={"query": "Query: "})
    plain = model.encode(TEXTS)
    np.testing.assert_array_equal(model.encode_query(["the dog"]), model.encode(["Query: the dog"]))
    np.testing.assert_array_equal(model.encode(["the dog"], prompt="Query: "), plain[5:6])
    np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=5), plain[:, :5])
    unit = model.encode(TEXTS, normalize_embeddings=True)
    lengths = np.linalg.norm(unit, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 1), 1, atol=4 * EPS)
    assert lengths[1] == 0
    for precision in ("int8", "uint8", "binary", "ubinary"):
        expected = fastattn.quantize_embeddings(plain, precision)
        np.testing.assert_array_equal(model.encode(TEXTS, precision=precision), expected)
    features = model.encode(TEXTS[:2], output_value=None)
    np.testing.assert_array_equal(features[0]["sentence_embedding"], plain[0])
    assert len(features[0]["input_ids"]) == 7 and not len(features[1]["input_ids"])
    with pytest.raises(ValueError, match=r"'token_embeddings' is not available: .* makes sentence_embedding of tokens"):
        model.encode(TEXTS, output_value="token_embeddings")
    assert model.counts == (2, 7, 0)


def test_preprocess_and_forward() -> None:
    model = SentenceTransformer(DATA / "whole")
    batch = model.preprocess(TEXTS[:3])
    assert batch["input_ids"].shape == (3, 17) and batch["attention_mask"].sum(axis=1).tolist() == [7, 0, 17]
    np.testing.assert_array_equal(model(batch)["sentence_embedding"], model.encode(TEXTS[:3]))


def test_maximum_number_of_tokens() -> None:
    model = SentenceTransformer(DATA / "whole")
    assert model.max_seq_length == math.inf and SentenceTransformer(DATA / "truncated").max_seq_length == 4
    cut = model.encode(TEXTS, processing_kwargs={"text": {"max_length": 3}})
    assert model.counts.truncated == 4
    model.max_seq_length = 3
    np.testing.assert_array_equal(model.encode(TEXTS), cut)
    np.testing.assert_array_equal(model.encode("the cat sat down"), model.encode("the cat sat"))
    model.max_seq_length = math.inf
    np.testing.assert_array_equal(model.encode("tea " * 700), SentenceTransformer(DATA / "whole").encode("tea " * 700))
    for value in (0, -1, 2.5, True, "many"):
        with pytest.raises(ValueError, match="max_seq_length must be a positive integer, or infinity"):
            model.max_seq_length = value  # type: ignore[assignment]


def test_names_of_a_model_without_an_encoder() -> None:
    model = SentenceTransformer(DATA / "whole")
    assert model.transformers_model is None and model.config is None and not hasattr(model, "encoder")
    assert model.get_embedding_dimension() == 19 and model.precision == "float32" and model.similarity_fn_name == "cosine"
    assert "StaticEmbedding({'num_embeddings': 20, 'embedding_dim': 19, 'precision': 'float32'})" in repr(model)
    assert [type(module) for module in SentenceTransformer(DATA / "model2vec")] == [StaticEmbedding, Normalize]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_precisions(name: str, precision: Any) -> None:
    """Rows are rounded to 8 bits, or to levels of 127th of their largest number."""
    exact, model = SentenceTransformer(DATA / name).encode(TEXTS), SentenceTransformer(DATA / name, precision=precision)
    assert model.precision == precision
    found = model.encode(TEXTS)
    assert found.dtype == np.float32
    error, most = np.abs(found - exact).max(), {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 127}[precision]
    assert error <= 2 * most * np.abs(exact).max()
    assert error > 0 or precision == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", FOLDERS)
def test_saved_and_loaded(name: str, precision: Any, tmp_path: Path) -> None:
    SentenceTransformer(DATA / name, precision=precision, prompts={"query": "Query: "}).save(str(tmp_path / "saved"))
    again = SentenceTransformer(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(TEXTS), SentenceTransformer(DATA / name).encode(TEXTS), strict=True)
    assert again.prompts["query"] == "Query: "


def test_model_of_arrays(tmp_path: Path) -> None:
    rows, mapping, weights = table()[:8], np.arange(20) * 5 % 8, np.linspace(0.1, 2, 20, dtype=np.float32)
    for precision in ("float32", "int8"):
        static = StaticEmbedding(backend(), rows, token_mapping=mapping, token_weights=weights, precision=precision)
        model = SentenceTransformer(modules=[static, Normalize()])
        plain = StaticEmbedding(backend(), rows[mapping] * weights[:, None])
        if precision == "float32":
            assert_near(model.encode(TEXTS), SentenceTransformer(modules=[plain, Normalize()]).encode(TEXTS))
        model.save(str(tmp_path / precision))
        again = SentenceTransformer(tmp_path / precision, precision=precision)
        np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS), strict=True)


def test_a_changed_limit_is_saved(tmp_path: Path) -> None:
    model = SentenceTransformer(DATA / "whole")
    model.max_seq_length = 2
    model.save(str(tmp_path))
    assert SentenceTransformer(tmp_path).max_seq_length == 2
    truncation = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["truncation"]
    assert truncation["max_length"] == 2


def test_copies() -> None:
    model = SentenceTransformer(DATA / "model2vec-reduced")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS), strict=True)


def test_from_model2vec(tmp_path: Path) -> None:
    static = StaticEmbedding.from_model2vec(DATA / "model2vec")
    unit = SentenceTransformer(modules=[static, Normalize()]).encode(TEXTS)
    assert_near(unit, stored("model2vec"))
    # A folder without modules.json is told by its config.json, which also says whether embeddings are normalised.
    shutil.copytree(DATA / "model2vec", tmp_path / "bare")
    (tmp_path / "bare" / "modules.json").unlink()
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "bare").encode(TEXTS), unit, strict=True)


def copied(folder: Path, **tensors: Any) -> Path:
    """Copy a folder with other tensors."""
    from safetensors.numpy import save_file

    shutil.copytree(DATA / "whole", folder)
    if tensors:
        save_file({name.replace("__", "."): array for name, array in tensors.items()}, folder / "model.safetensors")
    return folder


def test_tables_of_other_types(tmp_path: Path) -> None:
    """float16 and int8, as model2vec stores them, and bfloat16."""
    rows = (table() * 20).round().clip(-127, 127)
    expected = SentenceTransformer(modules=[StaticEmbedding(backend(), rows)]).encode(TEXTS)
    for dtype in ("float16", "int8", "float64"):
        folder = copied(tmp_path / dtype, embeddings=rows.astype(dtype))
        np.testing.assert_array_equal(SentenceTransformer(folder).encode(TEXTS), expected, strict=True)
    write_safetensors(copied(tmp_path / "bf16") / "model.safetensors", {"embedding.weight": rows}, "BF16")
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "bf16").encode(TEXTS), expected, strict=True)


def test_a_module_in_a_folder_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(DATA / "whole", tmp_path / "0_StaticEmbedding")
    (tmp_path / "0_StaticEmbedding" / "modules.json").rename(tmp_path / "modules.json")
    entries = json.loads((tmp_path / "modules.json").read_text("utf-8"))
    write_json(tmp_path / "modules.json", [{**entries[0], "path": "0_StaticEmbedding"}])
    np.testing.assert_array_equal(SentenceTransformer(tmp_path).encode(TEXTS), SentenceTransformer(DATA / "whole").encode(TEXTS))


ROWS = np.ones((20, 3), np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"words": ROWS}, r"expected a table embedding\.weight or embeddings of shape \(V, C\), found words \(20, 3\)"),
        ({"embeddings": ROWS[0]}, r"expected a table .*, found embeddings \(3,\)"),
        ({"embeddings": ROWS, "mapping": np.arange(20) + 1}, r"token_mapping must be in 0 \.\. 19, .* got 1 \.\. 20"),
        ({"embeddings": ROWS, "mapping": np.arange(20) - 1}, r"token_mapping must be in 0 \.\. 19, .* got -1 \.\. 18"),
        ({"embeddings": ROWS, "mapping": ROWS}, "tensor 'mapping' has dtype F32, supported: I64"),
        ({"embeddings": ROWS, "weights": np.ones(19, np.float32)}, r"token_weights must have shape \(20,\).*got \(19,\)"),
    ],
)
def test_bad_folders(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        SentenceTransformer(copied(tmp_path / "bad", **tensors))


def test_missing_files(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors"):
        folder = copied(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            SentenceTransformer(folder)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    model = SentenceTransformer(copied(tmp_path / "other", embedding__weight=ROWS[:5]))
    with pytest.raises(ValueError, match=r"the model has 5 words, ids 0 .. 4: the tokenizer .* is not this model's"):
        model.encode("the cat")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "embedding_weights or embedding_dim, at least 1, must be given, got None and None"),
        ({"embedding_dim": 0}, ValueError, "embedding_dim, at least 1, must be given, got None and 0"),
        ({"embedding_weights": ROWS[0]}, ValueError, r"embedding_weights must have shape \(V, C\), got \(3,\)"),
        ({"embedding_weights": ROWS, "embedding_dim": 4}, ValueError, r"embedding_weights must have shape \(V, 4\), got \(20, 3\)"),
        ({"embedding_weights": ROWS, "token_mapping": ROWS[0]}, ValueError, "token_mapping must be whole numbers"),
        (
            {"embedding_weights": ROWS, "precision": "int4"},
            ValueError,
            "precision must be one of .*got 'int4'",
        ),
        (
            {"embedding_weights": ROWS * np.nan, "precision": "int8"},
            ValueError,
            "has NaN or infinite values, which int8 cannot hold",
        ),
        ({"tokenizer": "words", "embedding_weights": ROWS}, TypeError, "tokenizer must be .*, got str"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        StaticEmbedding(**{"tokenizer": backend(), **arguments})


def test_steps_of_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="processor_kwargs: do_lower_case needs a Transformer"):
        SentenceTransformer(DATA / "whole", processor_kwargs={"do_lower_case": True})
    assert SentenceTransformer(DATA / "whole", processor_kwargs={"model_max_length": 5}).max_seq_length == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOLDERS)
def test_live(name: str, tmp_path: Path) -> None:
    """sentence-transformers on the same folder, and on the folder that is saved here."""
    peers = pytest.importorskip("sentence_transformers")
    theirs, ours = peers.SentenceTransformer(str(DATA / name), device="cpu"), SentenceTransformer(DATA / name)
    texts = [*TEXTS, *(" ".join(["tea", "dog", "zebra"] * i) for i in range(40))]
    for options in (
        {}, {"normalize_embeddings": True}, {"truncate_dim": 7}, {"prompt": "Query: "}, {"convert_to_tensor": True},
        {"precision": "ubinary"}, {"batch_size": 3},
    ):  # fmt: skip
        assert_near(ours.encode(texts, **options), theirs.encode(texts, **options))
    ours.save(str(tmp_path))
    assert_near(peers.SentenceTransformer(str(tmp_path), device="cpu").encode(texts), ours.encode(texts))
    assert theirs[0].max_seq_length == math.inf
