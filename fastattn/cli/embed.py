"""`fastattn embed`: a vector for each text of a file."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from fastattn.cli import options
from fastattn.cli.files import Texts, read_texts
from fastattn.cli.terminal import announced_compiling, counted, is_watched, note, reported
from fastattn.runtime.files import check_space, replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastattn.text.pipeline import Counts
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["embed"]

_OUTPUTS = (".npy", ".jsonl", ".ndjson")
# Where no bar is visible: texts of a call, a multiple of the pipeline's slice, and seconds between two lines.
_SLICE, _EVERY = 4096, 10.0


def embed(
    input: Annotated[str, typer.Argument(help="A .txt, .jsonl, .csv or .tsv file, each also with .gz, or - for stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npy or .jsonl file to write, or - for JSON Lines on stdout.")],
    model: options.Model = None,
    column: options.Column = None,
    format: options.Format = None,
    paragraphs: options.Paragraphs = False,
    encoding: options.Encoding = "utf-8",
    prompt: Annotated[
        str | None, typer.Option(help="What is put before each text.", show_default="the model's for documents", metavar="TEXT")
    ] = None,
    prompt_name: options.PromptName = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Bring each vector to unit length.")] = False,
    truncate_dim: Annotated[int | None, typer.Option(help="Keep the first channels only.", min=1)] = None,
    precision: options.Precision = "float32",
    output_precision: Annotated[
        str, typer.Option(help="The numbers in OUT: float32, int8, uint8, binary or ubinary.", metavar="TYPE")
    ] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="OUT may be INPUT; embeddings in its rows are replaced.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")] = False,
) -> None:
    """Embed texts, one vector each.

    Texts are documents: `search` has the queries. A .jsonl OUT keeps every column of a row and adds the key `embedding`.
    Blank lines are skipped and counted; rows are not. OUT is replaced only when everything is done; beside it, OUT.json
    says from which texts and with which model it was made, and `search` looks at it.
    """
    import numpy as np

    from fastattn.cli.embeddings import model_facts, write_embeddings, write_sidecar

    is_stdout = str(out) == "-"
    with reported(prints=is_stdout), announced_compiling():
        suffix = ".jsonl" if is_stdout else out.suffix.lower()
        options.check_argument("--prompt", prompt)
        _check_precisions(precision, output_precision)
        _check(input, out, suffix, overwrite)
        texts = read_texts(
            input,
            kind=format,
            column=column,
            paragraphs=paragraphs,
            encoding=encoding,
            keep=suffix != ".npy",
            replace=overwrite,
        )
        with _opened(out) as file:
            encoder = options.load(model, precision)
            if not is_stdout:
                width = min(encoder.get_embedding_dimension(), truncate_dim or sys.maxsize)
                # A digit and a comma for each number at the least.
                check_space(out, len(texts.texts) * width * (4 if output_precision == "float32" and suffix == ".npy" else 1))
            encoder._pipeline.load_kernels()
            # That of `search` too, or its first use says again that kernels are compiled.
            encoder.similarity(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
            start = time.perf_counter()
            chosen = {"prompt": prompt, "prompt_name": prompt_name, "normalize_embeddings": normalize, "truncate_dim": truncate_dim}
            embeddings, counts = _encode(encoder, texts.texts, chosen, quiet)
            seconds = time.perf_counter() - start
            embeddings = _quantised(embeddings, output_precision)
            write_embeddings(file, suffix, texts, embeddings)
            if not is_stdout:
                file.flush()
                # The sidecar comes first: beside the embeddings of an earlier run `search` finds that it is not theirs.
                facts = {**model_facts(model, encoder.folder), "precision": precision}
                write_sidecar(out, texts, embeddings, facts, {**chosen, "precision": output_precision})
        if counts.truncated:
            cut = counted(counts.truncated, "text")
            note(f"warning: {cut} cut to {encoder.max_seq_length} tokens: the rest is not in the embedding", style="yellow")
        if not quiet:
            note(f"{_summary(texts, counts, seconds)}: {'stdout' if is_stdout else out}")


def _check_precisions(precision: str, output_precision: str) -> None:
    """Raise for a precision that the model's arithmetic, or the embeddings, cannot have."""
    from fastattn.text.quantization import PRECISIONS

    try:
        options.precision_of(precision)
    except ValueError as error:
        if precision in PRECISIONS:
            raise ValueError(f"{error}; to quantise the embeddings: --output-precision {precision}") from None
        raise
    if output_precision not in PRECISIONS:
        raise ValueError(f"--output-precision must be one of {', '.join(PRECISIONS)}, got {output_precision!r}")


def _check(input: str, out: Path, suffix: str, overwrite: bool) -> None:
    """Raise for what can be known before the texts are read."""
    from fastattn.cli.embeddings import read_sidecar, sidecar_path

    if str(out) == "-":
        return
    if suffix not in _OUTPUTS:
        kinds = ", ".join(_OUTPUTS)
        what = out.suffix or "a file without a suffix"
        raise ValueError(f"{out}: cannot write {what}; supported: {kinds}, or - for JSON Lines on stdout")
    if input != "-" and out.exists() and os.path.exists(input) and os.path.samefile(input, out) and not overwrite:
        raise ValueError(f"{out}: is the input too: give another --out, or --overwrite to add the embeddings to it")
    beside = sidecar_path(out)
    if beside.exists() and read_sidecar(out) is None:
        raise ValueError(f"{beside}: was not written by embed, and would be replaced: move it away, or give another --out")


@contextlib.contextmanager
def _opened(out: Path) -> Iterator[BinaryIO]:
    if str(out) == "-":
        yield sys.stdout.buffer
        return
    with replacing(out) as file:
        yield file


def _encode(
    encoder: SentenceTransformer, texts: list[str], chosen: dict[str, Any], quiet: bool
) -> tuple[NDArray[np.float32], Counts]:
    """Embed documents; progress is a bar on a terminal, and elsewhere a line from time to time."""
    if quiet or is_watched() or len(texts) <= _SLICE:
        embeddings = encoder.encode_document(texts, show_progress_bar=not quiet and is_watched(), **chosen)
        return embeddings, encoder.counts
    import numpy as np

    parts, counts = [], (0, 0, 0)
    start = said = time.perf_counter()
    for first in range(0, len(texts), _SLICE):
        parts.append(encoder.encode_document(texts[first : first + _SLICE], show_progress_bar=False, **chosen))
        counts = tuple(map(sum, zip(counts, encoder.counts, strict=True)))  # type: ignore[assignment]
        now = time.perf_counter()
        if now - said >= _EVERY and counts[0] < len(texts):
            said = now
            left = (now - start) * (len(texts) / counts[0] - 1)
            note(f"{counts[0]:,} of {len(texts):,} texts, {counts[1] / (now - start):,.0f} tokens/s, {left:,.0f} s left")
    return np.concatenate(parts), type(encoder.counts)(*counts)


def _quantised(embeddings: NDArray[np.float32], precision: str) -> NDArray[Any]:
    """Quantise all embeddings together: they share their ranges."""
    from fastattn.text.quantization import quantize_embeddings

    return embeddings if precision == "float32" else quantize_embeddings(embeddings, cast(Any, precision))


def _summary(texts: Texts, counts: Counts, seconds: float) -> str:
    """Return the closing line: what was read, and how fast."""
    parts = [counted(len(texts.texts), "text")]
    if counts.tokens:
        parts += [counted(counts.tokens, "token"), f"{counts.tokens / seconds:,.0f} tokens/s"]
    empty = sum(not text.strip() for text in texts.texts)
    if empty:
        parts.append(f"{counted(empty, 'text')} empty")
    if texts.blank:
        parts.append(f"{counted(texts.blank, 'blank line')} skipped")
    return ", ".join(parts)
