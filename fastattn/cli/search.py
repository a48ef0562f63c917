"""Shows the texts nearest to a query."""

from __future__ import annotations

import textwrap

import numpy as np
import typer
from numpy.typing import NDArray
from rich.text import Text

from fastattn.cli.terminal import output

__all__ = ["show_hits"]

_LINES = 3


def show_hits(texts: list[str], scores: NDArray[np.float32], k: int) -> None:
    """Print the `k` texts with the highest scores, the best first.

    On a terminal a long text is cut after three lines; elsewhere a hit is one line: score, tab, text.
    """
    for i in np.argsort(-scores, kind="stable")[:k]:
        text = " ".join(texts[i].split())
        if not output.is_terminal:
            typer.echo(f"{scores[i]:.4f}\t{text}")
            continue
        lines = textwrap.wrap(text, max(20, output.width - 8), max_lines=_LINES, placeholder=" ...")
        for j, line in enumerate(lines):
            output.print(Text.assemble(("" if j else f"{scores[i]:.3f}", "bold cyan"), " " * (8 if j else 3), line))
