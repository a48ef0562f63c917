"""Settings: reads ``config.json`` key by key, with an error for every value that is not supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from fastattn.checkpoint.folder import CheckpointError, read_json
from fastattn.config import Activation

__all__ = ["TRANSFORMERS_ACTIVATIONS", "Settings"]

# The name of an activation in transformers' config.json -> its name in EncoderConfig.
TRANSFORMERS_ACTIVATIONS: dict[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "swish": "silu",
}
# Larger numbers are refused: JSON allows integers of any size, and infinity.
_LARGEST = 1e30


class Settings:
    """A model's ``config.json``: read from `path`, which errors name, unless `values` are given."""

    def __init__(self, path: Path, values: Any = None) -> None:
        self.path = path
        self.values = read_json(path) if values is None else values
        if not isinstance(self.values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(self.values).__name__}")

    def error(self, message: str) -> CheckpointError:
        """Return an error that names the file; `message` names the key, its value and the supported values."""
        return CheckpointError(f"{self.path}: {message}")

    def size(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number of at least `least`; an absent key without a default is an error."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            found = repr(value) if key in self.values else "nothing"
            kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
            raise self.error(f"{key} must be {kind}, found {found}")
        if value >= _LARGEST:
            raise self.error(f"{key} must be less than {_LARGEST:g}, found {value!r:.50}")
        return value

    def optional_size(self, key: str) -> int | None:
        """Return a positive whole number; None for null and an absent key."""
        return None if self.values.get(key) is None else self.size(key)

    def number(self, key: str, default: float) -> float:
        """Return a number."""
        value = self.values.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < _LARGEST:
            raise self.error(f"{key} must be a number, found {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, found {value!r}")
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Return a string that is one of `choices`."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(f"{key} {value!r} is not supported; supported: {', '.join(choices)}")
        return value

    def activation(
        self, key: str = "hidden_act", default: str = "gelu", known: Mapping[str, Activation] = TRANSFORMERS_ACTIVATIONS
    ) -> Activation:
        """Return an activation by its name in EncoderConfig; `known` translates the names that are supported."""
        return known[self.choice(key, default, known)]

    def only(self, **supported: Any) -> None:
        """Check that each key is absent, null, or has its only supported value."""
        for key, expected in supported.items():
            value = self.values.get(key)
            if value is not None and value != expected:
                raise self.error(f"{key} {value!r} is not supported; supported: {expected!r}")
