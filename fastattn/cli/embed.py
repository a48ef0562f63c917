"""`fastattn embed`: a vector for each text of a corpus."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastattn.cli import options
from fastattn.cli.terminal import announced_compiling, counted, note, reported

if TYPE_CHECKING:
    from fastattn.corpus.job import Report
    from fastattn.corpus.work import Engine

__all__ = ["embed"]


def embed(
    input: Annotated[
        str,
        typer.Argument(
            help="A .parquet, .jsonl, .csv, .tsv or .txt file (the last four also with .gz or .zst), a folder, "
            "a pattern in quotes, a URL of fsspec, or - for stdin."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .parquet, .npy or .jsonl file to write, or - for JSON Lines on stdout.")
    ],
    model: options.Model = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="The key or column of the text in a row; several with --template.", show_default="text", metavar="NAME"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help='The text of several columns, such as "{title}. {body}".', metavar="TEXT")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="A column that --drop-columns keeps, and that names bad rows.", metavar="NAME")
    ] = None,
    drop_columns: Annotated[bool, typer.Option("--drop-columns", help="Leave the other columns of a row out of OUT.")] = False,
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
        str, typer.Option(help="The numbers in OUT: float32, float16, int8, uint8, binary or ubinary.", metavar="TYPE")
    ] = "float32",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a forward; no number depends on it.", show_default="16384", min=1)
    ] = None,
    max_bad: Annotated[
        int, typer.Option(help="Rows without a valid text to leave out, and to list in OUT.rejects.jsonl.", min=0)
    ] = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="What computes: ray, for the actors of a cluster; this process reads and writes.", metavar="NAME"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The cluster, as HOST:PORT or auto.", show_default="a new one here", metavar="ADDRESS")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Actors, which share the CPUs.", show_default="one a node", min=1, metavar="COUNT")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that did not finish.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, which may be INPUT, an unfinished run, and embeddings in rows.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing line as a JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")] = False,
) -> None:
    """Embed the texts of a corpus, one vector each.

    Texts are documents: `search` has the queries. An OUT of .jsonl or .parquet keeps every column of a row and adds `embedding`.
    Blank lines are skipped and counted; rows are not. OUT is written in one step at the end; OUT.json says from which texts and
    with which model it was made. Until then the vectors are in OUT.partial: whenever a run ends, --resume continues it, and the
    result has the same bytes.
    """
    from fastattn.cli.progress import Meter
    from fastattn.corpus.job import embed_file
    from fastattn.corpus.unfinished import unfinished_path

    is_stdout = str(out) == "-"
    with reported(prints=is_stdout or as_json), announced_compiling(), contextlib.ExitStack() as steps:
        for name, text in (("--prompt", prompt), ("--template", template)):
            options.check_argument(name, text)
        _check_precisions(precision, output_precision)
        if as_json and is_stdout:
            raise ValueError("--json: stdout has the embeddings: give another --out")
        meter = Meter()
        try:
            cluster = steps.enter_context(_engine(engine, address, actors))
            report = embed_file(
                input,
                out,
                model,
                format=format,
                column=column,
                template=template,
                id_column=id_column,
                keep_columns=not drop_columns,
                paragraphs=paragraphs,
                encoding=encoding,
                prompt=prompt,
                prompt_name=prompt_name,
                normalize_embeddings=normalize,
                truncate_dim=truncate_dim,
                precision=options.precision_of(precision),
                output_precision=output_precision,
                batch_tokens=batch_tokens,
                max_bad=max_bad,
                overwrite=overwrite,
                resume=resume,
                progress=None if quiet else meter,
                engine=cluster,
            )
        except BaseException as error:
            meter.close()
            left = unfinished_path(out)
            if not is_stdout and not isinstance(error, ValueError | TypeError) and left.exists():
                note(f"{left}: has the embeddings so far: --resume continues", style="yellow")
            raise
        meter.close()
        if report.truncated:
            cut = counted(report.truncated, "text")
            note(f"warning: {cut} cut to {report.max_seq_length} tokens: the rest is not in the embedding", style="yellow")
        if report.bad:
            note(f"warning: {counted(report.bad, 'bad row')} left out: {out}.rejects.jsonl", style="yellow")
        if as_json:
            typer.echo(json.dumps({**report._asdict(), "out": str(out)}))
        elif not quiet:
            note(f"{_summary(report)}: {'stdout' if is_stdout else out}")


def _engine(name: str | None, address: str | None, actors: int | None) -> contextlib.AbstractContextManager[Engine | None]:
    """Return the engine of a name, connected to its cluster; None for this process."""
    if name is None:
        if address is not None or actors is not None:
            raise ValueError(f"{'--actors' if address is None else '--address'} goes with --engine ray")
        return contextlib.nullcontext()
    if name != "ray":
        raise ValueError(f"--engine must be ray, got {name!r}")
    from fastattn.ray import Engine

    return Engine(address, actors=actors)


def _check_precisions(precision: str, output_precision: str) -> None:
    """Raise for a precision that the model's arithmetic, or the embeddings, cannot have."""
    from fastattn.corpus.writers import OUTPUT_PRECISIONS

    try:
        options.precision_of(precision)
    except ValueError as error:
        if precision in OUTPUT_PRECISIONS:
            raise ValueError(f"{error}; to quantise the embeddings: --output-precision {precision}") from None
        raise
    if output_precision not in OUTPUT_PRECISIONS:
        raise ValueError(f"--output-precision must be one of {', '.join(OUTPUT_PRECISIONS)}, got {output_precision!r}")


def _summary(report: Report) -> str:
    """Return the closing line: what was read, and how fast."""
    parts = [counted(report.texts, "text")]
    if report.tokens:
        parts.append(counted(report.tokens, "token"))
    if report.tokens_per_second:
        parts.append(f"{report.tokens_per_second:,.0f} tokens/s")
    if report.done_before:
        parts.append(f"{report.done_before:,} of an earlier run")
    if report.empty:
        parts.append(f"{counted(report.empty, 'text')} empty")
    if report.blank:
        parts.append(f"{counted(report.blank, 'blank line')} skipped")
    return ", ".join(parts)
