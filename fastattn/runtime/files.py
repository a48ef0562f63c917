"""Files that are written in one step: a reader sees all of the old one or all of the new one."""

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

__all__ = ["replacing", "write_file", "write_json"]


# A temporary file that a killed process was writing is removed when it is older than this, in seconds: computing what comes
# into it can take hours, in which nothing is written.
_ABANDONED = 24 * 3600.0


# Letters of a file's name in that of its temporary file: of four bytes each they still leave room in a name.
_NAMED = 50


# Bytes that are copied at a time.
_COPIED = 2**20


@contextlib.contextmanager
def replacing(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` at the end, and is removed if there is an error before.

    Whoever reads `path` meanwhile sees all of the old file or all of the new one; of several writers the last one stays.

    Parameters
    ----------
    path : Path
        The file to write.
    follow : bool
        Of a symbolic link, replace what it leads to and not the link.

    Yields
    ------
    binary file
        The temporary file, in the same folder.

    Raises
    ------
    IsADirectoryError
        `path` is a folder.
    OSError
        It cannot be written, or is a pipe or a device; the message names `path`.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written: it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: cannot be written: it is not a plain file")
    target = Path(os.path.realpath(path)) if follow else path
    stem = f".{target.name[:_NAMED]}"
    # Numbers of processes come again: in a container each is the first.
    temporary = target.with_name(f"{stem}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        file = temporary.open("xb")
    except OSError as error:
        raise type(error)(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            # A system that goes down may otherwise keep the new name and not what is in the file.
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f"{glob.escape(stem)}.????????????.tmp"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def write_file(path: Path, content: bytes | Path) -> None:
    """Write a file in one step: whoever reads or has mapped what was there before keeps all of it.

    A symbolic link is replaced: none that is found in a model's folder leads out of it.

    Parameters
    ----------
    path : Path
        The file.
    content : bytes or Path
        What it will hold, or the file that it will be a copy of.

    Raises
    ------
    IsADirectoryError
        `path` is a folder.
    OSError
        It cannot be written, or the other file cannot be read.
    """
    if isinstance(content, bytes):
        with replacing(path, follow=False) as file:
            file.write(content)
        return
    with content.open("rb") as source, replacing(path, follow=False) as file:
        shutil.copyfileobj(source, file, _COPIED)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file.

    Parameters
    ----------
    path : Path
        The file.
    content : object
        What it will hold.
    """
    write_file(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
