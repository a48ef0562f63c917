"""Writes tests/data/golden: a small random model of every family, and transformers' outputs on it.

Needs torch and transformers:  python tests/data/make_golden.py ernie  (the names of cases; without any, all)

A folder's weights include all heads, under transformers' names.  ``outputs.npz`` has a batch and, for every task, the truth
(each sequence alone, in float64) and a yardstick: for each element the worst float32 result of several ways to compute it.
``padding.npz`` has the same for texts in which padding tokens stand, of the families that give these no position.
"""

import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support import neobert, nomic_experts  # noqa: E402
from tests.support.peer_models import (  # noqa: E402
    CASES,
    TASKS,
    Array,
    batch,
    has_sdpa,
    model,
    outputs,
    prefix,
    tasks,
)

VERSION = 1
PADDED = ("roberta", "xlm-roberta", "camembert", "mpnet")
FOLDER = HERE / "golden"
LENGTHS = [7, 1, 26, 2]
POSITIONS = 40
# As in tests.support.tolerance.
ORDERS = 6
# Compared with transformers live, in test_families: they differ in one option from others.
LEFT_OUT = ("electra-wide", "ernie-tasks", "mpnet-longer", "gte-untyped", "deberta-v2-groups")


def yardstick(family: str, task: str, inputs: dict[str, Array], truth: Array) -> Array:
    """Return for each element the float32 result farthest from the truth."""
    found = [outputs(model(family, task, POSITIONS, "eager"), task, inputs)]
    if has_sdpa(family):
        found += [outputs(model(family, task, POSITIONS, "sdpa"), task, inputs, alone=alone) for alone in (True, False)]
    return worst(found, truth)


def worst(found: list[Array], truth: Array) -> Array:
    """Return for each element the result farthest from the truth."""
    errors = np.abs(np.stack(found) - truth)
    return np.take_along_axis(np.stack(found), errors.argmax(axis=0)[None], axis=0)[0]


def write(family: str) -> None:
    folder = FOLDER / family
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs = batch(family, LENGTHS)
    tensors: dict[str, Array] = {}
    arrays: dict[str, Array] = dict(inputs)
    for task in tasks(family):
        module = model(family, task, POSITIONS)
        with tempfile.TemporaryDirectory() as saved:
            module.save_pretrained(saved)
            before = prefix(family) if TASKS[task] == "Model" else ""
            for name, tensor in load_file(f"{saved}/model.safetensors").items():
                assert (tensors.setdefault(before + name, tensor) == tensor).all()
            content = json.loads(Path(saved, "config.json").read_text())
        arrays[f"{task}.truth"] = outputs(model(family, task, POSITIONS), task, inputs, torch.float64)
        arrays[f"{task}.yardstick"] = yardstick(family, task, inputs, arrays[f"{task}.truth"])
    if model_type := CASES[family].model_type:
        # The model_type alone says what is_causal says to transformers.
        content = {**content, "model_type": model_type, "use_bidirectional_attention": True}
        del content["is_causal"]
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    np.savez_compressed(folder / "outputs.npz", about=about(), **arrays)
    if family in PADDED:
        write_padding(family)


# Models whose outputs are computed in NumPy, and the tasks.
IN_NUMPY = {
    "neobert": (neobert, ("hidden", "sequence-classification", "masked-lm")),
    "nomic_bert-experts": (nomic_experts, ("hidden",)),
}


def write_in_numpy(name: str) -> None:
    """Write a model whose code is not in transformers."""
    original, tasks = IN_NUMPY[name]
    folder, stored = FOLDER / name, original.tensors()
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    ids = np.where(mask, np.random.default_rng(4).integers(5, original.V, mask.shape), 0)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    arrays: dict[str, Array] = dict(inputs)
    for task in tasks:
        truth = original.outputs(stored, task, inputs, np.float64)
        arrays[f"{task}.truth"] = truth
        arrays[f"{task}.yardstick"] = worst(
            [original.outputs(stored, task, inputs, np.float32, order) for order in range(ORDERS)], truth
        )
    (folder / "config.json").write_text(json.dumps(original.CONFIG, indent=2, sort_keys=True) + "\n")
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    np.savez_compressed(folder / "outputs.npz", about=about(), **arrays)


def write_padding(family: str) -> None:
    inputs = batch(family, LENGTHS)
    real = inputs["attention_mask"].astype(bool)
    anywhere = np.random.default_rng(3).random(real.shape) < 0.2
    # The first and the last token of a text, neighbours, and a whole text.
    for places in ((0, 0), (0, 3), (0, 4), (0, 6), (1, 0)):
        anywhere[places] = True
    inputs["input_ids"] = np.where(real & anywhere, model(family, "hidden", POSITIONS).config.pad_token_id, inputs["input_ids"])
    arrays = dict(inputs)
    for task in ("hidden", "sequence-classification", "masked-lm"):
        arrays[f"{task}.truth"] = outputs(model(family, task, POSITIONS), task, inputs, torch.float64)
        arrays[f"{task}.yardstick"] = yardstick(family, task, inputs, arrays[f"{task}.truth"])
    np.savez_compressed(FOLDER / family / "padding.npz", about=about(), **arrays)


def about() -> str:
    return json.dumps({"version": VERSION, **{name: importlib.metadata.version(name) for name in ("transformers", "torch")}})


if __name__ == "__main__":
    for name in sys.argv[1:] or [*(name for name in CASES if name not in LEFT_OUT), *IN_NUMPY]:
        write_in_numpy(name) if name in IN_NUMPY else write(name)
