"""A server in a thread."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from starlette.applications import Starlette

from fastattn.serve.server import Server
from tests.serve.gate import WAIT

__all__ = ["running"]


@contextlib.contextmanager
def running(app: Starlette, grace: int = 30) -> Iterator[tuple[int, Server]]:
    """Run a server in a thread; give its port, and itself."""
    listening = socket.create_server(("127.0.0.1", 0))
    found = Server(app, grace)
    thread = threading.Thread(target=found.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1], found
    finally:
        found.should_exit = True
        thread.join(WAIT)
    assert not thread.is_alive()
