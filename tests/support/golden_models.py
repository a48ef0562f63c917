"""Golden models, the folders below tests/data/golden: a small model of every family, and transformers' outputs on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn.checkpoint.reader import read_encoder
from tests.support.models import write_json, write_safetensors
from tests.support.tolerance import assert_matches_reference

Array = NDArray[Any]
Tensors = dict[str, Array]

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FAMILIES = sorted(folder.name for folder in GOLDEN.iterdir())


def golden(family: str, name: str = "outputs") -> dict[str, Array]:
    with np.load(GOLDEN / family / f"{name}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert json.loads(str(arrays.pop("about")))["version"] == 1, "write the files again with tests/data/make_golden.py"
    return arrays


def tensors(family: str) -> Tensors:
    from safetensors.numpy import load_file

    return dict(load_file(GOLDEN / family / "model.safetensors"))


def settings(family: str, **changes: Any) -> dict[str, Any]:
    """Return a golden config.json with changes; a change to None leaves the key out."""
    content = json.loads((GOLDEN / family / "config.json").read_text())
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def write(folder: Path, family: str, changed: Tensors | None = None, **changes: Any) -> Path:
    """Write a golden model with changes."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings(family, **changes))
    write_safetensors(folder / "model.safetensors", tensors(family) if changed is None else changed)
    return folder


def skip_unless_transformers_computes(family: str) -> None:
    """Skip a comparison with transformers for a golden model that none of its classes computes."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import peer_models

    if family not in peer_models.CASES:
        pytest.skip(f"transformers has no class that computes {family}: tests/data/make_golden.py computes it in NumPy")


def apply(model: Any, inputs: dict[str, Array]) -> Array:
    """Return a model's output for a batch; of hidden states and token logits, only those of real tokens, end to end."""
    mask = inputs["attention_mask"]
    out: Array = model(inputs["input_ids"], mask, token_type_ids=inputs.get("token_type_ids"))
    return out[mask.astype(bool)] if out.ndim == 3 else out


def assert_is_golden(family: str, task: str, model: Any, name: str = "outputs") -> None:
    arrays = golden(family, name)
    assert_matches_reference(apply(model, arrays), arrays[f"{task}.truth"], arrays[f"{task}.yardstick"])


def assert_reads_as_golden(folder: Path, family: str, convert: Callable[[Array], Array] | None = None) -> None:
    """Compare the parameters with those of the golden tensors, or with those of what `convert` makes of the tensors."""
    same = GOLDEN / family
    if convert is not None:
        same = write(folder / "converted", family, {name: convert(array) for name, array in tensors(family).items()})
    assert_reads_alike(folder, same)


def assert_reads_alike(folder: Path, other: Path) -> None:
    config, parameters = read_encoder(folder)
    expected_config, expected = read_encoder(other)
    assert config == expected_config
    assert list(parameters) == list(expected)
    for name, array in parameters.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
