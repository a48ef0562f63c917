"""The model of the chapters on learning: one layer, and a matrix that gives each kind of character a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.lessons.page import MOST_TOKENS, say
from fastattn.config import EncoderConfig
from fastattn.kernels.backward.cross_entropy import cross_entropy, cross_entropy_backward
from fastattn.kernels.ops.softmax import softmax
from fastattn.training.encoder import EncoderGraph
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.optimizer import Optimizer

__all__ = ["HEADS", "IGNORED", "WIDTH", "Learner", "characters", "describe", "learn", "packed"]

Array = NDArray[Any]

WIDTH, HEADS = 32, 2
# Target of a token that predicts nothing: the default of `cross_entropy`.
IGNORED = -100


class Learner:
    """Encoder with a score for each kind of character at every token.

    inputs: kinds of tokens it reads, None for hidden states.  outputs: kinds of characters V that it scores.
    """

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        *,
        seed: int,
        is_causal: bool = False,
        positions: Literal["learned", "sinusoidal", "rotary"] | None = "learned",
    ) -> None:
        config = EncoderConfig(
            1,
            HEADS,
            WIDTH,
            2 * WIDTH,
            vocab_size=inputs,
            positions=positions,
            max_positions=MOST_TOKENS,
            is_causal=is_causal,
        )
        self.graph = EncoderGraph(config, seed=seed)
        # Other numbers than those of the embeddings, which are drawn from the seed itself.
        rng = np.random.default_rng([seed, 1])
        self.head = Parameter(rng.standard_normal((outputs, WIDTH), np.float32) / np.float32(WIDTH**0.5), "head")

    def parameters(self) -> list[Parameter]:
        """Return all that learns."""
        return [*self.graph.trained(), self.head]

    def hidden(self, ids: Array | Tensor, offsets: Array) -> Tensor:
        """Return the hidden states (N, C) of packed sequences."""
        return self.graph(ids, offsets)

    def scores(self, ids: Array | Tensor, offsets: Array) -> Tensor:
        """Return the scores (N, V) of packed sequences."""
        return self.hidden(ids, offsets) @ self.head.T

    def probabilities(self, ids: Array, offsets: Array) -> Array:
        """Return the softmax (N, V) of the scores."""
        return softmax(np.ascontiguousarray(self.scores(ids, offsets).data))


def learn(scores: Tensor, targets: Array, optimizer: Optimizer, *learners: Learner) -> float:
    """Take one step down the gradient of the mean cross-entropy; return the loss before."""
    loss = float(cross_entropy(scores.data, targets))
    optimizer.zero_grad()
    scores.backward(cross_entropy_backward(np.ones((), np.float32), scores.data, targets))
    optimizer.step()
    for learner in learners:
        learner.graph.refresh()
    return loss


def characters(text: str) -> tuple[list[str], Array]:
    """Return the kinds of characters, and the id of each character."""
    vocabulary = sorted(set(text))
    return vocabulary, np.array([vocabulary.index(character) for character in text], np.int32)


def packed(sequences: Sequence[Array]) -> tuple[Array, Array]:
    """Return sequences end to end, int32, and where each begins and the last ends."""
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return np.concatenate([np.asarray(each, np.int32) for each in sequences]), offsets


def describe(learner: Learner) -> None:
    """Print the sizes of a model."""
    count = sum(each.data.size for each in learner.parameters())
    say(f"model: one layer, C = {WIDTH} channels, H = {HEADS} heads, {count:,} parameters, random at first")
