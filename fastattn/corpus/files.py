"""Files of a corpus: one, those of a folder or of a pattern, behind a URL, or stdin."""

from __future__ import annotations

import errno
import glob
import hashlib
import importlib
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

__all__ = ["FORMATS", "SUFFIXES", "File", "find_files", "kind_of", "text_of"]

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
SUFFIXES = {
    **dict.fromkeys((".txt", ".md", ".rst", ".log"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_PACKED = (".gz", ".zst")
_BLOCK = 2**20


class File(NamedTuple):
    """A file of a corpus.

    Parameters
    ----------
    name : str
        Its name in messages.
    open : callable
        Returns its bytes, each time from the start.
    digest : callable
        Returns a str that is another one when the file has changed.
    """

    name: str
    open: Callable[[], BinaryIO]
    digest: Callable[[], str]


def find_files(name: str) -> list[File]:
    """Return the files that a name stands for, in the order of their names; ``-`` is stdin, which is read to its end."""
    if name == "-":
        return [_stdin()]
    if "://" in name:
        return _remote(name)
    path = Path(name)
    if path.is_dir():
        inside = [each for each in sorted(path.rglob("*")) if _is_data(each.relative_to(path).as_posix())]
        found = [str(each) for each in inside if each.is_file()]
        if not found:
            raise ValueError(f"{name}: is a directory without a file that can be read: {_supported()}")
        return [_local(each) for each in found]
    if not path.exists() and glob.has_magic(name):
        found = sorted(each for each in glob.glob(name, recursive=True) if os.path.isfile(each))
        if not found:
            raise FileNotFoundError(f"{name}: no file has such a name")
        return [_local(each) for each in found]
    return [_local(name)]


def _is_data(name: str) -> bool:
    """Tell whether a file in a folder can be read; engines give names such as ``_SUCCESS`` to what is no data."""
    return _kind(name) is not None and not any(part.startswith((".", "_")) for part in name.split("/"))


def _local(name: str) -> File:
    def opened() -> BinaryIO:
        return _input(name, Path(name).open("rb"))

    return File(name, opened, lambda: _digest(opened()))


def _digest(file: BinaryIO) -> str:
    found = hashlib.blake2b(digest_size=16)
    with file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _stdin() -> File:
    if sys.stdin is None:
        raise ValueError("stdin: cannot be read: it is closed")
    spool = _Spool(sys.stdin.buffer)

    def again() -> BinaryIO:
        spool.file.seek(0)
        return _input("stdin", spool.file, spool)

    return File("stdin", again, lambda: _digest(again()))


class _Spool:
    """A copy of a stream on disk, since a corpus is read more than once."""

    def __init__(self, stream: BinaryIO) -> None:
        self.file = tempfile.TemporaryFile()
        shutil.copyfileobj(stream, self.file, _BLOCK)

    def __del__(self) -> None:
        """Close, and so remove, the copy."""
        self.file.close()


def _input(name: str, file: BinaryIO, owner: object = None) -> BinaryIO:
    return io.BufferedReader(_Input(name, file, owner))


class _Input(io.RawIOBase):
    """A file whose errors have its name, by which they are told from damage, for which pyarrow raises an OSError too.

    Parameters
    ----------
    name : str
        Its name in messages.
    file : binary file
        The file.
    owner : object
        What closes the file, which is else closed with this one.
    """

    def __init__(self, name: str, file: BinaryIO, owner: object) -> None:
        self._name, self._file, self._owner = name, file, owner

    def readable(self) -> bool:
        """Tell that bytes can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        try:
            if hasattr(self._file, "readinto"):
                return int(self._file.readinto(buffer))
            found = self._file.read(len(buffer))
        except OSError as error:
            if error.filename:
                raise
            # Errors of a store may have no number.
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), self._name) from error
        buffer[: len(found)] = found
        return len(found)

    def seekable(self) -> bool:
        """Tell whether there is a place to go to, as Parquet needs."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file, unless it is another's."""
        if not self.closed and self._owner is None:
            self._file.close()
        super().close()


def _remote(name: str) -> list[File]:
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise ImportError(f"{name}: a URL needs fsspec ({error}): pip install 'fastattn[io]'") from error
    try:
        system, path = fsspec.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if glob.has_magic(path):
        paths = sorted(system.glob(path))
    elif system.isdir(path):
        paths = sorted(each for each in system.find(path) if _is_data(each[len(path) :].strip("/")))
    else:
        paths = [path]
    if not paths:
        raise FileNotFoundError(f"{name}: no file that can be read: {_supported()}")

    def one(path: str) -> File:
        shown = system.unstrip_protocol(path)
        return File(shown, lambda: _input(shown, system.open(path, "rb")), lambda: str(system.checksum(path)))

    return [one(path) for path in paths]


def _supported() -> str:
    return f"{', '.join(SUFFIXES)}, each of text also with {' or '.join(_PACKED)}"


def _kind(name: str) -> str | None:
    """Return the format that a name tells, None if it tells none."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes[-1:] and suffixes[-1] in _PACKED:
        suffixes.pop()
        return kind if suffixes and (kind := SUFFIXES.get(suffixes[-1])) != "parquet" else None
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def kind_of(name: str) -> str:
    """Return the format that a name tells; ValueError if it tells none."""
    kind = _kind(name)
    if kind is None:
        what = Path(name).suffix or "a file without a suffix"
        raise ValueError(
            f"{name}: cannot read {what}; supported: {_supported()}, or - for stdin; "
            f"--format ({', '.join(FORMATS)}) says what another name holds"
        )
    return kind


def text_of(file: File, encoding: str) -> TextIO:
    """Open a file as text, unpacked; bytes that are not of the encoding become surrogates."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(f"--encoding: there is no encoding {encoding!r}") from None
    lower = file.name.lower()
    part = _zstandard(file.name) if lower.endswith(".zst") else partial(zlib.decompressobj, 31) if lower.endswith(".gz") else None
    raw: Any = file.open()
    if part is not None:
        raw = _Unpacked(file.name, "gzip" if lower.endswith(".gz") else "zstd", raw, part)
    # Line ends stay for the csv module, which keeps those inside quotes.
    return io.TextIOWrapper(io.BufferedReader(raw), encoding=encoding, errors="surrogateescape", newline="")


def _zstandard(name: str) -> Callable[[], Any]:
    try:
        return cast("Callable[[], Any]", importlib.import_module("compression.zstd").ZstdDecompressor)
    except ImportError:
        pass
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise ImportError(f"{name}: .zst needs zstandard ({error}): pip install 'fastattn[io]'") from error
    return lambda: zstandard.ZstdDecompressor().decompressobj()


class _Unpacked(io.RawIOBase):
    """Reads what is packed in a file, in one part or several; ValueError if the last one is not whole, or is none."""

    def __init__(self, name: str, kind: str, file: BinaryIO, part: Callable[[], Any]) -> None:
        self._name, self._kind, self._file, self._part = name, kind, file, part
        self._inside: Any = None
        self._left, self._next = memoryview(b""), b""

    def readable(self) -> bool:
        """Tell that bytes can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        while not self._left:
            if not self._more():
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _more(self) -> bool:
        packed, self._next = self._next or self._file.read(_BLOCK // 16), b""
        if self._inside is None or self._inside.eof:
            # Zeros behind the last part are padding.
            packed = packed.lstrip(b"\0") if self._inside is not None else packed
            if not packed and self._inside is not None:
                self._next = self._file.read(_BLOCK // 16)
                return bool(self._next)
            self._inside = self._part()
        if not packed:
            raise ValueError(f"{self._name}: not a complete {self._kind} file: it ends too early")
        try:
            self._left = memoryview(self._inside.decompress(packed))
        except Exception as error:  # each library has errors of its own
            raise ValueError(f"{self._name}: not a complete {self._kind} file: {error}") from error
        self._next = self._inside.unused_data if self._inside.eof else b""
        return True

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
