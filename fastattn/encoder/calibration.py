"""Stand-in until the calibration arrives."""

from __future__ import annotations

from typing import Any, NamedTuple


class Choice(NamedTuple):
    quantized: bool
    smooth: Any


def calibrate(config: Any, parameters: Any) -> Any:
    return [{name: Choice(True, None) for name in ("qkv", "out", "up", "down")} for _ in range(config.num_layers)]
