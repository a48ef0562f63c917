"""Positions on and off: the same encoder learns the order of a text, or cannot."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.lessons.learner import IGNORED, Learner, characters, describe, learn
from fastattn.cli.lessons.page import curves, heading, say, shown, title, visible
from fastattn.training.optimizers import Adam

__all__ = ["lesson"]

Array = NDArray[Any]

_STEPS, _RATE = 150, 0.01


def lesson(text: str, seed: int) -> None:
    """Print the chapter."""
    title(15, "Positions on and off", "The same encoder is trained to name the character before each one")
    say("Why: attention sees a set. Who stands before whom is in the positions alone; this chapter takes them away.\n")
    vocabulary, ids = characters(text)
    offsets = np.array([0, len(ids)], np.int64)
    targets = np.concatenate([[IGNORED], ids[:-1]]).astype(np.int64)
    learners = {
        "with positions": Learner(len(vocabulary), len(vocabulary), seed=seed),
        "without positions": Learner(len(vocabulary), len(vocabulary), seed=seed, positions=None),
    }
    describe(learners["with positions"])
    say("x_t = E[id_t] + P[t] with positions, x_t = E[id_t] without; the model looks both ways and is trained by Adam")
    floor = _floor(text)
    losses = {}
    for name, learner in learners.items():
        optimizer = Adam(learner.parameters(), _RATE)
        losses[name] = [learn(learner.scores(ids, offsets), targets, optimizer, learner) for _ in range(_STEPS)]
    heading("The loss")
    curves(losses, max(map(max, losses.values())))
    heading("What each says stands before")
    shown("text             ", text[1:])
    shown("before each      ", text[:-1])
    for name, learner in learners.items():
        guessed = "".join(vocabulary[c] for c in learner.scores(ids, offsets).data.argmax(axis=1)[1:])
        shown(f"{name:<17}", guessed, text[:-1])
        right = sum(a == b for a, b in zip(guessed, text, strict=False))
        say(f"{name}: {right} of {len(text) - 1} right, loss {losses[name][-1]:.4f}")
    heading("Why it must be so")
    _twins(text, ids, offsets, learners)
    say(
        "Without positions equal characters have equal hidden states, so all that can be learnt is how often each character stands "
        f"before each other. The least possible loss is then the mean of -log of these shares: {floor:.4f}."
    )
    if floor == 0:
        say("In this text no character stands behind two different ones: its order need not be seen. Try a longer text.")


def _floor(text: str) -> float:
    """Return the conditional entropy of a character given the one behind it, in nats: what is left without an order."""
    pairs, behind = Counter(zip(text[1:], text, strict=False)), Counter(text[1:])
    return sum(-count * math.log(count / behind[pair[0]]) for pair, count in pairs.items()) / (len(text) - 1)


def _twins(text: str, ids: Array, offsets: Array, learners: dict[str, Learner]) -> None:
    """Compare the hidden states of a character that stands at two places."""
    found = next((c for c in text if text.count(c) > 1), None)
    if found is None:
        say("Every character of this text stands at one place only.")
        return
    first = text.index(found)
    second = text.index(found, first + 1)
    for name, learner in learners.items():
        hidden = learner.hidden(ids, offsets).data
        away = float(np.linalg.norm(hidden[first] - hidden[second]))
        say(f"{name}: the hidden states of {visible(found)} at {first} and at {second} are {away:.3f} apart")
