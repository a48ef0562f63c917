"""Padding tokens that stand in a text, of the families that give them no position: golden values, and the same in every path."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import fastattn
from fastattn import Encoder, EncoderConfig, SentenceTransformer, reference
from fastattn.checkpoint.reader import read_encoder
from fastattn.parameters import random_parameters
from tests.support.golden_models import GOLDEN, assert_is_golden, golden, write
from tests.support.models import WORDS, write_tokenizer
from tests.support.tolerance import assert_matches_reference

FAMILIES = ("roberta", "xlm-roberta", "camembert", "mpnet")
MODELS = {
    "hidden": Encoder,
    "sequence-classification": fastattn.EncoderForSequenceClassification,
    "masked-lm": fastattn.EncoderForMaskedLM,
}


@pytest.mark.jit
@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_golden(family: str, task: str) -> None:
    assert_is_golden(family, task, MODELS[task].from_pretrained(GOLDEN / family), "padding")


@pytest.mark.jit
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_without_a_mask_packed_and_beside_other_texts(family: str) -> None:
    arrays = golden(family, "padding")
    ids, lengths = arrays["input_ids"], arrays["attention_mask"].sum(axis=1)
    types = arrays.get("token_type_ids", np.zeros_like(ids))
    model = Encoder.from_pretrained(GOLDEN / family)
    together = model(ids, arrays["attention_mask"], token_type_ids=types)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    real = arrays["attention_mask"].astype(bool)
    packed = model.forward_packed(ids[real], offsets, token_type_ids=types[real])
    states = model(ids, real, token_type_ids=types, return_hidden_states=True)[1]
    config, parameters = read_encoder(GOLDEN / family)
    trained = Encoder(dataclasses.replace(config, dropout=1e-9), parameters=parameters)
    dropped = trained(ids, real, token_type_ids=types, training=True, rng=np.random.default_rng(0))
    np.testing.assert_allclose(dropped, together, atol=1e-5)
    for b, n in enumerate(lengths):
        alone = model(ids[b : b + 1, :n], token_type_ids=types[b : b + 1, :n])[0]
        for found in (together[b, :n], packed[offsets[b] : offsets[b + 1]], states[-1, b, :n]):
            np.testing.assert_array_equal(found, alone)


@pytest.mark.jit
def test_the_reference_agrees(tmp_path: Path) -> None:
    for family in FAMILIES:
        config, parameters = read_encoder(GOLDEN / family)
        ids = golden(family, "padding")["input_ids"]
        expected = [
            reference.encoder({name: x.astype(dtype) for name, x in parameters.items()}, ids, **config.reference_options())
            for dtype in (np.float64, np.float32)
        ]
        assert_matches_reference(Encoder(config, parameters=parameters)(ids), *expected)


def test_rows_of_the_table() -> None:
    """By hand: the padding, 7, has row 0 and is not counted; vectors in place of ids are all counted."""
    tables = {
        "embeddings.token.weight": np.zeros((9, 2)),
        "embeddings.position.weight": np.arange(6.0)[:, None] * [1, 1],
    }
    ids = np.array([[7, 3, 7, 7, 2, 4, 7], [1, 2, 3, 4, 5, 7, 7]])
    found = reference.embeddings(tables, ids, positions="learned", padding_idx=7)
    assert found[..., 0].tolist() == [[0, 1, 0, 0, 2, 3, 0], [1, 2, 3, 4, 5, 0, 0]]
    found = reference.embeddings(tables, np.zeros((1, 4, 2)), positions="learned", padding_idx=7)
    assert found[..., 0].tolist() == [[1, 2, 3, 4]]


@pytest.mark.jit
def test_only_tokens_with_a_position_count_towards_the_limit() -> None:
    model = Encoder(EncoderConfig(1, 1, 4, 4, positions="learned", vocab_size=5, max_positions=3, padding_idx=2))
    assert model(np.array([[0, 2, 1, 2, 2, 3]])).shape == (1, 6, 4)
    with pytest.raises(ValueError, match="a sequence of 4 tokens is longer than the 3 positions"):
        model(np.array([[0, 2, 1, 3, 4]]))
    with pytest.raises(ValueError, match="a sequence of 4 tokens is longer than the 3 positions"):
        model(np.array([[0, 1, 3, 4]]))


@pytest.mark.jit
def test_text_with_a_padding_token(tmp_path: Path) -> None:
    padding = WORDS.index("cat")
    folder = write(tmp_path / "model", "roberta", pad_token_id=padding)
    write_tokenizer(folder)
    model, encoder = SentenceTransformer(folder), Encoder.from_pretrained(folder)
    texts = ["the cat sat on the cat cat", "a dog sat"]
    for text in texts:
        ids = model.tokenizer(text)["input_ids"]
        assert (padding in ids) == ("cat" in text)
        found = model.encode([*texts, text], output_value="token_embeddings")[2]
        np.testing.assert_array_equal(found, encoder(np.array([ids]))[0])
    config, parameters = read_encoder(folder)
    moved = {**parameters, "embeddings.position.weight": np.roll(parameters["embeddings.position.weight"], 1, axis=0)}
    changed = Encoder(config, parameters=moved)
    assert np.abs(changed(np.array([[padding]])) - encoder(np.array([[padding]]))).max() > 0.01


@pytest.mark.jit
@pytest.mark.parametrize("family", FAMILIES)
def test_module_of_transformers(family: str) -> None:
    """The padding is the last word of the vocabulary: the trial call of `accelerate` must not use ids beyond it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import peer_models

    module = peer_models.model(family, "hidden", 40)
    padding = module.embeddings.padding_idx
    ids = np.array(golden(family, "padding")["input_ids"])
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(Encoder.from_torch(module)(ids), expected, atol=1e-5)
    module.embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(
        module.embeddings.word_embeddings.weight[: padding + 1].detach(), padding_idx=padding
    )
    module.config.vocab_size = padding + 1
    few = torch.from_numpy(np.array([[0, padding, 0, 0, padding], [0, 0, 0, padding, padding]]))
    places = torch.arange(5).expand(2, 5) + padding + 1
    with torch.no_grad():
        expected = [module(few).last_hidden_state, module(few, position_ids=places).last_hidden_state]
    with torch.inference_mode():
        accelerated = fastattn.accelerate(module)
        found = [accelerated(few).last_hidden_state, accelerated(few, position_ids=places).last_hidden_state]
    assert float((expected[0] - expected[1]).abs().max()) > 0.1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.jit
def test_texts_of_masked_tokens_alone() -> None:
    """Nothing is there by whose share zeros could be divided: the embeddings are zeros, and other texts are scaled as ever."""
    config = EncoderConfig(2, 2, 8, 8, positions="learned", vocab_size=6, max_positions=9, mask_idx=3, norm_first=True)
    parameters = random_parameters(config, 0)
    encoder = Encoder(config, parameters=parameters)
    ids = np.array([[3, 3, 3], [3, 1, 2], [1, 2, 4]])
    found = encoder(ids)
    expected = reference.encoder(parameters, ids, **config.reference_options())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found[:1], encoder(np.zeros((1, 3, 8), np.float32)))
    assert np.array_equal(encoder.forward_packed([3, 3], [0, 2, 2]), encoder(np.array([[3, 3]]))[0])
