"""JSON values and bytes with faults: values replaced, removed or duplicated."""

from __future__ import annotations

import json
import random
from typing import Any


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice((0, 1, 2, 8, -1, 2**31, 2**63, 2**64, 10**30, -(2**70), 10**9))
    if kind == 1:
        return rng.choice((0.5, 1e308, -1e-320, float("nan"), float("inf"), 1.0, 8.0))
    if kind == 2:
        return rng.choice((True, False, None))
    if kind in (3, 4):
        return rng.choice(
            ("", "gelu", "[CLS]", "../x", "a\0b", "\ud800", "F32", "bert", "/etc/passwd", "é" * 50, "1_Pooling", "mean", "tanh")
        )
    if kind in (5, 6):
        return rng.choice(([], {}, [None], [[]], {"": {}}, [1, 2], {"content": "[CLS]"}))
    if kind == 7:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(junk(rng, 3)): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, item in inner for place in _places(item, (*path, key)))]


def spoil(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with a few values replaced, removed or duplicated."""
    value = json.loads(json.dumps(value))
    for _ in range(1 + rng.randrange(3)):
        places = _places(value)
        if not places:
            return junk(rng)
        *outer, key = rng.choice(places)
        holder = value
        for step in outer:
            holder = holder[step]
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(junk(rng, 3))] = holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder.append(holder[key])
        elif kind == 3 and isinstance(holder[key], int):
            holder[key] = holder[key] + rng.choice((-1, 1, 2**32, 2**62))
        else:
            holder[key] = junk(rng)
    return value


def spoil_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Return bytes with some replaced, removed or inserted."""
    data = bytearray(raw)
    for _ in range(1 + rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + 1 + rng.randrange(8)]
        elif kind == 2:
            data[at:at] = rng.choice(
                (b"\0", b"\xff\xfe", b'"', b"{", b"[" * 2000, b'{"a":' * 1500, b"9" * 5000, b",", b"\\u0000", b"1e999")
            )
        elif kind == 3 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            data[at:at] = data[at : at + 20]
    return bytes(data)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def spoiled(rng: random.Random, content: bytes) -> bytes:
    """Return a JSON file with a fault."""
    if rng.random() < 0.3:
        return spoil_bytes(rng, content)
    raw = as_json(spoil(rng, json.loads(content)))
    if rng.random() < 0.1:
        # Duplicate key.
        raw = raw.replace(b": ", b': null, "dtype": "F64", "shape": [1], "hidden_size": ', 1)
    return raw
