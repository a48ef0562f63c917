"""Classes of a text from its last token that is no padding by its id, as transformers' decoders find it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import EncoderForSequenceClassification
from fastattn.checkpoint.reader import CheckpointError, read_head
from tests.support.golden_models import GOLDEN, tensors, write

pytestmark = pytest.mark.jit
# The padding's id, 0, at the end, in the middle, at the beginning, nowhere, alone.
TEXTS = [[5, 6, 7, 0, 0], [5, 0, 7], [0, 9, 11, 12], [8, 9], [0, 0], [13]]
LAST = [2, 2, 3, 1, 0, 0]


def packed(texts: list[list[int]]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.concatenate([np.array(text) for text in texts]), np.cumsum([0, *map(len, texts)])


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[3:4]], ids=["padding", "none"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3-both-ways", "gemma3_text"])
def test_last_token(family: str, texts: list[list[int]]) -> None:
    """The map of that token."""
    folder = GOLDEN / family
    model = EncoderForSequenceClassification.from_pretrained(folder)
    ids, offsets = packed(texts)
    found = model.forward_packed(ids, offsets)
    weight = tensors(family)["score.weight"]
    hidden = model.encoder.forward_packed(ids, offsets)
    last = offsets[:-1] + [LAST[TEXTS.index(text)] for text in texts]
    np.testing.assert_allclose(found, hidden[last] @ weight.T, rtol=0, atol=3e-6)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(model.forward_packed(*packed([text])), found[i : i + 1])
    # Vectors have no ids: the last counts.
    table = model.encoder.config.hidden_dim
    vectors = np.random.default_rng(0).standard_normal((len(ids), table), np.float32)
    expected = model.encoder.forward_packed(vectors, offsets, pooling="lasttoken") @ weight.T
    np.testing.assert_allclose(model.forward_packed(vectors, offsets), expected, rtol=0, atol=3e-6)


def test_without_a_padding_id(tmp_path: Path) -> None:
    model = EncoderForSequenceClassification.from_pretrained(write(tmp_path, "qwen3", pad_token_id=None))
    ids, offsets = packed(TEXTS)
    expected = model.encoder.forward_packed(ids, offsets, pooling="lasttoken") @ tensors("qwen3")["score.weight"].T
    np.testing.assert_allclose(model.forward_packed(ids, offsets), expected, rtol=0, atol=3e-6)


def test_pooling_behind_the_first_step(tmp_path: Path) -> None:
    """EuroBERT's mean of every token's logits is the mean of what enters its last map; another word for it is refused."""
    model = EncoderForSequenceClassification.from_pretrained(GOLDEN / "eurobert")
    ids, offsets = packed(TEXTS)
    found = model.forward_packed(ids, offsets)
    for i, text in enumerate(TEXTS):
        np.testing.assert_array_equal(model.forward_packed(*packed([text])), found[i : i + 1])
    with pytest.raises(CheckpointError, match="classifier_pooling 'max' is not supported; supported: bos, mean, late"):
        read_head(write(tmp_path, "eurobert", classifier_pooling="max"), "sequence-classification")
    mean = EncoderForSequenceClassification.from_pretrained(write(tmp_path, "eurobert", classifier_pooling="mean"))
    assert np.abs(mean.forward_packed(ids, offsets) - found).max() > 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["qwen3", "qwen3-both-ways", "gemma3_text", "eurobert"])
def test_transformers(tmp_path: Path, family: str) -> None:
    """A padded batch that has the padding's id as a token too."""
    pytest.importorskip("transformers")
    import torch

    from tests.support import peer_models

    module = peer_models.model(family, "sequence-classification", 20)
    module.save_pretrained(tmp_path)
    mask = np.array([[1] * len(text) + [0] * (5 - len(text)) for text in TEXTS])
    ids = np.array([text + [0] * (5 - len(text)) for text in TEXTS])
    found = EncoderForSequenceClassification.from_pretrained(tmp_path)(ids, mask)
    with torch.no_grad():
        theirs = module(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5)
