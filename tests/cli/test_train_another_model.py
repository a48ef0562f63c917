"""`fastattn train --resume` with another model than that with which the run began."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.test_train import rows
from tests.support.command_line import run
from tests.support.models import write_sentence_model

pytestmark = pytest.mark.jit


def test_a_run_of_another_model_is_not_resumed(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "o")

    other = write_sentence_model(tmp_path / "other", normalize=True)
    tensors = {name: array * np.float32(0.5) for name, array in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors")
    monkeypatch.setattr("fastattn.cli.train._replace", full)
    data, rest = rows(tmp_path / "p.jsonl", "a", "b"), ("-o", str(tmp_path / "o"), "--batch-size", "4", "--save-every", "1")
    run("train", data, "-m", model, *rest, code=2)
    monkeypatch.undo()
    said = run("train", data, "-m", str(other), *rest, "--resume", code=2).stderr
    assert "a checkpoint of another run: its weights at the beginning are others" in " ".join(said.split())
    run("train", data, "-m", model, *rest, "--resume")
    assert (tmp_path / "o").is_dir()
