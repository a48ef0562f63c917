"""The kind of model that a folder holds, by the name of the class that reads it."""

from __future__ import annotations

from pathlib import Path

from fastattn.checkpoint.folder import CheckpointError, read_modules, read_object, transformer_folder
from fastattn.text.colbert_folders import is_stanford
from fastattn.text.model_folder import named_kind

__all__ = ["DENSE", "RERANKER", "SPARSE", "check_is_dense", "kind_of_folder"]

DENSE, RERANKER, SPARSE, _LATE = "SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder"
_KINDS = (DENSE, RERANKER, SPARSE, _LATE)


def _said_kind(folder: Path) -> str | None:
    """Return the kind that a folder says it is, in its settings or as those of Stanford's ColBERT do; None for none."""
    kind = named_kind(read_object(folder / "config_sentence_transformers.json"))
    if kind is None and not read_modules(folder) and is_stanford(folder):
        return _LATE
    return None if kind is None else str(kind)


def kind_of_folder(folder: Path) -> str:
    """Return the kind that a folder says it is, else the one that its weights were made for."""
    kind = _said_kind(folder)
    if kind is None and not read_modules(folder):
        made_for = read_object(transformer_folder(folder) / "config.json").get("architectures")
        is_classifier = isinstance(made_for, list) and any(str(name).endswith("ForSequenceClassification") for name in made_for)
        return RERANKER if is_classifier else DENSE
    kind = kind or DENSE
    if kind not in _KINDS:
        raise CheckpointError(f"{folder}: a model of type {kind!r} is not supported; supported: {', '.join(_KINDS)}")
    return kind


def check_is_dense(folder: Path) -> None:
    """Raise a CheckpointError for a folder that says it is of another kind than those with one vector for each text."""
    kind = _said_kind(folder)
    if kind in (None, DENSE):
        return
    advice = f"; its class is fastattn.{kind}" if kind in _KINDS else ""
    raise CheckpointError(f"{folder}: is a {kind}, and this needs a {DENSE}, which makes one vector of a text{advice}")
