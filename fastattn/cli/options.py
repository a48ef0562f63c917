"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fastattn import config

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = [
    "Column",
    "Encoding",
    "Format",
    "Model",
    "Paragraphs",
    "Precision",
    "PromptName",
    "check_argument",
    "load",
    "precision_of",
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model folder, or a name on the Hugging Face Hub.", show_default="all-MiniLM-L6-v2", metavar="MODEL"
    ),
]
Column = Annotated[
    str | None,
    typer.Option(help="The key or column of the text in a row.", show_default="text", metavar="NAME"),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="What the file holds: text, jsonl, csv, tsv or parquet.",
        show_default="by the suffix",
        metavar="KIND",
    ),
]
Encoding = Annotated[str, typer.Option(help="The character encoding of the file.", metavar="NAME")]
Paragraphs = Annotated[bool, typer.Option("--paragraphs", help="Texts are separated by blank lines, not by line ends.")]
Precision = Annotated[str, typer.Option(help="The model's arithmetic: float32, bfloat16 or int8.", metavar="TYPE")]
PromptName = Annotated[str | None, typer.Option(help="The name of a prompt of the model.", metavar="NAME")]


def check_argument(name: str, text: str | None) -> None:
    """Raise ValueError if bytes of an argument are not of the system's encoding: Python passes them on as surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding().upper()
        raise ValueError(f"{name}: not {encoding}, the encoding of the command line: at character {error.start + 1}") from None


def precision_of(precision: str) -> config.Precision:
    """Return the value of --precision; ValueError if there is no such precision."""
    return config.check_precision(precision, "--precision")


def load(model: str | None, precision: str = "float32") -> SentenceTransformer:
    """Load a model; the import is inside the function, so that the help does not wait for it."""
    from fastattn.checkpoint.hub import find_model
    from fastattn.text.folder_kind import check_is_dense
    from fastattn.text.sentence_transformer import SentenceTransformer

    chosen = precision_of(precision)
    check_is_dense(find_model(model))
    return SentenceTransformer(model, precision=chosen)
