"""Writes files atomically: a reader sees the whole old file or the whole new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["check_plain", "check_space", "lfs_pointer", "remove_abandoned", "replacing", "write_file", "write_json"]

# First line of a Git LFS pointer, which stands for a file that was not downloaded.
_POINTER = b"version https://git-lfs"
# Errors of a full or broken disk: the operating system names no file in them.
_DISK_ERRORS = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS") if hasattr(errno, name)}
# Seconds after which the temporary file of a killed process is removed: a live process can compute for hours between writes.
_ABANDONED = 24 * 3600.0
# The most letters of a file's name in the name of its temporary file, which then, with a hash, fits the limit of 255 bytes.
_MOST_LETTERS = 50
# Bytes of a block that is copied at a time.
_BLOCK = 2**20


@contextlib.contextmanager
def replacing(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder, which replaces `path` at the end, or is removed after an error.

    Of several writers the last one wins.  The permissions of a replaced file stay, and its owner where the system allows it; those
    of a new file follow the umask.  `follow`: replace the target of a symbolic link, not the link.
    """
    check_plain(path)
    target = Path(os.path.realpath(path)) if follow else path
    before = target.stat() if target.is_file() and not target.is_symlink() else None
    # Not the process id, which repeats: in every container it is 1.
    temporary = target.with_name(f"{_stem(target)}.{uuid.uuid4().hex[:12]}.tmp")

    def private(name: str, flags: int) -> int:
        # A reader who may not open the old file may not open the new one while it is written either.
        return os.open(name, flags, 0o666 if before is None else 0o600)

    try:
        file = open(temporary, "xb", opener=private)
    except OSError as error:
        raise type(error)(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            # Without fsync a system crash may keep the new name, but not the content.
            os.fsync(file.fileno())
        if before is not None:
            _keep_access(temporary, before)
        temporary.replace(target)
    except OSError as error:
        if error.errno in _DISK_ERRORS and not error.filename:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    remove_abandoned(target, _ABANDONED)


def check_plain(path: Path) -> None:
    """Raise an OSError unless a path is that of a plain file, or of none."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written: it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: cannot be written: it is not a plain file")


def remove_abandoned(path: Path, seconds: float) -> None:
    """Remove the temporary files of `path` that a killed process left, and that have not been written to for so long."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f"{glob.escape(_stem(target))}.????????????.tmp"):
            if time.time() - left.stat().st_mtime > seconds:
                left.unlink()


def _stem(target: Path) -> str:
    name = target.name
    if len(name) > _MOST_LETTERS:
        # The beginning alone would be that of other files too, whose writers may be at work.
        name = f"{name[:_MOST_LETTERS]}.{hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()}"
    return f".{name}"


def _keep_access(path: Path, before: os.stat_result) -> None:
    """Give a file the permissions, the owner and the group of the file that it replaces, as far as the system allows it."""
    mode, now = stat.S_IMODE(before.st_mode), path.stat()
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            if now.st_uid != before.st_uid:
                os.chown(path, before.st_uid, -1)
        try:
            if now.st_gid != before.st_gid:
                os.chown(path, -1, before.st_gid)
        except OSError:
            # The rights of the old group are not for another one.
            mode &= ~stat.S_IRWXG
    with contextlib.suppress(OSError):
        path.chmod(mode)


def check_space(path: Path, size: int) -> None:
    """Raise if the disk of `path` has less than `size` bytes free; nothing if the system does not tell."""
    try:
        free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    except OSError:
        return
    if size > free:
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB free", str(path)
        )


def lfs_pointer(path: Path) -> bool:
    """Tell whether a file is a Git LFS pointer instead of the file itself."""
    with path.open("rb") as file:
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
