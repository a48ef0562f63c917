"""Output files of the command line: replaced atomically, also if a signal ends the process."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.runtime.files import replacing, write_file
from tests.support.command_line import ROOT, run
from tests.support.models import C

pytestmark = pytest.mark.jit


@pytest.mark.skipif(os.name != "posix", reason="reads permissions")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660, None])
def test_permissions_of_an_output(mode: int | None, tmp_path: Path) -> None:
    """A replaced file keeps its permissions, and is as private while it is written; those of a new file follow the umask."""
    path = tmp_path / "x.npy"
    if mode is not None:
        path.write_bytes(b"old")
        path.chmod(mode)
    before = os.umask(0o027)
    try:
        with replacing(path) as file:
            (temporary,) = tmp_path.glob(".x.npy.*.tmp")
            assert temporary.stat().st_mode & 0o777 == (0o640 if mode is None else 0o600)
            file.write(b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == (0o640 if mode is None else mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes owners")
def test_owner_of_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    write_file(path, b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 4321, 0o640)

    def refuse(*arguments: object) -> None:
        raise PermissionError

    # A user may not give the file to that group: its rights are for no other one.
    monkeypatch.setattr(os, "chown", refuse)
    write_file(path, b"newer")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_end_of_a_link_is_replaced(model: str, lines: str, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old.npy").write_bytes(b"old")
    for name in ("old.npy", "new.npy"):
        target, link = tmp_path / "far" / name, tmp_path / name
        link.symlink_to(Path("far") / name)
        run("embed", lines, "-o", str(link), "-m", model, "--overwrite")
        assert link.is_symlink()
        assert np.load(target).shape == (3, C)
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["new.npy", "old.npy"]


def test_a_link_in_a_models_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"old")
    (tmp_path / "config.json").symlink_to("secret")
    write_file(tmp_path / "config.json", b"new")
    assert not (tmp_path / "config.json").is_symlink()
    assert (tmp_path / "secret").read_bytes() == b"old"


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits the size of files")
def test_full_disk(suffix: str, model: str, tmp_path: Path) -> None:
    """A file that may not grow is refused like a full disk: the error names the output, which stays, and nothing is lost."""
    given, out = tmp_path / "x.txt", tmp_path / f"out{suffix}"
    given.write_text("the cat\n" * 400)
    out.write_bytes(b"old")
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
    limit += "import fastattn.text.streaming as streaming; streaming._SLICE = 64; "
    command = [sys.executable, "-c", limit + "runpy.run_module('fastattn', run_name='__main__')"]
    command += ["embed", str(given), "-o", str(out), "-m", model]
    more = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True, "check": False}
    found = subprocess.run([*command, "--overwrite"], **more)  # type: ignore[call-overload]
    left = f"{out}.partial: has the embeddings so far: --resume continues\n"
    assert (found.returncode, found.stderr) == (2, f"{left}error: {out}: File too large\n")
    assert {path.name for path in tmp_path.iterdir()} == {"x.txt", out.name, f"{out.name}.partial"}
    assert out.read_bytes() == b"old"
    assert json.loads((tmp_path / f"{out.name}.partial" / "progress.json").read_text())["rows"] == 40_000 // (4 * C) // 64 * 64
    whole = tmp_path / f"whole{suffix}"
    said = run("embed", str(given), "-o", str(out), "-m", model, "--resume").stderr
    assert ", 256 of an earlier run" in said
    run("embed", str(given), "-o", str(whole), "-m", model)
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "x.txt",
        *(f"{path.name}{end}" for path in (out, whole) for end in ("", ".json")),
    }


def test_room_is_asked_for_before_the_work(model: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.runtime.files.shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10, 8, 2))
    monkeypatch.setattr(SentenceTransformer, "encode_iter", None)
    out = tmp_path / "out.npy"
    said = run("embed", lines, "-o", str(out), "-m", model, code=2).stderr
    assert said == f"error: {out}: {os.strerror(errno.ENOSPC)}: 0.0 MB are needed, 0.0 MB free\n"
    assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_neither_a_pipe_nor_a_device_is_replaced(lines: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "null.npy").symlink_to(os.devnull)
    for name in ("pipe.npy", "null.npy"):
        result = run("embed", lines, "-o", str(tmp_path / name), code=2)
        assert result.stderr == f"error: {tmp_path / name}: cannot be written: it is not a plain file\n"
        with pytest.raises(OSError, match="not a plain file"):
            write_file(tmp_path / name, b"")
    assert (tmp_path / "pipe.npy").is_fifo()


@pytest.mark.parametrize("letter", ["a", "\N{CAT FACE}"])
def test_long_name_of_an_output(letter: str, tmp_path: Path) -> None:
    path = tmp_path / f"{letter * (248 // len(letter.encode()))}.npy"
    with replacing(path) as file:
        (temporary,) = tmp_path.iterdir()
        file.write(b"new")
    # Temporary file left by an earlier run.
    temporary.write_bytes(b"half")
    os.utime(temporary, (1e9, 1e9))
    write_file(path, b"newer")
    assert [left.read_bytes() for left in tmp_path.iterdir()] == [b"newer"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_temporary_file_is_removed(tmp_path: Path, kind: type[BaseException]) -> None:
    (tmp_path / "x.npy").write_bytes(b"old")
    with pytest.raises(kind), replacing(tmp_path / "x.npy") as file:
        file.write(b"new")
        assert len(list(tmp_path.iterdir())) == 2
        raise kind
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Temporary files of a killed process block no later write; old ones are removed, those of another output stay."""
    names = [f".x[1].npy.{stem}.tmp" for stem in ("0123456789ab", str(os.getpid()), "ba9876543210")] + [".x1.npy.0123456789ab.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    for name in (names[0], names[3]):
        os.utime(tmp_path / name, (1e9, 1e9))
    with replacing(tmp_path / "x[1].npy") as file:
        file.write(b"whole")
    assert (tmp_path / "x[1].npy").read_bytes() == b"whole"
    assert {path.name for path in tmp_path.iterdir()} == {"x[1].npy", *names[1:]}


def test_two_writers_of_a_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "x.npy") as first:
        first.write(b"first")
        with replacing(tmp_path / "x.npy") as second:
            second.write(b"second")
        assert (tmp_path / "x.npy").read_bytes() == b"second"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_interrupt_leaves_what_is_done(model: str, name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat sat on the mat\n" * 300_000)
    # Default handlers: a child started in the background or under nohup inherits ignored signals.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += f"signal.{name} == signal.SIGINT or signal.signal(signal.{name}, signal.SIG_DFL); "
    command = [
        sys.executable,
        "-c",
        start + "runpy.run_module('fastattn', run_name='__main__')",
        "embed",
        str(tmp_path / "in.txt"),
        "-o",
        str(tmp_path / "x.npy"),
        "-m",
        model,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    vectors = tmp_path / "x.npy.partial" / "vectors"
    while not (vectors.exists() and vectors.stat().st_size > 10**5) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(getattr(signal, name))
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert errors.endswith(f"{tmp_path / 'x.npy'}.partial: has the embeddings so far: --resume continues\n")
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "x.npy.partial"}
    assert 0 < json.loads(vectors.with_name("progress.json").read_text())["rows"] < 300_000
