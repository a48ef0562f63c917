"""Service for gunicorn with a preloaded application: the model is loaded and used before the workers are forked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from fastattn.runtime.threads import thread_count
from soak._work import all_calls, results

WORK = all_calls()


def digest() -> str:
    return hashlib.sha256(repr(sorted(results(WORK).items())).encode()).hexdigest()


PARENT, EXPECTED = os.getpid(), digest()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the worker's process id, whether its bits equal the parent's, and its threads."""
    good = digest() == EXPECTED
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {os.getpid() != PARENT and good} {thread_count()}".encode()]
