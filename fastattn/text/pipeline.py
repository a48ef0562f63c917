"""Pipeline: tokenises texts in one thread while the kernels compute in the others."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.encoder.pooling import normalize
from fastattn.runtime.rounding import rounding
from fastattn.runtime.threads import JIT, starts_greenlets
from fastattn.text.batches import LONG, TextBatch, characters, groups, joined, pack, tokenize
from fastattn.text.model_folder import check_modules
from fastattn.text.modules import InputModule, Module, Normalize, Pooling, Transformer
from fastattn.text.modules.module import SENTENCE, TOKENS, token_names
from fastattn.tokenizer.tokenizer import TokenIds

__all__ = ["Batches", "Counts", "Pipeline", "bar_of", "submitted"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Texts per slice: a slice is tokenised while the previous slice is computed.
_SLICE = 1024
# Timeout of a wait in seconds: on Windows, Ctrl-C is handled only between two waits.
_LOOK_UP = 0.1 if os.name == "nt" else None


class Counts(NamedTuple):
    """Numbers of texts and tokens that a call read.

    Parameters
    ----------
    texts : int
        Texts, or pairs of texts.
    tokens : int
        Tokens, special tokens included.
    truncated : int
        Texts that were truncated.
    """

    texts: int
    tokens: int
    truncated: int


class NoTransformer(AttributeError, ValueError):
    """The first module of a model is another one than a Transformer, so it has no encoder."""


class Batches:
    """Batches of one call, iterated over once; `counts` has the inputs that are finished."""

    def __init__(self, batches: Iterable[TextBatch], advance: Callable[[int], object]) -> None:
        self._batches, self._advance = batches, advance
        self.counts = Counts(0, 0, 0)

    def __iter__(self) -> Iterator[TextBatch]:
        """Yield each batch, and count it when the next is asked for."""
        for batch in self._batches:
            yield batch
            texts, tokens, truncated = self.counts
            self.counts = Counts(texts + len(batch.rows), tokens + len(batch.ids), truncated + batch.truncated)
            self._advance(len(batch.rows))


class Pipeline:
    """The modules of a model in a row, from texts to the output of the last module.

    Parameters
    ----------
    modules : sequence of Module
        An InputModule, and the modules that follow it.

    Raises
    ------
    ValueError
        The first module is no InputModule, or a module writes per-token rows under a per-text name, or the reverse.
    CheckpointError
        The Transformer has settings for queries and documents, and this kind of pipeline does not tell them apart.
    """

    first_kinds: ClassVar[tuple[type[Module], ...]] = (InputModule,)
    first_names: ClassVar[tuple[str, ...]] = ("Transformer", "StaticEmbedding")
    knows_tasks: ClassVar[bool] = False

    def __init__(self, modules: Sequence[Module]) -> None:
        if not modules or not isinstance(modules[0], self.first_kinds):
            found = ", ".join(type(module).__name__ for module in modules) or "none"
            kinds = " or ".join(self.first_names)
            raise ValueError(f"the first module must be a fastattn.modules.{kinds}, got modules: {found}")
        # That of a sparse model may have the tokenizer's attributes alone.
        self.first = cast("InputModule", modules[0])
        if not self.knows_tasks and isinstance(self.first, Transformer) and (by_task := self.first._by_task()):
            name, value = next(iter(by_task.items()))
            raise CheckpointError(f"{self.first.folder}: {name} {value!r} is not supported here: load it as a MultiVectorEncoder")
        self.modules = list(modules)
        self.token_names = token_names(self.modules)
        """Names of the arrays with a row for each token; the others have a row for each text."""
        # Pooling mode of the encoder's own kernel, which pools while the hidden states are in cache; None: the module pools.
        self._mode: str | None = None
        self._unit = False
        self._rest = self.modules[1:]
        for module in self._rest:
            module._follow(self.first)
        # Whether prompt tokens are left out, in calls whose kernels are loaded.
        self._loaded: set[bool] = set()
        first, rest = (self._rest[0], self._rest[1:]) if self._rest else (None, [])
        if isinstance(first, Pooling) and len(first.modes) == 1 and not any(map(_reads_tokens, rest)):
            self._mode, self._rest = first.modes[0], rest
            second = rest[0] if rest else None
            if isinstance(second, Normalize) and second.module_input_name == second.module_output_name == SENTENCE:
                self._unit, self._rest = True, rest[1:]

    def of_task(self, task: str | None) -> Pipeline:
        """Return the pipeline of a task: this one for each."""
        return self

    def tasks(self) -> list[str | None]:
        """Return the tasks that there are pipelines for; None is that of a call without a task."""
        return [None]

    @property
    def transformer(self) -> Transformer:
        """The first module, which must be a Transformer; NoTransformer for another."""
        if not isinstance(self.first, Transformer):
            raise NoTransformer(f"this needs a Transformer, and the first module of this model is a {self.first.kind}")
        return self.first

    @property
    def width(self) -> int:
        """Number of channels of an embedding."""
        return check_modules(self.modules)[SENTENCE]

    @property
    def makes_unit_length(self) -> bool:
        """Tell whether the last module normalises the embeddings to unit length."""
        last = self.modules[-1]
        # Not a subclass, which may do something else.
        return type(last) is Normalize and last.module_input_name == last.module_output_name == SENTENCE

    def prompt_tokens(self, prompt: str) -> int:
        """Return the number of prompt tokens that pooling leaves out."""
        poolings = [module for module in self.modules if isinstance(module, Pooling)]
        if not prompt or self.first.chat is not None or all(module.include_prompt for module in poolings):
            return 0
        return self.first.tokenizer.prefix_length(prompt, self.first.max_seq_length)

    def count_tokens(self, inputs: Sequence[Any], prompt: str) -> int:
        """Return the number of tokens of all inputs after truncation, special tokens included."""
        tokenizer, limit, chat = self.first.tokenizer, self.first.max_seq_length, self.first.chat
        found = (tokenize(tokenizer, inputs[group], prompt, limit, group.start, chat) for group in groups(inputs, prompt))
        return sum(len(row) for part in found for row in part.ids)

    def embed(self, batch: TextBatch, prompt_tokens: int = 0) -> NDArray[np.float32]:
        """Return the embeddings (B, C) of a batch; pooling may leave out the first `prompt_tokens` tokens of each text."""
        if self._mode is None or prompt_tokens:
            return np.asarray(self.features(batch, prompt_tokens)[SENTENCE])
        pooled = self.transformer.encoder.forward_packed(
            batch.ids, batch.offsets, token_type_ids=batch.types, pooling=self._mode, normalize=self._unit
        )
        features = {SENTENCE: pooled}
        if self._rest:
            with rounding():
                for module in self._rest:
                    module._apply(features, batch.offsets, 0)
        return features[SENTENCE]

    def embeddings(self, batch: TextBatch, prompt_tokens: int, width: int, unit: bool) -> NDArray[np.float32]:
        """Return the first `width` channels of `embed`, of unit length or not."""
        rows = self.embed(batch, prompt_tokens)
        # Whole embeddings of a model that ends in Normalize have unit length already: dividing again would change the last bit.
        is_unit = width == rows.shape[1] and self.makes_unit_length
        return normalize(rows[:, :width]) if unit and not is_unit else rows[:, :width]

    @rounding()
    def features(self, batch: TextBatch, prompt_tokens: int = 0) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of all modules for a batch, (N, C) or (B, C) by name; `prompt_tokens` as in `embed`."""
        features = {self.first.output_name: self.first._features(batch.ids, batch.offsets, batch.types)}
        for module in self.modules[1:]:
            module._apply(features, batch.offsets, prompt_tokens)
        return features

    def load_kernels(self, prompt_tokens: int = 0) -> None:
        """Load the kernels that a call needs, or compile them, by a batch of one token; the clock of a call starts afterwards."""
        skips = prompt_tokens > 0
        if skips in self._loaded:
            return
        if not JIT:
            logger.warning("NUMBA_DISABLE_JIT is set: the kernels run as plain Python, which takes minutes for one text")
        one = TextBatch(np.zeros(1, np.int64), np.zeros(1, np.int32), None, np.array([0, 1]), 0)
        run: Callable[[TextBatch, int], object] = self.features if skips or self._mode is None else self.embed
        run(one, prompt_tokens)
        self._loaded.add(skips)

    @contextlib.contextmanager
    def batches(self, inputs: Sequence[Any], prompt: str, *, show_progress_bar: bool = False, title: str) -> Iterator[Batches]:
        """Tokenise texts, or pairs of texts, into batches; the end of the `with` stops the tokenising thread.

        Memory beside the inputs and results: the token ids of two slices and one batch, for any number of inputs.
        """
        if len(inputs):
            self.load_kernels(self.prompt_tokens(prompt))
        with (
            _progress_bar(len(inputs), show_progress_bar, title) as advance,
            contextlib.closing(self._tokenized(inputs, prompt)) as found,
        ):
            yield Batches(found, advance)

    def packed(
        self, inputs: Sequence[Any], prompt: str, start: int, stopped: threading.Event, batch_tokens: int | None = None
    ) -> list[TextBatch]:
        """Tokenise texts, or pairs, into batches of `batch_tokens` tokens; `start` is the index of the first.

        When `stopped` is set, there are no batches.
        """
        tokenizer, limit, chat, parts = self.first.tokenizer, self.first.max_seq_length, self.first.chat, []
        for group in groups(inputs, prompt):
            if stopped.is_set():
                return []
            parts.append(tokenize(tokenizer, inputs[group], prompt, limit, start + group.start, chat))
        return self._packed(joined(parts), start, batch_tokens)

    def _packed(self, found: TokenIds, start: int, batch_tokens: int | None) -> list[TextBatch]:
        """Pack the token ids of a slice, which begins with input `start`."""
        return pack(found, self.first.vocab_size, self.first.tokenizer, start, batch_tokens)

    def _tokenized(self, inputs: Sequence[Any], prompt: str) -> Generator[TextBatch, None, None]:
        """Yield the batches slice by slice, while a thread tokenises the next slice."""
        stopped, total = threading.Event(), len(inputs)

        def packed(start: int) -> list[TextBatch]:
            texts = inputs[start : start + _SLICE]
            if len(texts) < min(_SLICE, total - start):
                raise RuntimeError(f"inputs had {total} items and lost some of them while the call ran")
            return self.packed(texts, prompt, start, stopped)

        if (total <= _SLICE and _is_short(inputs)) or starts_greenlets():
            # A greenlet would tokenise nothing while the kernels compute, and in a thread of gevent's pool it never ends.
            for start in range(0, total, _SLICE):
                yield from packed(start)
            return
        thread = ThreadPoolExecutor(1)
        try:
            following = submitted(thread, partial(packed, 0))
            for start in range(_SLICE, total + _SLICE, _SLICE):
                batches = following()
                if start < total:
                    following = submitted(thread, partial(packed, start))
                yield from batches
        finally:
            # After Ctrl-C or an error the call does not wait for the slice that the thread is tokenising.
            stopped.set()
            thread.shutdown(wait=False, cancel_futures=True)


def submitted(thread: ThreadPoolExecutor, call: Callable[[], T]) -> Callable[[], T]:
    """Start a call in a thread, and return a function that waits for its result."""
    try:
        return partial(_result, thread.submit(call))
    except RuntimeError:
        # No thread can be started, for example at interpreter shutdown: who asks for the result makes the call.
        return call


def _result(future: Future[T]) -> T:
    """Wait for a future and return its result."""
    while not wait([future], _LOOK_UP).done:
        pass
    return future.result()


def _is_short(inputs: Sequence[Any]) -> bool:
    """Tell whether the inputs, texts or pairs, are too short for a tokenising thread to pay off."""
    room = LONG
    for item in inputs:
        room -= characters(item)
        if room < 0:
            return False
    return True


def _reads_tokens(module: Module) -> bool:
    return isinstance(module, Pooling) or getattr(module, "module_input_name", SENTENCE) == TOKENS


@contextlib.contextmanager
def _progress_bar(total: int, show: bool, title: str) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances the bar by a number of inputs."""
    if not show or sys.stderr is None:
        yield lambda count: None
        return
    with bar_of(total, title) as bar:
        yield bar.update


def bar_of(total: int, title: str, initial: int = 0) -> Any:
    """Return a bar of tqdm that counts texts from `initial`."""
    from tqdm.auto import tqdm

    # tqdm's lock reads the start method of processes, which fixes it: set_start_method would fail from then on.
    chosen = multiprocessing.get_start_method(allow_none=True)
    bar = tqdm(total=total, unit="text", desc=title, initial=initial)
    if chosen is None:
        multiprocessing.set_start_method(None, force=True)
    return bar
