"""Rotary positions: the angles that transformers computes for every kind, in both layouts of config.json; faults are named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.rope import Rope, read_rope

CASES = json.loads((Path(__file__).parents[1] / "data" / "rope.json").read_text())
# Both compute in float64.  A power of the base is off by an ulp times its exponent's logarithm, at most 15, and yarn's ramp
# between channels 0.001 apart by 1000 ulp.
RTOL = 4e-12


def rope(config: dict[str, Any], **options: Any) -> Rope:
    return read_rope(Settings(Path("config.json"), config), config.get("head_dim", 8), partial=True, **options)


def assert_rope(found: Rope, inv_freq: Any, scaling: float = 1.0, longest: int | None = None) -> None:
    np.testing.assert_allclose(found.rotary.inv_freq, inv_freq, rtol=RTOL, atol=0)
    assert math.isclose(found.rotary.scaling, scaling, rel_tol=RTOL)
    assert found.longest == longest


def longest(kind: str, config: dict[str, Any]) -> int | None:
    """Return the length from which transformers changes the angles."""
    positions = config["max_position_embeddings"]
    if kind == "dynamic":
        return int(positions)
    inside = config.get("rope_parameters") or config.get("rope_scaling") or {}
    key = "original_max_position_embeddings"
    return int(config.get(key) or inside.get(key) or positions) if kind == "longrope" else None


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_angles_of_transformers(case: dict[str, Any]) -> None:
    assert_rope(rope(case["config"]), case["inv_freq"], case["scaling"], longest(case["kind"], case["config"]))


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in CASES}))
def test_more_settings_of_transformers(kind: str) -> None:
    """Settings beyond the recorded ones, drawn and computed now."""
    pytest.importorskip("transformers")
    from tests.data.make_rope import angles, draw

    rng = np.random.default_rng(12)
    for _ in range(40):
        config = draw(rng, kind)
        assert_rope(rope(config), *angles(config), longest(kind, config))


def test_ntk() -> None:
    """GTE's: linear interpolation by f^(2 / R), of a base multiplied by f."""
    config = {"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    linear = {"rope_theta": 160000, "rope_scaling": {"type": "linear", "factor": 8.0 ** (2 / 8)}}
    assert_rope(rope(config), rope(linear).rotary.inv_freq)
    assert_rope(rope(config), [160000 ** (-i / 4) / 8**0.25 for i in range(4)])


LAYERED = {
    "rope_theta": 7.0,
    "head_dim": 8,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 16.0},
        "sliding_attention": {"rope_type": "default"},
    },
}


def test_angles_by_kind_of_layer() -> None:
    assert_rope(rope(LAYERED, layers="full_attention"), [0.5, 0.25, 0.125, 0.0625])
    assert_rope(rope(LAYERED, layers="sliding_attention"), [7.0 ** (-i / 4) for i in range(4)])
    # The base of the family where neither place has one, and where another key has it.
    bare = {"local": 81.0, "head_dim": 4}
    assert_rope(rope(bare, theta=100.0, layers="full_attention"), [1.0, 0.1])
    assert_rope(rope(bare, theta=100.0, key="local", layers="sliding_attention"), [1.0, 1 / 9])


def test_old_scaling_by_kind_of_layer() -> None:
    """rope_scaling is of the kinds that the family says."""
    config = {"rope_theta": 16.0, "head_dim": 4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert_rope(rope(config, layers="full_attention"), [1 / 8, 1 / 32])
    assert_rope(rope(config, layers="sliding_attention", scaled=False), [1.0, 1 / 4])


def test_positions() -> None:
    found = rope({"max_position_embeddings": 100, "rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert (found.positions(300), found.positions(50)) == (100, 50)
    assert rope({}).positions(300) == 300


YARN = {"rope_type": "yarn", "factor": 2.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"rope_type": "axial"}, "rope_type 'axial' of rope_parameters is not supported; supported: default, linear"),
    ({"rope_type": 3}, "rope_type 3 of rope_parameters is not supported"),
    ({"factor": 2}, "factor of rope_parameters with rope_type 'default' is not supported; supported: rope_theta"),
    ({"rope_type": "linear"}, "rope_parameters: factor must be a positive number, found None"),
    ({"rope_type": "linear", "factor": -1}, "rope_parameters: factor must be a positive number, found -1"),
    ({"rope_type": "dynamic", "factor": "2"}, "factor must be a positive number, found '2'"),
    ({"rope_theta": 0}, "rotary base: rope_theta must be a positive number, found 0"),
    ({"rope_theta": 1e-310}, "rope_theta must be at least 1e-300, found 1e-310"),
    ({**YARN, "rope_theta": 1.0}, "rope_theta must be greater than 1, found 1.0"),
    ({**YARN, "beta_fast": -3.0}, "beta_fast must be a positive number, found -3.0"),
    ({**YARN, "mrope_section": [1]}, "mrope_section of rope_parameters with rope_type 'yarn' is not supported"),
    ({**YARN, "original_max_position_embeddings": 0}, "original_max_position_embeddings must be a positive integer, found 0"),
    ({**LONG, "short_factor": [1.0] * 3}, r"short_factor must have 4 numbers, found \[1\.0, 1\.0, 1\.0\]"),
    ({**LONG, "long_factor": None}, "long_factor must have 4 numbers, found None"),
    ({**LONG, "short_factor": [1.0, 1.0, 0.0, 1.0]}, "short_factor must be a positive number, found 0.0"),
    ({**LONG, "original_max_position_embeddings": 1}, "original_max_position_embeddings must be at least 2, found 1"),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "high_freq_factor must be a positive number, found None"),
    (
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0},
        "low_freq_factor and high_freq_factor must differ, found 1.0",
    ),
    ({"partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 is not supported"),
    ({"partial_rotary_factor": 0.4}, "must turn an even number of channels, of each head of 8, found 3"),
    ({"partial_rotary_factor": 0.01}, "must turn an even number of channels, of each head of 8, found 0"),
]


@pytest.mark.parametrize(("parameters", "message"), FAULTS)
def test_faults(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: .*{message}"):
        rope({"max_position_embeddings": 64, "rope_parameters": parameters})


def test_faults_of_the_layout() -> None:
    with pytest.raises(CheckpointError, match=r"rope_parameters must be an object, found \[3\]"):
        rope({"rope_parameters": [3]})
    with pytest.raises(CheckpointError, match="rope_parameters for factor, rope_type are not supported; supported: full_att"):
        rope({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, layers="full_attention")
    with pytest.raises(CheckpointError, match="full_attention, sliding_attention of rope_parameters with rope_type 'default' is"):
        rope(LAYERED)
    with pytest.raises(CheckpointError, match=r"partial_rotary_factor 0\.5 is not supported; supported: 1\.0"):
        read_rope(Settings(Path("config.json"), {"partial_rotary_factor": 0.5}), 8)
