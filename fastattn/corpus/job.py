"""A job: the texts of a corpus to a file of embeddings, which a killed run leaves to the next one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.checkpoint.hub import find_model
from fastattn.config import Precision, check_precision
from fastattn.corpus.manifest import (
    KIND,
    ArrayHash,
    is_manifest,
    model_facts,
    part,
    read_json,
    read_sidecar,
    sidecar_path,
    what_changed,
)
from fastattn.corpus.source import Source
from fastattn.corpus.survey import Survey, TooManyBad
from fastattn.corpus.unfinished import Unfinished
from fastattn.corpus.vectors import read_vectors
from fastattn.corpus.work import Engine, Options, Progress, Report, Work, rejects_path
from fastattn.corpus.writers import OUTPUTS, suffix_of
from fastattn.runtime.files import check_plain, write_file
from fastattn.runtime.version import __version__
from fastattn.text.quantization import check_ranges

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["Progress", "Report", "embed_file", "load_model"]


def embed_file(
    input: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: SentenceTransformer | str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    column: str | Sequence[str] | None = None,
    template: str | None = None,
    id_column: str | None = None,
    keep_columns: bool = True,
    paragraphs: bool = False,
    encoding: str = "utf-8",
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    precision: Precision = "float32",
    output_precision: str = "float32",
    batch_tokens: int | None = None,
    max_bad: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[Progress], object] | None = None,
    engine: Engine | None = None,
) -> Report:
    """Embed the texts of a corpus into a file, in memory that does not grow with the corpus.

    The corpus is read three times: to find what is wrong with it, to embed its texts, and to write its rows with the embeddings.
    Until all is done the vectors are in the folder ``OUT.partial``: a run that was killed at any point and is called again with
    `resume` gives the same bytes as one that was not.  The output is replaced at the end, in one step; ``OUT.json`` says from which
    texts and by which model it was made.

    Parameters
    ----------
    input : str or path
        A file (.parquet, .jsonl, .csv, .tsv or text, these also with .gz or .zst), a folder, a pattern such as ``data/*.parquet``,
        a URL of fsspec, or ``-`` for stdin.
    out : str or path
        The .parquet, .npy or .jsonl file to write, or ``-`` for JSON Lines on stdout.
    model : SentenceTransformer, str or path, optional
        The model, its folder, or its name on the Hub; by default as in `SentenceTransformer`.
    format : {"text", "jsonl", "csv", "tsv", "parquet"}, optional
        What the input holds; by default what its suffix says.
    column : str or sequence of str, optional
        Column of the text, "text" by default; several are joined by `template`.
    template : str, optional
        The text, with names of columns in braces: ``"{title}. {body}"``.
    id_column : str, optional
        Column that is kept without `keep_columns` too, and that names bad rows.
    keep_columns : bool
        Write the other columns beside the embeddings, if the output has columns.
    paragraphs : bool
        Texts of a text file are separated by blank lines, not by line ends.
    encoding : str
        Encoding of the input.
    prompt, prompt_name, normalize_embeddings, truncate_dim : optional
        As in `SentenceTransformer.encode_document`.
    precision : {"float32", "bfloat16", "int8"}
        Of the model's arithmetic, where `model` is loaded here.
    output_precision : {"float32", "float16", "int8", "uint8", "binary", "ubinary"}
        Of the numbers that are written; the ranges of int8 and uint8 are those of all embeddings.
    batch_tokens : int, optional
        As in `SentenceTransformer.encode_iter`.
    max_bad : int
        Number of bad rows that are left out, and listed in ``OUT.rejects.jsonl``; one more is an error.
    overwrite : bool
        Replace an output that is there, throw away an unfinished run, and replace embeddings in the rows of the input.
    resume : bool
        Continue a run that did not finish, if there is one.
    progress : callable, optional
        Called with a `Progress` from time to time.
    engine : fastattn.ray.Engine, optional
        What computes the vectors; by default this process.  The output has the same bytes.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        An argument has an unsupported value; a row is bad, and is one too many; an output is there already; or an unfinished run
        had other texts, another model or other settings.
    FileNotFoundError
        There is no such input.
    ImportError
        A package for a kind of input is not installed.
    OSError
        The input cannot be read, or the output not written: nothing is lost, and the run can be resumed.
    """
    stdout = str(out) == "-"
    target = Path(out)
    suffix = suffix_of(target)
    options = Options(prompt, prompt_name, normalize_embeddings, truncate_dim, output_precision)
    columns = [column] if isinstance(column, str) else list(column or ())
    if not stdout:
        _check_out(target, str(input), overwrite, resume)
    with Unfinished(None if stdout else target, resume, overwrite) as run:
        source = Source(
            str(input),
            kind=format,
            columns=columns,
            template=template,
            id_column=id_column,
            keep=keep_columns,
            paragraphs=paragraphs,
            encoding=encoding,
        )
        if len(source.files) > 1 and not stdout and any(_is_file(file.name, target) for file in source.files):
            raise ValueError(f"{out}: is one of the files of {input}: give another --out")
        kept = OUTPUTS[suffix] != "npy"
        replace = overwrite or (run.before or {}).get("replaces", False)
        try:
            survey = Survey(source, run.path, max_bad, OUTPUTS[suffix] == "parquet", kept, replace)
        except TooManyBad:
            if max_bad and not stdout:
                write_file(rejects_path(target), run.path / "rejects.jsonl")
            raise
        if output_precision in ("int8", "uint8"):
            check_ranges(survey.count, output_precision)
        encoder = load_model(model, precision)
        manifest = {
            "kind": KIND,
            "fastattn": __version__,
            "model": {**_facts(model, encoder), "precision": encoder.precision},
            "settings": options._asdict(),
            "input": {
                "path": str(input),
                "format": format,
                "column": columns,
                "template": template,
                "id_column": id_column,
                "keep_columns": keep_columns,
                "paragraphs": paragraphs,
                "encoding": encoding,
                "output": OUTPUTS[suffix],
                "max_bad": max_bad,
            },
            "texts": {
                "file": source.name,
                "count": survey.count,
                "blank_lines": survey.blank,
                "bad_rows": survey.bad,
                "hash": survey.hash,
                "digests": [file.digest() for file in source.files],
            },
        }
        _check_finished(target, stdout, overwrite, resume, run, manifest)
        if run.before is None:
            finished = resume and not overwrite and target.exists()
        else:
            finished = _is_file(str(input), target) and _is_written(target, run.before, manifest)
        if finished and not stdout:
            return Report(
                survey.count, 0, 0, 0.0, survey.count, 0.0, survey.empty, survey.blank, survey.bad, encoder.max_seq_length
            )
        work = Work(source, survey, encoder, options, run, suffix, batch_tokens, progress or (lambda progress: None), engine)
        return work.run(None if stdout else target, manifest)


def _check_out(out: Path, input: str, overwrite: bool, resume: bool) -> None:
    """Raise for what can be known of the output before the texts are read."""
    # A Path has one of the two slashes.
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):
        raise ValueError(f"{out}: the output must be a local file, not a URL")
    beside = sidecar_path(out)
    if beside.exists() and not is_manifest(read_json(beside)):
        raise ValueError(f"{beside}: was not written by embed, and would be replaced: move it away, or give another --out")
    check_plain(out)
    if os.path.isdir(input) and Path(os.path.realpath(input)) in Path(os.path.realpath(out)).parents:
        raise ValueError(f"{out}: is in the input folder {input}, and would be read as a part of it: give another --out")
    if overwrite or not out.exists():
        return
    if input != "-" and _is_file(input, out):
        raise ValueError(f"{out}: is the input too: give another --out, or --overwrite to add the embeddings to it")
    if not resume:
        raise ValueError(f"{out}: is there already: give another --out, or --overwrite to replace it")


def _is_file(name: str, out: Path) -> bool:
    return out.exists() and os.path.exists(name) and os.path.samefile(name, out)


def _check_finished(out: Path, stdout: bool, overwrite: bool, resume: bool, run: Unfinished, manifest: dict[str, Any]) -> None:
    """Raise if `resume` finds an output that is of another run."""
    if stdout or overwrite or not resume or not out.exists() or (run.before or {}).get("replaces"):
        return
    sidecar = read_sidecar(out)
    changed = "there is no manifest beside it" if sidecar is None else what_changed(sidecar, manifest)
    if changed is not None:
        raise ValueError(f"{out}: is not of this run: {changed}; give another --out, or --overwrite to replace it")


def _is_written(out: Path, before: dict[str, Any], manifest: dict[str, Any]) -> bool:
    """Tell whether a run was stopped after its output had replaced its input: the input is another file then, of the same texts."""
    sidecar = read_sidecar(out)
    if sidecar is None or what_changed(sidecar, before) is not None:
        return False
    now = part(manifest, "texts")
    same = {**manifest, "texts": {**part(before, "texts"), "count": now["count"], "hash": now["hash"]}}
    if what_changed(before, same) is not None:
        return False
    written, array = part(sidecar, "embeddings"), ArrayHash()
    try:
        for rows in read_vectors(out, written["dtype"]):
            array.add(rows)
    except ValueError:
        # The sidecar is written first: what is beside it is still the input.
        return False
    return bool(array.hexdigest() == written["hash"])


def load_model(model: Any, precision: str) -> SentenceTransformer:
    """Return a model that was given, or load it."""
    from fastattn.text.folder_kind import check_is_dense
    from fastattn.text.sentence_transformer import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        if model.folder is None:
            raise ValueError("model was made of modules: save it, and give its folder, so that another run finds the same")
        return model
    precision = check_precision(precision)
    check_is_dense(find_model(model))
    return SentenceTransformer(model, precision=precision)


def _facts(model: Any, encoder: SentenceTransformer) -> dict[str, str]:
    name = str(encoder.folder) if model is encoder else model
    facts = model_facts(name, encoder.folder)
    return facts if name is None else {**facts, "path": str(name)}
