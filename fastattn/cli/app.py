"""The commands: `embed`, `search`, `serve`, `train` and `verify` have files of their own; modules beside them do the work."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer

from fastattn.cli import options
from fastattn.cli.embed import embed
from fastattn.cli.search import search
from fastattn.cli.serve import serve
from fastattn.cli.terminal import announced_compiling, counted, note, output, reported
from fastattn.cli.train import train
from fastattn.cli.verify import verify
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
app.command()(verify)
app.command()(search)
app.command()(train)
app.command()(serve)


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
def models(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables of README.md and the documentation.")] = False,
) -> None:
    """List the kinds of model and the families that load, with the precisions of each."""
    from fastattn.cli import models as listed

    with reported(prints=True):
        for line in [listed.markdown()] if markdown else listed.model_lines():
            output.print(line, markup=False, soft_wrap=True)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="A model folder, or a name on the Hugging Face Hub.", metavar="FOLDER")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether FOLDER loads, as what and in which precisions; if not, why not and what to do, with exit code 1.

    Settings, tokenizer and the headers of the weights are read; nothing is computed, and no code of the folder runs.
    """
    from fastattn.cli.check import check_lines, check_model

    with reported(prints=True), announced_compiling():
        report = check_model(model)
        for line in [json.dumps(report)] if as_json else check_lines(report):
            output.print(line, markup=False, soft_wrap=True)
        if not report["loads"]:
            raise typer.Exit(1)


@app.command()
def convert(folder: Annotated[Path, typer.Argument(help="A model folder with pickled weights.")]) -> None:
    """Write model.safetensors of the pickled weights in FOLDER.

    Every tensor is kept, of heads too, and only tensors are read: no code of the pickle runs.  An existing
    model.safetensors is not replaced.
    """
    from fastattn.cli.convert import convert_lines

    with reported():
        for line in convert_lines(folder):
            output.print(line, markup=False, soft_wrap=True)


@app.command()
def warmup(
    precision: options.Precision = "float32",
    training: Annotated[bool, typer.Option("--training", help="Compile the kernels of learning too.")] = False,
) -> None:
    """Compile every kernel for this CPU and keep it on disk: those of float32, and the encoder's of --precision."""
    from fastattn.cli.warmup import warm_up, warm_up_training

    with reported(prints=True), announced_compiling():
        total = 0.0
        chosen = options.precision_of(precision)
        for name, seconds in itertools.chain(warm_up(chosen), warm_up_training(chosen) if training else ()):
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
    chapter: Annotated[
        str | None,
        typer.Option(help="How a model learns: cross-entropy, optimizers, prediction, autoencoder or positions.", metavar="NAME"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The encoder and every chapter.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random weights; the same seed gives the same numbers.", min=0)] = 0,
) -> None:
    """Walk through a transformer encoder, step by step, on TEXT; or watch one learn it.

    Each step shows shapes, a few values, and how far the kernel is from the reference.  Weights are random, from a
    fixed seed.

    With --chapter: a small model learns TEXT, in seconds: its loss and gradient, four optimisers, two ways of predicting,
    an autoencoder, or what positions are for.  The sizes above are those of the encoder, not of these models.
    """
    from fastattn.cli.lessons.chapters import check_lessons, point_to_chapters, teach
    from fastattn.cli.walkthrough import walk

    with reported(prints=True), announced_compiling():
        if chapter is not None and everything:
            raise ValueError("--chapter shows one chapter and --all every one: give one of the two")
        is_taught = chapter is not None or everything
        if is_taught:
            check_lessons(text, chapter)
        if chapter is None:
            walk(text, dim=dim, heads=heads, ff=ff, layers=layers, dropout=dropout, seed=seed)
        if is_taught:
            teach(text, chapter, seed)
        else:
            point_to_chapters()


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
