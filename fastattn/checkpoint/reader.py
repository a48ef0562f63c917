"""Reads the configuration of a model folder, and its tensors by the names of `fastattn.parameters`.

A model family is a table in `fastattn.checkpoint.families`.  No code in a folder is executed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.adapter import merge_adapter
from fastattn.checkpoint.families import FAMILIES, Block, Head, Names, Settings, Step
from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.checkpoint.heads import HeadStep, StoredHead
from fastattn.checkpoint.missing import check_folder, model_type
from fastattn.checkpoint.weights import Tensors
from fastattn.config import EncoderConfig
from fastattn.parameters import SCHEMA

logger = logging.getLogger(__name__)

__all__ = ["CheckpointError", "encoder_of", "read_encoder", "read_head"]

Array = NDArray[np.float32]

# The names of a layer norm's tensors in old checkpoints.
_LEGACY = {"weight": "gamma", "bias": "beta"}
_TASKS = {
    "pooler": "pooler",
    "sequence-classification": "head for sequence classification",
    "token-classification": "head for token classification",
    "masked-lm": "head for masked-language modelling",
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


def read_encoder(folder: str | os.PathLike[str]) -> tuple[EncoderConfig, dict[str, Array]]:
    """Return the configuration and parameters of the encoder in a Hugging Face or sentence-transformers folder.

    float32 tensors are private views of the mapped file, others are converted; layers that share a tensor share its array.
    Tensors beside the encoder's (pooler, heads, position ids) are not read.
    """
    return encoder_of(*_open(Path(folder)))


def encoder_of(settings: Settings, tensors: Tensors) -> tuple[EncoderConfig, dict[str, Array]]:
    """Return the configuration and parameters of the encoder, from settings and tensors in place of a folder."""
    checkpoint = _Checkpoint(settings, tensors)
    return checkpoint.config, checkpoint.parameters()


def read_head(folder: str | os.PathLike[str], task: str) -> StoredHead:
    """Return the head for a task; the CheckpointError lists the missing and the existing tensors."""
    return _Checkpoint(*_open(Path(folder))).head(task)


def _open(folder: Path) -> tuple[Settings, Tensors]:
    """Open the files of a model folder."""
    folder = transformer_folder(folder)
    check_folder(folder)
    tensors = Tensors(folder)
    merge_adapter(folder, tensors)
    return Settings(folder / "config.json"), tensors


class _Checkpoint:
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
        self.token_table = f"{self.names.outside['embeddings.token']}.weight"

    def _wrapper(self) -> str:
        """Return what a wrapper of the model puts before all names: ``module.``, ``_orig_mod.``, ``0.auto_model.``; else ""."""
        found = set()
        for table in {f".{names.outside['embeddings.token']}.weight" for names in self.family.names}:
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
            (prefix, n): sum(f"{prefix}{block.name}.weight" in self.tensors for _, _, block in self._stems(names[n], 1))
            for prefix in (f"{self.wrapper}{own}" for own in self.family.prefixes)
            for n in range(len(names))
        }
        prefix, n = max(there, key=lambda key: there[key])
        return prefix, names[n]

    def parameters(self) -> dict[str, Array]:
        """Return the encoder's parameters."""
        parameters, known = {}, set()
        for parameter, stem, block in self._stems(self.names):
            for part in ("weight", "bias") if self.family.has_bias(self.settings, stem) else ("weight",):
                name = self._find(f"{block.name}.{part}")
                if name is None:
                    wanted = f"{self.prefix}{block.name}.{part}"
                    raise CheckpointError(f"{self.tensors.where}: tensor {wanted!r} is missing{self._alike(wanted)}")
                known.add(name)
                shape = SCHEMA[stem].shape_in(self.config)
                # Rows before the padding's are not used.
                first = (self.config.padding_idx or 0) if stem == "embeddings.position" else 0
                parameters[f"{parameter}.{part}"] = self._block(name, block, shape if part == "weight" else shape[:1], first)
        self._check_for_more(known)
        return parameters

    def _stems(self, names: Names, layers: int | None = None) -> Iterator[tuple[str, str, Block]]:
        """Yield the name, the stem and the stored block of each parameter, of the first `layers` layers or of all."""
        for stem, source in names.outside.items():
            if SCHEMA[stem].exists(self.config):
                yield stem, stem, Block(source)
        for i in range(self.config.num_layers if layers is None else layers):
            layer = names.layer(self.settings, i)
            for stem, part in names.inside.items():
                block = Block(part) if isinstance(part, str) else part
                if f"layers.{i}.{stem}" not in self.family.absent:
                    yield f"layers.{i}.{stem}", stem, block._replace(name=layer + block.name)

    def _alike(self, name: str) -> str:
        """Name the tensors that have another prefix than a missing one."""
        alike = [repr(other) for other in self.tensors.names() if other.endswith(f".{name}")]
        return f"; there is {' and '.join(alike[:_MOST_LISTED])}: take the prefix of one of them off" if alike else ""

    def _find(self, *names: str) -> str | None:
        """Return the first of these names that a tensor has, with or without prefix, in the new or the old spelling; else None."""
        for name in names:
            stem, _, part = name.rpartition(".")
            endings = (part, _LEGACY[part]) if stem.endswith("LayerNorm") else (part,)
            for prefix in (self.prefix, self.wrapper):
                for ending in endings:
                    if f"{prefix}{stem}.{ending}" in self.tensors:
                        return f"{prefix}{stem}.{ending}"
        return None

    def _block(self, name: str, block: Block, shape: tuple[int, ...], first: int = 0) -> Array:
        """Return the block of a stored tensor, from row `first` on."""
        whole = self.tensors.read(name, (first + shape[0] * block.parts, *shape[1:]))
        return whole if len(whole) == shape[0] else block.of(whole[first:])

    def _check_for_more(self, known: set[str]) -> None:
        """Raise if a layer has a tensor that is not read: the original model would use it."""
        layers = tuple({self.prefix + self.names.layer(self.settings, i) for i in range(self.config.num_layers)})
        for name in self.tensors.names():
            if name.startswith(layers) and name not in known and not name.endswith("inv_freq"):
                model_type = self.settings.values["model_type"]
                raise CheckpointError(f"{self.tensors.where}: {model_type} has no tensor {name!r} with this config.json")

    def head(self, task: str) -> StoredHead:
        """Return the head for a task."""
        head = self.family.heads(self.settings).get(task, Head(()))
        missing = [names[0] for step in head.steps for names in self._step_names(step).values() if not self._find(*names)]
        if not head.steps or missing:
            self._no_head(task, missing)
        self._warn_of_other_task(task)
        steps, labels, width = [], {}, self.config.hidden_dim
        for step in head.steps:
            found = {part: str(self._find(*names)) for part, names in self._step_names(step).items()}
            if step.width == "labels":
                labels = self._labels(found["weight"])
            size = len(labels) if step.width == "labels" else int(getattr(self.config, step.width))
            arrays = {part: self.tensors.read(name, (size, width) if part == "weight" else (size,)) for part, name in found.items()}
            bias, norm_weight, norm_bias = (arrays.get(part) for part in ("bias", "norm_weight", "norm_bias"))
            steps.append(HeadStep(arrays["weight"], bias, step.activation, norm_weight, norm_bias))
            width = size
        return StoredHead(tuple(steps), head.pooling, self.config.layer_norm_eps, labels)

    def _warn_of_other_task(self, task: str) -> None:
        """Warn where the configuration says that a classifier was trained for another task."""
        named = self.settings.values.get("architectures")
        made_for = [str(name) for name in named if "For" in str(name)] if isinstance(named, list) else []
        if task in _CLASSIFIERS and made_for and not any(name.endswith(_CLASSIFIERS[task]) for name in made_for):
            logger.warning("%s: its head is of %s, and is used as a %s", self.tensors.where, ", ".join(made_for), _TASKS[task])

    def _step_names(self, step: Step) -> dict[str, list[str]]:
        """Return the names that each tensor of a step may have."""
        names = {"weight": [f"{step.name}.weight"]}
        if step.tied and self.settings.flag("tie_word_embeddings", True):
            names["weight"].append(self.token_table)
        if step.bias:
            names["bias"] = [f"{step.name}.bias", *([step.bias_name] if step.bias_name else [])]
        if step.norm:
            names["norm_weight"] = [f"{step.norm}.weight"]
            if step.norm_bias:
                names["norm_bias"] = [f"{step.norm}.bias"]
        return names

    def _no_head(self, task: str, missing: list[str]) -> NoReturn:
        """Raise an error that lists the missing and the existing tensors."""
        outside = {self._find(f"{name}.{part}") for name in self.names.outside.values() for part in ("weight", "bias")}
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
