"""The kinds of model and the families, with their precisions: the lists of `fastattn models`, README.md and the documentation."""

from __future__ import annotations

from typing import NamedTuple

import fastattn
from fastattn.checkpoint.families import FAMILIES
from fastattn.config import PRECISIONS

__all__ = ["Kind", "families", "kinds", "markdown", "model_lines"]


class Kind(NamedTuple):
    """A kind of model: what it is, the classes that load it, and what each precision is the precision of."""

    title: str
    classes: tuple[str, ...]
    precisions: tuple[str, str, str]


_LAYERS = ("yes", "layers and tables", "layers and tables")
# A class that this version lacks is left out.
_KINDS = (
    Kind("sentence embeddings", ("SentenceTransformer",), _LAYERS),
    Kind("static embeddings, model2vec", ("SentenceTransformer",), ("yes", "table", "table")),
    Kind("rerankers", ("CrossEncoder",), _LAYERS),
    Kind("sparse embeddings", ("SparseEncoder",), _LAYERS),
    Kind("late interaction", ("MultiVectorEncoder",), _LAYERS),
    Kind("hidden states, attention", ("Encoder",), _LAYERS),
    Kind("classes of a text, of tokens", ("EncoderForSequenceClassification", "EncoderForTokenClassification"), _LAYERS),
    Kind("masked words, pooler, CLIP's projection", ("EncoderForMaskedLM", "EncoderWithPooler", "EncoderWithProjection"), _LAYERS),
)


def kinds() -> list[Kind]:
    """Return the kinds of model that this version loads."""
    return [kind for kind in _KINDS if set(kind.classes) <= set(fastattn.__all__)]


def families() -> list[tuple[str, str]]:
    """Return the title and the ``model_type`` of each family."""
    return [(family.title, name) for name, family in FAMILIES.items()]


def _named(kind: Kind, mark: str = "") -> str:
    return ", ".join(f"{mark}{name}{mark}" for name in kind.classes)


def markdown() -> str:
    """Return the kinds and the families as README.md and the documentation show them."""
    heads = ["kind of model", "class", *PRECISIONS]
    rows = [heads, ["---"] * len(heads), *([kind.title, _named(kind, "`"), *kind.precisions] for kind in kinds())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows).replace(" --- ", "---")
    named = ", ".join(f"{title} (`{name}`)" for title, name in families())
    return f"{table}\n\nFamilies, each in every precision: {named}."


def model_lines() -> list[str]:
    """Return the kinds and the families as the command shows them."""
    rows = [["kind of model", "class", *PRECISIONS], *([kind.title, _named(kind), *kind.precisions] for kind in kinds())]
    rows += [[], ["family", "model_type", *PRECISIONS], *([title, name, *["yes"] * len(PRECISIONS)] for title, name in families())]
    widths = [max(len(row[i]) for row in rows if row) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
