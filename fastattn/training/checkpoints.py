"""Checkpoints of a training run: a model's folder with the state of the run beside it, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import read_object
from fastattn.checkpoint.tensor_file import StoredTensor, write_tensors
from fastattn.checkpoint.weights import Tensors
from fastattn.runtime.files import write_json
from fastattn.text.modules import StaticEmbedding
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import Optimizer
from fastattn.training.schedules import LRScheduler

__all__ = [
    "beginning",
    "find",
    "fingerprint",
    "folder_of",
    "is_checkpoint_in",
    "load",
    "load_weights",
    "remove_abandoned",
    "write",
]

Array = NDArray[Any]

_NAME, _UNFINISHED = re.compile(r"checkpoint-(\d+)"), re.compile(r"\.checkpoint-\d+\.[0-9a-f]{8}")
# Seconds after which an unfinished checkpoint is that of a killed run: another run that writes one here now may be alive.
_ABANDONED = 3600.0
_TENSORS, _STATE = "training.safetensors", "trainer_state.json"
# Arguments that change no bit of the weights.
_WITHOUT_EFFECT = (
    "output_dir", "logging_strategy", "logging_steps", "logging_first_step", "save_strategy", "save_steps", "save_total_limit",
    "eval_strategy", "eval_steps", "per_device_eval_batch_size", "disable_tqdm", "run_name", "report_to", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better",
)  # fmt: skip
# Entries of a fingerprint that are digests, and what is said of one that differs.
_TOKENIZER, _KEPT, _BEGINNING = "tokenizer", "weights that do not learn", "weights at the beginning"
_OTHERS = {_TOKENIZER: "is another", _KEPT: "are others", _BEGINNING: "are others"}
# Digests of the weights with which runs of a model began: trained since, it may go on from a checkpoint of each of them.
_BEGINNINGS: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


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


def is_checkpoint_in(folder: str) -> bool:
    """Tell whether there is a checkpoint to resume from."""
    return bool(_all(Path(folder)))


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    named = {path: _NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, match in named.items() if match), key=lambda path: int(path.name.partition("-")[2]))


def remove_abandoned(output_dir: str) -> None:
    """Remove the unfinished checkpoints that killed runs left, and that have not been written to for long."""
    for left in Path(output_dir).glob(".checkpoint-*"):
        # A run that is alive may rename it now.
        with contextlib.suppress(OSError):
            if _UNFINISHED.fullmatch(left.name) and left.is_dir():
                newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
                if time.time() - newest > _ABANDONED:
                    shutil.rmtree(left)


def beginning(trainer: Any) -> str:
    """Return a digest of the weights with which a run begins, before it reads a checkpoint."""
    found = _digest(each.data for each in trainer.graph.trained())
    _BEGINNINGS.setdefault(trainer.model, set()).add(found)
    return found


def fingerprint(trainer: Any) -> dict[str, Any]:
    """Return what decides the bits of a run: arguments, data, losses, and the model with which it began."""
    args = {name: value for name, value in dataclasses.asdict(trainer.args).items() if name not in _WITHOUT_EFFECT}
    data = {f"train_dataset {name!r}": each.digest for name, each in (trainer.train_data or {}).items()}
    sizes = {name: list(each.shape) for name, each in trainer._learning().items()}
    graph = trainer.graph
    adapter = {} if graph.adapter is None else {f"adapter's {k}": v for k, v in graph.adapter.config.to_dict().items()}
    found = {**args, **data, **trainer._described(), **adapter, "dropout": graph.dropout, **_settings(trainer.model, graph)}
    digests = {"parameters": _digest([repr(sizes)]), _KEPT: trainer.kept_digest, _BEGINNING: trainer.beginning}
    return dict(json.loads(json.dumps(found | digests, default=str)))


def _settings(model: Any, graph: Any) -> dict[str, Any]:
    """Return what decides a model's output beside its weights: the tokenizer, settings of the encoder and of the modules."""
    first = getattr(graph, "first", graph)
    tokenizer, limit = first.tokenizer, first.max_seq_length
    config = getattr(first if first is graph else graph.encoder, "config", None)
    backend, chat = tokenizer.backend_tokenizer, None if first.chat is None else (first.chat.template, first.chat.structured)
    reads = (backend.encode_special_tokens, tokenizer.adds_special_tokens, tokenizer.truncation_side, tokenizer.model_input_names)
    rows = [first._mapping, first._weights] if isinstance(first, StaticEmbedding) else []
    parts = [backend.to_str(), repr((reads, chat)), *(array for array in rows if array is not None)]
    found: dict[str, Any] = {_TOKENIZER: _digest(parts), "max_seq_length": limit if limit < math.inf else None}
    if config is not None:
        # Dropout is what the trainer says.
        fields = {each.name: getattr(config, each.name) for each in dataclasses.fields(config) if each.name != "dropout"}
        found |= {f"encoder's {name}": value for name, value in {**fields, "layers": _digest([repr(config.layers)])}.items()}
    modules = [] if first is graph else list(model)
    found["modules"] = [f"{i}_{module.kind or type(module).__name__}" for i, module in enumerate(modules)]
    for name, module in zip(found["modules"], modules, strict=True):
        found |= {f"{name}'s {key}": value for key, value in module.get_config_dict().items()}
    return found


def _digest(parts: Iterable[str | Array]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


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
            "fingerprint": trainer.fingerprint,
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
    remove_abandoned(args.output_dir)
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


def load(folder: Path, trainer: Any, optimizer: Optimizer) -> dict[str, Any]:
    """Take over a checkpoint's weights and the optimiser's state; return the state of the run.

    ValueError if it is of a run with another fingerprint, FileNotFoundError if the best checkpoint is asked for, and is gone.
    """
    content = read_object(folder / _STATE)
    _check_fingerprint(folder, trainer, content.pop("fingerprint", {}))
    best = content["best_model_checkpoint"] = _best_of(folder, content["best_model_checkpoint"])
    if trainer.args.load_best_model_at_end and best is not None and not _has_weights(Path(best)):
        raise FileNotFoundError(f"{best}: the best checkpoint of the run is gone, and load_best_model_at_end asks for it")
    tensors = load_weights(folder, trainer._learning())
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


def _check_fingerprint(folder: Path, trainer: Any, found: dict[str, Any]) -> None:
    """Raise a ValueError if a checkpoint is of another run; else let this one be a part of the run that wrote it."""
    mark = trainer.fingerprint
    differing = [name for name in {**mark, **found} if mark.get(name) != found.get(name)]
    if differing == [_BEGINNING] and (
        found.get(_BEGINNING) in _BEGINNINGS[trainer.model] or trainer.beginning == _digest(_weights_in(folder, trainer))
    ):
        # The model was trained since the run began, or is that of the checkpoint.
        trainer.beginning = mark[_BEGINNING] = found[_BEGINNING]
    elif differing:
        name, title = differing[0], differing[0].removesuffix(" ''")
        here = f"is {found.get(name)!r:.200}, here it is {mark.get(name)!r:.200}"
        if name in found and name in mark:
            here = "has other rows" if name.startswith("train_dataset") else _OTHERS.get(name, here)
        raise ValueError(f"{folder}: a checkpoint of another run: its {title} {here}")


def _weights_in(folder: Path, trainer: Any) -> Iterator[Array]:
    tensors = Tensors(folder, [folder / _TENSORS])
    for each in trainer.graph.trained():
        yield tensors.read(f"parameter.{each.name}", each.shape)


def _best_of(folder: Path, said: str | None) -> str | None:
    """Return the best checkpoint of a run that goes on from `folder`."""
    # The folder of the run may have been moved, or have another name from here.
    beside = None if said is None else folder.parent / Path(said).name
    return said if beside is None or not _has_weights(beside) else str(beside)


def _has_weights(folder: Path) -> bool:
    return (folder / _TENSORS).is_file()
