"""OpenAI's interface: /v1/embeddings, /v1/models and the shape of its errors.

Source: OpenAI's API reference, Embeddings, Models and Error codes.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import numpy as np

from fastattn.serve.models import Embedder, Served
from fastattn.serve.requests import Answer, Body, Reason, Refused, Settings
from fastattn.serve.service import Service, Work

__all__ = ["embeddings", "error", "model_entry", "models"]

_STATUS: dict[Reason, int] = {
    "large": 413, "encoded": 415, "slow": 408, "model": 404, "key": 401, "path": 404, "method": 405, "full": 429, "stopping": 503,
    "failed": 500,
}  # fmt: skip
_CODES: dict[Reason, str] = {
    "model": "model_not_found", "key": "invalid_api_key", "long": "context_length_exceeded", "full": "rate_limit_exceeded",
    "path": "unknown_url",
}  # fmt: skip
_TYPES: dict[Reason, str] = {"full": "rate_limit_error", "stopping": "server_error", "failed": "server_error"}


def error(refused: Refused) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal."""
    reason = refused.reason
    body = {
        "message": refused.message,
        "type": _TYPES.get(reason, "invalid_request_error"),
        "param": refused.field,
        "code": _CODES.get(reason),
    }
    return _STATUS.get(reason, 400), {"error": body}


def embeddings(body: Body, service: Service) -> Work:
    """Read a request for embeddings, which have unit length; ``prompt_name`` and ``task`` are not among OpenAI's fields."""
    model = service.model(body.optional_text("model"), Embedder)
    inputs = body.inputs("input", service.limits.inputs)
    form = body.choice("encoding_format", ("float", "base64"))
    prompt, task = model.prompt(body.optional_text("prompt_name")), body.optional_text("task")
    settings = Settings(prompt, service.limits.truncate, width=body.count("dimensions", model.width(task)), task=task)
    return Work(model, inputs, settings, "input", partial(_response, model.name, form))


def _response(model: str, form: str, answers: list[Answer]) -> dict[str, Any]:
    def value(row: Any) -> Any:
        return base64.b64encode(np.asarray(row, "<f4").tobytes()).decode() if form == "base64" else row.tolist()

    data = [{"object": "embedding", "index": i, "embedding": value(answer.value)} for i, answer in enumerate(answers)]
    tokens = sum(answer.tokens for answer in answers)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def model_entry(model: Served, created: int) -> dict[str, Any]:
    """Return the description of a model; ``task`` and the fields behind it are ours."""
    entry = {"id": model.name, "object": "model", "created": created, "owned_by": "fastattn"}
    width = {"dimensions": model.width()} if isinstance(model, Embedder) else {}
    return {**entry, "task": model.kind, "max_tokens": model.most_tokens, **width}


def models(service: Service, created: int) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [model_entry(model, created) for model in service.models.values()]}
