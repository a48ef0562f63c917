"""PretrainedConfig: an encoder's configuration that has transformers' names too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastattn.checkpoint.folder import CheckpointError
from fastattn.config import EncoderConfig

__all__ = ["PretrainedConfig"]

# transformers' names of the fields of EncoderConfig; some families have others in config.json.
_FIELDS = {
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ff_dim",
    "max_position_embeddings": "max_positions",
}


# A number of classes without names makes as many names.
_MOST_LABELS = 1_000_000


class PretrainedConfig(EncoderConfig):
    """Configuration of a checkpoint's encoder, and the content of ``config.json`` as attributes.

    Equal to an EncoderConfig with the same fields.

    Parameters
    ----------
    settings : mapping, optional
        Content of ``config.json``.
    **fields
        Fields of EncoderConfig.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        given = dict(settings or {})
        names = _labels(given)
        sizes = {theirs: getattr(self, ours) for theirs, ours in _FIELDS.items()}
        # Into `__dict__`: the dataclass is frozen.
        vars(self)["settings"] = {
            **sizes,
            **given,
            "id2label": names,
            "label2id": {name: i for i, name in names.items()},
            "num_labels": len(names),
        }

    def __eq__(self, other: object) -> bool:
        """Compare the fields."""
        return isinstance(other, EncoderConfig) and dataclasses.astuple(self) == dataclasses.astuple(other)

    __hash__ = EncoderConfig.__hash__

    @classmethod
    def of(cls, config: EncoderConfig, settings: Mapping[str, Any], folder: Path) -> PretrainedConfig:
        """Return an encoder's configuration with the content of its folder's ``config.json``."""
        try:
            return cls(settings, **{field.name: getattr(config, field.name) for field in dataclasses.fields(EncoderConfig)})
        except ValueError as error:
            raise CheckpointError(f"{folder / 'config.json'}: {error}") from error

    def changed(self, **fields: Any) -> PretrainedConfig:
        """Return the configuration with other values of some fields.

        Parameters
        ----------
        **fields
            Fields of EncoderConfig.

        Returns
        -------
        PretrainedConfig
        """
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(EncoderConfig)}
        return PretrainedConfig(vars(self)["settings"], **{**own, **fields})

    def __getattr__(self, name: str) -> Any:
        """Return a value of ``config.json``."""
        settings = vars(self).get("settings", {})
        if name not in settings:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return settings[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``, with transformers' names for the sizes.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return dict(vars(self)["settings"])


def _labels(settings: Mapping[str, Any]) -> dict[int, Any]:
    """Return the names of the classes by their numbers; ValueError if the settings name none that can be looked up."""
    stored, count = settings.get("id2label"), settings.get("num_labels")
    if not stored:
        count = 2 if count is None else count
        if type(count) is not int or not 0 <= count <= _MOST_LABELS:
            raise ValueError(f"num_labels must be a whole number from 0 to {_MOST_LABELS:,}, found {count!r:.200}")
        return {i: f"LABEL_{i}" for i in range(count)}
    try:
        names = {int(i): name for i, name in stored.items()}
        hash(tuple(names.values()))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"id2label must map numbers to names, found {stored!r:.200}") from error
    return names
