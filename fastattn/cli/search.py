"""`fastattn search`: the texts nearest to a query."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.text import Text

from fastattn.cli import options
from fastattn.cli.files import Texts, read_texts
from fastattn.cli.terminal import announced_compiling, is_watched, note, output, reported

if TYPE_CHECKING:
    from fastattn.text.nearest import Rescoring
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["print_hits", "search", "show_hits"]

_LINES = 3
# Files in which `embed` writes embeddings beside their texts.
_WITH_TEXTS = (".jsonl", ".ndjson")


def search(
    file: Annotated[
        str, typer.Argument(help="A file of texts, as for embed, a .parquet or .jsonl file that embed wrote, or an .npy file.")
    ],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="What to look for; several queries are answered in turn.")
    ] = None,
    queries_file: Annotated[
        str | None, typer.Option("--queries", help="A file of more queries, read as FILE.", metavar="FILE", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("--top-k", "-k", help="How many texts to show.", min=1)] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(help='A condition on a column of a .parquet FILE, such as "year>=2000"; all must hold.', metavar="CONDITION"),
    ] = None,
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
    rescore: Annotated[
        str | None,
        typer.Option(
            help="An .npy file of float32 embeddings of the rows of FILE: the best are compared again with these.", metavar="FILE"
        ),
    ] = None,
    rescore_multiplier: Annotated[
        int,
        typer.Option(
            help="How many times as many texts as shown are compared again, with --rescore or where FILE has bits.", min=1
        ),
    ] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, with the whole row of a text.")] = False,
) -> None:
    """Find the texts nearest in meaning to each QUERY.

    Each line: the similarity, the text's line in its file (its row in Parquet), the text. Embed a large file once, then search
    the .parquet or .jsonl file that embed wrote, or its .npy file with --texts. Parquet is read in pieces, .npy is mapped,
    whatever their size, and both may be quantised. Of .npy all is read once more before, to compare it with its .json, and the
    texts are held in memory.
    """
    from fastattn.corpus.manifest import precision_of_model, read_sidecar, setting
    from fastattn.corpus.search import search_file
    from fastattn.corpus.vectors import map_vectors
    from fastattn.text.nearest import nearest, pieces_of

    with reported(prints=True), announced_compiling():
        reading: dict[str, Any] = {"kind": format, "column": column, "paragraphs": paragraphs, "encoding": encoding}
        queries = [*(queries or []), *([] if queries_file is None else read_texts(queries_file, **reading).texts)]
        if not queries:
            raise ValueError("there is no QUERY: give one, or --queries with a file of them")
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
        if rescore is not None and Path(rescore).suffix.lower() != ".npy":
            raise ValueError(f"--rescore must name an .npy file of embeddings, got {rescore}")
        if _has_vectors(path):
            asked = _Asked(queries, k, where or [], model, column, prompt, prompt_name, precision, rescore, rescore_multiplier)
            for i, (hits, scores) in enumerate(_of_parquet(path, asked)):
                _show(hits, scores, queries, i, as_json)
            return
        if where:
            raise ValueError(f"{file}: --where goes with a .parquet file that embed wrote")
        sidecar = read_sidecar(path) if is_array or path.suffix.lower() in _WITH_TEXTS else None
        found = read_texts(texts or file, **reading, keep=as_json, replace=True, embedded=sidecar is not None and not is_array)
        if rescore is not None and not is_array:
            raise ValueError(f"{file}: --rescore goes with a .parquet or .npy file that embed wrote")
        embeddings = map_vectors(path) if is_array else found.embeddings
        if embeddings is not None and len(embeddings) != len(found.texts):
            raise ValueError(f"{path}: {len(embeddings)} embeddings, but there are {len(found.texts)} texts")
        encoder = options.load(model, precision or precision_of_model(sidecar))
        if embeddings is not None:
            embeddings = _stored(path, embeddings, sidecar, found, encoder, model)
        if embeddings is None:
            embeddings, sidecar = encoder.encode_document(found.texts, show_progress_bar=is_watched()), None
        vectors = encoder.encode_query(
            queries,
            prompt=prompt,
            prompt_name=prompt_name,
            normalize_embeddings=bool(setting(sidecar, "normalize_embeddings")),
            truncate_dim=setting(sidecar, "truncate_dim"),
        )
        if is_array:
            rescoring = _rescoring(rescore, rescore_multiplier, path, (len(embeddings), vectors.shape[1]), sidecar)
            best = search_file(path, vectors, k, encoder.similarity_fn_name, sidecar, (), rescoring)
        else:
            best = nearest(vectors, pieces_of(embeddings), k, encoder.similarity_fn_name)
        for i, (places, scores) in enumerate(zip(*best, strict=True)):
            _show(_chosen(found, places.tolist()), scores, queries, i, as_json)


def _rescoring(name: str | None, multiplier: int, path: Path, shape: tuple[int, int], sidecar: dict[str, Any] | None) -> Rescoring:
    """Return how the best are compared again; ValueError if the embeddings of --rescore are not those of the rows of FILE."""
    from fastattn.corpus.manifest import part, read_sidecar
    from fastattn.corpus.vectors import map_vectors
    from fastattn.text.nearest import Rescoring

    if name is None:
        return Rescoring(multiplier)
    embeddings = map_vectors(Path(name))
    if embeddings.dtype.kind != "f":
        raise ValueError(f"--rescore {name}: must hold floats, and holds {embeddings.dtype}")
    if embeddings.shape != shape:
        raise ValueError(f"--rescore {name}: must have shape {shape}, one row for each of {path}, got {embeddings.shape}")
    made = read_sidecar(Path(name))
    if made is not None and sidecar is not None:
        for key, title in (("model", "by another model"), ("texts", "of other texts")):
            if part(made, key).get("hash") != part(sidecar, key).get("hash"):
                raise ValueError(f"--rescore {name}: was made {title} than {path}")
    return Rescoring(multiplier, embeddings)


def _chosen(texts: Texts, places: list[int]) -> Texts:
    """Return some of the texts of a file."""
    records = None if texts.records is None else [texts.records[i] for i in places]
    lines = [texts.lines[i] for i in places]
    return texts._replace(texts=[texts.texts[i] for i in places], lines=lines, records=records, embeddings=None)


def _show(texts: Texts, scores: NDArray[np.float32], queries: list[str], i: int, as_json: bool) -> None:
    """Print the hits of a query."""
    if as_json:
        print_hits(texts, scores, queries[i])
        return
    if len(queries) > 1:
        output.print(f"{chr(10) if i else ''}? {queries[i]}", style="bold", markup=False, soft_wrap=True)
    show_hits(texts, scores)


class _Asked(NamedTuple):
    """What is looked for in a Parquet file: the options of the command."""

    queries: list[str]
    k: int
    where: list[str]
    model: str | None
    column: str | None
    prompt: str | None
    prompt_name: str | None
    precision: str | None
    rescore: str | None
    rescore_multiplier: int


def _has_vectors(path: Path) -> bool:
    """Tell whether a file is Parquet with embeddings; one of texts alone is embedded."""
    from fastattn.corpus import tables
    from fastattn.corpus.files import SUFFIXES, find_files
    from fastattn.corpus.source import EMBEDDING

    is_parquet = SUFFIXES.get(path.suffix.lower()) == "parquet" and path.is_file()
    return is_parquet and EMBEDDING in tables.names(find_files(str(path))[0])


def _of_parquet(path: Path, asked: _Asked) -> Iterator[tuple[Texts, NDArray[np.float32]]]:
    """Yield the hits of each query, with their scores."""
    from fastattn.corpus.files import find_files
    from fastattn.corpus.manifest import model_facts, part, precision_of_model, read_sidecar, setting, sidecar_path
    from fastattn.corpus.search import rows_at, search_file, text_of_row
    from fastattn.corpus.tables import as_json, count

    sidecar = read_sidecar(path)
    encoder = options.load(asked.model, asked.precision or precision_of_model(sidecar))
    made = part(sidecar or {}, "model")
    if sidecar is None:
        note(f"warning: there is no {sidecar_path(path)}: nothing shows that the model belongs to {path}", style="yellow")
    elif model_facts(asked.model, encoder.folder)["hash"] != made.get("hash"):
        raise ValueError(f"{path}: does not fit: it was made with another model, {made.get('name')}: --model names it")
    vectors = encoder.encode_query(
        asked.queries,
        prompt=asked.prompt,
        prompt_name=asked.prompt_name,
        normalize_embeddings=bool(setting(sidecar, "normalize_embeddings")),
        truncate_dim=setting(sidecar, "truncate_dim"),
    )
    shape = count(find_files(str(path))[0]), vectors.shape[1]
    rescoring = _rescoring(asked.rescore, asked.rescore_multiplier, path, shape, sidecar)
    best = search_file(path, vectors, asked.k, encoder.similarity_fn_name, sidecar, asked.where, rescoring)
    rows = rows_at(path, best.rows.reshape(-1).tolist())
    for places, scores in zip(*best, strict=True):
        found = [rows[int(place)] for place in places]
        texts = [text_of_row(row, sidecar, asked.column) for row in found]
        yield Texts(str(path), texts, [int(place) + 1 for place in places], 0, [as_json(row) for row in found], None, True), scores


def _stored(
    path: Path,
    embeddings: NDArray[Any],
    sidecar: dict[str, Any] | None,
    texts: Texts,
    encoder: SentenceTransformer,
    model: str | None,
) -> NDArray[Any] | None:
    """Return the embeddings of a file if they are of the texts and the model; None if its texts are to be embedded anew.

    ValueError if an .npy file does not fit.
    """
    from fastattn.corpus.manifest import model_facts, setting, sidecar_path, what_differs

    has_texts = path.suffix.lower() in _WITH_TEXTS
    if sidecar is not None:
        reason = what_differs(sidecar, texts, embeddings, model_facts(model, encoder.folder))
        if reason is not None and has_texts:
            note(f"{path}: its embeddings are not used, the texts are embedded anew: {reason}", style="yellow")
            return None
        if reason is not None:
            raise ValueError(f"{path}: does not fit: {reason}; without {sidecar_path(path)} this is not checked")
    width = min(encoder.get_embedding_dimension(), setting(sidecar, "truncate_dim") or embeddings.shape[1])
    if embeddings.dtype.kind == "f" and embeddings.shape[1] != width:
        raise ValueError(f"{path}: embeddings of width {embeddings.shape[1]}, but the model's have {width}")
    if sidecar is None:
        missing = sidecar_path(path)
        note(f"warning: there is no {missing}: nothing shows that the texts and the model belong to {path}", style="yellow")
    return embeddings


def show_hits(texts: Texts, scores: NDArray[np.float32]) -> None:
    """Print texts with their scores.

    On a terminal a long text is cut after three lines; elsewhere a hit is one line: score, tab, line of the text, tab, text.
    """
    digits = max((len(str(line)) for line in texts.lines), default=0)
    for score, line, whole in zip(scores, texts.lines, texts.texts, strict=True):
        text = " ".join(whole.split())
        if not output.is_terminal:
            typer.echo(f"{score:.4f}\t{line}\t{text}")
            continue
        room = max(20, output.width - 10 - digits)
        parts = textwrap.wrap(text, room, max_lines=_LINES, placeholder=" ...") or [""]
        for j, part in enumerate(parts):
            first, number = ("", "") if j else (f"{score:.3f}", str(line))
            output.print(Text.assemble((f"{first:<7}", "bold cyan"), (f"{number:>{digits}}", "dim"), "   ", part))


def print_hits(texts: Texts, scores: NDArray[np.float32], query: str) -> None:
    """Print texts with their scores as JSON lines, with the row of a text that stands in one."""
    for i, found in enumerate(scores):
        score = float(str(found)) if np.isfinite(found) else None
        hit = {"query": query, "rank": i + 1, "score": score, "line": texts.lines[i], "text": texts.texts[i]}
        if texts.in_rows and texts.records is not None:
            hit["row"] = json.loads(texts.records[i])
        typer.echo(json.dumps(hit, ensure_ascii=False))
