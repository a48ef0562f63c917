"""Pickled weights: read by torch as tensors only, and refused without torch."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.models import assert_reads_the_same, bert_tensors, only_a_pickle, write_bert, write_json


def pickled(folder: Path, content: Any, **options: Any) -> Path:
    torch = pytest.importorskip("torch")
    (write_bert(folder) / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", **options)
    return folder


def torch_tensors(dtype: str = "float32") -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in bert_tensors().items()}


@pytest.mark.parametrize("new_format", [True, False])
def test_pickle_with_torch(tmp_path: Path, new_format: bool) -> None:
    assert_reads_the_same(pickled(tmp_path, torch_tensors(), _use_new_zipfile_serialization=new_format))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_in_a_pickle(tmp_path: Path, dtype: str) -> None:
    content = torch_tensors(dtype)
    expected = {name: tensor.float().numpy() for name, tensor in content.items()}
    assert_reads_the_same(pickled(tmp_path, content), expected)


def test_shards_of_pickles(tmp_path: Path) -> None:
    content = torch_tensors()
    pickled(tmp_path, content)
    (tmp_path / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(content)}
    torch = pytest.importorskip("torch")
    for file in set(weight_map.values()):
        torch.save({name: tensor for name, tensor in content.items() if weight_map[name] == file}, tmp_path / file)
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    assert_reads_the_same(tmp_path)


def test_safetensors_come_first(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert_reads_the_same(tmp_path)


class Code:
    """Pickled code: unpickling an instance makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "model", {**torch_tensors(), "code": Code(str(tmp_path / "ran"))})
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: refused by torch\.load\(weights_only=True\)"):
        read_encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_more_than_tensors_in_a_pickle(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a dict of tensors by name, found a dict with other values"):
        read_encoder(pickled(tmp_path, {"model": torch_tensors()}))


def test_pickle_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write_bert(tmp_path)
    only_a_pickle(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"refused, because a pickle can run any code.*torch.*is not installed; .*`fastattn convert "
    ):
        read_encoder(tmp_path)


def test_pickle_with_an_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch before 2.6 is refused: its weights_only=True can be made to run code."""
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    write_bert(tmp_path)
    only_a_pickle(tmp_path)
    with pytest.raises(CheckpointError, match=r"read by torch 2\.5\.1\+cpu; torch from 2\.6 on can read the tensors alone"):
        read_encoder(tmp_path)
