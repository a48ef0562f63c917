"""`fastattn search`: the texts nearest to a query."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.text import Text

from fastattn.cli import options
from fastattn.cli.files import Texts, read_texts
from fastattn.cli.terminal import announced_compiling, is_watched, note, output, reported

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["print_hits", "search", "show_hits"]

_LINES = 3
# Files in which `embed` writes embeddings beside their texts.
_WITH_TEXTS = (".jsonl", ".ndjson")


def search(
    file: Annotated[str, typer.Argument(help="A file of texts, as for embed, or the .npy file of their embeddings.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for; several queries are answered in turn.")],
    k: Annotated[int, typer.Option("-k", help="How many texts to show.", min=1)] = 5,
    texts: Annotated[
        str | None, typer.Option(help="The texts whose embeddings an .npy FILE holds.", metavar="FILE", show_default=False)
    ] = None,
    model: options.Model = None,
    column: options.Column = None,
    format: options.Format = None,
    paragraphs: options.Paragraphs = False,
    encoding: options.Encoding = "utf-8",
    prompt: Annotated[
        str | None, typer.Option(help="What is put before each query.", show_default="the model's for queries", metavar="TEXT")
    ] = None,
    prompt_name: options.PromptName = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="The model's arithmetic: float32, bfloat16 or int8.",
            show_default="that of the embeddings in FILE, else float32",
            metavar="TYPE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, with the whole row of a text.")] = False,
) -> None:
    """Find the texts nearest in meaning to each QUERY.

    Each line: the similarity, the text's line in its file, the text. Embed a large file once, then search its .npy file
    with --texts, or the .jsonl file that embed wrote.
    """
    from fastattn.cli.embeddings import precision_of_model, read_embeddings, read_sidecar, setting
    from fastattn.text.similarity import similarity

    with reported(prints=True), announced_compiling():
        for query in queries:
            options.check_argument("QUERY", query)
        options.check_argument("--prompt", prompt)
        if precision is not None:
            options.precision_of(precision)
        path = Path(file)
        is_array = path.suffix.lower() == ".npy"
        if is_array and texts is None:
            raise ValueError(f"{file}: --texts must name the file whose embeddings these are")
        if not is_array and texts is not None:
            raise ValueError(f"{file}: --texts goes with an .npy file")
        sidecar = read_sidecar(path) if is_array or path.suffix.lower() in _WITH_TEXTS else None
        found = read_texts(
            texts or file,
            kind=format,
            column=column,
            paragraphs=paragraphs,
            encoding=encoding,
            keep=as_json,
            replace=True,
            embedded=sidecar is not None and not is_array,
        )
        embeddings = read_embeddings(path, len(found.texts)) if is_array else found.embeddings
        encoder = options.load(model, precision or precision_of_model(sidecar))
        if embeddings is not None:
            embeddings = _fitting(path, embeddings, sidecar, found, encoder, model)
        if embeddings is None:
            embeddings, sidecar = encoder.encode_document(found.texts, show_progress_bar=is_watched()), None
        asked = encoder.encode_query(
            queries,
            prompt=prompt,
            prompt_name=prompt_name,
            normalize_embeddings=bool(setting(sidecar, "normalize_embeddings")),
            truncate_dim=setting(sidecar, "truncate_dim"),
        )
        for i, scores in enumerate(similarity(asked, embeddings, encoder.similarity_fn_name)):
            if as_json:
                print_hits(found, scores, k, queries[i])
                continue
            if len(queries) > 1:
                output.print(f"{chr(10) if i else ''}? {queries[i]}", style="bold", markup=False, soft_wrap=True)
            show_hits(found, scores, k)


def _fitting(
    path: Path,
    embeddings: NDArray[np.float32],
    sidecar: dict[str, Any] | None,
    texts: Texts,
    encoder: SentenceTransformer,
    model: str | None,
) -> NDArray[np.float32] | None:
    """Return the embeddings of a file if they are of the texts and the model; None if its texts are to be embedded anew.

    ValueError if an .npy file does not fit.
    """
    from fastattn.cli.embeddings import model_facts, setting, sidecar_path, what_differs

    has_texts = path.suffix.lower() in _WITH_TEXTS
    if sidecar is not None:
        reason = what_differs(sidecar, texts, embeddings, model_facts(model, encoder.folder))
        if reason is not None and has_texts:
            note(f"{path}: its embeddings are not used, the texts are embedded anew: {reason}", style="yellow")
            return None
        if reason is not None:
            raise ValueError(f"{path}: does not fit: {reason}; without {sidecar_path(path)} this is not checked")
    width = min(encoder.get_embedding_dimension(), setting(sidecar, "truncate_dim") or embeddings.shape[1])
    if embeddings.shape[1] != width:
        raise ValueError(f"{path}: embeddings of width {embeddings.shape[1]}, but the model's have {width}")
    if sidecar is None:
        missing = sidecar_path(path)
        note(f"warning: there is no {missing}: nothing shows that the texts and the model belong to {path}", style="yellow")
    return embeddings


def _best(scores: NDArray[np.float32], k: int) -> list[int]:
    """Return the places of the `k` highest scores, the best first."""
    return [int(i) for i in np.argsort(-scores, kind="stable")[:k]]


def show_hits(texts: Texts, scores: NDArray[np.float32], k: int) -> None:
    """Print the `k` texts with the highest scores, the best first.

    On a terminal a long text is cut after three lines; elsewhere a hit is one line: score, tab, line of the text, tab, text.
    """
    best = _best(scores, k)
    digits = max((len(str(texts.lines[i])) for i in best), default=0)
    for i in best:
        text = " ".join(texts.texts[i].split())
        if not output.is_terminal:
            typer.echo(f"{scores[i]:.4f}\t{texts.lines[i]}\t{text}")
            continue
        room = max(20, output.width - 10 - digits)
        lines = textwrap.wrap(text, room, max_lines=_LINES, placeholder=" ...") or [""]
        for j, part in enumerate(lines):
            score, number = ("", "") if j else (f"{scores[i]:.3f}", str(texts.lines[i]))
            output.print(Text.assemble((f"{score:<7}", "bold cyan"), (f"{number:>{digits}}", "dim"), "   ", part))


def print_hits(texts: Texts, scores: NDArray[np.float32], k: int, query: str) -> None:
    """Print the `k` texts with the highest scores as JSON lines, with the row of a text that stands in one."""
    for rank, i in enumerate(_best(scores, k), 1):
        score = float(str(scores[i])) if np.isfinite(scores[i]) else None
        hit = {"query": query, "rank": rank, "score": score, "line": texts.lines[i], "text": texts.texts[i]}
        if texts.in_rows and texts.records is not None:
            hit["row"] = json.loads(texts.records[i])
        typer.echo(json.dumps(hit, ensure_ascii=False))
