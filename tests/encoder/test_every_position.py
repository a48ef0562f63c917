"""Every position of a padded batch: padding sees the real tokens, and the real tokens keep their bits."""

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig
from fastattn.encoder import every_position
from fastattn.encoder.every_position import encode_with_mask

pytestmark = pytest.mark.jit
V, C, T = 50, 32, 24
CONFIG = EncoderConfig(2, 4, C, 48, positions="learned", vocab_size=V, max_positions=T, type_vocab_size=2)
MASKS = {
    "right": np.arange(T) < np.array([T, 1, 7, 0])[:, None],
    "left": np.arange(T) >= np.array([0, 20, 3, 9])[:, None],
    "holes": np.random.default_rng(3).random((4, T)) < 0.6,
}


@pytest.mark.parametrize("kind", MASKS)
def test_padding_sees_the_tokens(kind: str) -> None:
    real, rng = MASKS[kind], np.random.default_rng(1)
    encoder, shape = Encoder(CONFIG, 5), real.shape
    ids, types = rng.integers(0, V, shape), rng.integers(0, 2, shape)
    x = encoder(ids, token_type_ids=types, return_hidden_states=True)[1][0]
    body = every_position.without_embeddings(encoder)
    placed = every_position.order(real)
    hidden, states, weights = every_position.encode(body, placed.rows(x), placed, hidden_states=True, attention=True)
    expected = encode_with_mask(body, x, real[:, None, None, :])
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(hidden, every_position.encode(body, placed.rows(x), placed)[0])
    assert np.array_equal(states[-1], hidden) and np.array_equal(states[0], x)
    np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(real.any(axis=1)[:, None, None], (2, 4, 4, T)), atol=1e-5)
    assert not weights.swapaxes(2, 4)[:, ~real].any()
    assert np.array_equal(hidden[real], body(x, real)[real])
    if kind == "right":
        found = every_position.encode(encoder, placed.rows(ids), placed, placed.rows(types))[0]
        assert np.array_equal(found, hidden) and np.array_equal(found[real], encoder(ids, real, token_type_ids=types)[real])


@pytest.mark.parametrize("options", [{}, {"window": 3, "global_every": 2}], ids=["all", "window"])
def test_padding_bits_of_real_tokens_with_rotary_positions(options: dict[str, int]) -> None:
    encoder = Encoder(EncoderConfig(3, 4, C, 48, positions="rotary", vocab_size=V, **options), 5)
    real, ids = MASKS["right"], np.random.default_rng(1).integers(0, V, (4, T))
    placed = every_position.order(real)
    found = every_position.encode(encoder, placed.rows(ids), placed)[0]
    assert np.array_equal(found[real], encoder(ids, real)[real]) and np.isfinite(found).all()
    assert np.abs(found[~real]).max() > 0


def test_empty_batch() -> None:
    encoder, placed = Encoder(CONFIG, 5), every_position.order(np.ones((0, 4), np.bool_))
    assert every_position.encode(encoder, np.empty(0, np.int64), placed)[0].shape == (0, 4, C)
