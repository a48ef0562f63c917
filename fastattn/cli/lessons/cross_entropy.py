"""Cross-entropy: from the scores of the characters to softmax, to the loss, to its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import set_cell_size

from fastattn.cli.lessons.learner import Learner, characters, describe
from fastattn.cli.lessons.page import equation, error, heading, say, shown, title, visible
from fastattn.cli.terminal import counted, output
from fastattn.kernels.backward.cross_entropy import cross_entropy, cross_entropy_backward

__all__ = ["lesson"]

Array = NDArray[Any]

_ROWS = 14
_BAR = 20
# A step along the scores that is long enough to be seen, and the half width of a central difference in float64.
_STEP, _NUDGE = 4.0, 1e-5


def lesson(text: str, seed: int) -> None:
    """Print the chapter."""
    title(11, "Cross-entropy", "What a model that predicts the next character is trained to make small")
    say("Why: it is the only number that training looks at; its gradient tells every weight where to go.\n")
    vocabulary, ids = characters(text)
    learner = Learner(len(vocabulary), len(vocabulary), seed=seed, is_causal=True)
    describe(learner)
    offsets = np.array([0, len(ids) - 1], np.int64)
    hidden = learner.hidden(ids[:-1], offsets)
    scores = (hidden @ learner.head.T).data
    targets = ids[1:].astype(np.int64)
    say(f"h {hidden.shape}: (T - 1, C), a hidden state for each character but the last, made of what came before it")
    say(f"scores s = h W^T {scores.shape}: (T - 1, V), W {learner.head.shape}: one score for each of V = {len(vocabulary)} kinds")
    _one_token(text, vocabulary, scores, targets)
    _whole_text(vocabulary, scores, targets)


def _one_token(text: str, vocabulary: list[str], scores: Array, targets: Array) -> None:
    t = (len(text) - 1) // 2
    row, wanted = scores[t].astype(np.float64), int(targets[t])
    heading(f"One prediction: what follows {visible(text[t])} at {t}? In the text: {visible(text[t + 1])}")
    equation("p_c = e^(s_c) / sum_k e^(s_k)    softmax: scores become probabilities")
    equation("loss = -log p_y                  y: the character that did come")
    equation("d loss / d s_c = p_c - y_c       y_c: 1 for that character, else 0")
    output.print()
    powers = np.exp(row - row.max())
    p = powers / powers.sum()
    gradient = p - np.eye(len(p))[wanted]
    order = [c for c in np.argsort(-p, kind="stable") if c != wanted][: _ROWS - 1]
    output.print("        score s  e^(s-max)       p    y     p - y", style="bold", markup=False)
    for c in sorted([wanted, *order]):
        numbers = f"{row[c]:8.3f}   {powers[c]:8.3f}  {p[c]:6.3f}    {int(c == wanted)}  {gradient[c]:8.3f}"
        bar = ("-" if gradient[c] < 0 else "+") * max(1, round(abs(gradient[c]) * _BAR))
        line = f"   {set_cell_size(visible(vocabulary[c]), 2)}  {numbers}  {bar}"
        output.print(line, markup=False, style="green" if c == wanted else "")
    if len(p) > _ROWS:
        say(f"... and {counted(len(p) - _ROWS, 'kind')} with smaller p")
    say(f"p sums to {p.sum():.3f}, p - y to {abs(gradient.sum()):.3f}: what one score gains, the others lose")
    loss = -math.log(p[wanted])
    say(f"loss = -log {p[wanted]:.4f} = {loss:.4f}")
    nudged = []
    for nudge in (_NUDGE, -_NUDGE):
        moved = row.copy()
        moved[wanted] += nudge
        nudged.append(_loss(moved, wanted))
    say(
        f"tried out: the right score moved by {_NUDGE:g} up and down changes the loss by "
        f"{(nudged[0] - nudged[1]) / (2 * _NUDGE):.4f} per unit; p - y says {gradient[wanted]:.4f}"
    )
    after = row - _STEP * gradient
    say(f"s - {_STEP:g} (p - y), a step down the gradient: the loss falls from {loss:.4f} to {_loss(after, wanted):.4f}")


def _whole_text(vocabulary: list[str], scores: Array, targets: Array) -> None:
    heading("The whole text: the mean over its predictions, by the kernel")
    exact = scores.astype(np.float64)
    p = np.exp(exact - exact.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    losses = -np.log(p[rows, targets])
    loss = cross_entropy(scores, targets)
    gradient = cross_entropy_backward(np.ones((), np.float32), scores, targets)
    say(f"fastattn.cross_entropy(scores, targets) = {float(loss):.4f}")
    say(
        f"fastattn.cross_entropy_backward(1, scores, targets) {gradient.shape}: (p - y) / {len(targets)}, "
        "for the mean shares the gradient among the predictions"
    )
    say(f"a guess among V = {len(vocabulary)} costs log V = {math.log(len(vocabulary)):.4f}; who is sure and right pays 0")
    shown("characters", "".join(vocabulary[c] for c in targets))
    shown("best guess", "".join(vocabulary[c] for c in p.argmax(axis=1)))
    truth = p.copy()
    truth[rows, targets] -= 1
    error("cross_entropy kernel", np.asarray(loss), np.asarray(losses.mean()))
    error("cross_entropy_backward kernel", gradient, truth / len(targets))


def _loss(scores: Array, wanted: int) -> float:
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[wanted])
