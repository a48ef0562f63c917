"""Module, the base class of the steps of a model, and functions that read the folder of a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError, read_json
from fastattn.checkpoint.weights import Tensors
from fastattn.runtime.files import write_file, write_json
from fastattn.runtime.rounding import rounding
from fastattn.text.overrides import PackedCalls

Array = NDArray[np.float32]
Features = dict[str, Any]

TOKENS, SENTENCE, SCORES = "token_embeddings", "sentence_embedding", "scores"
# The hidden states, of which a module computes the logits that it needs: of all words they would be a vocabulary wide.
CAUSAL_LOGITS = "causal_logits"
# What only the modules of a sparse model read: logits that are not computed yet, and the tokens' ids.
LOGITS, IDS = "logits", "input_ids"


class Module(PackedCalls):
    """Step of a model: reads a named array and writes a named array.

    An array holds the rows of all texts: (N, C) for their N tokens, or (B, C) for the B texts.
    """

    kind: ClassVar[str] = ""
    # Where the class is in every version of sentence-transformers; None: it has none, and a model's folder holds the file itself.
    library: ClassVar[str | None] = "sentence_transformers.models"

    def _follow(self, first: Any) -> None:
        """Take what the module needs of the model's Transformer."""

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {}

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``."""
        return {}

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Write the module into a folder.

        Parameters
        ----------
        output_path : str or path
            Folder to write; created if missing.
        """
        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.get_config_dict())
        if tensors := self._tensors():
            from safetensors.numpy import save

            write_file(folder / "model.safetensors", save({name: np.ascontiguousarray(x) for name, x in tensors.items()}))

    def __repr__(self) -> str:
        """Show the class and its configuration."""
        return f"{type(self).__name__}({self.get_config_dict()})"


def read_config(path: Path) -> dict[str, Any]:
    """Read a module's ``config.json``, which is required."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_weights(folder: Path) -> Callable[[str, tuple[int, ...]], Array]:
    """Return a function that reads a tensor of a module as a copy."""
    tensors = Tensors(folder)

    def read(name: str, shape: tuple[int, ...]) -> Array:
        if name not in tensors:
            raise CheckpointError(f"{tensors.where}: tensor {name!r} is missing")
        return np.array(tensors.read(name, shape))

    return read


@rounding()
def as_array(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return a weight as float32; ValueError unless it has this shape."""
    array = np.ascontiguousarray(values, np.float32)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def as_size(path: Path, key: str, value: Any) -> int:
    """Return a size from ``config.json``; CheckpointError unless it is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path}: {key} must be a positive integer, found {value!r}")
    return value


def flag(content: dict[str, Any], key: str) -> bool:
    """Return a boolean of ``config.json``; True if the key is absent."""
    return bool(content.get(key, True))


def names(path: Path, content: dict[str, Any]) -> tuple[str, str | None]:
    """Return the names of the arrays that a module reads and writes."""
    source, target = content.get("module_input_name", SENTENCE), content.get("module_output_name")
    if not isinstance(source, str) or not isinstance(target, (str, type(None))):
        raise CheckpointError(f"{path}: module_input_name and module_output_name must be names, found {source!r}, {target!r}")
    return source, target


def token_names(modules: Iterable[Module]) -> set[str]:
    """Return the names of the arrays with a row per token; all other arrays have a row per text.

    Raises ValueError if a module would write per-token rows under a per-text name (`sentence_embedding`, `scores`) or the reverse.
    """
    found = {TOKENS, LOGITS}
    for module in modules:
        source, target = getattr(module, "module_input_name", None), getattr(module, "module_output_name", None)
        if source is None or target is None:
            continue
        if target in ((SENTENCE, SCORES) if source in found else (TOKENS,)):
            kind = "token" if source in found else "text"
            raise ValueError(f"{module.kind} makes {target} of {source}, which has a row for each {kind}")
        (found.add if source in found else found.discard)(target)
    return found


def check_width(kind: str, name: str, expected: int, widths: dict[str, int]) -> None:
    """Raise ValueError unless a module before this one writes `name` with `expected` channels."""
    if name not in widths:
        raise ValueError(f"{kind} reads {name}, which no module before it writes; there are {', '.join(widths)}")
    if widths[name] != expected:
        raise ValueError(f"{kind} expects {name} of {expected} channels, and it has {widths[name]}")
