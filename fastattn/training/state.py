"""State and results of a training run, and what the loop counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Mean", "TrainOutput", "TrainerState", "interval", "is_due"]


class TrainOutput(NamedTuple):
    """What a training run gives back.

    Parameters
    ----------
    global_step : int
        Steps of the optimiser.
    training_loss : float
        Mean loss of all steps.
    metrics : dict of str to float
        Times and rates.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


@dataclass
class TrainerState:
    """State of a training run.

    Parameters
    ----------
    epoch : float
        Passes over the data so far.
    global_step : int
        Steps so far.
    max_steps : int
        Steps of the whole run.
    log_history : list of dict
        All logs, each with its step and epoch.
    best_metric : float or None
        Best value of the metric that chooses a checkpoint.
    best_model_checkpoint : str or None
        That checkpoint.
    num_input_tokens_seen : int
        Tokens of the batches so far.
    """

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_model_checkpoint: str | None = None
    num_input_tokens_seen: int = 0


class Mean:
    """Mean of what was added."""

    def __init__(self) -> None:
        self._total, self._weight = 0.0, 0.0

    def add(self, value: float, weight: float = 1) -> None:
        """Add a value."""
        self._total, self._weight = self._total + value * weight, self._weight + weight

    def clear(self) -> None:
        """Forget all."""
        self._total, self._weight = 0.0, 0.0

    @property
    def value(self) -> float:
        """Mean so far, 0 of nothing."""
        return self._total / self._weight if self._weight else 0.0


def interval(steps: float, total: int) -> int:
    """Return after how many steps something is done each time: so many, or, below 1, this share of all, rounded up."""
    return max(1, math.ceil(steps * total if 0 < steps < 1 else steps))


def is_due(strategy: str, steps: float, state: TrainerState, per_epoch: int) -> bool:
    """Tell whether something that is done every so many steps, or each epoch, is due after this step."""
    if strategy == "epoch":
        return state.global_step % per_epoch == 0 or state.global_step == state.max_steps
    return strategy == "steps" and steps > 0 and state.global_step % interval(steps, state.max_steps) == 0
