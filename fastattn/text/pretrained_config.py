"""PretrainedConfig: an encoder's configuration that has transformers' names too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
        labels = given.get("id2label") or {i: f"LABEL_{i}" for i in range(given.get("num_labels", 2))}
        names = {int(i): name for i, name in labels.items()}
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
    def of(cls, config: EncoderConfig, settings: Mapping[str, Any]) -> PretrainedConfig:
        """Return an encoder's configuration with the content of its ``config.json``."""
        return cls(settings, **{field.name: getattr(config, field.name) for field in dataclasses.fields(EncoderConfig)})

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
