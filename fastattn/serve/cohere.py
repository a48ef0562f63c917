"""Rerank of Cohere, versions 1 and 2, and of Jina, which has the path of version 1; errors are those of OpenAI's shape.

Source: Cohere's API reference, Rerank; Jina's Reranker API.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from fastattn.serve.models import Reranker
from fastattn.serve.requests import Answer, Body, Settings
from fastattn.serve.service import Service, Work

__all__ = ["rerank", "rerank_2"]


def rerank(body: Body, service: Service) -> Work:
    """Read a request of version 1, whose documents may be objects with a text, and come back where it asks for them."""
    return _rerank(body, service, "1", body.flag("return_documents", False))


def rerank_2(body: Body, service: Service) -> Work:
    """Read a request of version 2."""
    return _rerank(body, service, "2", False)


def _rerank(body: Body, service: Service, version: str, returned: bool) -> Work:
    model = service.model(body.optional_text("model"), Reranker)
    query, documents = body.text("query"), body.texts("documents", service.limits.inputs, key="text")
    most = body.count("top_n")
    settings = Settings(model.prompt(body.optional_text("prompt_name")), service.limits.truncate)
    pairs = [(query, document) for document in documents]
    return Work(model, pairs, settings, "documents", partial(_response, model.name, version, documents if returned else None, most))


def _response(model: str, version: str, documents: list[str] | None, most: int | None, answers: list[Answer]) -> dict[str, Any]:
    # Of equal scores the first document comes first.
    order = sorted(range(len(answers)), key=lambda i: -answers[i].value)[:most]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(answers[i].value)} for i in order]
    if documents is not None:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    tokens = sum(answer.tokens for answer in answers)
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": str(uuid.uuid4()), "object": "list", "model": model, "results": results, "meta": meta, "usage": usage}
