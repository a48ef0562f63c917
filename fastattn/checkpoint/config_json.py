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
# The keys of rope_parameters for angles that are not scaled.
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


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

    def theta(self, key: str, default: float, layers: str | None = None) -> float:
        """Return the base of rotary angles: from ``rope_parameters``, for this kind of layers, or from the key of older files."""
        name, found = "rope_parameters", self.values.get("rope_parameters") or {}
        if layers is not None and isinstance(found, dict):
            if kinds := set(found) - {"full_attention", "sliding_attention"}:
                raise self.error(
                    f"{name} for {', '.join(sorted(kinds))} are not supported; supported: full_attention, sliding_attention"
                )
            name, found = f"{name} for {layers}", found.get(layers) or {}
        if not isinstance(found, dict):
            raise self.error(f"{name} must be an object, found {found!r}")
        if (
            found.get("rope_type", found.get("type", "default")) != "default"
            or found.get("partial_rotary_factor", 1) != 1
            or (set(found) - _ROPE)
        ):
            raise self.error(f"{name} {found!r} are not supported; supported: rope_theta with rope_type 'default'")
        value = found.get("rope_theta", self.values.get(key, default))
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise self.error(f"{key} must be a positive number, found {value!r}")
        return float(value)
