"""Output on the terminal: heat maps, one red line for an error, a line for what the package logs."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

__all__ = ["announced_compiling", "counted", "error_in_eps", "heat_map", "is_watched", "note", "output", "reported"]

_WRITE_ERRORS = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EBADF") if hasattr(errno, name)}


class _Console(Console):
    """Console that leaves a closed pipe to `reported`: rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise


output = _Console(highlight=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)

_SHADES = " ░▒▓█"
# Dark blue to yellow, in the 256-colour palette.
_COLOURS = (17, 18, 24, 25, 31, 37, 36, 42, 78, 114, 156, 192, 228)


@contextlib.contextmanager
def reported(*, prints: bool = False) -> Iterator[None]:
    """Turn an error that names its cause into one red line on stderr and exit code 2; `prints`: the result goes to stdout.

    SIGTERM and SIGHUP end the program as Ctrl-C does: a half-written output file is removed.  A reader that closes the pipe, as
    `head` does, ends it with the code of SIGPIPE.
    """
    try:
        if prints and sys.stdout is None:
            raise ValueError("stdout: cannot be written: it is closed")
        with _ended_by_signals():
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        raise SystemExit(128 + getattr(signal, "SIGPIPE", 13)) from None
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            # `replacing` names the file of such an error: what has no name is stdout.
            is_stdout = not error.filename and error.errno in _WRITE_ERRORS
            if is_stdout:
                _drop_stdout()
            place = "stdout" if is_stdout else error.filename
            message = f"{place}: {error.strerror}" if place else error.strerror
        note(f"error: {' '.join(message.split())}", style="red")
        raise typer.Exit(2) from None


def _drop_stdout() -> None:
    """Let what is left in stdout's buffer go nowhere: at exit Python writes it again, and would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Ignored signals stay ignored: nohup ignores SIGHUP.
    before = {number: signal.signal(number, _exit) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


class _Notes(logging.Handler):
    """Prints records of the package's loggers as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message."""
        note(record.getMessage())


@contextlib.contextmanager
def announced_compiling() -> Iterator[None]:
    """Print what the package logs within this context, such as that kernels are compiled, and warnings, a line each on stderr."""
    logger, handler = logging.getLogger("fastattn"), _Notes(logging.WARNING)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *args, **kwargs: note(f"warning: {message}", style="yellow")
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def note(message: str, *, style: str | None = None) -> None:
    """Print one line on stderr; nothing if stderr is closed or full."""
    with contextlib.suppress(OSError):
        _errors.print(message, style=style, markup=False)


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: 1 text, 2,000 texts."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_watched() -> bool:
    """Tell whether stderr is a terminal, so that a progress bar is visible."""
    return sys.stderr is not None and sys.stderr.isatty()


def error_in_eps(result: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the worst error, ``max|result - truth| / (eps max|truth|)`` with the eps of float32."""
    scale = float(np.max(np.abs(truth), initial=0)) or 1.0
    return float(np.max(np.abs(result.astype(np.float64) - truth), initial=0) / (scale * np.finfo(np.float32).eps))


def heat_map(
    values: NDArray[Any], rows: Sequence[str], columns: Sequence[str] = (), *, cell: int = 2, high: float = 1
) -> list[Text]:
    """Draw a matrix from 0 to `high`: coloured blocks on a terminal, shades of grey elsewhere; `cell` characters an element."""
    lines = []
    width = max(map(cell_len, rows), default=0)
    if columns:
        head = "".join(set_cell_size(character, cell) for character in columns)
        lines.append(Text(" " * (width + 1) + head))
    levels = np.clip(values / high, 0, 1)
    for label, row in zip(rows, levels, strict=True):
        line = Text(set_cell_size(label, width + 1))
        for level in row:
            if output.color_system in ("256", "truecolor") and not output.no_color:
                line.append(" " * cell, f"on color({_COLOURS[round(float(level) * (len(_COLOURS) - 1))]})")
            else:
                line.append(_SHADES[round(float(level) * (len(_SHADES) - 1))] * cell)
        lines.append(line)
    return lines
