"""The work of a job: vectors of all texts, then the output."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus.manifest import ArrayHash, TextHash, sidecar_path, write_sidecar
from fastattn.corpus.source import Block, Source, texts_of
from fastattn.corpus.survey import Survey
from fastattn.corpus.unfinished import Changed, Unfinished
from fastattn.corpus.writers import NUMBER_BYTES, OUTPUTS, converter, holds_infinity, writer
from fastattn.runtime.files import check_space, remove_abandoned, replacing, write_file
from fastattn.text.prompts import DOCUMENT_PROMPTS, first_prompt

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["TASK", "Engine", "Options", "Progress", "Report", "Work", "document_prompt", "rejects_path"]


class Options(NamedTuple):
    """Settings of a job that decide its output, beside texts and model.

    Parameters
    ----------
    prompt, prompt_name, normalize_embeddings, truncate_dim : optional
        As in `SentenceTransformer.encode`.
    precision : str
        Of the numbers that are written: one of `OUTPUT_PRECISIONS`.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    precision: str = "float32"


class Progress(NamedTuple):
    """How far a job is.

    Parameters
    ----------
    texts, total : int
        Texts that are done, of all.
    begun : int
        Texts that an earlier run had done.
    tokens : int
        Tokens of this run.
    seconds : float
        Time of the computation in this run.
    """

    texts: int
    total: int
    begun: int
    tokens: int
    seconds: float


class Report(NamedTuple):
    """What a job did.

    Parameters
    ----------
    texts, tokens, truncated : int
        Texts, tokens, and texts that were cut to the model's length.
    seconds : float
        Time of the computation in this run.
    done_before : int
        Texts that an earlier run had done.
    tokens_per_second : float
        Of this run.
    empty, blank, bad : int
        Texts without a character, blank lines, which are no texts, and bad rows.
    max_seq_length : int
        The model's length.
    """

    texts: int
    tokens: int
    truncated: int
    seconds: float
    done_before: int
    tokens_per_second: float
    empty: int
    blank: int
    bad: int
    max_seq_length: int


# Texts of a corpus are documents, which a Router may give modules of their own.
TASK = "document"


class Engine(Protocol):
    """Computes the vectors of a job elsewhere than in this process."""

    def encode_iter(
        self, facts: dict[str, str], encoder: SentenceTransformer, texts: Iterable[str], **options: Any
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of texts as `encoder.encode_iter` does; `facts` is the model in the manifest."""


def rejects_path(out: Path) -> Path:
    """Return the name of the file of the bad rows of an output."""
    return out.with_name(f"{out.name}.rejects.jsonl")


class Work:
    """The work itself: vectors of all texts, then the output."""

    def __init__(
        self,
        source: Source,
        survey: Survey,
        encoder: SentenceTransformer,
        options: Options,
        run: Unfinished,
        suffix: str,
        batch_tokens: int | None,
        progress: Callable[[Progress], object],
        engine: Engine | None = None,
    ) -> None:
        self._engine = engine
        self._source, self._survey, self._encoder, self._options = source, survey, encoder, options
        self._run, self._suffix, self._batch_tokens, self._progress = run, suffix, batch_tokens, progress
        self._width = encoder._kept_width(options.truncate_dim, encoder._pipeline_of(None, TASK).width)

    def run(self, out: Path | None, manifest: dict[str, Any]) -> Report:
        """Compute what is not computed yet, and write the output."""
        count = self._survey.count
        replaces = out is not None and (out.exists() if self._run.before is None else bool(self._run.before.get("replaces")))
        self._run.begin({**manifest, "replaces": replaces}, self._width)
        if out is not None:
            # Those of a run that was killed while it replaced one of its files.
            for each in (out, rejects_path(out), sidecar_path(out)):
                remove_abandoned(each, 0.0)
            size = (count - self._run.rows) * 4 + count * NUMBER_BYTES[self._options.precision]
            check_space(out, int(size * self._width))
        before, tokens_before = self._run.rows, self._run.counts.get("tokens", 0)
        seconds = self._compute(manifest["model"])
        if out is None:
            self._write(sys.stdout.buffer, None, manifest)
        else:
            with replacing(out) as file:
                self._write(file, out, manifest)
                # Before the output is there: an input that it replaces no longer has the bad rows.
                if self._survey.bad:
                    write_file(rejects_path(out), self._run.path / "rejects.jsonl")
                else:
                    rejects_path(out).unlink(missing_ok=True)
        survey, counts = self._survey, self._run.counts
        return Report(
            texts=count,
            tokens=counts["tokens"],
            truncated=counts["truncated"],
            seconds=seconds,
            done_before=before,
            tokens_per_second=(counts["tokens"] - tokens_before) / seconds,
            empty=survey.empty,
            blank=survey.blank,
            bad=survey.bad,
            max_seq_length=self._encoder.max_seq_length,
        )

    def _compute(self, facts: dict[str, str]) -> float:
        """Compute the vectors that are not safe yet; return the seconds."""
        encoder, options, run = self._encoder, self._options, self._run
        encoder._pipeline_of(None, TASK).load_kernels()
        # That of `search` too, or its first use says again that kernels are compiled.
        encoder.similarity(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
        begun, tokens, truncated = run.rows, run.counts.get("tokens", 0), run.counts.get("truncated", 0)
        texts = islice(texts_of(self._source.blocks(lambda bad: None)), begun, None)
        start = time.perf_counter()
        encode_iter = encoder.encode_iter if self._engine is None else partial(self._engine.encode_iter, facts, encoder)
        rows = encode_iter(
            texts,
            prompt_name=document_prompt(encoder, options),
            prompt=options.prompt,
            normalize_embeddings=options.normalize_embeddings,
            truncate_dim=options.truncate_dim,
            batch_tokens=self._batch_tokens,
            task=TASK,
        )
        infinite = holds_infinity(self._suffix, options.precision)
        done, seen = begun, encoder.counts

        def mark() -> None:
            run.mark({"tokens": tokens + seen.tokens, "truncated": truncated + seen.truncated})

        # Closed at once after an error: else other threads go on for a while.
        with contextlib.closing(cast("Generator[NDArray[np.float32], None, None]", rows)) as rows:
            for done, row in enumerate(rows, begun + 1):
                if encoder.counts is not seen:
                    # The first vector of a slice: those of the slices before it are written.
                    mark()
                    seen = encoder.counts
                    passed = time.perf_counter() - start
                    self._progress(Progress(begun + seen.texts, self._survey.count, begun, seen.tokens, passed))
                if not infinite and not np.isfinite(row).all():
                    raise ValueError(f"{self._place(done)}: its embedding has numbers that are not finite, {_why(self._suffix)}")
                run.write(row)
        if done != self._survey.count:
            raise Changed(
                f"{self._source.name}: has changed while it was read: it had {self._survey.count:,} texts, and now {done:,}"
            )
        mark()
        run.save()
        return time.perf_counter() - start

    def _place(self, number: int) -> str:
        """Return the file and line of a text, counted from 1."""
        for block in self._source.blocks(lambda bad: None):
            if number <= len(block.texts):
                unit = "row" if self._source.kind == "parquet" else "line"
                return f"{block.file}, {unit} {block.numbers[number - 1]}"
            number -= len(block.texts)
        return self._source.name

    def _write(self, file: BinaryIO, out: Path | None, manifest: dict[str, Any]) -> None:
        """Write the output and its sidecar."""
        count, options = self._survey.count, self._options
        ranges = self._ranges() if options.precision in ("int8", "uint8") else None
        convert = converter(options.precision, ranges)
        probe = convert(np.zeros((1, self._width), np.float32))
        shape = (count, probe.shape[1])
        made = writer(self._suffix, file, self._source, self._survey.schema, shape, probe.dtype)
        texts, array = TextHash(), ArrayHash()
        # The numbers of bad rows are as in the survey, or the hashes differ.
        blocks = self._source.blocks(lambda bad: None, kept=OUTPUTS[self._suffix] != "npy", replace=True)
        try:
            with self._run.vectors() as vectors:
                for block in blocks:
                    rows = convert(self._read(vectors, block))
                    texts.add(block.texts)
                    array.add(rows)
                    made.write(block, rows)
            made.close()
        except BaseException:
            made.abandon()
            raise
        if texts.hexdigest() != self._survey.hash:
            raise Changed(f"{self._source.name}: has changed while it was read")
        file.flush()
        if out is not None:
            # The sidecar comes first: beside the embeddings of an earlier run `search` finds that it is not theirs.
            written = {"shape": list(shape), "dtype": str(probe.dtype), "hash": array.hexdigest()}
            if ranges is not None:
                written["ranges"] = ranges.astype(float).tolist()
            write_sidecar(out, {**manifest, "embeddings": written}, self._survey.lines)

    def _read(self, vectors: BinaryIO, block: Block) -> NDArray[np.float32]:
        """Return the vectors of the next block."""
        found = np.frombuffer(vectors.read(4 * self._width * len(block.texts)), np.float32)
        if found.size != self._width * len(block.texts):
            raise Changed(f"{self._source.name}: has changed while it was read")
        return found.reshape(-1, self._width)

    def _ranges(self) -> NDArray[np.float32]:
        """Return the least and the largest value of each channel, (2, C)."""
        low = np.full(self._width, np.inf, np.float32)
        high = -low
        with self._run.vectors() as vectors:
            while raw := vectors.read(4 * self._width * 4096):
                rows = np.frombuffer(raw, np.float32).reshape(-1, self._width)
                low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        return np.stack([low, high])


def document_prompt(encoder: SentenceTransformer, options: Options) -> str | None:
    """Return the name of the prompt for documents, unless a prompt is given, as `SentenceTransformer.encode_document` does."""
    if options.prompt_name is not None or options.prompt is not None:
        return options.prompt_name
    return first_prompt(encoder.prompts, DOCUMENT_PROMPTS)


def _why(suffix: str) -> str:
    return "which JSON cannot hold; .npy can" if OUTPUTS[suffix] == "jsonl" else "which no integer stands for"
