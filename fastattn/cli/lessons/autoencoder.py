"""Encoder and decoder: a piece of text becomes one vector, and comes back from it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.lessons.learner import WIDTH, Learner, characters, learn, packed
from fastattn.cli.lessons.page import VALUES, curves, equation, heading, say, shown, title, values, visible
from fastattn.training.graph import Tensor
from fastattn.training.optimizers import Adam

__all__ = ["lesson"]

Array = NDArray[Any]

_PIECE, _MOST_STEPS, _RATE = 5, 600, 0.01
# Steps after which the text is shown.
_SHOWN = (0, 5, 10, 20, 40, 80, 160, 320)
# Training goes on to this loss: right by a margin.
_ENOUGH = 0.02


class Autoencoder:
    """Encoder of pieces to a vector each, and decoder of vectors to the characters of a piece."""

    def __init__(self, kinds: int, seed: int) -> None:
        self.encoder = Learner(kinds, 1, seed=seed)
        self.decoder = Learner(None, kinds, seed=seed + 1, positions="sinusoidal")
        # Nothing is scored by the encoder.
        self.parameters = [*self.encoder.graph.trained(), *self.decoder.parameters()]

    def encoded(self, ids: Array, offsets: Array) -> Tensor:
        """Return the mean of each piece's hidden states, (B, C)."""
        lengths = np.diff(offsets)
        shares = np.zeros((len(lengths), len(ids)), np.float32)
        shares[np.repeat(np.arange(len(lengths)), lengths), np.arange(len(ids))] = np.repeat(1 / lengths, lengths)
        return Tensor(shares) @ self.encoder.hidden(ids, offsets)

    def decoded(self, vectors: Tensor, offsets: Array) -> Tensor:
        """Return the scores (N, V) of each place: all that the decoder is given is the vector of its piece, and the place."""
        return self.decoder.scores(vectors[np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))], offsets)


def lesson(text: str, seed: int) -> None:
    """Print the chapter."""
    title(14, "Encoder and decoder", "One model makes a vector of each piece of text; the other writes the piece from it")
    say("Why: what is to come back must be in the vector. Translation is trained like this too, with another text to come back.\n")
    vocabulary, ids = characters(text)
    pieces = [ids[start : start + _PIECE] for start in range(0, len(ids), _PIECE)]
    tokens, offsets = packed(pieces)
    model = Autoencoder(len(vocabulary), seed)
    count = sum(each.data.size for each in model.parameters)
    say(f"text: {len(pieces)} pieces of at most {_PIECE} characters; encoder and decoder: one layer each, {count:,} parameters")
    equation("z = mean_t encoder(x)_t              a piece becomes one vector")
    equation("p_t = softmax(W decoder(z + P[t]))   P[t]: the place that is asked for")
    equation("loss = -mean_t log p_t(x_t)          the text itself is the target")
    say(f"ids ({len(ids)},)  ->  z ({len(pieces)}, {WIDTH})  ->  scores ({len(ids)}, {len(vocabulary)})")
    heading("What comes back as it learns")
    losses = _train(model, text, vocabulary, tokens, offsets)
    heading("The loss")
    curves({"autoencoder": losses}, max(losses))
    _vectors(model, text, vocabulary, tokens, offsets)


def _train(model: Autoencoder, text: str, vocabulary: list[str], ids: Array, offsets: Array) -> list[float]:
    optimizer, targets = Adam(model.parameters, _RATE), ids.astype(np.int64)
    losses: list[float] = []
    shown("text      ", text)
    for step in range(_MOST_STEPS + 1):
        scores = model.decoded(model.encoded(ids, offsets), offsets)
        back = _read(scores, vocabulary)
        is_done = step == _MOST_STEPS or bool(losses and losses[-1] < _ENOUGH and back == text)
        if step in _SHOWN or is_done:
            shown(f"step {step:<4} ", back, text)
        if is_done:
            break
        losses.append(learn(scores, targets, optimizer, model.encoder, model.decoder))
    right = sum(a == b for a, b in zip(back, text, strict=True))
    say(f"{right} of {len(text)} characters came back after {len(losses)} steps of Adam; loss {losses[-1]:.4f}")
    return losses


def _vectors(model: Autoencoder, text: str, vocabulary: list[str], ids: Array, offsets: Array) -> None:
    """Show the vectors, and that the decoder reads nothing else: in another order they give the pieces in that order."""
    heading("The vectors")
    z = model.encoded(ids, offsets).data
    pieces = [text[start:stop] for start, stop in itertools.pairwise(offsets)]
    values(["".join(map(visible, piece)) for piece in pieces[:VALUES]], z)
    if len(pieces) < 2:
        return
    back = np.cumsum([0, *np.diff(offsets)[::-1]], dtype=np.int64)
    turned = _read(model.decoded(Tensor(np.ascontiguousarray(z[::-1])), back), vocabulary)
    shown("vectors from last to first, decoded", turned, "".join(reversed(pieces)))
    say("The decoder sees the vectors alone: in another order they give the same pieces in that order.")


def _read(scores: Tensor, vocabulary: list[str]) -> str:
    return "".join(vocabulary[c] for c in scores.data.argmax(axis=1))
