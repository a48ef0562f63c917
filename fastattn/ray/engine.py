"""The engine of a job: actors compute the vectors, in the order of the texts, and this process reads and writes."""

from __future__ import annotations

import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastattn.ray.cluster import connect, cpus_of_nodes, plan, ray
from fastattn.ray.worker import Worker, model_name
from fastattn.runtime.version import __version__
from fastattn.text.pipeline import Counts
from fastattn.text.streaming import slices

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["Engine"]

# Characters of a part: about a second of a small model on a core or two.
_PART = 100_000
# Parts for each actor that are in work, or wait for those before them.
_AHEAD = 4
# Times that a part is computed again because its actor died.
_RETRIES = 3
# Seconds until a warning says that actors wait for CPUs, and in which a part whose node is gone is computed elsewhere.
_PATIENCE = 60.0


class Engine:
    """Actors of a Ray cluster that compute the vectors of `fastattn.corpus.embed_file`.

    Texts go to the actors in parts, each of about a second of work, and their vectors come back in order: the output has the bytes
    that one machine would write, and a run that was killed is resumed as any other.  This process alone reads the texts and writes
    the output; the model must be on each node, or on the Hub.  A part whose actor or node dies is computed again elsewhere.

    Parameters
    ----------
    address : str, optional
        ``HOST:PORT`` of the cluster, ``"auto"`` for one on this machine, or ``"local"`` for a new one; by default what
        ``RAY_ADDRESS`` says, or a new one.  None in a process that is connected already.
    actors : int, optional
        Number of actors; by default as many as fit: one for each node, if all have as many CPUs.
    num_cpus : float, optional
        CPUs, and so threads, of each; by default those of the smallest node, or where `actors` is given their share.

    Raises
    ------
    ConnectionError
        No cluster is there; known within 10 seconds, or 30 where something else answers that speaks HTTP/2.
    ValueError
        `address` is malformed or given in a connected process, or the actors do not fit the cluster.
    ImportError
        Ray is not installed.

    Examples
    --------
    >>> from fastattn.corpus import embed_file
    >>> from fastattn.ray import Engine
    >>> with Engine("head:6379") as engine:  # doctest: +SKIP
    ...     embed_file("texts.parquet", "vectors.parquet", "/shared/model", engine=engine, resume=True)
    """

    def __init__(self, address: str | None = None, *, actors: int | None = None, num_cpus: float | None = None) -> None:
        self._ours = connect(address)
        try:
            self._actors, self._num_cpus = plan(cpus_of_nodes(), actors, num_cpus, spare=0)
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> Engine:
        """Return the engine."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the cluster."""
        self.close()

    def close(self) -> None:
        """Leave the cluster, unless this process was connected before."""
        if self._ours:
            ray().shutdown()
            self._ours = False

    def encode_iter(
        self, facts: dict[str, str], encoder: SentenceTransformer, texts: Iterable[str], **options: Any
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of texts in order, as `encode_iter` of a model does; `encoder.counts` has the texts so far.

        Parameters
        ----------
        facts : dict of str to str
            The model in the manifest of a job: its name or path, hash and precision.
        encoder : SentenceTransformer
            The same model.
        texts : iterable of str
            The texts.
        **options
            Those of `SentenceTransformer.encode_iter`.

        Returns
        -------
        iterator of float32, (C,)
            The vectors.
        """
        encoder.counts = Counts(0, 0, 0)
        return self._vectors(facts, encoder, texts, options)

    def _vectors(
        self, facts: dict[str, str], encoder: SentenceTransformer, texts: Iterable[str], options: dict[str, Any]
    ) -> Iterator[NDArray[np.float32]]:
        # An actor whose process or node dies is started again, and its calls are repeated.
        kind = ray().remote(
            num_cpus=self._num_cpus, max_restarts=-1, max_task_retries=_RETRIES, scheduling_strategy="SPREAD", max_concurrency=1
        )(Worker)
        actors = [kind.remote(model_name(facts.get("path")), facts["precision"], self._num_cpus) for _ in range(self._actors)]
        order: deque[Any] = deque()
        running: dict[Any, int] = {}

        def finished() -> NDArray[np.float32]:
            call, part, actor = order.popleft()
            end = time.monotonic() + _PATIENCE
            while (result := _result(call, time.monotonic() > end)) is None:
                # It takes Ray some time to tell that a node is gone, and until then it starts the actor nowhere else.
                time.sleep(1.0)
                actor = (actor + 1) % len(actors)
                call = actors[actor].encode.remote(part, options)
            rows, tokens, truncated = result
            before = encoder.counts
            encoder.counts = Counts(before.texts + len(rows), before.tokens + tokens, before.truncated + truncated)
            found: NDArray[np.float32] = rows
            return found

        try:
            _check_same(actors, facts["hash"])
            for _, part in slices(texts, lambda: _PART):
                if len(order) == _AHEAD * len(actors):
                    yield from finished()
                for done in ray().wait(list(running), num_returns=len(running), timeout=0)[0] if running else ():
                    del running[done]
                load = Counter(running.values())
                free = min(range(len(actors)), key=lambda i: load[i])
                call = actors[free].encode.remote(part, options)
                order.append((call, part, free))
                running[call] = free
            while order:
                yield from finished()
        finally:
            for actor in actors:
                ray().kill(actor)


def _result(call: Any, last: bool = True) -> Any:
    """Return the result of a call of an actor, or raise what it raised there; None if it may be asked again, unless `last`."""
    errors = ray("ray.exceptions")
    try:
        return ray().get(call)
    except errors.RayTaskError as error:
        raise error.cause from error
    except errors.RayError as error:
        if isinstance(error, errors.ActorUnavailableError) and not last:
            return None
        raise ConnectionError(f"Ray: actors died, or nodes cannot be reached: {' '.join(str(error).split())}") from error


def _check_same(actors: list[Any], model: str) -> None:
    """Raise a ValueError unless all actors have the model with a hash, and this version of the package."""
    calls = [actor.facts.remote() for actor in actors]
    waiting = ray().wait(calls, num_returns=len(calls), timeout=_PATIENCE)[1]
    if waiting:
        warnings.warn(f"Ray: {len(waiting)} of {len(calls)} actors wait for CPUs or for their model", RuntimeWarning, stacklevel=4)
    found: list[dict[str, str]] = [_result(call) for call in calls]
    _same(found, "fastattn", __version__, "has another version of fastattn")
    _same(found, "model", model, "has another model under this name, or another version of it")
    kinds = sorted({facts["CPU"] for facts in found})
    if len(kinds) > 1:
        message = f"Ray: nodes have CPUs of several kinds, {' and '.join(kinds)}: vectors differ in their last bits"
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _same(found: list[dict[str, str]], name: str, here: str, what: str) -> None:
    for facts in found:
        if facts[name] != here:
            raise ValueError(f"node {facts['node']} {what}: {facts[name]}, and here {here}")
