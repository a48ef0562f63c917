"""Writes tests/data/rope.json: random settings of every kind of rotary positions, and the angles that transformers gives them.

Needs torch and transformers:  python tests/data/make_rope.py

Angles are computed in float64, in which transformers' functions run with `tests.support.double`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.double import double  # noqa: E402

KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")


def draw(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Return a random config.json: rope_theta outside or inside, and either name of the object and of its kind."""
    size, heads = int(rng.choice([6, 8, 24, 64])), int(rng.integers(1, 5))
    theta = float(np.round(10 ** rng.uniform(1, 6.5), 3))
    positions = int(rng.integers(64, 5000))
    rope: dict[str, Any] = {str(rng.choice(["rope_type", "type"])): kind}
    part = float(rng.choice([0.25, 0.5, 1.0])) if kind not in ("default", "yarn") and size > 8 else 1.0
    count = int(part * size) // 2
    if kind in ("linear", "dynamic", "yarn", "llama3", "longrope"):
        rope["factor"] = float(np.round(rng.uniform(0.5, 40), 3))
    if kind == "yarn":
        if rng.random() < 0.3:
            rope["factor"] = None
        if rng.random() < 0.5:
            rope |= {"beta_fast": float(rng.integers(8, 64)), "beta_slow": float(rng.integers(1, 4))}
        if rng.random() < 0.4:
            rope["truncate"] = bool(rng.random() < 0.5)
        rope |= [{}, {"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 1.1}, {"mscale": 0.7}][int(rng.integers(4))]
    if kind == "longrope":
        rope |= {key: np.round(rng.uniform(0.9, 9, count), 3).tolist() for key in ("short_factor", "long_factor")}
        rope |= [{}, {"attention_factor": 1.3}][int(rng.integers(2))]
        if rng.random() < 0.3:
            del rope["factor"]
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": float(rng.integers(2, 9))}
    if kind == "proportional" and rng.random() < 0.5:
        rope["factor"] = 3.0
    if part < 1:
        rope["partial_rotary_factor"] = part
    config: dict[str, Any] = {
        "hidden_size": size * heads if rng.random() < 0.5 else 2 * size * heads,
        "num_attention_heads": heads,
        "head_dim": size,
        "max_position_embeddings": positions,
    }
    if kind in ("yarn", "longrope", "llama3") and rng.random() < 0.7:
        inside = rope if rng.random() < 0.6 else config
        inside["original_max_position_embeddings"] = int(rng.integers(32, positions))
    (config if rng.random() < 0.5 else rope)["rope_theta"] = theta
    config[str(rng.choice(["rope_parameters", "rope_scaling"]))] = rope
    return config


def angles(config: dict[str, Any]) -> tuple[list[float], float]:
    """Return inv_freq and the factor of cosines and sines that transformers computes."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = LlamaConfig(**json.loads(json.dumps(config)))
    compute = ROPE_INIT_FUNCTIONS.get(settings.rope_parameters["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
    with double():
        inv_freq, scaling = compute(settings)
    return inv_freq.tolist(), float(scaling)


def main() -> None:
    rng = np.random.default_rng(11)
    cases = []
    for kind in KINDS:
        for _ in range(12):
            config = draw(rng, kind)
            inv_freq, scaling = angles(config)
            cases.append({"kind": kind, "config": config, "inv_freq": inv_freq, "scaling": scaling})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "rope.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
