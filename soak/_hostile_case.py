"""A hostile input, and what may come of it: a right answer or a documented exception, soon and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

# A call may take so many bytes for each byte of its input, and so many besides: a page table, a compiled regular expression.
FACTOR = 100
FLOOR = 4 * 2**20
# Of the processor's time: a loop that does not end shows whatever else the machine does.
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
    if seconds > SECONDS:
        raise AssertionError(f"{case.about}: took {seconds:.1f} s")
    if taken > FACTOR * case.size + FLOOR:
        raise AssertionError(f"{case.about}: took {taken:,} bytes for an input of {case.size:,}")
    if outcome == "answer":
        try:
            case.check(result)
        except AssertionError as error:
            raise AssertionError(f"{case.about}: {error}") from None
    return outcome


def _name(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__ if not base.__name__.startswith("_"))
