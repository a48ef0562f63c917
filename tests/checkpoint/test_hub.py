"""Repositories on the Hugging Face Hub: which of their files are downloaded, and names that are not there."""

import contextlib
import fnmatch
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.models import assert_reads_the_same, only_a_pickle, write_bert, write_json, write_sentence_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace huggingface_hub by a copy of the folder ``repository``; the lists of files that each call asked for."""
    calls: list[list[str]] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str], local_files_only: bool, **options: Any) -> str:
        source, target = tmp_path / "repository", tmp_path / "snapshots" / ("a" * 40)
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        found = sorted(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns))
        calls.append(found)
        for name in [] if local_files_only else found:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
        return str(target)

    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return calls


def test_safetensors_are_downloaded_and_no_variants(tmp_path: Path, hub: list[list[str]]) -> None:
    source = write_bert(tmp_path / "repository")
    for name in ("model.fp16.safetensors", "pytorch_model.bin", "onnx/model.onnx", "other/model.safetensors", "README.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    folder = find_model("org/name")
    assert hub == [["README.md", "config.json"], ["model.safetensors"]]
    assert_reads_the_same(folder)


def test_pickles_are_downloaded_where_there_are_no_safetensors(tmp_path: Path, hub: list[list[str]]) -> None:
    only_a_pickle(write_bert(tmp_path / "repository"))
    (tmp_path / "repository" / "training_args.bin").touch()
    folder = find_model("org/name")
    assert hub == [["config.json"], [], ["pytorch_model.bin"]]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a whole file of pickled tensors"):
        read_encoder(folder)


def test_files_of_an_index(tmp_path: Path, hub: list[list[str]]) -> None:
    source = write_bert(tmp_path / "repository")
    (source / "model.safetensors").rename(source / "part[1].bin")
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": {"a": "part[1].bin", "b": "part2.bin"}})
    (source / "part2.bin").touch()
    find_model("org/name")
    assert hub[-1] == ["part2.bin", "part[1].bin"]


def test_weights_of_modules(tmp_path: Path, hub: list[list[str]]) -> None:
    source = write_sentence_model(tmp_path / "repository")
    entries = [
        {"path": "", "type": "x.Transformer"},
        {"path": "1_Pooling", "type": "x.Pooling"},
        {"path": "last", "type": "x.Dense"},
    ]
    write_json(source / "modules.json", entries)
    (source / "last").mkdir()
    (source / "last" / "pytorch_model.bin").touch()
    (source / "unused").mkdir()
    (source / "unused" / "pytorch_model.bin").touch()
    find_model("org/name")
    assert hub[1:] == [["model.safetensors"], ["last/pytorch_model.bin"]]


def test_offline(tmp_path: Path, hub: list[list[str]]) -> None:
    write_bert(tmp_path / "repository")
    folder = find_model("org/name")
    count = len(hub)
    assert find_model("org/name", local_files_only=True) == folder
    assert len(hub) == count + 1
    assert_reads_the_same(folder)


def test_a_mistyped_name_is_one_short_error_with_near_names(
    tmp_path: Path, hub: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: Any, **options: Any) -> str:
        with contextlib.suppress(ConnectionError):
            raise ConnectionError("first")
        raise OSError("404 Client Error\nmany\nlines")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", missing)
    constants = ModuleType("huggingface_hub.constants")
    constants.HF_HUB_CACHE = str(tmp_path)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    (tmp_path / "models--BAAI--bge-small-en-v1.5").mkdir()
    (tmp_path / "models--sentence-transformers--all-mpnet-base-v2").mkdir()
    names = {
        "all-MiniLM-L6-v1": "all-MiniLM-L6-v2",
        "BAAI/bge-smal-en-v1.5": "BAAI/bge-small-en-v1.5",
        "all-mpnet-base-v3": "all-mpnet-base-v2",
    }
    for name, near in names.items():
        with pytest.raises(FileNotFoundError, match=rf"\(404 Client Error\); similar names on this machine: .*{near}") as caught:
            find_model(name)
        assert caught.value.__cause__ is caught.value.__context__ is None
    with pytest.raises(FileNotFoundError) as caught:
        find_model("org/quite-another")
    assert "similar" not in str(caught.value)
