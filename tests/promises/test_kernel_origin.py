"""Kernels on disk belong to the kernel modules that were loaded, from whatever kind of file, and to the package's version."""

import compileall
import os
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastattn.kernels.compile import cache as _cache
from fastattn.kernels.compile import digest as _digest
from fastattn.kernels.compile.digest import source_tag
from soak._child import ROOT
from tests.support.cases import JIT

pytestmark = [pytest.mark.jit, pytest.mark.skipif(not JIT, reason="without the JIT nothing is compiled")]

# A constant of a kernel that `gelu` calls, in another module: byte code of the outer function does not show it.
MODULE, CONSTANT, OTHER = "kernels/vector/elementary.py", "-1.15110445022583", "-1.05110445022583"


def tree(folder: Path, *, changed: bool) -> Path:
    """Copy the package's sources, with the other constant if `changed`."""
    shutil.copytree(ROOT / "fastattn", folder / "fastattn", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "fastattn" / MODULE
    source = path.read_text("utf-8")
    assert CONSTANT in source
    path.write_text(source.replace(CONSTANT, OTHER) if changed else source, "utf-8")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


def byte_code(folder: Path) -> Path:
    """Replace sources by byte code, as in images that are made small."""
    assert compileall.compile_dir(folder, quiet=2, legacy=True)
    for path in folder.rglob("*.py"):
        path.unlink()
    return folder


def zipped_byte_code(folder: Path) -> Path:
    return zipped(byte_code(folder))


FORMS: dict[str, Callable[[Path], Path]] = {
    "source": lambda folder: folder,
    "zip": zipped,
    "byte code": byte_code,
    "zip of byte code": zipped_byte_code,
}
TAG = "from fastattn.kernels.compile.digest import source_tag; print(source_tag())"
GELU = "import numpy as np, fastattn; print(float(fastattn.gelu(np.array([1.0], np.float32))[0]))"


def run(path: Path, code: str, caches: Path) -> tuple[str, str]:
    """Return what a process prints that imports the package from `path` and keeps kernels in `caches`."""
    given = {**os.environ, "PYTHONPATH": str(path), "XDG_CACHE_HOME": str(caches), "LOCALAPPDATA": str(caches)}
    given.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=caches, env=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_another_release_has_another_tag(form: str, tmp_path: Path) -> None:
    tags = {run(FORMS[form](tree(tmp_path / name, changed=name == "old")), TAG, tmp_path)[0] for name in ("old", "new")}
    assert len(tags) == 2 and "None" not in tags


def test_a_new_release_in_a_zip_does_not_run_the_kernels_of_the_old_one(tmp_path: Path) -> None:
    """And each release says that it compiles, once."""
    old, new = (zipped(tree(tmp_path / name, changed=name == "old")) for name in ("old", "new"))
    found, said = zip(*(run(path, GELU, tmp_path) for path in (old, new, new)), strict=True)
    assert abs(float(found[1]) - 0.8413447) < 1e-6 < abs(float(found[0]) - float(found[1])) and found[1] == found[2]
    assert said == ("compiling kernels for this CPU, once (up to a minute)\n",) * 2 + ("",)
    assert len(list((tmp_path / "fastattn").glob("gelu_kernel-*.nbc"))) == 2


def digest_of(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str | None:
    """Return the tag where a kernel module has a loader with these functions."""
    module = types.ModuleType(f"{_digest._KERNELS}.invented")
    module.__loader__ = types.SimpleNamespace(**changes)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(_digest, "_hashes", {})
    return source_tag()


def code_of(source: str) -> Any:
    return compile(source, "<frozen>", "exec")


def test_modules_that_have_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders of frozen programs give sources or byte code; where there is neither, kernels are not kept."""

    def missing(*names: Any) -> Any:
        raise OSError("no such file")

    before = source_tag()
    frozen = [
        {"get_source": lambda name: "x = 1"},
        {"get_source": lambda name: "x = 2"},
        {"get_source": lambda name: None, "get_code": lambda name: code_of("def f(): return 1.5 in {1, 2}")},
        {"get_code": lambda name: code_of("def f(): return 2.5 in {1, 2}")},
        {"get_data": missing, "get_code": lambda name: code_of("def f(): return 2.5 in {1, 3}")},
    ]
    tags = [digest_of(monkeypatch, **functions) for functions in frozen]
    assert len({before, *tags}) == 6 and None not in tags
    assert digest_of(monkeypatch, get_code=frozen[3]["get_code"]) == tags[3]
    assert digest_of(monkeypatch, get_source=lambda name: None, get_code=lambda name: None) is None


def test_a_file_that_is_replaced_while_the_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_tag()
    monkeypatch.setattr(_digest, "_content", lambda module: b"another release")
    assert source_tag() == before


def test_versions_are_part_of_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {source_tag()}
    for where, name in ((_digest, "__version__"), (_digest.numba, "__version__"), (_digest.llvmlite, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, "0.0")
            tags.add(source_tag())
    assert len(tags) == 4


@pytest.mark.parametrize("how", ["frozen", "compiled by Nuitka", "below the temporary folder"])
def test_a_folder_that_is_unpacked_for_one_run_is_no_cache(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyInstaller unpacks into a folder that is removed at the end: every start would compile."""
    own = Path(_cache.__file__).parent / "__pycache__"
    monkeypatch.setattr(_cache.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setattr(_cache.tempfile, "tempdir", str(tmp_path))
    assert _cache._lasting_folders() == [own, tmp_path / "fastattn"]
    if how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif how == "compiled by Nuitka":
        monkeypatch.setattr(_cache, "__compiled__", object(), raising=False)
    else:
        monkeypatch.setattr(_cache.tempfile, "tempdir", str(own.parents[2]))
    assert _cache._lasting_folders() == [tmp_path / "fastattn"]
