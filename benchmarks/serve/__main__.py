"""Load trial: clients that each send one text after the other, to `fastattn serve` and to the peer, and what they got.

python -m benchmarks.serve --seconds 60 --peer-python .venv-peers/bin/python
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastattn import SentenceTransformer
from fastattn.cli.compare import busy_cpus
from fastattn.cli.compare_precision import standard_texts

ROOT = Path(__file__).parents[2]
SHORT, LONG = 5, 200


class Text(NamedTuple):
    request: bytes
    tokens: int


class Found(NamedTuple):
    seconds: list[float]
    tokens: int
    statuses: Counter[int]
    time: float


def made_texts(model: SentenceTransformer, count: int) -> list[str]:
    """Return texts of 5 to 200 tokens, of all lengths alike often: pieces of Python's documentation, no two the same."""
    words = " ".join(standard_texts().texts).split()
    rng = np.random.default_rng(0)
    texts = []
    while len(texts) < count:
        start, wanted = int(rng.integers(0, len(words) - LONG)), int(rng.integers(SHORT, LONG + 1))
        ids = model.tokenizer(" ".join(words[start : start + wanted]), add_special_tokens=False)["input_ids"][: wanted - 2]
        texts.append(model.tokenizer.decode(ids))
    return list(dict.fromkeys(texts))


def request_of(text: str) -> bytes:
    body = json.dumps({"model": "all-MiniLM-L6-v2", "input": text}).encode()
    return b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def client(port: int, texts: Sequence[Text], first: int, step: int, end: float, found: Found) -> int:
    """Send texts until the end; return the tokens of those that got an embedding."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tokens, place = 0, first
    while time.perf_counter() < end:
        text = texts[place % len(texts)]
        place += step
        begun = time.perf_counter()
        writer.write(text.request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        status = int(head.split(None, 2)[1])
        found.statuses[status] += 1
        if status == 200:
            found.seconds.append(time.perf_counter() - begun)
            tokens += text.tokens
    writer.close()
    return tokens


async def load(port: int, texts: Sequence[Text], clients: int, seconds: float) -> Found:
    found, begun = Found([], 0, Counter(), 0.0), time.perf_counter()
    tokens = await asyncio.gather(*(client(port, texts, i, clients, begun + seconds, found) for i in range(clients)))
    return found._replace(tokens=sum(tokens), time=time.perf_counter() - begun)


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process, which other programs change less than its speed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[int]:
    """Run a server, and give the number of its process once it listens."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--peer-python", help="an interpreter with sentence-transformers, starlette and uvicorn")
    given = parser.parse_args()
    busy, model = busy_cpus(), SentenceTransformer()
    texts = made_texts(model, given.texts)
    model.encode(texts[:64])
    begun = time.perf_counter()
    model.encode(texts, normalize_embeddings=True)
    counts, seconds = model.counts, time.perf_counter() - begun
    own = counts.tokens / seconds
    sent = [Text(request_of(text), len(model.tokenizer(text)["input_ids"])) for text in texts]
    lengths = [text.tokens for text in sent]
    print(f"{len(texts):,} texts of {min(lengths)} to {max(lengths)} tokens, {given.clients} clients, {given.seconds:g} s each")
    print(f"encode by itself: {own:,.0f} tokens/s; other programs kept {busy:.1f} CPUs busy before\n", flush=True)
    folder, port = str(model.folder), free_port()
    del model
    # Without its cache: each text is sent several times.
    servers = {"fastattn serve": [sys.executable, "-m", "fastattn", "serve", "--port", str(port), "--cache-mb", "0"]}
    if given.peer_python:
        peer = [given.peer_python, str(Path(__file__).with_name("peer.py")), folder]
        servers |= {f"sentence-transformers, {mode}": [*peer, str(port), mode] for mode in ("plain", "batched")}
    print(f"{'':32} {'requests/s':>10} {'p50, ms':>9} {'p99, ms':>9} {'tokens/s':>10} {'of encode':>9} {'CPU ms':>7}  errors")
    for name, command in servers.items():
        with running(command, port) as process:
            asyncio.run(load(port, sent, given.clients, min(5, given.seconds)))
            before = cpu_seconds(process)
            found = asyncio.run(load(port, sent, given.clients, given.seconds))
            cpu = cpu_seconds(process) - before
        parts = statistics.quantiles(found.seconds, n=100)
        errors = {status: count for status, count in found.statuses.items() if status != 200}
        rate, speed = len(found.seconds) / found.time, found.tokens / found.time
        row = f"{rate:>10.1f} {parts[49] * 1e3:>9.1f} {parts[98] * 1e3:>9.1f} {speed:>10,.0f} {speed / own:>9.1%}"
        print(f"{name:32} {row} {cpu / len(found.seconds) * 1e3:>7.1f}  {errors or 'none'}", flush=True)


if __name__ == "__main__":
    main()
