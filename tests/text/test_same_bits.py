"""The embedding of a text has the same bits by every method, since the same kernels pool and normalise in all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.modules import Normalize, Pooling, Transformer
from tests.support.models import write_json, write_sentence_model

TEXTS = ["the cat sat on the mat", "a dog", "", "the query : the dog sat on a mat with the cat", "w13 w14 w15"]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("normalize", [False, True])
def test_every_way_to_ask(mode: str, normalize: bool, tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": 32, "pooling_mode": mode}
    model = SentenceTransformer(str(write_sentence_model(tmp_path, pooling, normalize)))
    expected = model.encode(TEXTS)
    everything = model.encode(TEXTS, output_value=None)
    assert np.array_equal(np.stack([each["sentence_embedding"] for each in everything]), expected)
    assert np.array_equal(model(model.preprocess(TEXTS))["sentence_embedding"], expected)
    assert np.array_equal(np.stack([model.encode(text) for text in TEXTS]), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(mode: str, side: str, tmp_path: Path) -> None:
    """Padding is not computed: the last token is a text's own, wherever a tokenizer or a batch has its padding."""
    folder = write_sentence_model(tmp_path, {"pooling_mode": mode})
    write_json(folder / "tokenizer_config.json", {"padding_side": side})
    model = SentenceTransformer(str(folder))
    expected = model.encode(TEXTS)
    batch = {name: array for name, array in model.preprocess(TEXTS).items() if isinstance(array, np.ndarray)}
    for i, length in enumerate(batch["attention_mask"].sum(axis=1)):
        for array in batch.values():
            array[i] = np.roll(array[i], array.shape[1] - length) if side == "left" else array[i]
    assert batch["attention_mask"][:, -1 if side == "left" else 0].all()
    assert np.array_equal(model(batch)["sentence_embedding"], expected)


def test_several_poolings_are_each_alone(tmp_path: Path) -> None:
    alone = []
    for i, mode in enumerate(MODES):
        folder = tmp_path / str(i)
        alone.append(SentenceTransformer(str(write_sentence_model(folder, {"pooling_mode": mode}))).encode(TEXTS))
    together = SentenceTransformer(str(write_sentence_model(tmp_path / "all", {"pooling_mode": list(MODES)}))).encode(TEXTS)
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_pooling_leaves_out(mode: str, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path, {"pooling_mode": mode, "include_prompt": False})
    model = SentenceTransformer(str(folder), prompts={"query": "the query : "})
    expected = model.encode(TEXTS, prompt_name="query")
    everything = model.encode(TEXTS, prompt_name="query", output_value=None)
    assert np.array_equal(np.stack([each["sentence_embedding"] for each in everything]), expected)
    assert np.array_equal(model(model.preprocess(TEXTS, prompt="the query : "))["sentence_embedding"], expected)


def test_unit_length_by_module_or_by_argument(tmp_path: Path) -> None:
    plain = SentenceTransformer(str(write_sentence_model(tmp_path / "plain")))
    unit = SentenceTransformer(str(write_sentence_model(tmp_path / "unit", normalize=True)))
    expected = unit.encode(TEXTS)
    assert np.array_equal(plain.encode(TEXTS, normalize_embeddings=True), expected)
    assert np.array_equal(unit.encode(TEXTS, normalize_embeddings=True), expected)
    # Truncated embeddings lose their unit length and are normalised again.
    shortened = unit.encode(TEXTS, normalize_embeddings=True, truncate_dim=7)
    np.testing.assert_allclose(np.linalg.norm(shortened, axis=1), 1, rtol=1e-6)


def test_a_module_that_only_looks_like_the_last_division(tmp_path: Path) -> None:
    """`normalize_embeddings` divides unless the model has done so: Normalize without its input, or a subclass, has not."""

    class Doubled(Normalize):
        def _apply(self, features: Any, offsets: Any, prompt_tokens: int) -> None:
            features["sentence_embedding"] = features["sentence_embedding"] * np.float32(2)

    transformer = Transformer(str(write_sentence_model(tmp_path)))
    for last in (Normalize("absent", "sentence_embedding"), Doubled()):
        model = SentenceTransformer(modules=[transformer, Pooling(32), last])
        lengths = np.linalg.norm(model.encode(TEXTS, normalize_embeddings=True), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)
