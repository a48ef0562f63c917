"""Verification: a sample of a file of embeddings, encoded again, must have the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus.job import load_model
from fastattn.corpus.manifest import ArrayHash, TextHash, model_facts, part, precision_of_model, read_sidecar, sidecar_path
from fastattn.corpus.source import Source
from fastattn.corpus.vectors import read_vectors
from fastattn.corpus.work import TASK, Options, document_prompt
from fastattn.corpus.writers import converter

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["Verification", "verify_file"]


class Verification(NamedTuple):
    """What a verification found.

    Parameters
    ----------
    texts : int
        Embeddings in the file.
    checked : int
        Embeddings that were computed again.
    different : list of int
        Places in the file, from 0, of those that have other bits.
    largest : float
        Largest difference of a number.
    """

    texts: int
    checked: int
    different: list[int]
    largest: float


def verify_file(
    out: str | os.PathLike[str],
    model: SentenceTransformer | str | os.PathLike[str] | None = None,
    *,
    input: str | os.PathLike[str] | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> Verification:
    """Encode a sample of the texts of a file of embeddings again, and compare bits.

    Parameters
    ----------
    out : str or path
        A file that `embed_file` wrote, with its ``.json`` beside it.
    model : SentenceTransformer, str or path, optional
        The model; by default the one that the file was made with.
    input : str or path, optional
        The texts; by default those that the file was made of.
    sample : int
        Number of texts.
    seed : int
        Of the random choice of texts.

    Returns
    -------
    Verification

    Raises
    ------
    ValueError
        The file has no manifest, it has changed since it was written, or model or texts are others.
    """
    path = Path(out)
    sidecar = read_sidecar(path)
    if sidecar is None or not part(sidecar, "input"):
        raise ValueError(f"{sidecar_path(path)}: is not there, or does not say from what {out} was made")
    written, given = part(sidecar, "embeddings"), part(sidecar, "input")
    count, dtype = int(written["shape"][0]), np.dtype(written["dtype"])
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    found = _rows(path, chosen, count, dtype, written.get("hash"))
    texts = _texts(sidecar, given, input, chosen)
    made = part(sidecar, "model")
    encoder = load_model(made.get("path") if model is None else model, precision_of_model(sidecar))
    if model_facts(None, encoder.folder)["hash"] != made.get("hash"):
        raise ValueError(f"{encoder.folder}: is another model than that of {out}, {made.get('name')}, or another version of it")
    options = Options(**part(sidecar, "settings"))
    rows = encoder.encode(
        texts,
        prompt=options.prompt,
        prompt_name=document_prompt(encoder, options),
        normalize_embeddings=options.normalize_embeddings,
        truncate_dim=options.truncate_dim,
        show_progress_bar=False,
        task=TASK,
    )
    ranges = written.get("ranges")
    again = converter(options.precision, None if ranges is None else np.array(ranges, np.float32))(rows)
    bits = [x.view(f"u{x.itemsize}") for x in (np.ascontiguousarray(found), np.ascontiguousarray(again))]
    different = (bits[0] != bits[1]).any(axis=1)
    largest = np.abs(found.astype(np.float64) - again).max(initial=0.0)
    return Verification(count, len(chosen), chosen[different].tolist(), float(largest))


def _rows(path: Path, chosen: NDArray[np.int64], count: int, dtype: np.dtype[Any], expected: Any) -> NDArray[Any]:
    """Return the chosen vectors of a file; ValueError if any of its vectors has changed since it was written."""
    array, start = ArrayHash(), 0
    parts = []
    for rows in read_vectors(path, dtype):
        array.add(rows)
        parts.append(rows[chosen[(chosen >= start) & (chosen < start + len(rows))] - start])
        start += len(rows)
    if start != count or array.hexdigest() != expected:
        raise ValueError(f"{path}: its embeddings have changed since embed wrote them")
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype)


def _texts(sidecar: dict[str, Any], given: dict[str, Any], input: Any, chosen: NDArray[np.int64]) -> list[str]:
    """Return the chosen texts; ValueError if they are others than those that were embedded."""
    name = given["path"] if input is None else str(input)
    if name == "-" and input is None:
        raise ValueError("the texts came from stdin: --input names a file that has them")
    source = Source(
        name,
        kind=given["format"],
        columns=given["column"],
        template=given["template"],
        id_column=given["id_column"],
        paragraphs=given["paragraphs"],
        encoding=given["encoding"],
    )
    texts, start = TextHash(), 0
    wanted: list[str] = []
    for block in source.blocks(lambda bad: None):
        texts.add(block.texts)
        inside = chosen[(chosen >= start) & (chosen < start + len(block.texts))] - start
        wanted += [block.texts[i] for i in inside]
        start += len(block.texts)
    if texts.hexdigest() != part(sidecar, "texts").get("hash"):
        raise ValueError(f"{name}: has other texts than those that were embedded, or in another order")
    return wanted
