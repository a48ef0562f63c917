"""A hostile input, and what may come of it: a right answer or a documented exception, soon and in little memory."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from soak._resident import peak, reset_peak

# Bytes that a call may allocate for each byte of its input, and besides: a page table, a compiled regular expression.
FACTOR = 100
FLOOR = 4 * 2**20
# tracemalloc misses memory of the libraries and memory maps, so the process's growth is limited too. Allocators keep freed
# chunks for each thread: this much growth is theirs.
SLACK = 64 * 2**20
# CPU seconds of a case: an endless loop exceeds them even on a busy machine.
SECONDS = 5.0


class Case(NamedTuple):
    """One input."""

    about: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    documented: tuple[type[BaseException], ...]
    size: int
    must_answer: bool = False


def attempt(case: Case) -> str:
    """Run a case; "answer" or the name of the documented exception.  AssertionError for anything else."""
    tracemalloc.reset_peak()
    resident = reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        result, outcome = case.run(), "answer"
    except case.documented as error:
        result, outcome = None, _name(type(error))
        if case.must_answer:
            raise AssertionError(f"{case.about}: right arguments were refused") from error
    except BaseException as error:
        raise AssertionError(f"{case.about}: {type(error).__name__} is not documented") from error
    seconds, taken = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
    grown = peak() - resident
    if seconds > SECONDS:
        raise AssertionError(f"{case.about}: took {seconds:.1f} s")
    if taken > FACTOR * case.size + FLOOR:
        raise AssertionError(f"{case.about}: took {taken:,} bytes for an input of {case.size:,}")
    if grown > FACTOR * case.size + SLACK:
        raise AssertionError(f"{case.about}: the process grew by {grown:,} bytes for an input of {case.size:,}")
    if outcome == "answer":
        try:
            case.check(result)
        except AssertionError as error:
            raise AssertionError(f"{case.about}: {error}") from None
    return outcome


def limit_memory(size: int) -> None:
    """Let this process map so many bytes beyond what it has: more is an error of the case that asked, not of the machine."""
    if sys.platform == "linux":
        import resource

        status = Path("/proc/self/status").read_bytes()
        most = int(status.partition(b"VmSize:")[2].split(maxsplit=1)[0]) * 1024 + size
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _name(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__ if not base.__name__.startswith("_"))
