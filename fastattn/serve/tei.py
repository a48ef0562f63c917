"""Interface of text-embeddings-inference (TEI): /embed, /rerank, /embed_sparse, /info and the shape of its errors.

Source: text-embeddings-inference 1.9, its OpenAPI document.  The field ``model``, for a service of several models, is ours.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastattn.runtime.version import __version__
from fastattn.serve.models import Embedder, Reranker, Served, Sparse
from fastattn.serve.requests import Answer, Body, Reason, Refused, Settings
from fastattn.serve.service import Service, Work

__all__ = ["embed", "embed_sparse", "error", "info", "rerank"]

_STATUS: dict[Reason, int] = {
    "json": 400, "field": 422, "empty": 400, "model": 404, "task": 424, "key": 401, "path": 404, "method": 405, "slow": 408,
    "encoded": 415, "full": 429, "stopping": 503, "failed": 500,
}  # fmt: skip
_TYPES: dict[Reason, str] = {
    "empty": "Empty", "task": "Backend", "full": "Overloaded", "stopping": "Unhealthy", "failed": "Backend",
}  # fmt: skip


def error(refused: Refused) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal."""
    body = {"error": refused.message, "error_type": _TYPES.get(refused.reason, "Validation")}
    return _STATUS.get(refused.reason, 413), body


def _settings(body: Body, service: Service, model: Served, **more: Any) -> Settings:
    # The end of a text is truncated.
    body.choice("truncation_direction", ("Right", "right"))
    return Settings(model.prompt(body.optional_text("prompt_name")), body.flag("truncate", service.limits.truncate), **more)


def embed(body: Body, service: Service) -> Work:
    """Read a request for embeddings, which have unit length unless ``normalize`` is false; ``task`` is that of `embed_sparse`."""
    model = service.model(body.optional_text("model"), Embedder)
    task, unit = body.optional_text("task"), body.flag("normalize", True)
    width = body.count("dimensions", model.width(task))
    settings = _settings(body, service, model, width=width, normalize=unit, task=task)
    return Work(model, body.inputs("inputs", service.limits.inputs), settings, "inputs", _rows)


def _rows(answers: list[Answer]) -> list[list[float]]:
    return [answer.value.tolist() for answer in answers]


def embed_sparse(body: Body, service: Service) -> Work:
    """Read a request for sparse embeddings; ``task`` names the route of a model with several, such as query."""
    model = service.model(body.optional_text("model"), Sparse)
    settings = _settings(body, service, model, task=body.optional_text("task"))
    return Work(model, body.inputs("inputs", service.limits.inputs), settings, "inputs", _weights)


def _weights(answers: list[Answer]) -> list[list[dict[str, Any]]]:
    pairs = [zip(*(part.tolist() for part in answer.value), strict=True) for answer in answers]
    return [[{"index": index, "value": value} for index, value in row] for row in pairs]


def rerank(body: Body, service: Service) -> Work:
    """Read a request for scores: the sigmoid of the logits, or with ``raw_scores`` the logits."""
    model = service.model(body.optional_text("model"), Reranker)
    query, texts = body.text("query"), body.texts("texts", service.limits.inputs)
    activation = "Identity" if body.flag("raw_scores", False) else "Sigmoid"
    settings = _settings(body, service, model, activation=activation)
    returned = texts if body.flag("return_text", False) else None
    return Work(model, [(query, text) for text in texts], settings, "texts", partial(_ranks, returned))


def _ranks(texts: list[str] | None, answers: list[Answer]) -> list[dict[str, Any]]:
    order = sorted(range(len(answers)), key=lambda i: -answers[i].value)
    more: list[dict[str, Any]] = [{} if texts is None else {"text": texts[i]} for i in order]
    return [{"index": i, **text, "score": float(answers[i].value)} for i, text in zip(order, more, strict=True)]


def info(service: Service) -> dict[str, Any]:
    """Return what is served: the first model in TEI's shape, and all under ``models``."""
    first, limits = next(iter(service.models.values())), service.limits
    kinds = {"embedding": {"embedding": {}}, "rerank": {"reranker": {}}, "sparse": {"embedding": {"pooling": "splade"}}}
    return {
        "model_id": first.name,
        "model_dtype": first.model.precision,
        "model_type": kinds[first.kind],
        "max_input_length": first.most_tokens,
        "max_concurrent_requests": limits.requests,
        "max_batch_tokens": limits.batch_tokens,
        "max_client_batch_size": limits.inputs,
        "auto_truncate": limits.truncate,
        "version": __version__,
        "models": [{"model_id": model.name, "model_type": kinds[model.kind]} for model in service.models.values()],
    }
