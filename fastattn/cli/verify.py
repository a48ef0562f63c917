"""`fastattn verify`: embeddings computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastattn.cli.terminal import announced_compiling, counted, output, reported

__all__ = ["verify"]

_SHOWN = 10


def verify(
    out: Annotated[Path, typer.Argument(help="A file that embed wrote.")],
    sample: Annotated[int, typer.Option(help="How many texts to encode again.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the random choice of texts.", min=0)] = 0,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the model is.", show_default="where it was", metavar="MODEL"),
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", help="Where the texts are.", show_default="where they were", metavar="INPUT")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as a JSON object.")] = False,
) -> None:
    """Encode a sample of the texts of OUT again, and compare bits.

    Exit code 1 if an embedding has other bits. On another kind of CPU the last bits differ: the largest difference tells.
    """
    from fastattn.corpus.verify import verify_file

    with reported(prints=True), announced_compiling():
        found = verify_file(out, model, input=input, sample=sample, seed=seed)
        if as_json:
            typer.echo(json.dumps(found._asdict()))
        elif found.different:
            rows = ", ".join(f"{place + 1:,}" for place in found.different[:_SHOWN])
            more = ", ..." if len(found.different) > _SHOWN else ""
            said = (
                f"{len(found.different):,} of {counted(found.checked, 'embedding')} have other bits, by {found.largest:.1e} at most"
            )
            output.print(f"{said}: rows {rows}{more}", markup=False, soft_wrap=True)
        else:
            output.print(
                f"{found.checked:,} of {counted(found.texts, 'embedding')} computed again: the same bits",
                markup=False,
                soft_wrap=True,
            )
        if found.different:
            raise typer.Exit(1)
