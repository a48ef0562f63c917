"""The commands and their options; the modules beside this one do the work."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastattn.cli import files
from fastattn.cli.terminal import announced_compiling, note, output, reported
from fastattn.runtime.files import replacing

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["app"]

app = typer.Typer(
    help="Text embeddings on the CPU, by Numba kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A model folder, or a name on the Hugging Face Hub. [default: all-MiniLM-L6-v2]"),
]
_Column = Annotated[str, typer.Option(help="The key of the text in a .jsonl file.")]
_Paragraphs = Annotated[bool, typer.Option("--paragraphs", help="Texts are separated by blank lines, not by line ends.")]


def _load(model: str | None) -> SentenceTransformer:
    from fastattn.text.sentence_transformer import SentenceTransformer

    return SentenceTransformer(model)


def _is_watched() -> bool:
    """Tell whether stderr is a terminal, so that a progress bar is visible."""
    return sys.stderr is not None and sys.stderr.isatty()


@app.command()
def embed(
    input: Annotated[str, typer.Argument(help="A .txt file with a text a line, a .jsonl file, or - for stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npy or .jsonl file to write.")],
    model: _Model = None,
    column: _Column = "text",
    paragraphs: _Paragraphs = False,
) -> None:
    """Embed texts, one vector each.

    Blank lines are skipped.  OUT is replaced only when everything is done.
    """
    with reported(), announced_compiling():
        if out.suffix not in (".npy", ".jsonl"):
            raise ValueError(f"{out}: cannot write {out.suffix or 'a file without a suffix'}; supported: .npy, .jsonl")
        texts = files.read_texts(input, column=column, paragraphs=paragraphs)
        with replacing(out) as file:
            encoder = _load(model)
            encoder._pipeline.load_kernels()
            start = time.perf_counter()
            embeddings = encoder.encode(texts, show_progress_bar=_is_watched())
            seconds = time.perf_counter() - start
            files.write_embeddings(file, out.suffix, texts, embeddings)
        counts = encoder.counts
        note(
            f"{counts.texts:,} texts, {counts.tokens:,} tokens, {counts.tokens / seconds:,.0f} tokens/s, "
            f"{counts.truncated:,} truncated to {encoder.max_seq_length} tokens: {out}"
        )


@app.command()
def search(
    file: Annotated[str, typer.Argument(help="A .txt or .jsonl file of texts, or the .npy file of their embeddings.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many texts to show.", min=1)] = 5,
    texts: Annotated[str | None, typer.Option(help="The texts whose embeddings an .npy FILE holds.")] = None,
    model: _Model = None,
    column: _Column = "text",
    paragraphs: _Paragraphs = False,
) -> None:
    """Find the texts nearest in meaning to QUERY.

    Each line: the similarity, then the text.  Embed a large file once, then search its .npy file with --texts.
    """
    from fastattn.cli.search import show_hits
    from fastattn.text.similarity import similarity

    with reported(), announced_compiling():
        if file.endswith(".npy") and texts is None:
            raise ValueError(f"{file}: --texts must name the file whose embeddings these are")
        if not file.endswith(".npy") and texts is not None:
            raise ValueError(f"{file}: --texts goes with an .npy file")
        found = files.read_texts(texts or file, column=column, paragraphs=paragraphs)
        embeddings = files.read_embeddings(Path(file), len(found)) if texts is not None else None
        encoder = _load(model)
        if embeddings is None:
            embeddings = encoder.encode_document(found, show_progress_bar=_is_watched())
        if embeddings.shape[1] != encoder.get_embedding_dimension():
            width = encoder.get_embedding_dimension()
            raise ValueError(f"{file}: embeddings of width {embeddings.shape[1]}, but the model's have {width}")
        scores = similarity(encoder.encode_query(query), embeddings, encoder.similarity_fn_name)[0]
        show_hits(found, scores, k)


@app.command()
def compare() -> None:
    """Compare every kernel and the whole encoder with the NumPy reference.

    Errors are the worst of all elements, in units of float32 eps, relative to the largest true value; the reference in
    float64 is the truth.  Times are medians of alternating runs.
    """
    from fastattn.cli.compare import compare as comparisons

    with reported(), announced_compiling():
        output.print(f"{'':<21} {'':>16} {'error, eps':>13} {'time, ms':>17}", style="bold")
        output.print(f"{'':<21} {'shape':>16} {'ours':>6} {'NumPy':>6} {'ours':>8} {'NumPy':>8} {'ratio':>7}", style="bold")
        for found in comparisons():
            ratio = found.reference_seconds / found.seconds
            output.print(
                f"{found.label:<21} {found.shape:>16} {found.error:6.2f} {found.reference_error:6.2f} "
                f"{found.seconds * 1e3:8.2f} {found.reference_seconds * 1e3:8.2f} {ratio:6.1f}x"
            )
        output.print("error: max|result - truth| / (eps max|truth|), eps = 2^-23", style="dim")


@app.command()
def info() -> None:
    """Show the CPU, the vector width, the threads, the cache folder and the versions."""
    from fastattn.cli.info import facts

    with reported():
        for name, value in facts():
            output.print(f"{name:<20} {value}", markup=False, soft_wrap=True)


@app.command()
def convert(folder: Annotated[Path, typer.Argument(help="A model folder with pickled weights.")]) -> None:
    """Write model.safetensors of the pickled weights in FOLDER.

    Every tensor is kept, of heads too, and only tensors are read: no code of the pickle runs.  An existing
    model.safetensors is not replaced.  Needs torch.
    """
    from fastattn.cli.convert import convert_lines

    with reported():
        for line in convert_lines(folder):
            output.print(line, markup=False, soft_wrap=True)


@app.command()
def warmup() -> None:
    """Compile every kernel for this CPU and keep it on disk."""
    from fastattn.cli.warmup import warm_up

    with reported(), announced_compiling():
        total = 0.0
        for name, seconds in warm_up():
            output.print(f"{seconds:6.1f} s  {name}")
            total += seconds
        output.print(f"{total:6.1f} s  in total; from now on kernels are loaded from the cache", style="bold")


@app.command()
def walkthrough(
    text: Annotated[str, typer.Argument(help="Any text of up to 256 characters; a short one is easiest to follow.")],
    dim: Annotated[int, typer.Option(help="Channels of a hidden state, at most 256.", min=1)] = 30,
    heads: Annotated[int, typer.Option(help="Attention heads, at most 16; must divide --dim.", min=1)] = 5,
    ff: Annotated[int, typer.Option(help="Channels inside the feed-forward network, at most 1024.", min=1)] = 120,
    layers: Annotated[int, typer.Option(help="Layers of the encoder, at most 6.", min=1)] = 2,
    dropout: Annotated[float, typer.Option(help="Probability that training drops an element.")] = 0.1,
) -> None:
    """Walk through a transformer encoder, step by step, on TEXT.

    Each step shows shapes, a few values, and how far the kernel is from the reference.  Weights are random, from a
    fixed seed.
    """
    from fastattn.cli.walkthrough import walk

    with reported(), announced_compiling():
        walk(text, dim=dim, heads=heads, ff=ff, layers=layers, dropout=dropout)


@app.command()
def attention(
    text: Annotated[str, typer.Argument(help="Any text; 5 to 60 words are easiest to read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .png, .svg or .pdf file to write.")],
    layer: Annotated[int | None, typer.Option(help="Show this layer, from 0; without it the mean of all.")] = None,
    head: Annotated[int | None, typer.Option(help="Show this head, from 0; without it the mean of all.")] = None,
    model: _Model = None,
) -> None:
    """Draw which tokens of TEXT attend to which.

    A map from token to token, and beside it a small one of every head of every layer.  OUT is replaced only when
    everything is done.  Needs matplotlib, which the extra viz brings.
    """
    from fastattn.cli.attention import read_attention
    from fastattn.cli.attention_map import check_drawing, draw_attention, write_figure

    with reported(), announced_compiling():
        check_drawing(out)
        with replacing(out) as file:
            reading = read_attention(text, model)
            figure = draw_attention(reading, layer=layer, head=head)
            write_figure(figure, file, out.suffix)
        layers, heads, count, _ = reading.attention.shape
        cut = " of a text that was cut" if reading.truncated else ""
        note(f"{count:,} tokens{cut}, {layers} layers, {heads} heads: {out}")


if __name__ == "__main__":
    app()
