"""Metrics of a service, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from fastattn.serve.cache import Cache
    from fastattn.serve.models import Served

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_TOKENS = (64, 256, 1024, 4096, 16_384, 65_536)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self, cache: Cache, waiting: Callable[[str], int], models: Iterable[str]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("fastattn_requests", "Requests by route and status.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "fastattn_request_seconds", "Seconds from a request to its response.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._texts = Counter("fastattn_texts", "Texts and pairs that were computed.", ["model"], registry=registry)
        self._tokens = Counter("fastattn_tokens", "Tokens that were computed.", ["model"], registry=registry)
        self._compute = Counter("fastattn_compute_seconds", "Seconds of computing.", ["model"], registry=registry)
        self._batches = Histogram("fastattn_batch_tokens", "Tokens of a forward.", ["model"], buckets=_TOKENS, registry=registry)
        self._truncated = Counter("fastattn_truncated_texts", "Texts that were truncated.", ["model"], registry=registry)
        self._asked = Counter("fastattn_cache_lookups", "Texts looked up in the cache.", ["model"], registry=registry)
        self._hits = Counter("fastattn_cache_hits", "Texts found in the cache.", ["model"], registry=registry)
        Gauge("fastattn_cache_bytes", "Bytes in the cache.", registry=registry).set_function(lambda: float(cache.bytes))
        queued = Gauge("fastattn_queue_tokens", "Tokens that wait.", ["model"], registry=registry)
        for model in models:
            queued.labels(model).set_function(partial(waiting, model))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def computed(self, model: Served, texts: int, tokens: int, seconds: float) -> None:
        """Count a forward."""
        self._texts.labels(model.name).inc(texts)
        self._tokens.labels(model.name).inc(tokens)
        self._compute.labels(model.name).inc(seconds)
        self._batches.labels(model.name).observe(tokens)

    def looked_up(self, model: str, texts: int, hits: int) -> None:
        """Count the texts of a request, and those that the cache had."""
        self._asked.labels(model).inc(texts)
        self._hits.labels(model).inc(hits)

    def truncated(self, model: str, texts: int) -> None:
        """Count truncated texts."""
        self._truncated.labels(model).inc(texts)

    def text(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
