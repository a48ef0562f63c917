"""Rotary positions that a ``config.json`` describes: every kind of scaled angles as a `Rotary`, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.layer_config import Rotary

__all__ = ["Rope", "read_rope"]

Array = NDArray[np.float64]

# Larger numbers are refused, and smaller bases: the angles of late tokens would be infinite.
_LARGEST, _LEAST_THETA = 1e30, 1e-300
# Keys that every kind may have; all but the first three are of no effect for the kinds that do not read them.
_COMMON = {"rope_theta", "rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings"}


class Rope(NamedTuple):
    """Rotary positions, and the most tokens of a text for which the angles are these; None for any number."""

    rotary: Rotary
    longest: int | None = None

    def positions(self, most: int) -> int:
        """Return the most positions of a text: `most`, or where the angles end."""
        return most if self.longest is None else min(most, self.longest)


class _Angles(NamedTuple):
    """What a kind of angles is computed from: the settings, and its own numbers under the name that messages have for them."""

    settings: Settings
    name: str
    values: dict[str, Any]
    theta: float
    # Channels of a head, and those of them that turn.
    head_dim: int
    channels: int
    # Whether there is one description for all layers.
    flat: bool

    def error(self, message: str) -> Exception:
        return self.settings.error(f"{self.name}: {message}")

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number; an absent key without a default is an error."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise self.error(f"{key} must be a positive number, found {self.values.get(key)!r}")
        return float(value)

    def numbers(self, key: str) -> Array:
        """Return a positive number for each angle."""
        value, count = self.values.get(key), self.channels // 2
        if not isinstance(value, list) or len(value) != count:
            raise self.error(f"{key} must have {count} numbers, found {value!r:.80}")
        return np.array([self._replace(values={key: number}).number(key) for number in value])

    def default(self) -> Array:
        """Return ``theta^(-2 i / R)``."""
        return _power(self.theta, self.channels // 2, self.channels)

    def trained(self) -> int:
        """Return the length of the texts before the angles were scaled."""
        key, outside = "original_max_position_embeddings", self.settings.values
        if self.flat and outside.get(key) is not None:
            return self.settings.size(key)
        if self.values.get(key) is not None:
            return Settings(self.settings.path, self.values).size(key)
        return self.settings.size("max_position_embeddings")

    def factor(self) -> float:
        """Return the factor by which longer texts are read: by default what the settings' lengths say."""
        return self.number("factor", self.settings.size("max_position_embeddings") / self.trained())


def _power(theta: float, angles: int, channels: int) -> Array:
    # A tiny base to a large power overflows, and the configuration then refuses the angle.
    with np.errstate(over="ignore"):
        return np.asarray(np.float64(theta) ** (-2.0 * np.arange(angles) / channels))


def _default(angles: _Angles) -> Rope:
    return _rope(angles.default())


def _linear(angles: _Angles) -> Rope:
    return _rope(angles.default() / angles.number("factor"))


def _proportional(angles: _Angles) -> Rope:
    """Turn a part of the channels: the angles of the others are zero."""
    turning = angles.channels // 2
    inv_freq = np.zeros(angles.head_dim // 2)
    inv_freq[:turning] = _power(angles.theta, turning, angles.head_dim)
    return _rope(inv_freq / angles.number("factor", 1.0))


def _dynamic(angles: _Angles) -> Rope:
    """Longer texts have other angles."""
    angles.number("factor")
    return _rope(angles.default(), longest=angles.settings.size("max_position_embeddings"))


def _ntk(angles: _Angles) -> Rope:
    """Fixed NTK: ``(theta f)^(-2 i / R) / f^(2 / R)``."""
    factor = angles.number("factor")
    return _rope(_power(angles.theta * factor, angles.channels // 2, angles.channels) / factor ** (2 / angles.channels))


def _yarn(angles: _Angles) -> Rope:
    """Scale angles of few turns over the trained length, keep those of many, and mix between.  arXiv:2309.00071, section 3.2."""
    factor, channels = angles.factor(), angles.channels
    trained, base = angles.trained(), angles.theta
    if base <= 1:
        raise angles.error(f"rope_theta must be greater than 1, found {base!r}")

    def channel(turns: float) -> float:
        return channels * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = channel(_or_none(angles, "beta_fast", 32.0)), channel(_or_none(angles, "beta_slow", 1.0))
    # In transformers too, only where one description is for all layers.
    if not angles.flat or angles.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    ramp = np.clip((np.arange(channels // 2) - low) / (high - low or 0.001), 0, 1)
    inv_freq = angles.default()
    scaling = angles.values.get("attention_factor")
    if scaling is not None:
        scaling = angles.number("attention_factor")
    elif angles.values.get("mscale") and angles.values.get("mscale_all_dim"):
        scaling = _mscale(factor, angles.number("mscale")) / _mscale(factor, angles.number("mscale_all_dim"))
    else:
        scaling = _mscale(factor, 1.0)
    return _rope(inv_freq / factor * ramp + inv_freq * (1 - ramp), scaling)


def _or_none(angles: _Angles, key: str, default: float) -> float:
    """Return a number, or the default for zero too."""
    return angles.number(key, default) if angles.values.get(key) else default


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1


def _longrope(angles: _Angles) -> Rope:
    """Divide each angle by its short factor; texts longer than the trained ones have other factors.  arXiv:2402.13753."""
    factor, trained = angles.factor(), angles.trained()
    if trained < 2:
        raise angles.error(f"original_max_position_embeddings must be at least 2, found {trained}")
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    angles.numbers("long_factor")
    return _rope(angles.default() / angles.numbers("short_factor"), angles.number("attention_factor", usual), trained)


def _llama3(angles: _Angles) -> Rope:
    """Divide angles of long waves, keep those of short waves, and mix between."""
    factor, low, high = (angles.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low == high:
        raise angles.error(f"low_freq_factor and high_freq_factor must differ, found {low!r}")
    inv_freq, trained = angles.default(), angles.trained()
    wave = 2 * math.pi / inv_freq
    scaled = np.where(wave > trained / low, inv_freq / factor, inv_freq)
    part = (trained / wave - low) / (high - low)
    between = (wave >= trained / high) & (wave <= trained / low)
    return _rope(np.where(between, (1 - part) * scaled / factor + part * scaled, scaled))


def _rope(inv_freq: Array, scaling: float = 1.0, longest: int | None = None) -> Rope:
    return Rope(Rotary(tuple(inv_freq.tolist()), float(scaling)), longest)


# By rope_type: the function, and the keys that it reads.
_KINDS: dict[str, tuple[Callable[[_Angles], Rope], set[str]]] = {
    "default": (_default, set()),
    "linear": (_linear, {"factor"}),
    "dynamic": (_dynamic, {"factor"}),
    "ntk": (_ntk, {"factor"}),
    "yarn": (_yarn, {"factor", "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"}),
    "longrope": (_longrope, {"factor", "short_factor", "long_factor", "attention_factor"}),
    "llama3": (_llama3, {"factor", "low_freq_factor", "high_freq_factor"}),
    "proportional": (_proportional, {"factor"}),
}
# Kinds of layers that may have angles of their own.
_LAYERS = ("full_attention", "sliding_attention")


def read_rope(
    settings: Settings,
    head_dim: int,
    theta: float = 10000.0,
    *,
    key: str = "rope_theta",
    layers: str | None = None,
    scaled: bool = True,
    partial: bool = False,
) -> Rope:
    """Return the rotary positions of heads of `head_dim` channels.

    The base is in ``rope_scaling`` or ``rope_parameters``, else under `key`, else `theta`.  With `layers` these describe each kind
    of layers for itself; `scaled` tells whether ``rope_scaling`` is for this kind too, and `partial` whether the family lets a part
    of the channels stand.
    """
    name, values = _description(settings, layers, scaled)
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise settings.error(f"rope_type {kind!r} of {name} is not supported; supported: {', '.join(_KINDS)}")
    compute, keys = _KINDS[kind]
    if others := sorted(set(values) - _COMMON - keys):
        raise settings.error(f"{', '.join(others)} of {name} with rope_type {kind!r} is not supported; supported: {_listed(keys)}")
    angles = _Angles(settings, name, values, 1.0, head_dim, head_dim, layers is None)
    base = angles._replace(values={key: values.get("rope_theta", settings.values.get(key, theta))}, name="rotary base").number(key)
    if base < _LEAST_THETA:
        raise settings.error(f"{key} must be at least {_LEAST_THETA}, found {base!r}")
    share = values.get("partial_rotary_factor", settings.values.get("partial_rotary_factor"))
    share = angles._replace(values={"partial_rotary_factor": share}).number("partial_rotary_factor", 1.0)
    if share > 1 or (share < 1 and not partial and kind != "proportional"):
        raise settings.error(f"partial_rotary_factor {share!r} is not supported; supported: 1.0")
    channels = 2 * int(share * head_dim // 2) if kind == "proportional" else int(share * head_dim)
    if channels < 2 or channels % 2:
        raise settings.error(f"rotary positions must turn an even number of channels, of each head of {head_dim}, found {channels}")
    return compute(angles._replace(theta=base, channels=channels))


def _listed(keys: set[str]) -> str:
    return ", ".join(["rope_theta", *sorted(keys)])


def _description(settings: Settings, layers: str | None, scaled: bool) -> tuple[str, dict[str, Any]]:
    """Return the object that describes the angles, and its name in messages."""
    scaling = _object(settings, "rope_scaling", settings.values.get("rope_scaling")) if scaled else {}
    found = _object(settings, "rope_parameters", settings.values.get("rope_parameters"))
    if layers is None:
        return ("rope_scaling", scaling) if scaling else ("rope_parameters", found)
    if others := sorted(set(found) - set(_LAYERS)):
        raise settings.error(f"rope_parameters for {', '.join(others)} are not supported; supported: {', '.join(_LAYERS)}")
    name = f"rope_parameters for {layers}"
    return name, {**_object(settings, name, found.get(layers)), **scaling}


def _object(settings: Settings, name: str, found: Any) -> dict[str, Any]:
    """Return a JSON object; an empty one for null."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise settings.error(f"{name} must be an object, found {found!r:.80}")
    return found
