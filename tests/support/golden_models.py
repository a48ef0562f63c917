"""The folders below tests/data/golden: a small model of every family, and what transformers computes with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.models import write_json, write_safetensors

Array = NDArray[Any]
Tensors = dict[str, Array]

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def golden(family: str) -> dict[str, Array]:
    with np.load(GOLDEN / family / "outputs.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert json.loads(str(arrays.pop("about")))["version"] == 1, "write the files again with tests/data/make_golden.py"
    return arrays


def tensors(family: str) -> Tensors:
    from safetensors.numpy import load_file

    return dict(load_file(GOLDEN / family / "model.safetensors"))


def settings(family: str, **changes: Any) -> dict[str, Any]:
    """Return a golden config.json with changes; one to None leaves the key out."""
    content = json.loads((GOLDEN / family / "config.json").read_text())
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def write(folder: Path, family: str, changed: Tensors | None = None, **changes: Any) -> Path:
    """Write a golden model with changes."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings(family, **changes))
    write_safetensors(folder / "model.safetensors", tensors(family) if changed is None else changed)
    return folder
