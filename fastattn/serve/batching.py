"""Queues of texts, and the one thread that computes: what waits goes into a forward together, without padding."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from fastattn.runtime.threads import same_threads
from fastattn.serve.models import Served
from fastattn.serve.requests import Settings
from fastattn.text.batches import TokenRow

__all__ = ["Batcher", "Closed", "Full"]

# Bounds of Retry-After in seconds.
_SOON, _LATE = 1, 60
# Weight of the last batch in the mean of the speed.
_NEW = 0.2


class Full(Exception):
    """The queue of a model has no room; `seconds` is when it may have."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full for about {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The service stops, and takes no texts any more."""


class Job:
    """Texts of one request, and the future of their results."""

    def __init__(self, settings: Settings, texts: Sequence[TokenRow]) -> None:
        self.settings, self.left = settings, deque(enumerate(texts))
        self.tokens = sum(len(text.ids) for text in texts)  # of `left`
        self.results: list[Any] = [None] * len(texts)
        self.unfinished = len(texts)
        self.future: Future[list[Any]] = Future()

    def finish(self, place: int, result: Any) -> None:
        """Set the result of a text; the last one completes the future."""
        self.results[place] = result
        self.unfinished -= 1
        # A future that the client's end cancelled takes no result.
        if not self.unfinished and self.future.set_running_or_notify_cancel():
            self.future.set_result(self.results)

    def fail(self, error: Exception) -> None:
        """Give the error to who waits."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Piece(NamedTuple):
    """A text of a request, and its place there."""

    job: Job
    place: int
    text: TokenRow


class Queue:
    """Requests that wait for one model."""

    def __init__(self, model: Served) -> None:
        self.model, self._jobs = model, deque[Job]()

    @property
    def tokens(self) -> int:
        """Tokens of the texts that wait; the work of a client that went away is dropped."""
        self._jobs = deque(job for job in self._jobs if not job.future.done())
        return sum(job.tokens for job in self._jobs)

    def put(self, job: Job) -> None:
        """Add a request."""
        self._jobs.append(job)

    def take(self, most_tokens: int) -> list[Piece]:
        """Take texts of the same settings for one forward, one of each request in turn: a long request delays no short one."""
        taken: list[Piece] = []
        others: list[Job] = []
        room = most_tokens
        while self._jobs:
            job = self._jobs.popleft()
            if job.future.done():
                continue
            if taken and job.settings != taken[0].job.settings:
                others.append(job)
                continue
            place, text = job.left[0]
            if taken and len(text.ids) > room:
                self._jobs.appendleft(job)
                break
            job.left.popleft()
            job.tokens -= len(text.ids)
            room -= len(text.ids)
            taken.append(Piece(job, place, text))
            if job.left:
                self._jobs.append(job)
        self._jobs.extendleft(reversed(others))
        return taken


class Batcher:
    """A queue for each model, and the thread that takes from them in turn.

    Parameters
    ----------
    models : sequence of Served
        The models.
    batch_tokens : int
        Most tokens of a forward; a longer text is one by itself.
    queue_tokens : int
        Most tokens that wait for a model; a request that finds its queue empty is taken whatever its size.
    observed : callable
        Called after each forward with the model, its texts, tokens and seconds.
    """

    def __init__(
        self,
        models: Sequence[Served],
        batch_tokens: int,
        queue_tokens: int,
        observed: Callable[[Served, int, int, float], object] = lambda *_: None,
    ) -> None:
        self._batch_tokens, self._queue_tokens, self._observed = batch_tokens, queue_tokens, observed
        self._queues = {model.name: Queue(model) for model in models}
        self._turns = deque(self._queues.values())
        self._changed = threading.Condition()
        self._closed = False
        self._speed = 0.0
        self._prepared = same_threads()
        self._thread = threading.Thread(target=self._run, name="fastattn serve", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread computes."""
        return self._thread.is_alive()

    def tokens(self, name: str) -> int:
        """Return the number of tokens that wait for a model."""
        with self._changed:
            return self._queues[name].tokens

    def check(self, name: str, more: int = 0) -> None:
        """Raise `Full` or `Closed` if the queue of a model does not take so many tokens more."""
        with self._changed:
            self._check(self._queues[name], more)

    def _check(self, queue: Queue, more: int) -> None:
        if self._closed:
            raise Closed
        waiting = queue.tokens
        if waiting and waiting + more > self._queue_tokens:
            raise Full(min(max(math.ceil(waiting / self._speed), _SOON), _LATE) if self._speed else _SOON)

    def submit(self, name: str, settings: Settings, texts: Sequence[TokenRow]) -> Future[list[Any]]:
        """Queue the texts of a request, at least one; cancelling the future drops those that were not computed."""
        job = Job(settings, texts)
        with self._changed:
            self._check(self._queues[name], job.tokens)
            self._queues[name].put(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Compute what is queued, take nothing new, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> tuple[Served, list[Piece]] | None:
        """Wait for texts; None when the queues are closed and empty."""
        with self._changed:
            while True:
                for _ in range(len(self._turns)):
                    queue = self._turns.popleft()
                    self._turns.append(queue)
                    if pieces := queue.take(self._batch_tokens):
                        return queue.model, pieces
                if self._closed:
                    return None
                self._changed.wait()

    def _run(self) -> None:
        self._prepared()
        while (found := self._next()) is not None:
            self._compute(*found)
            # The last batch is not kept while the thread waits for the next one.
            del found

    def _compute(self, model: Served, pieces: list[Piece]) -> None:
        texts, begun = [piece.text for piece in pieces], time.perf_counter()
        try:
            results = model.compute(texts, pieces[0].job.settings)
        except Exception as error:
            jobs = list(dict.fromkeys(piece.job for piece in pieces))
            if len(jobs) == 1:
                jobs[0].fail(error)
            else:
                # One of them is at fault: the others get their results.
                for job in jobs:
                    self._compute(model, [piece for piece in pieces if piece.job is job])
            return
        seconds, tokens = max(time.perf_counter() - begun, 1e-6), sum(len(text.ids) for text in texts)
        self._speed = tokens / seconds if not self._speed else (1 - _NEW) * self._speed + _NEW * tokens / seconds
        self._observed(model, len(texts), tokens, seconds)
        for piece, result in zip(pieces, results, strict=True):
            piece.job.finish(piece.place, result)
