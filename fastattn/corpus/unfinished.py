"""Unfinished runs: a folder beside the output with the vectors so far, and how many of them are safe on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus.manifest import is_manifest, read_json, what_changed
from fastattn.runtime.files import write_json

__all__ = ["Changed", "Unfinished", "unfinished_path"]

# Seconds between two checkpoints: a killed run loses these, and the slice of texts that is computed.
_EVERY = 10.0


def unfinished_path(out: Path) -> Path:
    """Return the folder of an unfinished run."""
    return out.with_name(f"{out.name}.partial")


class Changed(ValueError):
    """The texts are not those of the beginning of the run, so that its vectors may be of others."""


class Unfinished:
    """Folder of a run: ``manifest.json``, ``vectors`` (float32, a row for each text), ``progress.json``, ``rejects.jsonl``.

    A folder without a manifest holds nothing.  At the end of the context it is removed, unless an error leaves vectors in it: what
    ended the run may have passed when another one continues it.

    Parameters
    ----------
    out : Path, or None
        The output; None for stdout, whose run nobody can continue.
    resume : bool
        Whether the run continues an earlier one.
    overwrite : bool
        Whether an earlier one is thrown away.
    """

    def __init__(self, out: Path | None, resume: bool, overwrite: bool) -> None:
        self._out, self._resume, self._overwrite = out, resume, overwrite
        self.rows = 0
        """Vectors that are safe, or will be at the next checkpoint."""
        self.before: dict[str, Any] | None = None
        """Manifest of the run that is continued."""
        self.counts: dict[str, int] = {}
        self._begun: tuple[int, dict[str, int]] = (0, {})

    def __enter__(self) -> Unfinished:
        """Make the folder, or take that of an earlier run."""
        if self._out is None:
            self.path = Path(tempfile.mkdtemp(prefix="fastattn-"))
        else:
            self.path = unfinished_path(self._out)
            self._check_earlier()
            try:
                self.path.mkdir(exist_ok=True)
            except OSError as error:
                raise type(error)(f"{self._out}: cannot be written: {error.strerror}") from error
        self._lock = (self.path / "lock").open("wb")
        try:
            _lock(self._lock)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.path}: another process is writing {self._out}") from None
        return self

    def _check_earlier(self) -> None:
        found = read_json(self.path / "manifest.json")
        if not is_manifest(found):
            return
        if not self._resume and not self._overwrite:
            done, total = self._progress().get("rows", 0), found.get("texts", {}).get("count", 0)
            raise ValueError(
                f"{self.path}: has {done:,} of {total:,} texts of a run that did not finish: "
                "--resume continues it, --overwrite begins anew"
            )
        self.before = found if self._resume else None

    def _progress(self) -> dict[str, int]:
        found = read_json(self.path / "progress.json")
        return found if isinstance(found, dict) else {}

    def begin(self, manifest: dict[str, Any], width: int) -> None:
        """Begin, or continue the earlier run; ValueError if that had other texts, another model or other settings."""
        self._width = width
        changed = None if self.before is None else what_changed(self.before, manifest)
        if changed is not None and not self._overwrite:
            raise ValueError(f"{self.path}: cannot be continued: {changed}; --overwrite begins anew")
        if self.before is None or changed is not None:
            self.before = None
            for name in ("progress.json", "vectors"):
                (self.path / name).unlink(missing_ok=True)
        vectors = self.path / "vectors"
        self.counts = self._progress()
        size = vectors.stat().st_size if vectors.exists() else 0
        self.rows = min(self.counts.get("rows", 0), size // (4 * width))
        self._begun = self.rows, self.counts
        write_json(self.path / "manifest.json", manifest)
        # Unbuffered: what a full disk takes is known at once.
        self._file = vectors.open("ab", buffering=0)
        self._file.truncate(4 * self.rows * width)
        self._written, self._saved = self.rows, time.monotonic()

    def write(self, row: NDArray[np.float32]) -> None:
        """Write a vector."""
        raw = np.ascontiguousarray(row, np.float32).data.cast("B")
        while len(raw):
            raw = raw[self._file.write(raw) :]
        self._written += 1

    def mark(self, counts: dict[str, int]) -> None:
        """Take the vectors so far, and counts that belong to them, for the next checkpoint, which is due from time to time."""
        self.rows, self.counts = self._written, counts
        if time.monotonic() - self._saved >= _EVERY:
            self.save()

    def save(self) -> None:
        """Make the marked vectors safe."""
        os.fsync(self._file.fileno())
        write_json(self.path / "progress.json", {**self.counts, "rows": self.rows})
        self._saved = time.monotonic()

    def vectors(self) -> BinaryIO:
        """Open the vectors for reading."""
        return (self.path / "vectors").open("rb")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Remove the folder, or leave what another run can continue."""
        with self._lock:
            self._leave(error)
        if isinstance(error, OSError) and error.strerror and not error.filename and self._out is not None:
            # The system names no file where a disk is full.
            raise type(error)(error.errno, error.strerror, str(self._out)) from error

    def _leave(self, error: BaseException | None) -> None:
        if isinstance(error, Changed):
            self.rows, self.counts = self._begun
        with contextlib.suppress(AttributeError, OSError):
            if error is not None:
                self.save()
        with contextlib.suppress(AttributeError):
            self._file.close()
        if self._out is None or error is None or (not self.rows and self.before is None):
            # First, because a folder without a manifest holds nothing.
            (self.path / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)


def _lock(file: BinaryIO) -> None:
    """Lock a file for this process, until it is closed; nothing where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
