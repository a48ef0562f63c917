"""`fastattn serve`: models behind HTTP."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from fastattn.cli import options
from fastattn.cli.terminal import announced_compiling, note, output, reported

__all__ = ["serve"]

_KEY = "FASTATTN_API_KEY"
_LOCAL = ("127.0.0.1", "::1", "localhost")
_MEGABYTE = 1_000_000


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model folders, or names on the Hugging Face Hub; NAME=FOLDER chooses the name in requests.",
            metavar="[MODEL]...",
            show_default="all-MiniLM-L6-v2",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65_535)] = 8000,
    precision: options.Precision = "float32",
    truncate: Annotated[
        bool, typer.Option("--truncate/--no-truncate", help="Truncate texts that are too long, or refuse them.")
    ] = True,
    batch_tokens: Annotated[int, typer.Option(help="Most tokens of a forward.", min=1)] = 16_384,
    queue_tokens: Annotated[int, typer.Option(help="Most tokens that wait for a model; past it 429.", min=1)] = 262_144,
    max_requests: Annotated[int, typer.Option(help="Most requests in work; past it 429.", min=1)] = 512,
    max_inputs: Annotated[int, typer.Option(help="Most texts of a request.", min=1)] = 2048,
    max_body_mb: Annotated[int, typer.Option("--max-body-mb", help="Most megabytes of a request.", min=1)] = 10,
    cache_mb: Annotated[int, typer.Option("--cache-mb", help="Megabytes of results that are kept; 0 keeps none.", min=0)] = 256,
    grace: Annotated[int, typer.Option(help="Seconds that requests in work have to finish after SIGTERM.", min=0)] = 30,
) -> None:
    """Serve MODELs over HTTP: /v1/embeddings and /v1/models as OpenAI, /v1/rerank and /v2/rerank as Cohere and Jina.

    /embed, /rerank, /embed_sparse, /health, /info and /metrics are those of text-embeddings-inference; / is a page to try it.
    Each model is an embedder, a reranker or a sparse encoder, by its folder. The environment variable FASTATTN_API_KEY sets
    a key that requests must bring. SIGTERM and Ctrl-C finish the requests in work. Needs the extra serve.
    """
    with reported():
        try:
            from fastattn.serve.app import application
            from fastattn.serve.models import load
            from fastattn.serve.server import Server
            from fastattn.serve.service import Limits, Service
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] == "fastattn":
                raise
            raise ImportError(f"serve needs {error.name}: pip install 'fastattn[serve]'") from None
        key = _key()
        arithmetic = options.precision_of(precision)
        # First, so that an address in use is found before the models are loaded.
        with _listening(host, port) as listening:
            with announced_compiling():
                found = [load(model, arithmetic) for model in models] if models else [load(None, arithmetic)]
                limits = Limits(
                    batch_tokens=batch_tokens,
                    queue_tokens=queue_tokens,
                    inputs=max_inputs,
                    body_bytes=max_body_mb * _MEGABYTE,
                    requests=max_requests,
                    cache_bytes=cache_mb * _MEGABYTE,
                    truncate=truncate,
                )
                service = Service(found, limits)
            address = f"[{host}]" if ":" in host else host
            output.print(
                f"http://{address}:{listening.getsockname()[1]} serves {', '.join(f'{x.name} ({x.kind})' for x in found)}",
                markup=False,
                soft_wrap=True,
            )
            if key is None and host not in _LOCAL:
                note(f"warning: every machine that reaches {host} may use it: {_KEY} sets a key", style="yellow")
            Server(application(service, key), grace).run([listening])


def _key() -> str | None:
    key = os.environ.get(_KEY)
    if key is None:
        return None
    # Such as the line end of a file.
    key = key.strip()
    if not key:
        raise ValueError(f"{_KEY} is set and empty: unset it, or give it a key")
    if not key.isprintable():
        raise ValueError(f"{_KEY} has a control character, or is not UTF-8: no header can carry it")
    return key


def _listening(host: str, port: int) -> socket.socket:
    if not host:
        raise ValueError("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 every address of it")
    try:
        # IPv4 first, which is the least.
        family, _, _, _, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return socket.create_server(address, family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        # UnicodeError: a part of the name is empty, or has more than 63 characters.
        said = (error.strerror or str(error)) if isinstance(error, OSError) else "this is no name of a host"
        # Without the address again, which `create_server` adds.
        raise ValueError(f"--host {host} --port {port}: {said.partition(' (while ')[0]}") from None
