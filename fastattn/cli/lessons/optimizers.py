"""Gradient descent, momentum, RMSprop and Adam from the same weights on the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.lessons.learner import Learner, characters, describe, learn
from fastattn.cli.lessons.page import curves, equation, heading, say, title
from fastattn.cli.terminal import output
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import Optimizer
from fastattn.training.optimizers import SGD, Adam, RMSprop

__all__ = ["lesson"]

Array = NDArray[Any]

_STEPS = 60
_SHOWN = (1, 10, _STEPS)
_RATE, _ADAPTIVE_RATE = 0.02, 0.001
_MOMENTUM, _ALPHA, _BETAS = 0.9, 0.99, (0.9, 0.999)


class _Method(NamedTuple):
    make: Callable[[list[Parameter]], Optimizer]
    equations: tuple[str, ...]
    rate: float
    # The first change of a number, of its gradient g.
    first: Callable[[float], float]


_METHODS = {
    "SGD": _Method(lambda p: SGD(p, _RATE), ("w -= lr g",), _RATE, lambda g: -_RATE * g),
    "momentum": _Method(
        lambda p: SGD(p, _RATE, _MOMENTUM), (f"b = {_MOMENTUM:g} b + g     (g at first)", "w -= lr b"), _RATE, lambda g: -_RATE * g
    ),
    "RMSprop": _Method(
        lambda p: RMSprop(p, _ADAPTIVE_RATE, _ALPHA),
        (f"s = {_ALPHA:g} s + {1 - _ALPHA:.2g} g^2", "w -= lr g / (sqrt(s) + eps)"),
        _ADAPTIVE_RATE,
        lambda g: -_ADAPTIVE_RATE * g / ((1 - _ALPHA) * g * g) ** 0.5,
    ),
    "Adam": _Method(
        lambda p: Adam(p, _ADAPTIVE_RATE, _BETAS),
        (
            f"m = {_BETAS[0]:g} m + {1 - _BETAS[0]:.1g} g,     v = {_BETAS[1]:g} v + {1 - _BETAS[1]:.1g} g^2",
            f"w -= lr m / (1 - {_BETAS[0]:g}^t) / (sqrt(v / (1 - {_BETAS[1]:g}^t)) + eps)",
        ),
        _ADAPTIVE_RATE,
        lambda g: -_ADAPTIVE_RATE * g / abs(g),
    ),
}


class _Run(NamedTuple):
    losses: list[float]
    # Length of the change of all weights in each step.
    lengths: list[float]
    # In the first step: the gradient and the change of the number of the head whose gradient is the greatest.
    gradient: float
    change: float


def lesson(text: str, seed: int) -> None:
    """Print the chapter."""
    title(12, "Optimisers", "Four ways to go down the same gradient, from the same weights on the same text")
    say("Why: the gradient says which way is down, not how far to go; the optimisers differ in how far.\n")
    vocabulary, ids = characters(text)
    describe(Learner(len(vocabulary), len(vocabulary), seed=seed, is_causal=True))
    say(f"task: the next character of the text, all {len(ids) - 1} at once; g: gradient of a weight w; lr: learning rate; t: step")
    for name, method in _METHODS.items():
        output.print()
        equation(f"{name}, lr = {method.rate:g}")
        for line in method.equations:
            equation(f"   {line}")
    runs = {name: _train(method, vocabulary, ids, seed) for name, method in _METHODS.items()}
    heading("The loss")
    curves({name: run.losses for name, run in runs.items()}, max(max(run.losses) for run in runs.values()))
    heading("The size of a step")
    _first_steps(runs)
    _lengths(runs)


def _train(method: _Method, vocabulary: list[str], ids: Array, seed: int) -> _Run:
    learner = Learner(len(vocabulary), len(vocabulary), seed=seed, is_causal=True)
    parameters = learner.parameters()
    optimizer = method.make(parameters)
    offsets, targets = np.array([0, len(ids) - 1], np.int64), ids[1:].astype(np.int64)
    losses: list[float] = []
    lengths: list[float] = []
    gradient = change = 0.0
    for step in range(_STEPS):
        before = [each.data.copy() for each in parameters]
        losses.append(learn(learner.scores(ids[:-1], offsets), targets, optimizer, learner))
        moves = [each.data.astype(np.float64) - old for each, old in zip(parameters, before, strict=True)]
        lengths.append(float(np.sqrt(sum(float((move * move).sum()) for move in moves))))
        if step == 0 and learner.head.grad is not None:
            place = int(np.abs(learner.head.grad).argmax())
            gradient, change = float(learner.head.grad.flat[place]), float(moves[-1].flat[place])
    return _Run(losses, lengths, gradient, change)


def _first_steps(runs: dict[str, _Run]) -> None:
    say("The first step of one weight, that of W with the greatest gradient, by the equation and as the optimiser did it:")
    for name, run in runs.items():
        method = _METHODS[name]
        expected = method.first(run.gradient)
        rates = abs(run.change) / method.rate
        output.print(
            f"   {name:<9} g = {run.gradient:8.5f}: equation {expected:9.6f}, done {run.change:9.6f} = {rates:6.3f} lr",
            markup=False,
        )
    say("SGD and momentum go lr |g|; RMSprop 1 / sqrt(1 - 0.99) = 10 lr and Adam 1 lr, whatever the gradient's size.\n")


def _lengths(runs: dict[str, _Run]) -> None:
    head = "".join(f"{f'step {step}':>11}" for step in _SHOWN)
    output.print(f"   {'length of the step of all weights':<36}{head}", style="bold", markup=False)
    for name, run in runs.items():
        row = "".join(f"{run.lengths[step - 1]:11.4f}" for step in _SHOWN)
        output.print(f"   {name:<36}{row}", markup=False)
    say(
        "SGD's steps shrink with the gradient. Momentum adds up what points the same way, to 1 / (1 - 0.9) = 10 steps of SGD at "
        "most. RMSprop and Adam divide by the usual size of a weight's gradient: small ones move it as far as great ones."
    )
