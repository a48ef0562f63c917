"""Writes files atomically: a reader sees the whole old file or the whole new one."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["lfs_pointer", "replacing", "write_file", "write_json"]
# First line of a Git LFS pointer, which stands for a file that was not downloaded.
_POINTER = b"version https://git-lfs"
# Seconds after which the temporary file of a killed process is removed: a live process can compute for hours between writes.
_ABANDONED = 24 * 3600.0
# The most letters of a file's name in the name of its temporary file, which then fits the limit of 255 bytes.
_MOST_LETTERS = 50
# Bytes of a block that is copied at a time.
_BLOCK = 2**20


@contextlib.contextmanager
def replacing(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder, which replaces `path` at the end, or is removed after an error.

    Of several writers the last one wins.  `follow`: replace the target of a symbolic link, not the link.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written: it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: cannot be written: it is not a plain file")
    target = Path(os.path.realpath(path)) if follow else path
    stem = f".{target.name[:_MOST_LETTERS]}"
    # Not the process id, which repeats: in every container it is 1.
    temporary = target.with_name(f"{stem}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        file = temporary.open("xb")
    except OSError as error:
        raise type(error)(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            # Without fsync a system crash may keep the new name, but not the content.
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f"{glob.escape(stem)}.????????????.tmp"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def lfs_pointer(content: Path | bytes) -> bool:
    """Tell whether a file, given by its path or its content, is a Git LFS pointer instead of the file itself."""
    if isinstance(content, bytes):
        return content.startswith(_POINTER)
    with content.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def write_file(path: Path, content: bytes | Path) -> None:
    """Write bytes, or a copy of a file, atomically: readers and memory maps of the old file keep all of it.

    A symbolic link is replaced, so a link in a model folder cannot direct the write to a file outside.
    """
    if isinstance(content, bytes):
        with replacing(path, follow=False) as file:
            file.write(content)
        return
    with content.open("rb") as source, replacing(path, follow=False) as file:
        shutil.copyfileobj(source, file, _BLOCK)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_file(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
