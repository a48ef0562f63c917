"""The service behind a real server: clients that go away, and a process that is told to stop."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastattn import SentenceTransformer
from fastattn.serve import server as server_module
from fastattn.serve.app import application
from fastattn.serve.models import Served
from fastattn.serve.server import Server
from fastattn.serve.service import Limits, Service
from tests.serve.gate import WAIT, Gate, until
from tests.serve.running import running
from tests.support.command_line import ROOT, run

pytestmark = pytest.mark.jit


def post(port: int, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def server(models: list[Served]) -> Iterator[tuple[int, Service]]:
    """Return the port of a server, and its service."""
    service = Service(models, Limits(batch_tokens=20, cache_bytes=0))
    with running(application(service)) as (port, _):
        yield port, service


def sent(port: int, data: bytes) -> socket.socket:
    """Return a connection on which something was sent."""
    found = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    found.sendall(data)
    return found


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    found = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            found += part
    return found


def test_the_work_of_a_client_that_goes_away_is_dropped(
    server: tuple[int, Service], models: list[Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, service = server
    gate = Gate(models[0].compute)
    monkeypatch.setattr(models[0], "compute", gate)
    body = json.dumps({"input": ["the cat sat on a mat"] * 50}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    first = socket.create_connection(("127.0.0.1", port))
    first.sendall(head + body)
    gate.begun(1)
    second = socket.create_connection(("127.0.0.1", port))
    second.sendall(head + body)
    until(lambda: service.batcher.tokens("embedder") == (50 - 2) * 8 + 50 * 8)
    second.close()
    until(lambda: service.batcher.tokens("embedder") == (50 - 2) * 8)
    first.close()
    until(lambda: service.batcher.tokens("embedder") == 0)
    # A body that never comes to its end.
    third = socket.create_connection(("127.0.0.1", port))
    third.sendall(head + body[:10])
    third.close()
    until(lambda: b'route="/v1/embeddings",status="499"} 3.0' in service.metrics.text())
    gate.opened.set()
    status, content = post(port, "/embed", {"inputs": "a dog"})
    assert status == 200
    np.testing.assert_array_equal(np.float32(content[0]), models[0].model.encode("a dog", normalize_embeddings=True))
    assert gate.sizes == [2, 1]


def test_bodies_that_never_come_to_their_end_hold_up_nobody(models: list[Served]) -> None:
    """They take no places of requests in work, however many they are."""
    service = Service(models, Limits(requests=2, body_seconds=1.0))
    with running(application(service)) as (port, found):
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        slow = [sent(port, head % path) for path in (b"/v1/embeddings", b"/embed", b"/rerank", b"/embed", b"/embed_sparse")]
        until(lambda: len(found.server_state.tasks) == len(slow))
        assert post(port, "/embed", {"inputs": "a"})[0] == 200
        answers = [rest(connection) for connection in slow]
        assert [answer.split(b" ")[1] for answer in answers] == [b"408"] * len(slow)
        message = "the body did not come to its end within 1 s"
        assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["error"]["message"] == message
        assert json.loads(answers[1].partition(b"\r\n\r\n")[2]) == {"error": message, "error_type": "Validation"}
        assert post(port, "/embed", {"inputs": "a"})[0] == 200


def test_bodies_take_a_bounded_number_of_bytes(models: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are still read, and those of requests in work, as many as the requests in work may have."""
    gate = Gate(models[0].compute)
    monkeypatch.setattr(models[0], "compute", gate)
    service = Service(models, Limits(requests=2, body_bytes=1000, body_seconds=2.0, cache_bytes=0))
    with running(application(service)) as (port, found):
        head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        body = json.dumps({"inputs": "a dog"}).encode().ljust(1000)
        working = sent(port, head + body)
        gate.begun(1)
        slow = sent(port, head + b"{".ljust(900))
        # Its head and its bytes come in one piece.
        until(lambda: len(found.server_state.tasks) == 2)
        # 1,900 of 2,000 bytes are taken.
        status, content = post(port, "/embed", {"inputs": "a" * 100})
        assert (status, content["error_type"]) == (429, "Overloaded")
        assert content["error"] == "the bodies of other requests take 1,900 bytes: try again in a second"
        assert rest(slow).split(b" ")[1] == b"408"
        gate.opened.set()
        assert post(port, "/embed", {"inputs": "a" * 100})[0] == 200
        working.close()
        until(lambda: len(found.server_state.connections) == 0)
        assert post(port, "/embed", {"inputs": "a" * 900})[0] == 200


def test_connections_on_which_nothing_happens_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing, one whose head never ends, one that reads no response; others go on."""
    monkeypatch.setattr(server_module, "_IDLE", 0.3)
    large = b"x" * 50_000_000

    async def slow(_: Request) -> Response:
        await asyncio.sleep(1.5)
        return Response(b"slow")

    app = Starlette(routes=[Route("/", lambda _: Response(large)), Route("/slow", slow)])
    request = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with running(app) as (port, found):
        silent, half, unread = (sent(port, data) for data in (b"", b"GET / HTTP/1.1\r\nHo", request % b"/"))
        working = sent(port, request % b"/slow")
        assert rest(silent) == rest(half) == b""
        until(lambda: len(found.server_state.connections) <= 1)
        assert len(rest(unread)) < len(large)
        assert rest(working).endswith(b"slow")
        # A response that is read, if slowly, comes whole.
        reading, count = sent(port, request % b"/"), 0
        for _ in range(12):
            count += len(reading.recv(1 << 21, socket.MSG_WAITALL))
            time.sleep(0.1)
        assert count + len(rest(reading)) > len(large)


def test_what_is_not_finished_within_the_grace_is_503(
    models: list[Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(models[0].compute)
    monkeypatch.setattr(models[0], "compute", gate)
    service, answers = Service(models), []
    with running(application(service), 1) as (port, found):
        clients = [
            threading.Thread(target=lambda path=path, body=body: answers.append(post(port, path, body)))
            for path, body in (("/v1/embeddings", {"input": "a cat"}), ("/embed", {"inputs": "a dog"}))
        ]
        for client in clients:
            client.start()
        gate.begun(1)
        until(lambda: found.server_state.total_requests == 0 and len(found.server_state.tasks) == 2)
        found.should_exit = True
        for client in clients:
            client.join(WAIT)
        gate.opened.set()
    assert [status for status, _ in answers] == [503, 503]
    said = {json.dumps(content.get("error_type", content["error"])) for _, content in answers}
    message = "the service stops, and this request was not finished in time"
    assert json.dumps({"message": message, "type": "server_error", "param": None, "code": None}) in said
    assert '"Unhealthy"' in said
    assert "Traceback" not in caplog.text


def test_the_environment_of_uvicorn_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    assert Server(Starlette()).config.workers == 1


class Process:
    """`fastattn serve` in a process of its own, and the port that it says."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "fastattn", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said, self.process.communicate()
        self.port = int(self.said.split()[0].rpartition(":")[2])


@pytest.fixture
def started() -> Iterator[Any]:
    processes = []

    def start(*arguments: str, **environment: str) -> Process:
        processes.append(Process(*arguments, **environment))
        return processes[-1]

    yield start
    for found in processes:
        found.process.kill()
        found.process.communicate()


def test_sigterm_finishes_what_is_in_work_and_takes_nothing_new(started: Any) -> None:
    """The real model, in a real process."""
    found = started("--batch-tokens", "256", "--grace", "300")
    assert found.said.endswith(" serves all-MiniLM-L6-v2 (embedding)\n")
    texts = [f"text number {i} of some that a service embeds, one after the other" for i in range(300)]
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(post(found.port, "/v1/embeddings", {"input": texts})))
    client.start()
    until(lambda: b'fastattn_texts_total{model="all-MiniLM-L6-v2"}' in metrics(found.port))
    found.process.send_signal(signal.SIGTERM)
    until(lambda: not accepts(found.port))
    assert client.is_alive() and not answers
    client.join(300)
    status, content = answers[0]
    assert status == 200
    rows = np.float32([item["embedding"] for item in content["data"]])
    some = [0, 1, 7, 299]
    np.testing.assert_array_equal(rows[some], SentenceTransformer(local_files_only=True).encode([texts[i] for i in some]))
    out, errors = found.process.communicate(timeout=WAIT)
    assert (found.process.returncode, out, errors) == (0, "", "")


def metrics(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read()


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_several_models_with_names_and_a_key(started: Any, folders: dict[str, Path]) -> None:
    found = started(f"first={folders['embedder']}", str(folders["reranker"]), FASTATTN_API_KEY="secret\n")
    assert found.said.endswith(" serves first (embedding), reranker (rerank)\n")
    assert post(found.port, "/embed", {"inputs": "a"})[0] == 401
    connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=300)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer secret"})
        content = json.loads(connection.getresponse().read())
    assert [item["id"] for item in content["data"]] == ["first", "reranker"]


class TestBadArguments:
    @pytest.mark.parametrize(
        ("key", "message"),
        [(" ", "FASTATTN_API_KEY is set and empty"), ("a\nb", "a control character"), ("a\udcff", "or is not UTF-8")],
    )
    def test_keys(self, key: str, message: str, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
        monkeypatch.setenv("FASTATTN_API_KEY", key)
        assert message in run("serve", str(folders["embedder"]), code=2).stderr

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("", "--host is empty"),
            ("é" * 70, "no name of a host"),
            ("256.0.0.1.invalid", "--host 256.0.0.1.invalid --port 0: Name or service not known\n"),
        ],
    )
    def test_hosts(self, host: str, message: str, folders: dict[str, Path]) -> None:
        assert message in run("serve", str(folders["embedder"]), "--host", host, "--port", "0", code=2).stderr

    def test_an_address_in_use(self, folders: dict[str, Path]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            said = run("serve", str(folders["embedder"]), "--port", port, code=2).stderr
        assert f"--host 127.0.0.1 --port {port}: Address already in use\n" in said

    def test_no_such_model(self) -> None:
        assert "error: " in run("serve", "/nowhere/at/all", "--port", "0", code=2).stderr

    def test_two_of_one_name(self, folders: dict[str, Path]) -> None:
        twice = [str(folders["embedder"])] * 2
        assert "two models have the name 'embedder'" in run("serve", *twice, "--port", "0", code=2).stderr

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        monkeypatch.delitem(sys.modules, server_module.__name__)
        assert "error: serve needs uvicorn: pip install 'fastattn[serve]'" in run("serve", code=2).stderr
