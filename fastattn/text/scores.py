"""Scores of a CrossEncoder: the modules that make them of a folder of transformers, and their activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, read_object
from fastattn.kernels.ops.softmax import softmax
from fastattn.text.model_folder import ModelSettings
from fastattn.text.modules import LogitScore, Module, Transformer
from fastattn.text.modules.activations import NamedActivation, find_activation, resolve_activation

__all__ = ["ModelActivation", "scorer"]

# What a language model says to a pair that fits, and to one that does not.
_TRUE, _FALSE = "yes", "no"


def scorer(folder: Path, **options: Any) -> list[Module]:
    """Return the modules that score pairs, of a folder of transformers: its own head, or the words of a language model."""
    named = read_object(folder / "config.json").get("architectures")
    if not isinstance(named, list) or not named or not str(named[0]).endswith("ForCausalLM"):
        return [Transformer._without_settings(folder, "sequence-classification", **options)]
    first = Transformer._without_settings(folder, "text-generation", **options)
    words = first.tokenizer.get_vocab()
    if lost := [word for word in (_TRUE, _FALSE) if word not in words]:
        raise CheckpointError(
            f"{folder}: its tokenizer has no token {' and no '.join(map(repr, lost))}, by which a language model scores: give the "
            "modules, with a LogitScore of other words"
        )
    return [first, LogitScore(words[_TRUE], words[_FALSE])]


class ModelActivation:
    """Activation function of a model's scores, as its folder names it unless it is set."""

    num_labels: int
    _settings: ModelSettings
    _first_module: Callable[[], Transformer]
    _activation_fn: Any

    @property
    def activation_fn(self) -> Any:
        """Activation function of the logits."""
        return self._activation_fn

    @activation_fn.setter
    def activation_fn(self, value: str | Callable[..., Any]) -> None:
        resolve_activation(value)
        self._activation_fn = NamedActivation(value.rpartition(".")[2]) if isinstance(value, str) else value

    def get_default_activation_fn(self) -> Any:
        """Return the activation that the model folder names, or the default.

        Returns
        -------
        callable
            A function of an array.
        """
        return self._stored_activation()

    def _activated(self, logits: NDArray[np.float32], activation: Callable[..., Any], apply_softmax: bool) -> NDArray[np.float32]:
        """Return the scores of pairs with logits (B, L): (B,) for one label."""
        scores: NDArray[np.float32] = np.asarray(activation(logits), np.float32)
        if scores.shape[:1] != (len(logits),) or 0 in scores.shape[1:]:
            raise ValueError(f"activation_fn must return a row for each of {len(logits)} pairs, got shape {scores.shape}")
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        return softmax(scores) if apply_softmax and scores.ndim > 1 else scores

    def _stored_activation(self) -> NamedActivation:
        """Return the activation that the model folder names, or of the default."""
        default, path = "Sigmoid" if self.num_labels == 1 else "Identity", self._first_module().folder / "config.json"
        config = read_object(path)
        inner = config.get("sentence_transformers")
        found = self._settings.activation or (inner.get("activation_fn") if isinstance(inner, dict) else None)
        if (found := found or config.get("sbert_ce_default_activation_function")) is None:
            return NamedActivation(default)
        try:
            return NamedActivation(find_activation(str(found), default))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
