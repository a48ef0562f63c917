"""The server: uvicorn with the settings of the service, which closes connections on which nothing moves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette

__all__ = ["Server"]

# Seconds between two looks at the connections.
_IDLE = 30.0


class Server(uvicorn.Server):
    """Server of an application; after SIGTERM, requests in work have `grace` seconds to finish.

    uvicorn waits for ever for a head that does not come to its end, and for a client that does not read its response.
    """

    def __init__(self, app: Starlette, grace: int = 30) -> None:
        # Without proxy headers and workers: uvicorn reads these from the environment.
        super().__init__(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                lifespan="on",
                ws="none",
                server_header=False,
                proxy_headers=False,
                workers=1,
                timeout_graceful_shutdown=grace,
            )
        )
        self._closing: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until SIGTERM or Ctrl-C, which uvicorn raises once more at its end: the process then ends with code 0."""
        with contextlib.suppress(ValueError):
            # ValueError: not the main thread, which no signal reaches.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._closing = asyncio.create_task(self._close_idle())

    async def _close_idle(self) -> None:
        """Close connections without a request in work on which nothing happened from one look to the next."""
        before: dict[Any, Any] = {}
        while True:
            await asyncio.sleep(_IDLE)
            now: dict[Any, Any] = {}
            for connection in list(self.server_state.connections):
                request: Any = getattr(connection, "cycle", None)
                if request is None or request.response_complete:
                    now[connection] = request, connection.transport.get_write_buffer_size()
                    if before.get(connection) == now[connection]:
                        connection.transport.abort()
            before = now
