"""Settings: ``config.json`` read key by key, with an error for every value that is not supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastattn.checkpoint.folder import CheckpointError, read_json

__all__ = ["ACTIVATIONS", "Settings"]

# What config.json calls an activation -> what EncoderConfig calls it.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Neither more nor infinite: JSON has whole numbers of any size.
_LARGEST = 1e30
# What an unscaled rope_parameters may hold.
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


class Settings:
    """A model's ``config.json``.

    Parameters
    ----------
    path : Path
        The file.
    values : object, optional
        What it holds; read from it without.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        It does not hold a JSON object.
    """

    def __init__(self, path: Path, values: Any = None) -> None:
        self.path = path
        self.values = read_json(path) if values is None else values
        if not isinstance(self.values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(self.values).__name__}")

    def error(self, message: str) -> CheckpointError:
        """Return an error that names the file.

        Parameters
        ----------
        message : str
            The key, what was found and what is supported.

        Returns
        -------
        CheckpointError
        """
        return CheckpointError(f"{self.path}: {message}")

    def size(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number.

        Parameters
        ----------
        key : str
            Its key.
        default : int, optional
            The value of an absent key, which is an error by default.
        least : int
            The smallest that is supported.

        Returns
        -------
        int
            The number.

        Raises
        ------
        CheckpointError
            The value is something else.
        """
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            found = repr(value) if key in self.values else "nothing"
            kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
            raise self.error(f"{key} must be {kind}, found {found}")
        if value >= _LARGEST:
            raise self.error(f"{key} must be less than {_LARGEST:g}, found {value!r:.50}")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number.

        Parameters
        ----------
        key : str
            Its key.
        default : float
            The value of an absent key.

        Returns
        -------
        float
            The number.

        Raises
        ------
        CheckpointError
            The value is something else.
        """
        value = self.values.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < _LARGEST:
            raise self.error(f"{key} must be a number, found {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false.

        Parameters
        ----------
        key : str
            Its key.
        default : bool
            The value of an absent key.

        Returns
        -------
        bool
            The flag.

        Raises
        ------
        CheckpointError
            The value is something else.
        """
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, found {value!r}")
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Return one of several strings.

        Parameters
        ----------
        key : str
            Its key.
        default : str
            The value of an absent key.
        choices : iterable of str
            Those that are supported.

        Returns
        -------
        str
            The string.

        Raises
        ------
        CheckpointError
            The value is something else.
        """
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(f"{key} {value!r} is not supported; supported: {', '.join(choices)}")
        return value

    def activation(self, key: str = "hidden_act", default: str = "gelu", known: Mapping[str, str] = ACTIVATIONS) -> str:
        """Return an activation under the name that EncoderConfig has for it.

        Parameters
        ----------
        key : str
            Its key.
        default : str
            The value of an absent key.
        known : mapping of str to str
            The names that are supported, to those of EncoderConfig.

        Returns
        -------
        str
            The activation.

        Raises
        ------
        CheckpointError
            There is no such activation.
        """
        return known[self.choice(key, default, known)]

    def only(self, **supported: Any) -> None:
        """Check keys that must be absent, null or of the one value that is supported.

        Parameters
        ----------
        **supported
            That value for each key.

        Raises
        ------
        CheckpointError
            A key has another value.
        """
        for key, expected in supported.items():
            value = self.values.get(key)
            if value is not None and value != expected:
                raise self.error(f"{key} {value!r} is not supported; supported: {expected!r}")

    def theta(self, key: str, default: float, layers: str | None = None) -> float:
        """Return the base of the rotary angles: of ``rope_parameters``, or of the key that older files have.

        Parameters
        ----------
        key : str
            That key.
        default : float
            The value where neither is there.
        layers : str, optional
            The kind of layers, where ``rope_parameters`` has an object for each.

        Returns
        -------
        float

        Raises
        ------
        CheckpointError
            It is not a number, or the angles are scaled in some way.
        """
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
