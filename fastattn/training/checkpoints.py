"""Checkpoints of a training run: a model's folder with the state of the run beside it, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import read_object
from fastattn.checkpoint.tensor_file import StoredTensor, write_tensors
from fastattn.checkpoint.weights import Tensors
from fastattn.runtime.files import write_json
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import Optimizer
from fastattn.training.schedules import LRScheduler

__all__ = ["best_of", "find", "fingerprint", "folder_of", "is_checkpoint_in", "load", "load_weights", "write"]

Array = NDArray[Any]

_NAME = re.compile(r"checkpoint-(\d+)")
_TENSORS, _STATE = "training.safetensors", "trainer_state.json"
# Arguments that change no bit of the weights.
_WITHOUT_EFFECT = (
    "output_dir", "logging_strategy", "logging_steps", "logging_first_step", "save_strategy", "save_steps", "save_total_limit",
    "eval_strategy", "eval_steps", "per_device_eval_batch_size", "disable_tqdm", "run_name", "report_to", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better",
)  # fmt: skip


def folder_of(output_dir: str, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return Path(output_dir) / f"checkpoint-{step}"


def find(output_dir: str, asked: str | os.PathLike[str] | bool) -> Path:
    """Return the checkpoint that is asked for: a folder, or with True the newest."""
    if not isinstance(asked, bool):
        if not (Path(asked) / _STATE).is_file():
            raise FileNotFoundError(f"{asked}: no checkpoint of a training run: there is no {_STATE}")
        return Path(asked)
    found = _all(Path(output_dir))
    if not found:
        raise FileNotFoundError(f"{output_dir}: there is no checkpoint to resume from")
    return found[-1]


def best_of(folder: Path, said: str | None, needed: bool) -> str | None:
    """Return the best checkpoint of a run that goes on from `folder`, which `said` names; FileNotFoundError if it is gone."""
    if said is None:
        return None
    # The folder of the run may have been moved, or have another name from here.
    for path in (folder.parent / Path(said).name, Path(said)):
        if (path / _TENSORS).is_file():
            return str(path)
    if needed:
        raise FileNotFoundError(f"{said}: the best checkpoint of the run is gone, and load_best_model_at_end asks for it")
    return said


def is_checkpoint_in(folder: str) -> bool:
    """Tell whether there is a checkpoint to resume from."""
    return bool(_all(Path(folder)))


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    named = {path: _NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, match in named.items() if match), key=lambda path: int(path.name.partition("-")[2]))


def fingerprint(trainer: Any) -> dict[str, Any]:
    """Return what decides the bits of a run: arguments, data, losses, and the sizes of the model."""
    args = {name: value for name, value in dataclasses.asdict(trainer.args).items() if name not in _WITHOUT_EFFECT}
    data = {f"train_dataset {name!r}": each.digest for name, each in (trainer.train_data or {}).items()}
    sizes = {name: list(each.shape) for name, each in trainer._learning().items()}
    digest = hashlib.blake2b(repr(sizes).encode(), digest_size=16).hexdigest()
    graph = trainer.graph
    adapter = {} if graph.adapter is None else {f"adapter's {k}": v for k, v in graph.adapter.config.to_dict().items()}
    kept = {"weights that do not learn": trainer.kept_digest}
    found = {**args, **data, **trainer._described(), **adapter, **kept, "dropout": graph.dropout, "parameters": digest}
    return dict(json.loads(json.dumps(found, default=str)))


def write(trainer: Any, optimizer: Optimizer, scheduler: LRScheduler) -> Path:
    """Write the checkpoint of this step under another name, then rename it; remove the oldest past the limit."""
    args, state = trainer.args, trainer.state
    target = folder_of(args.output_dir, state.global_step)
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    new.mkdir(parents=True)
    try:
        trainer.model.save_pretrained(str(new))
        tensors, scalars = _flat(trainer._learning(), optimizer)
        write_tensors(new / _TENSORS, tensors)
        content = {
            **dataclasses.asdict(state),
            "scheduler": scheduler.state_dict(),
            "optimizer": scalars,
            "losses": trainer._drawn(),
            "fingerprint": fingerprint(trainer),
        }
        write_json(new / _STATE, content)
        if target.exists():
            shutil.rmtree(target)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    limit = args.save_total_limit
    # One folder may have several names.
    kept = {Path(name).resolve() for name in (target, state.best_model_checkpoint) if name is not None}
    for old in _all(Path(args.output_dir))[: -limit if limit and limit > 0 else 0]:
        if old.resolve() not in kept:
            shutil.rmtree(old)
    return target


def _flat(parameters: Mapping[str, Parameter], optimizer: Optimizer) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return parameters and the optimiser's arrays by name, and its other numbers."""
    tensors = {f"parameter.{name}": StoredTensor(each.data, "F32") for name, each in parameters.items()}
    scalars: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, np.ndarray):
                tensors[f"optimizer.{index}.{key}"] = StoredTensor(np.asarray(value, np.float32), "F32")
            elif value is not None:
                scalars[f"{index}.{key}"] = value
    return tensors, scalars


def load_weights(folder: Path, parameters: Mapping[str, Parameter]) -> Tensors:
    """Give the parameters the values that they have in a checkpoint."""
    tensors = Tensors(folder, [folder / _TENSORS])
    for name, each in parameters.items():
        each.data[...] = tensors.read(f"parameter.{name}", each.shape)
    return tensors


def load(folder: Path, parameters: Mapping[str, Parameter], optimizer: Optimizer, mark: Mapping[str, Any]) -> dict[str, Any]:
    """Take over a checkpoint's weights and the optimiser's state; return the state of the run.

    ValueError if it is of a run with another fingerprint.
    """
    content = read_object(folder / _STATE)
    found = content.pop("fingerprint", {})
    if differing := [name for name in {**mark, **found} if mark.get(name) != found.get(name)]:
        name, title = differing[0], differing[0].removesuffix(" ''")
        here = f"is {found.get(differing[0])!r}, here it is {mark.get(differing[0])!r}"
        if name.startswith("train_dataset") and name in found and name in mark:
            here = "has other rows"
        raise ValueError(f"{folder}: a checkpoint of another run: its {title} {here}")
    tensors = load_weights(folder, parameters)
    state: dict[int, dict[str, Any]] = {}
    for name, value in content.pop("optimizer", {}).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    for name in tensors.names():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensors.read(name, tensors.shape(name)).copy()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return content
