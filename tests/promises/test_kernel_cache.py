"""Kernel cache: after any damage to its files the next start is right; a failure to write is warned of once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastattn.kernels.compile import cache as _cache
from fastattn.kernels.compile.jit import cache_directory, compile_cached
from soak._child import ROOT, run_child
from tests.support.cases import JIT

pytestmark = [pytest.mark.jit, pytest.mark.skipif(not JIT, reason="without the JIT nothing is compiled")]


def double() -> Any:
    """Return a kernel that is not compiled yet in this process."""

    def double(x):  # type: ignore[no-untyped-def]
        return x * 2

    return compile_cached(double)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(_cache.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_cache, "_said", set())
    yield tmp_path / "cache" / "fastattn"


def hits(kernel: Any) -> int:
    return sum(kernel.stats.cache_hits.values())


def test_a_kernel_is_kept_for_each_signature(folder: Path) -> None:
    first = double()
    assert (first(3), first(1.5)) == (6, 3.0) and hits(first) == 0
    assert len(list(folder.iterdir())) == 2
    second = double()
    assert (second(3), second(1.5)) == (6, 3.0) and hits(second) == 2
    assert cache_directory() == folder


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "one byte missing": lambda content: content[:-1],
    "one byte too many": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "one bit in the code": lambda content: content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
    "one bit in the digest": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "another file": lambda content: b"\x80\x04N." * 100,
    "another version": lambda content: content.replace(b"fastattn kernel\n", b"fastattn-kernel\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file(folder: Path, damage: str) -> None:
    assert double()(3) == 6
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    kernel = double()
    with pytest.warns(RuntimeWarning, match="is damaged .* compiled again"):
        assert kernel(3) == 6
    assert hits(kernel) == 0
    again = double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again(3) == 6
    assert hits(again) == 1


def test_a_sound_digest_over_what_cannot_be_read(folder: Path) -> None:
    """Pickles of another version of Numba or NumPy may have a sound digest and still fail to load."""
    import hashlib

    assert double()(3) == 6
    (path,) = folder.iterdir()
    payload = b"cno.such.module\nthing\n."
    path.write_bytes(_cache._MAGIC + hashlib.sha256(payload).digest() + payload)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert double()(3) == 6


def test_a_folder_or_a_loop_in_the_files_place(folder: Path) -> None:
    assert double()(3) == 6
    (path,) = folder.iterdir()
    path.unlink()
    path.symlink_to(path.name)
    assert double()(3) == 6
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="kept in"):
        assert double()(3) == 6


def test_it_is_said_once(folder: Path) -> None:
    for _ in range(2):
        assert double()(3) == 6
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning) as said:
        kernel = double()
        kernel(3)
        for path in folder.iterdir():
            path.write_bytes(b"")
        double()(3)
    assert len(said) == 1


def test_another_cpu_or_python_has_other_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.registry import cpu_target

    codegen = cpu_target.target_context.codegen()
    cache = double()._cache
    names = {cache._file_name((), codegen)}
    with monkeypatch.context() as patch:
        patch.setattr(type(codegen), "magic_tuple", lambda self: ("triple", "another-cpu", ""))
        names.add(cache._file_name((), codegen))
    with monkeypatch.context() as patch:
        patch.setattr(sys.implementation, "cache_tag", "cpython-399")
        names.add(cache._file_name((), codegen))
    monkeypatch.setattr(_cache.config, "BOUNDSCHECK", 1)
    names.add(cache._file_name((), codegen))
    assert len(names) == 4


def written(count: int, **environment: Any) -> dict[str, Any]:
    found = run_child("_interrupt_child", "write", count, **environment)
    assert not found["wrong"]
    return dict(found)


def test_no_folder_is_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders below a regular file cannot be made, not even by root."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_cache.config, "CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(_cache.tempfile, "tempdir", str(tmp_path / "file" / "tmp"))
    with pytest.warns(RuntimeWarning, match=r"are not kept.*NUMBA_CACHE_DIR") as said:
        assert double()(3) == 6
        assert double()(3) == 6
    assert len(said) == 1
    assert cache_directory() is None


def test_the_temporary_folder_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_cache.config, "CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="for now"):
        assert double()(3) == 6
    again = double()
    assert again(3) == 6 and hits(again) == 1
    (kept,) = tmp_path.glob("fastattn-cache-*")
    if hasattr(os, "getuid"):
        kept.chmod(0o777)
        open_to_all = double()
        with pytest.warns(RuntimeWarning, match="not kept"):
            assert open_to_all(3) == 6
        assert hits(open_to_all) == 0, "read from a folder that anybody can write to"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users here")
def test_a_temporary_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder owned by another user, or a link, is refused: its owner could plant code that this process runs."""
    own = tmp_path / f"fastattn-cache-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.symlink_to("elsewhere")
    assert _cache._temporary_folder() is None
    own.unlink()
    assert _cache._temporary_folder() == own
    user = os.getuid() + 1
    (tmp_path / f"fastattn-cache-{user}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: user)
    assert _cache._temporary_folder() is None


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home", "relative"])
def test_no_home(home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_cache.config, "CACHE_DIR", "")
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
    assert all(path.is_absolute() for path in _cache._lasting_folders())
    assert not list(tmp_path.iterdir())


def test_an_installation_that_is_read_only(tmp_path: Path) -> None:
    """Kernels go silently to the user's cache folder; without a home, to the temporary folder, with one warning."""
    shutil.copytree(ROOT / "fastattn", tmp_path / "fastattn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastattn" / "kernels" / "compile" / "__pycache__").write_text("")
    code = "import numpy, fastattn; print(fastattn.gelu(numpy.zeros((2, 3), numpy.float32)).sum())"

    def run(**environment: str) -> str:
        given = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), **environment}
        given.pop("NUMBA_CACHE_DIR", None)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=240)
        assert done.stdout == "0.0\n", done.stderr
        return done.stderr

    (tmp_path / "tmp").mkdir()
    compiling = "compiling kernels for this CPU, once (up to a minute)\n"
    assert run(XDG_CACHE_HOME=str(tmp_path / "caches")) == compiling
    assert len(list((tmp_path / "caches" / "fastattn").glob("*.nbc"))) == 1
    nowhere = str(tmp_path / "fastattn" / "__init__.py")
    said = run(XDG_CACHE_HOME=nowhere, HOME=nowhere)
    assert said.count("RuntimeWarning") == 1 and "for now" in said
    assert run(XDG_CACHE_HOME=nowhere, HOME=nowhere) == ""


def test_a_full_disk(folder: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limit on the size of files here")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kernel = double()
    # A write beyond the limit raises OSError: Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.warns(RuntimeWarning, match="are not kept"):
            assert (kernel(3), kernel(1.5)) == (6, 3.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(folder.iterdir()), "half a file is left"
    assert double()(3) == 6 and len(list(folder.iterdir())) == 1


def test_two_writers_at_once(tmp_path: Path) -> None:
    """Race: in Numba's own cache, two writers' index could map one signature to the other's file."""
    command = [sys.executable, "-m", "soak._interrupt_child", "write", "6"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    writers = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for writer in writers:
        out, _ = writer.communicate(timeout=240)
        assert writer.returncode == 0
        found = json.loads(out.splitlines()[-1])
        assert not found["wrong"] and not found["said"]
    found = written(6, NUMBA_CACHE_DIR=tmp_path)
    assert found["hits"] == 12 and not found["said"]


def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "soak._interrupt_child", "write", "9"]
    for kernel in (1, 4):
        writer = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip() == str(kernel):
                time.sleep(0.01 * kernel)
                writer.send_signal(signal.SIGKILL)
                break
        writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL
    found = written(9, NUMBA_CACHE_DIR=tmp_path)
    assert found["hits"] >= 8 and not found["said"]
    # SIGKILL halfway through writing a file.
    half = (
        "import os; from pathlib import Path; from soak import _interrupt_child as child; write = Path.write_bytes; "
        "Path.write_bytes = lambda path, x: (write(path, x[:len(x) // 2]), os.kill(os.getpid(), 9)); child.write(10)"
    )
    done = subprocess.run([sys.executable, "-c", half], cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    found = written(10, NUMBA_CACHE_DIR=tmp_path)
    assert not found["said"] and found["hits"] == 18 and len(list((tmp_path / "fastattn").glob("*.tmp.*"))) >= 1
    # Temporary files are removed once they are too old to belong to a running writer.
    folder = tmp_path / "fastattn"
    left = folder / "kernel.nbc.tmp.0123"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    written(11, NUMBA_CACHE_DIR=tmp_path)
    assert not left.exists()
    assert written(11, NUMBA_CACHE_DIR=tmp_path)["hits"] == 22
