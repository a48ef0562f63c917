"""Hostile input and its check: a right answer or a documented exception, within limits of time and memory."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from soak._resident import peak, reset_peak

# Bytes that a call may allocate per byte of its input, and a constant for fixed costs such as a compiled regular expression.
FACTOR = 100
FLOOR = 4 * 2**20
# Bytes by which the process may grow besides: tracemalloc misses native libraries and memory maps, so resident memory is limited
# too, and allocators keep freed chunks for each thread.
SLACK = 64 * 2**20
# CPU seconds that a case may take: CPU time catches an endless loop and ignores the load of the machine.
SECONDS = 5.0


class Case(NamedTuple):
    """Input of a call, the check of its result, and the exceptions that it may raise."""

    about: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    documented: tuple[type[BaseException], ...]
    size: int
    must_answer: bool = False


def attempt(case: Case) -> str:
    """Run a case and return "answer" or the name of the documented exception; raise AssertionError for any other outcome."""
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
    """Limit this process's address space to `size` bytes beyond its present size: a larger map fails in its case."""
    if sys.platform == "linux":
        import resource

        status = Path("/proc/self/status").read_bytes()
        most = int(status.partition(b"VmSize:")[2].split(maxsplit=1)[0]) * 1024 + size
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _name(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__ if not base.__name__.startswith("_"))
