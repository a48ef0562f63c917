"""Streams: the results of any iterable of texts, in order, while other threads tokenise and compute the next ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.threads import same_threads, starts_greenlets
from fastattn.text.batches import TextBatch, characters
from fastattn.text.compatibility import as_dtype, call_limit
from fastattn.text.inputs import check_several, items_of, pairs_of
from fastattn.text.modules import BaseTokenPooling
from fastattn.text.modules.activations import resolve_activation
from fastattn.text.modules.module import SCORES
from fastattn.text.pipeline import Counts, Pipeline, submitted
from fastattn.text.prompts import resolve_prompt
from fastattn.text.sparse_embeddings import SparseEmbeddings

__all__ = [
    "EmbeddingStream", "ScoreStream", "SparseStream", "TokenStream", "check_most", "check_token_pooling", "slices", "stream",
]  # fmt: skip

R = TypeVar("R")

# A slice ends at a number of texts, or of characters: of long texts fewer are held.  The least and the most characters of a slice,
# and the seconds that it should take: what a slow model has computed is soon with the caller.
_SLICE, _LEAST, _CHARACTERS, _SECONDS = 1024, 4_000, 4_000_000, 5.0
# Slices that are tokenised or computed while the caller uses the results of another one.
_AHEAD = 2


def stream(
    pipeline: Pipeline,
    inputs: Iterable[Any],
    prompt: str,
    compute: Callable[[TextBatch], Sequence[R]],
    *,
    checked: Callable[[list[Any], int], list[Any]],
    counted: Callable[[Counts], object],
    batch_tokens: int | None = None,
) -> Generator[R, None, None]:
    """Yield the result of each text or pair, in order; memory: four slices of inputs, ids and results, for any number of inputs.

    `compute` returns the results of a batch, one for each of its texts; `checked` returns the items of a slice that begins at an
    index, or raises; `counted` gets the numbers of all texts whose results were yielded.  The caller's thread takes items from
    `inputs`, a second one tokenises them, a third one computes.
    """
    stopped = threading.Event()

    room = _LEAST

    def computed(start: int, items: list[Any], batches: Callable[[], list[TextBatch]]) -> tuple[list[R], int, int]:
        nonlocal room
        results: list[Any] = [None] * len(items)
        tokens = truncated = 0
        found, begun = batches(), time.perf_counter()
        for batch in found:
            if stopped.is_set():
                break
            for row, result in zip(batch.rows, compute(batch), strict=True):
                results[row - start] = result
            tokens, truncated = tokens + len(batch.ids), truncated + batch.truncated
        seconds = max(time.perf_counter() - begun, 1e-6)
        room = int(min(max(sum(map(characters, items)) * _SECONDS / seconds, _LEAST), _CHARACTERS))
        return results, tokens, truncated

    pipeline.load_kernels(pipeline.prompt_tokens(prompt))
    tokenizing, computing = ThreadPoolExecutor(1), ThreadPoolExecutor(1, initializer=same_threads())
    # A greenlet computes nothing while its caller does something else: the results are computed when they are asked for.
    begun = (lambda thread, call: call) if starts_greenlets() else submitted
    pending: deque[Callable[[], tuple[list[R], int, int]]] = deque()
    counts = Counts(0, 0, 0)

    def finished() -> list[R]:
        nonlocal counts
        results, tokens, truncated = pending.popleft()()
        counts = Counts(counts.texts + len(results), counts.tokens + tokens, counts.truncated + truncated)
        counted(counts)
        return results

    try:
        for start, taken in slices(inputs, lambda: room):
            items = checked(taken, start)
            batches = begun(tokenizing, partial(pipeline.packed, items, prompt, start, stopped, batch_tokens))
            pending.append(begun(computing, partial(computed, start, items, batches)))
            if len(pending) > _AHEAD:
                yield from finished()
        while pending:
            yield from finished()
    finally:
        # The computing thread waits for the tokens of its slice, so no slice is cancelled: after `stopped` each is over at once.
        stopped.set()
        tokenizing.shutdown(wait=False)
        computing.shutdown(wait=False)


def slices(inputs: Iterable[Any], room: Callable[[], int]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the index of the first item of each slice, and its items, which have `room` characters or a little more."""
    start, left = 0, room()
    items: list[Any] = []
    for item in inputs:
        items.append(item)
        left -= _size(item)
        if len(items) == _SLICE or left <= 0:
            yield start, items
            start, items, left = start + len(items), [], room()
    if items:
        yield start, items


def _size(item: Any) -> int:
    """Return the number of characters of an item that is not checked yet."""
    if isinstance(item, str):
        return len(item)
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple, np.ndarray)) else ()
    return sum(len(part) for part in parts if isinstance(part, str))


def _check_batch_tokens(batch_tokens: int | None) -> None:
    if batch_tokens is not None and (not isinstance(batch_tokens, int) or isinstance(batch_tokens, bool) or batch_tokens < 1):
        raise ValueError(f"batch_tokens must be a positive integer or None, got {batch_tokens!r}")


class EmbeddingStream:
    """`encode_iter` of a model of embeddings."""

    def encode_iter(
        self: Any,
        inputs: Iterable[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        **kwargs: Any,
    ) -> Iterator[NDArray[np.float32]]:
        """Embed the texts of any iterable, one after the other: `encode` for what does not fit in memory.

        Memory does not grow with the number of texts.  While the caller uses an embedding, other threads tokenise and compute the
        next ones; about 3,000 texts are read ahead.  The attribute `counts` has the texts and tokens so far.

        Parameters
        ----------
        inputs : iterable of str
            The texts; items as in `encode`.  They are taken in the thread of the caller.
        prompt_name, prompt : str, optional
            As in `encode`.
        normalize_embeddings, truncate_dim : optional
            As in `encode`.
        batch_tokens : int, optional
            Tokens of a forward, 16,384 by default; the result does not depend on it.
        **kwargs
            ``processing_kwargs`` and ``task`` as in `encode`.

        Returns
        -------
        iterator of float32, (C,)
            The embeddings in the order of the texts, with the bits that `encode` gives.  An embedding is part of an array of
            several: copy it to keep it alone.

        Raises
        ------
        TypeError
            `inputs` gives no texts, or, when its turn comes, an item is neither a str nor a pair of str.
        ValueError
            An argument is unknown or has an unsupported value, or a text is not valid Unicode.

        Notes
        -----
        A process that is forked afterwards computes in one thread, as after `encode` in a thread that is not the main one.

        Examples
        --------
        >>> from fastattn import SentenceTransformer
        >>> model = SentenceTransformer()
        >>> texts = (f"text number {i}" for i in range(3))
        >>> [row.shape for row in model.encode_iter(texts)]
        [(384,), (384,), (384,)]
        """
        pipeline = self._pipeline_of(call_limit(EmbeddingStream.encode_iter, kwargs), kwargs.get("task"))
        check_several(inputs, "inputs", "an iterable of str")
        _check_batch_tokens(batch_tokens)
        width = self._kept_width(truncate_dim, pipeline.width)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        skip = pipeline.prompt_tokens(text)

        def compute(batch: TextBatch) -> Any:
            return as_dtype(pipeline.embeddings(batch, skip, width, normalize_embeddings), self._dtype)

        def counted(counts: Counts) -> None:
            self.counts = counts

        counted(Counts(0, 0, 0))
        return stream(pipeline, inputs, text, compute, checked=items_of, counted=counted, batch_tokens=batch_tokens)


class TokenStream:
    """`encode_iter` of a model of late interaction."""

    def encode_iter(
        self: Any,
        inputs: Iterable[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        batch_tokens: int | None = None,
        **kwargs: Any,
    ) -> Iterator[NDArray[np.float32]]:
        """Embed the tokens of the texts of any iterable, one text after the other: `encode` for what does not fit in memory.

        Memory does not grow with the number of texts.  While the caller uses the embeddings of a text, other threads tokenise and
        compute the next ones.  The attribute `counts` has the texts and tokens so far.

        Parameters
        ----------
        inputs : iterable of str
            The texts; items as in `encode`.  They are taken in the thread of the caller.
        prompt_name, prompt, normalize_embeddings, token_pooling, task : optional
            As in `encode`.
        batch_tokens : int, optional
            Tokens of a forward, 16,384 by default; the result does not depend on it.
        **kwargs
            ``processing_kwargs`` as in `encode`.

        Returns
        -------
        iterator of float32, (T, C)
            The embeddings of the tokens of each text that are scored, in the order of the texts, with the bits that `encode` gives.

        Raises
        ------
        TypeError
            `inputs` gives no texts, `token_pooling` is none, or, when its turn comes, an item is neither a str nor a pair of str.
        ValueError
            An argument is unknown or has an unsupported value, or a text is not valid Unicode.
        """
        pipeline = self._pipeline_for(task, call_limit(TokenStream.encode_iter, kwargs))
        check_several(inputs, "inputs", "an iterable of str")
        _check_batch_tokens(batch_tokens)
        check_token_pooling(token_pooling)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)

        def compute(batch: TextBatch) -> list[Any]:
            return [as_dtype(rows, self._dtype) for rows in self._scored(pipeline, batch, normalize_embeddings, token_pooling)]

        def counted(counts: Counts) -> None:
            self.counts = counts

        counted(Counts(0, 0, 0))
        return stream(pipeline, inputs, text, compute, checked=items_of, counted=counted, batch_tokens=batch_tokens)


class SparseStream:
    """`encode_iter` of a sparse model."""

    def encode_iter(
        self: Any,
        inputs: Iterable[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        batch_tokens: int | None = None,
        **kwargs: Any,
    ) -> Iterator[SparseEmbeddings]:
        """Embed the texts of any iterable, one after the other: `encode` for what does not fit in memory.

        Memory does not grow with the number of texts.  While the caller uses an embedding, other threads tokenise and compute the
        next ones.  The attribute `counts` has the texts and tokens so far.

        Parameters
        ----------
        inputs : iterable of str
            The texts; items as in `encode`.  They are taken in the thread of the caller.
        prompt_name, prompt, max_active_dims : optional
            As in `encode`.
        batch_tokens : int, optional
            Tokens of a forward, 16,384 by default; the result does not depend on it.
        **kwargs
            ``processing_kwargs`` and ``task`` as in `encode`.

        Returns
        -------
        iterator of SparseEmbeddings, (V,)
            The embeddings in the order of the texts, with the bits that `encode` gives.

        Raises
        ------
        TypeError
            `inputs` gives no texts, or, when its turn comes, an item is neither a str nor a pair of str.
        ValueError
            An argument is unknown or has an unsupported value, a text is not valid Unicode, or there is no route for ``task``.
        """
        limit = call_limit(SparseStream.encode_iter, kwargs)
        check_several(inputs, "inputs", "an iterable of str")
        _check_batch_tokens(batch_tokens)
        check_most(max_active_dims)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        pipeline = self._pipeline_of(limit, kwargs.get("task"))
        skip, most = pipeline.prompt_tokens(text), self.max_active_dims if max_active_dims is None else max_active_dims

        def compute(batch: TextBatch) -> Any:
            return pipeline.sparse(batch, skip, most).astype(self._dtype)

        def counted(counts: Counts) -> None:
            self.counts = counts

        counted(Counts(0, 0, 0))
        return stream(pipeline, inputs, text, compute, checked=items_of, counted=counted, batch_tokens=batch_tokens)


def check_token_pooling(token_pooling: Any) -> None:
    """Raise a TypeError unless an argument is a token pooling, or None."""
    if not isinstance(token_pooling, BaseTokenPooling | None):
        raise TypeError(f"token_pooling must be a token pooling of fastattn.modules, got {type(token_pooling).__name__}")


def check_most(max_active_dims: Any) -> None:
    """Raise a ValueError unless a number of active dimensions is None or a positive integer."""
    if max_active_dims is None:
        return
    if not isinstance(max_active_dims, int | np.integer) or isinstance(max_active_dims, bool) or max_active_dims < 1:
        raise ValueError(f"max_active_dims must be a positive integer or None, got {max_active_dims!r:.50}")


class ScoreStream:
    """`predict_iter` of a model of scores."""

    def predict_iter(
        self: Any,
        inputs: Iterable[Sequence[str]],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation_fn: str | Callable[..., Any] | None = None,
        apply_softmax: bool | None = False,
        batch_tokens: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Score the pairs of any iterable, one after the other: `predict` for what does not fit in memory.

        Memory does not grow with the number of pairs.  While the caller uses a score, other threads tokenise and compute the next
        ones; about 3,000 pairs are read ahead.  The attribute `counts` has the pairs and tokens so far.

        Parameters
        ----------
        inputs : iterable of (str, str)
            The pairs.  They are taken in the thread of the caller.
        prompt_name, prompt : str, optional
            As in `predict`.
        activation_fn : str or callable, optional
            As in `predict`; a function gets the logits (B, L) of some pairs at a time, in another thread.
        apply_softmax : bool, optional
            As in `predict`.
        batch_tokens : int, optional
            Tokens of a forward, 16,384 by default; the result does not depend on it.
        **kwargs
            ``processing_kwargs`` and ``task`` as in `predict`.

        Returns
        -------
        iterator of float32, scalars for one label, (L,) for L labels
            The scores in the order of the pairs, with the bits that `predict` gives.

        Raises
        ------
        TypeError
            `inputs` gives no pairs, or, when its turn comes, an item is not a pair of str.
        ValueError
            An argument is unknown or has an unsupported value, a text is not valid Unicode, or `activation_fn` does not return a
            row for each pair.
        """
        pipeline = self._pipeline_of(call_limit(ScoreStream.predict_iter, kwargs))
        check_several(inputs, "inputs", "an iterable of pairs of str")
        _check_batch_tokens(batch_tokens)
        activation = resolve_activation(self.activation_fn if activation_fn is None else activation_fn)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        skip = pipeline.prompt_tokens(text)

        def compute(batch: TextBatch) -> Any:
            return self._activated(pipeline.features(batch, skip)[SCORES], activation, bool(apply_softmax))

        def counted(counts: Counts) -> None:
            self.counts = counts

        counted(Counts(0, 0, 0))
        return stream(pipeline, inputs, text, compute, checked=pairs_of, counted=counted, batch_tokens=batch_tokens)
