"""The text side of CLIP as a SentenceTransformer: its projection, of the token that ends a text."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderWithProjection, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.golden_models import GOLDEN, Array, golden, settings, tensors, write
from tests.support.models import WORDS, write_json, write_tokenizer

FAMILY = "clip_text_model"
END = 3


def write_clip(folder: Path, **text: Any) -> Path:
    """Write the golden text side as that of a whole CLIP; its texts end with the token of a small tokenizer."""
    content = {**settings(FAMILY), "eos_token_id": END, **text}
    write(folder, FAMILY)
    write_json(folder / "config.json", {"model_type": "clip", "text_config": content, "vision_config": {}, "projection_dim": 20})
    write_tokenizer(folder)
    return folder


def test_a_whole_clip_reads_as_its_text_side(tmp_path: Path) -> None:
    config, parameters = read_encoder(write_clip(tmp_path))
    expected_config, expected = read_encoder(GOLDEN / FAMILY)
    assert config == expected_config and config.is_causal and config.activation == "quick_gelu"
    assert all((parameters[name] == expected[name]).all() for name in expected)


def ids_of(text: str) -> list[int]:
    return [2, *(WORDS.index(word) for word in text.split()), END]


@pytest.mark.jit
@pytest.mark.parametrize("kind", ["CLIPModel", "base.modules.transformer.Transformer", None])
def test_sentence_transformer(tmp_path: Path, kind: str | None) -> None:
    folder = write_clip(tmp_path)
    if kind is not None:
        write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.{kind}"}])
        text = {"method": "get_text_features", "method_output_name": "pooler_output"}
        image = {"method": "get_image_features", "method_output_name": "pooler_output"}
        described = {"modality_config": {"text": text, "image": image}, "module_output_name": "sentence_embedding"}
        write_json(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction", **described})
    model = SentenceTransformer(folder)
    assert len(model) == 1 and model.get_embedding_dimension() == 20
    texts = ["the cat sat", "a dog", "the"]
    found = model.encode(texts)
    weight = tensors(FAMILY)["text_projection.weight"].astype(np.float64)
    for text, row in zip(texts, found, strict=True):
        ids = np.array(ids_of(text))
        hidden = Encoder.from_pretrained(folder).forward_packed(ids, np.array([0, len(ids)]))
        np.testing.assert_allclose(row, hidden[-1] @ weight.T, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(model.encode(texts[::-1])[::-1], found)
    unit = model.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="output_value 'token_embeddings' is not available"):
        model.encode(texts, output_value="token_embeddings")
    model.save(str(tmp_path / "saved"))
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "saved").encode(texts), found)


def rows(model: EncoderWithProjection, ids: list[int]) -> Array:
    return model(np.array([ids]))[0]


@pytest.mark.jit
def test_the_token_that_ends_a_text(tmp_path: Path) -> None:
    """The first token with the end's id; without one the first token of all; what follows changes nothing."""
    model = EncoderWithProjection.from_pretrained(write_clip(tmp_path))
    text = [2, 7, 9, END]
    np.testing.assert_array_equal(rows(model, [*text, 8, END, 5]), rows(model, text))
    np.testing.assert_array_equal(rows(model, [2, 7, 9, 8]), rows(model, [2]))
    assert (rows(model, [2, 7, 9, END]) != rows(model, [2, 7, 9, 8, END])).any()
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(model(np.array([[*text, 8, 8]]), mask)[0], rows(model, text))


@pytest.mark.jit
def test_the_greatest_id_ends_a_text_in_older_files(tmp_path: Path) -> None:
    older = EncoderWithProjection.from_pretrained(write_clip(tmp_path / "older", eos_token_id=2))
    newer = EncoderWithProjection.from_pretrained(write_clip(tmp_path / "newer", eos_token_id=90))
    np.testing.assert_array_equal(rows(older, [2, 7, 90, 8, 90]), rows(newer, [2, 7, 90, 8]))


@pytest.mark.jit
def test_inputs_that_have_no_end(tmp_path: Path) -> None:
    model = EncoderWithProjection.from_pretrained(write_clip(tmp_path))
    with pytest.raises(ValueError, match="the end of a text is found by its token ids, got float32"):
        model(np.zeros((1, 3, 32), np.float32))
    with pytest.raises(ValueError, match="every text must have a token"):
        model.forward_packed(np.array([2, 3]), np.array([0, 2, 2]))


def test_no_projection(tmp_path: Path) -> None:
    stored = {name: array for name, array in tensors(FAMILY).items() if "projection" not in name}
    with pytest.raises(CheckpointError, match=r"no projection of a text's vector \(tensors missing: text_projection"):
        EncoderWithProjection.from_pretrained(write(tmp_path, FAMILY, stored))


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    import torch

    letters = [chr(code) for code in range(97, 123)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[("t", "h"), ("th", "e</w>")], model_max_length=16)
    end = vocab["<|endoftext|>"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(vocab), "max_position_embeddings": 16}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(0)
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config={**sizes, **text}, vision_config=vision, projection_dim=20))
    for parameter in clip.text_model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter.data == 1)
    clip.save_pretrained(tmp_path / "clip")
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    transformers.CLIPProcessor(image_processor=image, tokenizer=tokenizer).save_pretrained(tmp_path / "clip")
    original = peer.SentenceTransformer(str(tmp_path / "clip"))
    original.save(str(tmp_path / "saved"))
    texts = ["the cat", "a", "this text is longer than the model has positions", "The <|endoftext|> end"]
    wanted = original.encode(texts)
    # An older folder has no tokenizer.json.
    shutil.copytree(tmp_path / "saved", tmp_path / "older")
    (tmp_path / "older" / "tokenizer.json").unlink()
    write_json(tmp_path / "older" / "vocab.json", vocab)
    (tmp_path / "older" / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    for folder in ("clip", "saved", "older"):
        model = SentenceTransformer(tmp_path / folder)
        np.testing.assert_allclose(model.encode(texts), wanted, rtol=0, atol=2e-5)


def test_golden_texts_hold_an_end_before_their_last_token() -> None:
    """Otherwise the golden projections would not tell the first end from the last token."""
    arrays = golden(FAMILY)
    ends = arrays["input_ids"] == settings(FAMILY)["eos_token_id"]
    assert (ends.sum(axis=1) > 1).any() and not ends.any(axis=1).all()
