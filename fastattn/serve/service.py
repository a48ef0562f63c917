"""Service: from the inputs of a request to its answers, by the cache, the tokenizer and the queue of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar, cast

from fastattn.serve.batching import Batcher, Closed, Full
from fastattn.serve.cache import Cache, keys_of
from fastattn.serve.metrics import Metrics
from fastattn.serve.models import Served
from fastattn.serve.requests import Answer, Input, Refused, Settings
from fastattn.text.batches import TokenRow

__all__ = ["Limits", "Pending", "Service", "Work"]

M = TypeVar("M", bound=Served)


class Limits(NamedTuple):
    """Bounds of what a service takes and holds, and whether texts that are too long are truncated where a request says nothing."""

    batch_tokens: int = 16_384
    queue_tokens: int = 262_144
    inputs: int = 2048
    body_bytes: int = 10_000_000
    body_seconds: float = 60.0
    requests: int = 512
    cache_bytes: int = 256_000_000
    truncate: bool = True


class Work(NamedTuple):
    """What a request asks of a model; `render` makes the response of the answers; messages call the inputs `field`."""

    model: Served
    inputs: Sequence[Input]
    settings: Settings
    field: str
    render: Callable[[list[Answer]], Any]


class Pending(NamedTuple):
    """Work that is queued: answers of the cache, None for the others, whose places, keys, tokens and future results follow."""

    work: Work
    answers: list[Answer | None]
    missing: list[int]
    keys: list[bytes]
    tokens: list[TokenRow]
    results: Future[list[Any]]


class Service:
    """Models by name, with a cache and the thread that computes."""

    def __init__(self, models: Sequence[Served], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            names = [model.name for model in models]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two models have the name {twice!r}: give one another name, NAME=FOLDER")
        self.cache = Cache(self.limits.cache_bytes)
        self.metrics = Metrics(self.cache, lambda name: self.batcher.tokens(name), self.models)
        self.batcher = Batcher(models, self.limits.batch_tokens, self.limits.queue_tokens, self.metrics.computed)

    def model(self, name: str | None, wanted: type[M]) -> M:
        """Return the model of a name, or the first of a kind."""
        fitting = [model for model in self.models.values() if isinstance(model, wanted)]
        if name is None:
            if not fitting:
                raise Refused("task", f"no model that is served makes {wanted.makes}; served: {self._names}", "model")
            return fitting[0]
        found = self.named(name)
        if not isinstance(found, wanted):
            advice = f"; these do: {', '.join(model.name for model in fitting)}" if fitting else ""
            raise Refused("task", f"{name} makes {found.makes}, not {wanted.makes}{advice}", "model")
        return found

    def named(self, name: str) -> Served:
        """Return the model of a name."""
        if name not in self.models:
            raise Refused("model", f"there is no model {name!r:.200}; served: {self._names}", "model")
        return self.models[name]

    @property
    def _names(self) -> str:
        return ", ".join(f"{model.name} ({model.kind})" for model in self.models.values())

    def begin(self, work: Work) -> Pending:
        """Look up the inputs in the cache; tokenise and queue the others."""
        if isinstance(work.inputs[0], list):
            # Token ids get no prompt, so pooling must leave none out.
            work = work._replace(settings=work.settings._replace(prompt=""))
        name = work.model.name
        keys = list(keys_of(name, work.settings, work.inputs))
        answers = [self.cache.get(key) for key in keys]
        missing = [i for i, answer in enumerate(answers) if answer is None]
        self.metrics.looked_up(name, len(answers), len(answers) - len(missing))
        if not missing:
            done: Future[list[Any]] = Future()
            done.set_result([])
            return Pending(work, answers, missing, keys, [], done)
        try:
            # Before the texts are tokenised, which also is work.
            self.batcher.check(name)
            tokens, truncated = self._tokens(work, missing)
            results = self.batcher.submit(name, work.settings, tokens)
        except Full as error:
            said = f"{name} is busy: about {error.seconds} s of work wait; try again then"
            raise Refused("full", said, retry_after=error.seconds) from None
        except Closed:
            raise Refused("stopping", "the service stops and takes no requests any more") from None
        self.metrics.truncated(name, truncated)
        return Pending(work, answers, missing, keys, tokens, results)

    @staticmethod
    def _tokens(work: Work, missing: list[int]) -> tuple[list[TokenRow], int]:
        if len(missing) == len(work.inputs):
            return work.model.read(work.inputs, work.settings, work.field)
        return work.model.read([work.inputs[i] for i in missing], work.settings, work.field)

    def finish(self, pending: Pending) -> Any:
        """Return the response, when the results are there."""
        answers = list(pending.answers)
        for i, result, tokens in zip(pending.missing, pending.results.result(), pending.tokens, strict=True):
            answers[i] = answer = Answer(result, len(tokens.ids))
            self.cache.put(pending.keys[i], answer)
        return pending.work.render(cast("list[Answer]", answers))

    def close(self) -> None:
        """Compute what is queued, and stop."""
        self.batcher.close()
