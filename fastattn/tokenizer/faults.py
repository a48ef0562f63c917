"""Faults of the tokenizers library: its exceptions and panics become errors that say what is wrong."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from fastattn.checkpoint.folder import CheckpointError

__all__ = ["call", "sound"]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def sound(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an exception or a Rust panic of the tokenizers library into a CheckpointError; OSError if no thread can be started."""
    try:
        yield
    except BaseException as error:
        # The library raises plain Exception, and a BaseException if its Rust code panics.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        if _lacks_threads(error):
            raise OSError(
                "the tokenizers library cannot start a thread (a limit on processes or threads?); "
                f"with TOKENIZERS_PARALLELISM=false in the environment it needs none: {error}"
            ) from error
        raise CheckpointError(f"{source}: not a tokenizer: {error}") from error


def call(source: str | os.PathLike[str], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of the tokenizers library; again, and from now on, in one thread if it cannot start others."""
    with sound(source):
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if not _lacks_threads(error) or os.environ.get("TOKENIZERS_PARALLELISM") == "false":
                raise
            logger.warning("No thread can be started: texts are tokenised in one thread (TOKENIZERS_PARALLELISM=false)")
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            return function(*args, **kwargs)


def _lacks_threads(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException" and "ThreadPoolBuildError" in str(error)
