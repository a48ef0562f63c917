"""Activation of a CrossEncoder's scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastattn.checkpoint.folder import CheckpointError, read_object
from fastattn.text.model_folder import ModelSettings
from fastattn.text.modules import Transformer
from fastattn.text.modules.activations import NamedActivation, find_activation, resolve_activation

__all__ = ["ModelActivation"]


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
