"""Reads the configuration of a model folder, and its tensors by the names of `fastattn.parameters`.

A model family is a table in `fastattn.checkpoint.families`.  No code in a folder is executed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.adapter import merge_adapter
from fastattn.checkpoint.families import FAMILIES, Block, Derive, Head, Names, Settings, Step, Stored
from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.checkpoint.heads import HeadStep, StoredHead
from fastattn.checkpoint.missing import check_folder, model_type
from fastattn.checkpoint.task_adapters import merge_task
from fastattn.checkpoint.weights import Headers, Tensors, reads_numbers
from fastattn.config import EncoderConfig
from fastattn.parameters import SCHEMA
from fastattn.runtime.rounding import rounding

logger = logging.getLogger(__name__)

__all__ = ["Checkpoint", "CheckpointError", "checkpoint_of", "encoder_of", "read_encoder", "read_head", "read_words", "tasks_of"]

Array = NDArray[np.float32]

# The names of a layer norm's tensors in old checkpoints.
_LEGACY = {"weight": "gamma", "bias": "beta"}
_TASKS = {
    "pooler": "pooler",
    "sequence-classification": "head for sequence classification",
    "token-classification": "head for token classification",
    "masked-lm": "head for masked-language modelling",
    "projection": "projection of a text's vector",
    "causal-lm": "head for causal-language modelling",
}
# Tasks whose heads have the same names, and what the classes for them are called in transformers.
_CLASSIFIERS = {"sequence-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}
# How a missing head is made: a random one would give random answers.
_ADD = {
    "sequence-classification": "; to add one, train it: sentence_transformers.CrossEncoder(folder, num_labels=1) makes "
    "an untrained head, and its save_pretrained a folder that is read here"
}
# The most tensors that an error lists.
_MOST_LISTED = 8


def read_encoder(folder: str | os.PathLike[str], adapter: str | None = None) -> tuple[EncoderConfig, dict[str, Array]]:
    """Return the configuration and parameters of the encoder in a Hugging Face or sentence-transformers folder.

    `adapter`: the task for which an adapter of the model is merged; without one the model is that below its adapters.

    float32 tensors are private views of the mapped file, others are converted; layers that share a tensor share its array.
    Tensors beside the encoder's (pooler, heads, position ids) are not read.
    """
    return encoder_of(*_open(Path(folder), adapter))


def encoder_of(settings: Settings, tensors: Tensors) -> tuple[EncoderConfig, dict[str, Array]]:
    """Return the configuration and parameters of the encoder, from settings and tensors in place of a folder."""
    checkpoint = Checkpoint(settings, tensors)
    return checkpoint.config, checkpoint.parameters()


def read_head(folder: str | os.PathLike[str], task: str, adapter: str | None = None) -> StoredHead:
    """Return the head for a task; the CheckpointError lists the missing and the existing tensors."""
    return Checkpoint(*_open(Path(folder), adapter)).head(task)


def read_words(folder: str | os.PathLike[str], ids: Sequence[int]) -> tuple[Array, float | None]:
    """Return the rows of some words in the head of a language model, and the bound of its logits."""
    head = Checkpoint(*_open(Path(folder), None)).head("causal-lm")
    weight = head.steps[-1].weight
    if max(ids) >= len(weight):
        raise CheckpointError(f"{folder}: its vocabulary has {len(weight)} words, and the id {max(ids)} is asked for")
    return weight[list(ids)], head.softcap


def tasks_of(folder: str | os.PathLike[str]) -> list[str]:
    """Return the tasks for which a folder has a head, from the headers of its weights."""
    return Checkpoint(*_open(Path(folder), kind=Headers)).tasks()


def checkpoint_of(folder: Path, kind: type[Tensors]) -> Checkpoint:
    """Return the configuration of a folder, and its tensors of that kind."""
    return Checkpoint(*_open(folder, kind=kind))


def _open(folder: Path, adapter: str | None = None, kind: type[Tensors] | None = None) -> tuple[Settings, Tensors]:
    """Open the files of a model folder, and merge adapters."""
    kind = kind or (Tensors if reads_numbers() else Headers)
    folder = transformer_folder(folder)
    check_folder(folder)
    tensors = kind(folder)
    merge_adapter(folder, tensors)
    settings = Settings(folder / "config.json")
    merge_task(settings, tensors, adapter)
    return settings, tensors


class Checkpoint:
    """A configuration and its tensors."""

    def __init__(self, settings: Settings, tensors: Tensors) -> None:
        self.settings = settings
        self.family = FAMILIES[model_type(settings)]
        settings.only(quantization_config=None)
        try:
            self.config = self.family.config(self.settings)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{self.settings.path}: {error}") from error
        self.tensors = tensors
        self.wrapper = self._wrapper()
        self.prefix, self.names = self._names()
        self.config = dataclasses.replace(self.config, **self.names.fields)
        self.known: set[str] = set()

    def _wrapper(self) -> str:
        """Return what a wrapper of the model puts before all names: ``module.``, ``_orig_mod.``, ``0.auto_model.``; else ""."""
        found = set()
        for table in {f".{names.token_table}" for names in self.family.names}:
            for name in self.tensors.names():
                if f".{name}".endswith(table):
                    before = f".{name}".removesuffix(table) + "."
                    own = max((own for own in self.family.prefixes if before.endswith(f".{own}")), key=len, default="")
                    found.add(before.removesuffix(own)[1:])
        return found.pop() if len(found) == 1 else ""

    def _names(self) -> tuple[str, Names]:
        """Return the prefix and the names of the encoder's tensors: the alternative with the most tensors in the folder."""
        names = self.family.names
        # The names of the first layer differ between all alternatives.
        there = {
            (prefix, n): sum(f"{prefix}{block.name}.weight" in self.tensors for *_, block in self._stems(names[n], 1))
            for prefix in (f"{self.wrapper}{own}" for own in self.family.prefixes)
            for n in range(len(names))
        }
        prefix, n = max(there, key=lambda key: there[key])
        return prefix, names[n]

    def parameters(self) -> dict[str, Array]:
        """Return the encoder's parameters."""
        parameters = {}
        for parameter, stem, layer, block in self._stems(self.names, self.config.num_layers):
            for part in ("weight", "bias") if self.family.has_bias(self.settings, stem) else ("weight",):
                shape = SCHEMA[stem].shape_in(self.config)
                # Rows before the padding's are not used.
                first = (self.config.padding_idx or 0) if stem == "embeddings.position" else 0
                name, shape = f"{block.name}.{part}", shape if part == "weight" else shape[:1]
                derive = block.derive
                array = self._block(name, block, shape, first) if derive is None else self._derived(derive, name, layer, shape)
                parameters[f"{parameter}.{part}"] = array
        self._check_for_more()
        return parameters

    def _stems(self, names: Names, layers: int) -> Iterator[tuple[str, str, str, Block]]:
        """Yield name, stem, layer and stored block of each parameter that the configuration has."""
        for parameter, stem, layer, block in names.stems(self.settings, layers):
            of_layer = not layer or SCHEMA[stem].in_layer(self.config.layer(int(parameter.split(".")[1])))
            if of_layer and SCHEMA[stem].exists(self.config) and not self.family.absent(self.settings, parameter):
                yield parameter, stem, layer, block

    def _alike(self, name: str) -> str:
        """Name the tensors that have another prefix than a missing one."""
        alike = [repr(other) for other in self.tensors.names() if other.endswith(f".{name}")]
        return f"; there is {' and '.join(alike[:_MOST_LISTED])}: take the prefix of one of them off" if alike else ""

    def find(self, *names: str) -> str | None:
        """Return the first of these names that a tensor has, with or without prefix, in the new or the old spelling; else None."""
        for name in names:
            stem, _, part = name.rpartition(".")
            endings = (part, _LEGACY[part]) if stem.endswith("LayerNorm") else (part,)
            for prefix in (self.prefix, self.wrapper):
                for ending in endings:
                    if f"{prefix}{stem}.{ending}" in self.tensors:
                        return f"{prefix}{stem}.{ending}"
        return None

    def _read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the stored tensor of a name without prefix; the CheckpointError for a missing one names those that are alike."""
        found = self.find(name)
        if found is None:
            wanted = f"{self.prefix}{name}"
            raise CheckpointError(f"{self.tensors.where}: tensor {wanted!r} is missing{self._alike(wanted)}")
        self.known.add(found)
        return self.tensors.read(found, shape)

    def _block(self, name: str, block: Block, shape: tuple[int, ...], first: int) -> Array:
        """Return the block of a stored tensor, from row `first` on."""
        whole = self._read(name, (first + shape[0] * block.parts, *shape[1:]))
        return whole if len(whole) == shape[0] else block.of(whole[first:])

    @rounding()
    def _derived(self, derive: Derive, name: str, layer: str, shape: tuple[int, ...]) -> Array:
        """Return the parameter that is computed from stored tensors."""
        array = np.require(derive(Stored(self.config, self.settings, layer, self._read), name, shape), np.float32, "C")
        if array.shape != shape:
            raise CheckpointError(f"{self.tensors.where}: {name} makes a parameter of shape {array.shape}, expected {shape}")
        return array

    def _check_for_more(self) -> None:
        """Raise for a tensor that the original model would use, and that is not read: any of a layer, and those refused."""
        layers = tuple({self.prefix + self.names.layer(self.settings, i) for i in range(self.config.num_layers)})
        refused = {prefix + name for prefix in (self.prefix, self.wrapper) for name in self.family.refused}
        for name in self.tensors.names():
            if name in refused or (name.startswith(layers) and name not in self.known and not name.endswith("inv_freq")):
                model_type = self.settings.values["model_type"]
                raise CheckpointError(f"{self.tensors.where}: {model_type} has no tensor {name!r} with this config.json")

    def head(self, task: str) -> StoredHead:
        """Return the head for a task."""
        first = self.family.heads(self.settings).get(task, Head(()))
        head, missing = self._stored(first)
        if not head.steps or missing:
            self._no_head(task, self._missing(first))
        self._warn_of_other_task(task)
        steps, labels, width = [], {}, self.config.hidden_dim
        for step in head.steps:
            found = {part: str(self.find(*names)) for part, names in self.step_names(step).items()}
            if step.width == "labels":
                labels = self._labels(found["weight"])
                size = len(labels)
            elif step.width == "any":
                size = (*self.tensors.shape(found["weight"]), 0)[0]
            else:
                size = step.width if isinstance(step.width, int) else int(getattr(self.config, step.width))
            arrays = {part: self.tensors.read(name, (size, width) if part == "weight" else (size,)) for part, name in found.items()}
            bias, norm_weight, norm_bias = (arrays.get(part) for part in ("bias", "norm_weight", "norm_bias"))
            steps.append(HeadStep(arrays["weight"], bias, step.activation, norm_weight, norm_bias))
            width = size
        padding = self.settings.values.get("pad_token_id") if head.pooling == "lasttoken" else None
        padding = None if padding is None else self.settings.size("pad_token_id", least=0)
        more = (head.pooled_step, padding, head.end, head.softcap)
        return StoredHead(tuple(steps), head.pooling, self.config.layer_norm_eps, labels, *more)

    def tasks(self) -> list[str]:
        """Return the tasks for which there is a head; none where settings that only heads read are not supported."""
        try:
            return [task for task, head in self.family.heads(self.settings).items() if head.steps and not self._stored(head)[1]]
        except CheckpointError:
            return []

    def _stored(self, head: Head) -> tuple[Head, list[str]]:
        """Return the alternative of a head that the folder has, or the last, and the names of its tensors that are not stored."""
        while (missing := self._missing(head)) and head.otherwise is not None:
            head = head.otherwise
        return head, missing

    def _missing(self, head: Head) -> list[str]:
        """Return the names of a head's tensors that are not stored."""
        return [names[0] for step in head.steps for names in self.step_names(step).values() if not self.find(*names)]

    def _warn_of_other_task(self, task: str) -> None:
        """Warn where the configuration says that a classifier was trained for another task."""
        named = self.settings.values.get("architectures")
        made_for = [str(name) for name in named if "For" in str(name)] if isinstance(named, list) else []
        if task in _CLASSIFIERS and made_for and not any(name.endswith(_CLASSIFIERS[task]) for name in made_for):
            logger.warning("%s: its head is of %s, and is used as a %s", self.tensors.where, ", ".join(made_for), _TASKS[task])

    def step_names(self, step: Step) -> dict[str, list[str]]:
        """Return the names that each tensor of a step may have."""
        names = {"weight": [f"{step.name}.weight"]}
        if step.tied and self.settings.flag("tie_word_embeddings", True):
            names["weight"].append(self.names.token_table)
        if step.bias:
            names["bias"] = [f"{step.name}.bias", *([step.bias_name] if step.bias_name else [])]
        if step.norm:
            names["norm_weight"] = [f"{step.norm}.weight"]
            if step.norm_bias:
                names["norm_bias"] = [f"{step.norm}.bias"]
        return names

    def _no_head(self, task: str, missing: list[str]) -> NoReturn:
        """Raise an error that lists the missing and the existing tensors."""
        outside = {self.find(f"{block.name}.{part}") for *_, block in self._stems(self.names, 0) for part in ("weight", "bias")}
        names = self.tensors.names()
        count = min(self.config.num_layers, len(names))
        layers = tuple({self.prefix + self.names.layer(self.settings, i) for i in range(count)})
        others = [name for name in names if name not in outside and not name.startswith(layers)]
        more = f" and {len(others) - _MOST_LISTED} more" if len(others) > _MOST_LISTED else ""
        there = ", ".join(others[:_MOST_LISTED]) + more if others else "none"
        lacks = f"tensors missing: {', '.join(missing)}" if missing else f"{self.settings.values['model_type']} has none"
        made_for = self.settings.values.get("architectures")
        raise CheckpointError(
            f"{self.tensors.where}: there is no {_TASKS[task]} ({lacks}); tensors beside the encoder's: {there}; "
            f"architectures in config.json: {made_for!r}{_ADD.get(task, '')}"
        )

    def _labels(self, name: str) -> dict[int, str]:
        """Return the names of the classes, as many as the tensor has rows."""
        count = (*self.tensors.shape(name), 0)[0]
        stored = self.settings.values.get("id2label")
        if stored is None:
            return {i: f"LABEL_{i}" for i in range(count)}
        try:
            labels = {int(number): str(label) for number, label in stored.items()}
        except (AttributeError, ValueError) as error:
            raise CheckpointError(f"{self.settings.path}: id2label must map numbers to names, found {stored!r}") from error
        if sorted(labels) != list(range(count)):
            raise CheckpointError(
                f"{self.settings.path}: id2label has the classes {sorted(labels)}, but {name!r} in {self.tensors.where} "
                f"has {count} rows"
            )
        return dict(sorted(labels.items()))
