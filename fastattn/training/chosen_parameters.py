"""Which parameters of a model learn in a run, how fast, and what marks those that do not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastattn.training.arguments import OPTIMIZERS, TrainingArguments
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import Optimizer

__all__ = ["choose_learning", "kept_digest", "optimizer_of"]

# Parameters without weight decay, as in transformers.
_UNDECAYED = re.compile(r"(\.bias|norm\.weight|norm_weight|norm_bias)$")


def choose_learning(graph: Any, args: TrainingArguments) -> None:
    """Fix the parameters that an adapter keeps and those that the arguments name; an earlier trainer may have fixed others.

    ValueError where a pattern of the arguments matches no parameter.
    """
    kept = frozenset() if graph.adapter is None else graph.adapter.kept
    for each in graph.parameters.values():
        each.requires_grad = id(each) not in kept
    for pattern in args.fixed_parameters:
        for name in _matching("fixed_parameters", pattern, graph.parameters):
            graph.parameters[name].requires_grad = False


def _matching(argument: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern matches; ValueError if there is none."""
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"{argument}: {pattern!r} is no regular expression: {error}") from error
    if not found:
        raise ValueError(f"{argument}: no parameter's name matches {pattern!r}")
    return found


def kept_digest(parameters: Iterable[Parameter]) -> str:
    """Return a digest of the weights that do not learn: a run on others has other bits."""
    digest = hashlib.blake2b(digest_size=16)
    for each in {id(each): each for each in parameters}.values():
        if not each.requires_grad:
            digest.update(np.ascontiguousarray(each.data).data)
    return digest.hexdigest()


def optimizer_of(parameters: Mapping[str, Parameter], args: TrainingArguments) -> Optimizer:
    """Return the optimiser: groups of parameters with and without weight decay, and with learning rates of their own."""
    for pattern in args.learning_rate_mapping:
        _matching("learning_rate_mapping", pattern, parameters)
    groups_by: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in parameters.items():
        rate = next((lr for pattern, lr in args.learning_rate_mapping.items() if re.search(pattern, name)), args.learning_rate)
        decay = 0.0 if _UNDECAYED.search(name) else args.weight_decay
        groups_by.setdefault((rate, decay), []).append(parameter)
    params = [{"params": each, "lr": rate, "weight_decay": decay} for (rate, decay), each in groups_by.items()]
    if not params:
        raise ValueError("fixed_parameters leave no parameter that learns")
    options = dict(args.optim_args)
    if args.optim.startswith("adam"):
        options = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon, **options}
    made: Optimizer = OPTIMIZERS[args.optim](params, lr=args.learning_rate, **options)
    return made
