"""The peer: an application around sentence-transformers, in an environment that has it.

"plain" calls `encode` for each request, as most such applications do; "batched" gives what waits to one call, as servers with
dynamic batching do.
"""

import asyncio
import contextlib
import queue
import sys
import threading
from concurrent.futures import Future
from typing import Any

import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MOST = 32

folder, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = SentenceTransformer(folder, device="cpu")
waiting: queue.SimpleQueue[tuple[str, Future[Any]]] = queue.SimpleQueue()


def compute() -> None:
    while True:
        taken = [waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(taken) < MOST:
                taken.append(waiting.get_nowait())
        rows = model.encode([text for text, _ in taken], normalize_embeddings=True, show_progress_bar=False)
        for (_, future), row in zip(taken, rows, strict=True):
            future.set_result(row)


def encoded(text: str) -> Any:
    return model.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]


async def embeddings(request: Request) -> JSONResponse:
    text = (await request.json())["input"]
    if mode == "plain":
        row = await asyncio.to_thread(encoded, text)
    else:
        future: Future[Any] = Future()
        waiting.put((text, future))
        row = await asyncio.wrap_future(future)
    return JSONResponse({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": row.tolist()}]})


model.encode(["warm up"])
threading.Thread(target=compute, daemon=True).start()
app = Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
