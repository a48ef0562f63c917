"""An autoregressive and a bidirectional model of one text: what each sees, guesses and can write."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.lessons.learner import IGNORED, Learner, characters, describe, learn, packed
from fastattn.cli.lessons.page import bars, curves, equation, heading, say, shown, title, visible
from fastattn.training.optimizers import Adam

__all__ = ["lesson"]

Array = NDArray[Any]

# The most characters that a model sees at once, windows in a step, and characters that it writes.
_WINDOW, _BATCH, _WRITTEN = 8, 16, 40
_STEPS, _RATE = 200, 0.01
_BARS = 4


def lesson(text: str, seed: int) -> None:
    """Print the chapter."""
    title(13, "Autoregressive and bidirectional", "Two models learn one text: one what comes next, one what is hidden")
    say("Why: GPT is trained in the first way and writes; BERT in the second and reads. The layers are the same.\n")
    vocabulary, ids = characters(text)
    v = len(vocabulary)
    # The token behind the characters: the start of a window for the one, a hidden character for the other.
    # Rotary positions tell distances: a piece may begin anywhere in the text.
    forward = Learner(v + 1, v, seed=seed, is_causal=True, positions="rotary")
    both = Learner(v + 1, v, seed=seed, positions="rotary")
    describe(forward)
    say("autoregressive: a token sees itself and those before, and predicts the next:")
    equation("loss = -mean_t log p(x_t | x_0 .. x_(t-1))")
    say("bidirectional: each token in turn is replaced by [hidden], and predicted from all others:")
    equation("loss = -mean_t log p(x_t | all but x_t)")
    say(f"Both see pieces of at most {_WINDOW} characters from anywhere in the text: {_STEPS} steps of Adam, each on {_BATCH}.")
    losses = _train(ids, v, forward, both, seed)
    heading("The loss")
    curves(losses, max(map(max, losses.values())))
    _hidden(text, vocabulary, ids, forward, both)
    _written(text, vocabulary, ids, forward, both)
    _why(vocabulary, ids, forward, both)


def _train(ids: Array, v: int, forward: Learner, both: Learner, seed: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    causal, masked = Adam(forward.parameters(), _RATE), Adam(both.parameters(), _RATE)
    losses: dict[str, list[float]] = {"autoregressive": [], "bidirectional": []}
    longest = min(_WINDOW, len(ids))
    for _ in range(_STEPS):
        pieces = []
        for length in rng.integers(1, longest + 1, _BATCH):
            start = rng.integers(0, len(ids) - length + 1)
            pieces.append(ids[start : start + length])
        tokens, offsets = packed(pieces)
        read = np.concatenate([[v], tokens[:-1]]).astype(np.int32)
        read[offsets[:-1]] = v
        losses["autoregressive"].append(learn(forward.scores(read, offsets), tokens.astype(np.int64), causal, forward))
        # Each character hidden in turn, in a copy of its piece: as many predictions as those of the other model.
        read, offsets = packed([piece for piece in pieces for _ in piece])
        rows = offsets[:-1] + np.concatenate([np.arange(len(piece)) for piece in pieces])
        targets = np.full(len(read), IGNORED, np.int64)
        targets[rows] = read[rows]
        read[rows] = v
        losses["bidirectional"].append(learn(both.scores(read, offsets), targets, masked, both))
    return losses


def _next(learner: Learner, v: int, seen: list[Array]) -> Array:
    """Return what the autoregressive model expects behind each of some pieces, (B, V)."""
    ids, offsets = packed([np.concatenate([[v], each]) for each in seen])
    return np.asarray(learner.probabilities(ids, offsets)[offsets[1:] - 1])


def _filled(learner: Learner, v: int, pieces: list[Array], places: list[int]) -> Array:
    """Return what the bidirectional model expects at one hidden place of each of some pieces, (B, V)."""
    ids, offsets = packed(pieces)
    rows = offsets[:-1] + np.array(places)
    ids[rows] = v
    return np.asarray(learner.probabilities(ids, offsets)[rows])


def _hidden(text: str, vocabulary: list[str], ids: Array, forward: Learner, both: Learner) -> None:
    v, longest = len(vocabulary), min(_WINDOW, len(ids))
    starts = [min(max(0, t - longest // 2), len(ids) - longest) for t in range(len(ids))]
    pieces = [ids[start : start + longest] for start in starts]
    places = [t - start for t, start in enumerate(starts)]
    left = _next(forward, v, [piece[:place] for piece, place in zip(pieces, places, strict=True)])
    around = _filled(both, v, pieces, places)
    rows = np.arange(len(ids))
    gain = around[rows, ids] - left[rows, ids]
    t = 1 + int(gain[1:].argmax())
    piece = text[starts[t] : starts[t] + longest]
    heading(f"A hidden character: the one at {t}, where the two differ most")
    place = places[t]
    seen = {"autoregressive": (piece[:place] + "?", left[t]), "bidirectional": (f"{piece[:place]}?{piece[place + 1 :]}", around[t])}
    for name, (context, p) in seen.items():
        shown(f"{name} sees", context)
        order = [int(c) for c in np.argsort(-p, kind="stable")[:_BARS]]
        order += [] if ids[t] in order else [int(ids[t])]
        bars([visible(vocabulary[c]) for c in order], [float(p[c]) for c in order], order.index(int(ids[t])))
    say(f"It is {visible(text[t])}. Each of the {len(ids)} characters hidden in turn:")
    for name, p in (("autoregressive", left), ("bidirectional", around)):
        right = int((p.argmax(axis=1) == ids).sum())
        say(f"{name}: {right} right, mean p of the true one {p[rows, ids].mean():.3f}")


def _written(text: str, vocabulary: list[str], ids: Array, forward: Learner, both: Learner) -> None:
    v, longest = len(vocabulary), min(_WINDOW, len(ids))
    heading("Writing")
    written = [int(ids[0])]
    while len(written) < min(_WRITTEN, len(ids)):
        seen = np.array(written[-(longest - 1) :] if longest > 1 else [], np.int32)
        written.append(int(_next(forward, v, [seen])[0].argmax()))
    shown("text          ", text[: len(written)])
    shown("autoregressive", "".join(vocabulary[c] for c in written))
    say(f"begun with {visible(text[0])}; then always the likeliest character behind the last {longest - 1}, which becomes input")
    blank = np.full(longest, v, np.int32)
    at_once = both.probabilities(blank, np.array([0, longest], np.int64)).argmax(axis=1)
    shown("bidirectional ", "".join(vocabulary[c] for c in at_once))
    say(f"{longest} hidden characters at once: each is guessed without knowing what the others become\n")


def _why(vocabulary: list[str], ids: Array, forward: Learner, both: Learner) -> None:
    v = len(vocabulary)
    heading("Why only the one can write")
    say("p(x_0) p(x_1 | x_0) p(x_2 | x_0 x_1) ... is the probability of a text: whoever knows the left factors can draw the next.")
    say("p(x_0 | x_1) p(x_1 | x_0) is none: each factor wants the other character first. Summed over all texts of 2 characters:")
    kinds = [np.array([c], np.int32) for c in range(v)]
    first, second = _next(forward, v, [np.empty(0, np.int32)])[0], _next(forward, v, kinds)
    pair = np.zeros(1, np.int32)
    # before[b, a]: a expected before b; behind[a, b]: b expected behind a.
    before = _filled(both, v, [np.concatenate([pair, kind]) for kind in kinds], [0] * v)
    behind = _filled(both, v, [np.concatenate([kind, pair]) for kind in kinds], [1] * v)
    say(f"autoregressive: sum of p(a) p(b | a) = {float((first[:, None] * second).sum()):.3f}, as probabilities do")
    say(f"bidirectional: sum of p(a | b) p(b | a) = {float((before.T * behind).sum()):.3f}")
    piece = ids[: min(_WINDOW, len(ids))]
    longer = np.concatenate([piece, piece[:1]])
    for name, learner in (("autoregressive", forward), ("bidirectional", both)):
        short = learner.hidden(piece, np.array([0, len(piece)], np.int64)).data
        long = learner.hidden(longer, np.array([0, len(longer)], np.int64)).data[: len(piece)]
        # Sums over more keys may round otherwise.
        changed = int((np.abs(long - short).max(axis=1) > 1e-4).sum())
        say(f"{name}: one more character changes {changed} of {len(piece)} hidden states")
    say("What is written stays as it is for the one, and is kept; the other would have to read everything again.")
