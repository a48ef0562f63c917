"""The application: routes, the key, the bounds of a request, and responses that are errors."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fastattn.serve import cohere, openai, tei
from fastattn.serve.requests import Body, Refused
from fastattn.serve.service import Limits, Pending, Service, Work

__all__ = ["application"]

logger = logging.getLogger(__name__)

Shape = Callable[[Refused], tuple[int, dict[str, Any]]]
Begin = Callable[[Body, Service], Work]
Endpoint = Callable[[Request], Awaitable[Response]]

# Threads that read bodies, tokenise and write responses; one computes beside them.
_THREADS = 4
# Bytes of a body from which on its request waits for a thread of its own: a text of 10 MB is tokenised for seconds.
_LONG = 200_000
# Status of a request whose client went away; nobody reads it.
_GONE = 499
# The page loads nothing, and talks to this service alone.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_PAGE = Path(__file__).parent / "page.html"


_CALLS: dict[str, Begin] = {
    "/v1/embeddings": openai.embeddings,
    "/v1/rerank": cohere.rerank,
    "/v2/rerank": cohere.rerank_2,
    "/embed": tei.embed,
    "/embed_sparse": tei.embed_sparse,
    "/rerank": tei.rerank,
}
# Paths that need no key: a probe has none, and the page asks for it.
_OPEN = ("/", "/health")


def application(service: Service, key: str | None = None) -> Starlette:
    """Return the ASGI application of a service, which it closes when it stops; with `key`, requests need it."""
    return _Application(service, key).starlette()


class _Application:
    """Requests in work, the threads beside the computing one, and what the responses are made of."""

    def __init__(self, service: Service, key: str | None) -> None:
        self._service, self._key, self._created = service, key, int(time.time())
        self._threads = ThreadPoolExecutor(_THREADS, "fastattn request")
        self._long = ThreadPoolExecutor(1, "fastattn long request")
        self._active = 0
        self._bodies = _Bodies(service.limits.requests * service.limits.body_bytes)

    def starlette(self) -> Starlette:
        service, created = self._service, self._created
        reads: dict[str, Callable[[Request], Response]] = {
            "/": lambda _: Response(_PAGE.read_bytes(), 200, {"content-security-policy": _POLICY}, "text/html"),
            "/health": self._health,
            "/info": lambda _: _json(tei.info(service)),
            "/metrics": lambda _: Response(service.metrics.text(), media_type="text/plain; version=0.0.4"),
            "/v1/models": lambda _: _json(openai.models(service, created)),
            "/v1/models/{name:path}": self._model,
        }
        routes = [Route(path, self._endpoint(path, self._reading(path, read)), methods=["GET"]) for path, read in reads.items()]
        routes += [Route(path, self._endpoint(path, self._calling(begin)), methods=["POST"]) for path, begin in _CALLS.items()]
        found = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown}, lifespan=self._lifespan)
        # A redirect would lead to http:// also behind a proxy that speaks TLS, and take the key along.
        found.router.redirect_slashes = False
        return found

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        # The queue first: what it finishes is still written by the threads.
        await asyncio.to_thread(self._service.close)
        self._threads.shutdown()
        self._long.shutdown()

    def _health(self, _: Request) -> Response:
        alive = self._service.batcher.is_alive
        return _json({"status": "ok" if alive else "the computing thread ended"}, 200 if alive else 503)

    def _model(self, request: Request) -> Response:
        return _json(openai.model_entry(self._service.named(request.path_params["name"]), self._created))

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self._key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise Refused("key", 'the header "Authorization: Bearer KEY" is missing, or its key is not that of the service')

    def _endpoint(self, path: str, answer: Endpoint) -> Endpoint:
        """Return the endpoint of a path: a failure becomes a response, and each response is counted."""
        shape = _shape(path)

        async def endpoint(request: Request) -> Response:
            begun = time.perf_counter()
            try:
                response = await answer(request)
            except Refused as refused:
                response = _refusal(refused, shape)
            except ClientDisconnect:
                response = Response(status_code=_GONE)
            except asyncio.CancelledError:
                # By uvicorn, and this response is the last that is sent.
                response = _refusal(Refused("stopping", "the service stops, and this request was not finished in time"), shape)
            except Exception:
                logger.exception("%s failed", path)
                response = _refusal(Refused("failed", "the service failed; its log says why"), shape)
            self._service.metrics.answered(path, response.status_code, time.perf_counter() - begun)
            return response

        return endpoint

    def _reading(self, path: str, read: Callable[[Request], Response]) -> Endpoint:
        """Return what answers at a path that only tells something."""

        async def answer(request: Request) -> Response:
            if path not in _OPEN:
                self._check_key(request)
            return read(request)

        return answer

    def _calling(self, begin: Begin) -> Endpoint:
        """Return what answers at a path to which texts are sent."""

        async def answer(request: Request) -> Response:
            self._check_key(request)
            # Before the body, which then is not read in vain, and after it: one that does not come takes no place.
            self._check_places()
            with self._bodies.one() as take:
                raw = await _body(request, self._service.limits, take)
                self._check_places()
                self._active += 1
                try:
                    loop, threads = asyncio.get_running_loop(), self._long if len(raw) > _LONG else self._threads
                    pending = await loop.run_in_executor(threads, lambda: self._service.begin(begin(Body(raw), self._service)))
                    await _results(request, pending)
                    content = await loop.run_in_executor(threads, lambda: _encoded(self._service.finish(pending)))
                finally:
                    self._active -= 1
            return Response(content, media_type="application/json")

        return answer

    def _check_places(self) -> None:
        if self._active >= (most := self._service.limits.requests):
            raise Refused("full", f"{most:,} requests are in work: try again in a second", retry_after=1)

    async def _unknown(self, request: Request, error: Exception) -> Response:
        """Answer a request for a path that is not there, or by another method."""
        path, status = request.url.path, getattr(error, "status_code", 404)
        self._service.metrics.answered("other", status, 0.0)
        if status == 405:
            # Allow: the methods that the path does take.
            headers: Mapping[str, str] = getattr(error, "headers", None) or {}
            return _refusal(Refused("method", f"{path:.200} does not take {request.method}"), _shape(path), headers)
        paths = ", ".join(_CALLS)
        return _refusal(Refused("path", f"there is no {path:.200}; texts are sent to: {paths}"), _shape(path))


class _Bodies:
    """Bytes of all bodies, of requests in work and of those that are still read; past a bound no more are read."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0

    @contextlib.contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes room for more bytes of one body, or raises `Refused`; at the end the room is free again."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._bytes + size > self._most:
                said = f"the bodies of other requests take {self._bytes - taken:,} bytes: try again in a second"
                raise Refused("full", said, retry_after=1)
            self._bytes += size
            taken += size

        try:
            yield take
        finally:
            self._bytes -= taken


async def _body(request: Request, limits: Limits, take: Callable[[int], None]) -> bytes:
    """Return the body; one that is too large is not read to its end, and one that is too slow is not waited for."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused("encoded", f"the body must not be compressed, got Content-Encoding: {encoding:.50}")
    try:
        return await asyncio.wait_for(_read(request, limits.body_bytes, take), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Refused("slow", f"the body did not come to its end within {limits.body_seconds:g} s") from None


async def _read(request: Request, most: int, take: Callable[[int], None]) -> bytes:
    said = request.headers.get("content-length", "")
    size, parts = int(said) if said.isascii() and said.isdigit() else 0, []
    if size <= most:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                break
            take(len(part))
            parts.append(part)
    if size > most:
        raise Refused("large", f"the body has more than {most:,} bytes: send several requests")
    return b"".join(parts)


async def _results(request: Request, pending: Pending) -> None:
    """Wait for the results; drop the work if the client goes away before."""
    if pending.results.done():
        return
    results = asyncio.wrap_future(pending.results)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((results, gone), return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            raise ClientDisconnect
    finally:
        gone.cancel()
        if not results.cancel():
            # Retrieved here; `finish` raises what it holds.
            results.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shape(path: str) -> Shape:
    return openai.error if path.startswith(("/v1/", "/v2/")) else tei.error


def _refusal(refused: Refused, shape: Shape, headers: Mapping[str, str] | None = None) -> Response:
    status, body = shape(refused)
    more = dict(headers or {})
    if refused.retry_after is not None:
        more["retry-after"] = str(refused.retry_after)
    if refused.reason == "key":
        more["www-authenticate"] = "Bearer"
    if refused.reason == "slow":
        # The rest of the body would come before the next request.
        more["connection"] = "close"
    return Response(_encoded(body), status, more, "application/json")


def _encoded(content: Any) -> bytes:
    """Return JSON, a row at a time: while `json` writes something, no other thread runs."""
    if isinstance(content, list) and content and isinstance(content[0], (dict, list)):
        return b"[" + b",".join(map(_encoded, content)) + b"]"
    if isinstance(content, dict) and any(isinstance(value, list) for value in content.values()):
        return b"{" + b",".join(_encoded(name) + b":" + _encoded(value) for name, value in content.items()) + b"}"
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _json(content: Any, status: int = 200) -> Response:
    return Response(_encoded(content), status, media_type="application/json")
