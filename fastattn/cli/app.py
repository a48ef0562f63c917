"""The commands: `embed` and `search` have files of their own, the others stand here; modules beside this one do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastattn.cli import options
from fastattn.cli.embed import embed
from fastattn.cli.search import search
from fastattn.cli.terminal import announced_compiling, counted, note, output, reported
from fastattn.runtime.files import replacing

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Joins the lines of a paragraph in a docstring.
    rich_markup_mode="markdown",
)
app.command()(embed)
app.command()(search)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fastattn {version('fastattn')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Text embeddings on the CPU, by Numba kernels."""


@app.command()
def compare(
    file: Annotated[
        str | None,
        typer.Argument(help="Texts, as for embed.", show_default="docstrings of Python's standard library"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="bfloat16 or int8: compare a model in it with float32.", metavar="TYPE"),
    ] = None,
    model: options.Model = None,
    column: options.Column = None,
    format: options.Format = None,
    paragraphs: options.Paragraphs = False,
    encoding: options.Encoding = "utf-8",
) -> None:
    """Compare every kernel and the whole encoder with the NumPy reference, or a precision with float32.

    Without options: errors are the worst of all elements, in units of float32 eps, relative to the largest true value;
    the reference in float64 is the truth.  Times are medians of alternating runs.

    With --precision: how close MODEL stays to float32 on the texts of FILE (cosines, order of similarities, neighbours,
    each layer), how fast it is, and how much memory its weights take. At most 1,000 texts are compared, evenly spaced.
    """
    from fastattn.cli.compare import busy_cpus, print_comparisons
    from fastattn.cli.compare_precision import checked_precision, compare_precision

    with reported(prints=True), announced_compiling():
        other_work = busy_cpus()
        if (file, precision, model, column, format, paragraphs) == (None, None, None, None, None, False):
            print_comparisons()
        else:
            compare_precision(
                checked_precision(precision), model, file, kind=format, column=column, paragraphs=paragraphs, encoding=encoding
            )
        if other_work > 0.5:
            note(f"warning: other programs kept {other_work:.1f} CPUs busy: these times say little", style="yellow")


@app.command()
def info() -> None:
    """Show the CPU, the vector width, the threads, the cache folder and the versions."""
    from fastattn.cli.info import facts

    with reported(prints=True):
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
def warmup(precision: options.Precision = "float32") -> None:
    """Compile every kernel for this CPU and keep it on disk: those of float32, and the encoder's of --precision."""
    from fastattn.cli.warmup import warm_up

    with reported(prints=True), announced_compiling():
        total = 0.0
        for name, seconds in warm_up(options.precision_of(precision)):
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

    with reported(prints=True), announced_compiling():
        walk(text, dim=dim, heads=heads, ff=ff, layers=layers, dropout=dropout)


@app.command()
def attention(
    text: Annotated[str, typer.Argument(help="Any text; 5 to 60 words are easiest to read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .png, .svg or .pdf file to write.")],
    layer: Annotated[int | None, typer.Option(help="Show this layer, from 0; without it the mean of all.")] = None,
    head: Annotated[int | None, typer.Option(help="Show this head, from 0; without it the mean of all.")] = None,
    model: options.Model = None,
    precision: options.Precision = "float32",
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
            reading = read_attention(text, model, options.precision_of(precision))
            figure = draw_attention(reading, layer=layer, head=head)
            write_figure(figure, file, out.suffix)
        layers, heads, count, _ = reading.attention.shape
        cut = " of a text that was cut" if reading.truncated else ""
        note(f"{counted(count, 'token')}{cut}, {counted(layers, 'layer')}, {counted(heads, 'head')}: {out}")


if __name__ == "__main__":
    app()
