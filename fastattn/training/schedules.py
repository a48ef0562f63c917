"""Learning rates as functions of the step, under transformers' names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastattn.training.optimizer import Optimizer

__all__ = ["SCHEDULES", "LRScheduler", "get_scheduler", "warmup_steps_of"]

# A factor of the learning rate at a step, counted from 0.
Schedule = Callable[[int], float]


def _warmup(step: int, num_warmup_steps: int) -> float:
    return step / max(1, num_warmup_steps)


def _progress(step: int, num_warmup_steps: int, num_training_steps: int) -> float:
    """Return which part of the steps behind the warm-up is done."""
    return (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)


def _constant(step: int) -> float:
    return 1.0


def _constant_with_warmup(step: int, *, num_warmup_steps: int) -> float:
    return _warmup(step, num_warmup_steps) if step < num_warmup_steps else 1.0


def _linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    if step < num_warmup_steps:
        return _warmup(step, num_warmup_steps)
    return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))


def _cosine(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5) -> float:
    if step < num_warmup_steps:
        return _warmup(step, num_warmup_steps)
    progress = _progress(step, num_warmup_steps, num_training_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress)))


def _cosine_with_restarts(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1) -> float:
    if step < num_warmup_steps:
        return _warmup(step, num_warmup_steps)
    progress = _progress(step, num_warmup_steps, num_training_steps)
    return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * progress) % 1.0))))


def _polynomial(
    step: int, *, num_warmup_steps: int, num_training_steps: int, lr: float, lr_end: float = 1e-7, power: float = 1.0
) -> float:
    if step < num_warmup_steps:
        return _warmup(step, num_warmup_steps)
    if step > num_training_steps:
        return lr_end / lr
    remaining = 1 - (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
    return float(((lr - lr_end) * remaining**power + lr_end) / lr)


def _inverse_sqrt(step: int, *, num_warmup_steps: int, timescale: int | None = None) -> float:
    if step < num_warmup_steps:
        return _warmup(step, num_warmup_steps)
    scale = (num_warmup_steps or 10_000) if timescale is None else timescale
    return 1.0 / math.sqrt((step + scale - num_warmup_steps) / scale)


SCHEDULES: dict[str, Callable[..., float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
}


class LRScheduler:
    """Learning rates of an optimiser's groups: the rate that each began with, times a factor of the step.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' "lr" are set at once, for step 0, and by each `step`; "initial_lr" keeps what they began with.
    lr_lambda : callable
        Takes the number of the step, counted from 0, and returns the factor.

    References
    ----------
    torch.optim.lr_scheduler.LambdaLR, its documentation.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Schedule) -> None:
        self.optimizer, self.lr_lambda = optimizer, lr_lambda
        self.base_lrs = [float(group.setdefault("initial_lr", group["lr"])) for group in optimizer.param_groups]
        self.last_epoch = -1
        self.step()

    def step(self) -> None:
        """Set the learning rates of the next step: call it behind the optimiser's."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """Return the learning rates that are set now, one a group.

        Returns
        -------
        list of float
        """
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: the step, and the rates that the groups began with.

        Returns
        -------
        dict
        """
        return {"base_lrs": list(self.base_lrs), "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, and set the learning rates of that step.

        Parameters
        ----------
        state_dict : dict
            Of a scheduler with as many groups.

        Raises
        ------
        ValueError
            The number of groups is another one.
        """
        rates: Sequence[float] = state_dict["base_lrs"]
        if len(rates) != len(self.optimizer.param_groups):
            raise ValueError(f"state_dict must have {len(self.optimizer.param_groups)} base_lrs, one a group, got {len(rates)}")
        self.base_lrs, self.last_epoch = list(map(float, rates)), int(state_dict["last_epoch"])
        self._set()

    def _set(self) -> None:
        factor = self.lr_lambda(self.last_epoch)
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * factor


def warmup_steps_of(num_training_steps: int, warmup_steps: float = 0, warmup_ratio: float = 0.0) -> int:
    """Return the steps of the warm-up: `warmup_steps`, or a part of all steps, rounded up.

    Parameters
    ----------
    num_training_steps : int
        All steps.
    warmup_steps : float
        Their number; below 1 it is a part of all steps.
    warmup_ratio : float
        Part of all steps, where `warmup_steps` is 0.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        `warmup_ratio` is not in 0 .. 1, or `warmup_steps` is negative.
    """
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio must be in 0 .. 1, got {warmup_ratio!r}")
    if not warmup_steps >= 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps!r}")
    if warmup_steps >= 1:
        return int(warmup_steps)
    return math.ceil(num_training_steps * (warmup_steps or warmup_ratio))


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LRScheduler:
    """Return the schedule of a name: a warm-up from 0 in a line, then what the name says.

    Parameters
    ----------
    name : str
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup" or "inverse_sqrt".
    optimizer : Optimizer
        Whose learning rates are set.
    num_warmup_steps : int, optional
        Steps of the warm-up; needed by all but "constant", which has none.
    num_training_steps : int, optional
        All steps; needed by those that end: "linear", both cosines, "polynomial".
    scheduler_specific_kwargs : dict, optional
        `num_cycles` of the cosines, `lr_end` and `power` of "polynomial", `timescale` of "inverse_sqrt".

    Returns
    -------
    LRScheduler

    Raises
    ------
    ValueError
        The name or an option is unknown, a number of steps is missing, or `lr_end` is not below the learning rate.

    References
    ----------
    transformers.get_scheduler, its documentation; Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, for the cosine.
    """
    if name not in SCHEDULES:
        raise ValueError(f"name must be one of {', '.join(map(repr, SCHEDULES))}, got {name!r}")
    schedule = SCHEDULES[name]
    takes = dict(schedule.__kwdefaults__ or {})
    options = dict(scheduler_specific_kwargs or {})
    if unknown := sorted(set(options) - set(takes)):
        raise ValueError(f"scheduler_specific_kwargs of {name!r} may be {', '.join(takes) or 'nothing'}, got {', '.join(unknown)}")
    for key, steps in (("num_warmup_steps", num_warmup_steps), ("num_training_steps", num_training_steps)):
        if key in schedule.__code__.co_varnames:
            if steps is None:
                raise ValueError(f"{key} must be given for {name!r}")
            options[key] = steps
    if name == "polynomial":
        # A factor of the rate, so that the last of them is `lr_end` for the optimiser's own.
        options["lr"] = float(optimizer.defaults["lr"])
        if not options["lr"] > options.get("lr_end", takes["lr_end"]):
            raise ValueError(
                f"lr_end must be below the learning rate {options['lr']}, got {options.get('lr_end', takes['lr_end'])}"
            )
    return LRScheduler(optimizer, functools.partial(schedule, **options))
