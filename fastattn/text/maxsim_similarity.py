"""Late-interaction scores of a model's embeddings, by the function that `similarity_fn_name` selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.torch_names import check_device
from fastattn.kernels.ops.maxsim import maxsim
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding
from fastattn.text.compatibility import as_tensors, is_tensor
from fastattn.text.similarity import as_float

__all__ = ["SCORINGS", "ModelMaxSim"]

Scoring = Literal["maxsim", "meanmaxsim"]
SCORINGS: tuple[str, ...] = ("maxsim", "meanmaxsim")
Rows = NDArray[np.float32]
# Score of a document without tokens, as in sentence-transformers: below every other, and finite.
_EMPTY = np.float32(-1e9)
# Bytes of documents that are laid end to end at once.
_COPIED = 2**24
# Options of sentence-transformers' scoring functions.
_OPTIONS = ("a_mask", "b_mask", "chunk_elements", "device", "length_normalize")


class ModelMaxSim:
    """Similarity of multi-vector embeddings, by the function that `similarity_fn_name` selects."""

    SUPPORTED_SIMILARITY_FN_NAMES: ClassVar[tuple[str, ...]] = SCORINGS

    @property
    def similarity_fn_name(self) -> Scoring:
        """Name of the similarity function: "maxsim", or "meanmaxsim", which divides by the number of a query's tokens."""
        return self._similarity_fn_name or "maxsim"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        # A name, or a member of sentence-transformers' enumeration, whose `value` is the name.
        name = getattr(value, "value", value)
        if name is not None and name not in SCORINGS:
            raise ValueError(f"similarity_fn_name must be one of {', '.join(SCORINGS)}, got {name!r}")
        self._similarity_fn_name: Scoring | None = name

    def similarity(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """Score each query with each document, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : list of float, (T, C), or float, (A, T, C) or (T, C)
            Queries: a list of embeddings, embeddings padded with zeros, or those of a single query; arrays or torch tensors.
        embeddings2 : list of float, (T, C), or float, (B, T, C) or (T, C)
            Documents.
        **kwargs
            ``length_normalize``: divide by the number of a query's tokens, or do not.  ``a_mask`` and ``b_mask``: tokens of padded
            queries and documents that take part.  ``chunk_elements`` and ``device`` are accepted, for compatibility.

        Returns
        -------
        float32, (A, B)
            The scores; a torch tensor if an argument holds torch tensors.  About -1e9 for a document without tokens.

        Raises
        ------
        ValueError
            The embeddings have other shapes, or an argument is unknown.

        Notes
        -----
        Documents are laid end to end in parts, which takes time: `fastattn.maxsim` takes them as they are, if they lie so already.
        """
        mean = self._options(kwargs)
        queries = _texts("embeddings1", embeddings1, kwargs.get("a_mask"))
        documents = _texts("embeddings2", embeddings2, kwargs.get("b_mask"))
        check_large(4 * len(queries) * len(documents), "scores of shape {}", (len(queries), len(documents)))
        scores = np.zeros((len(queries), len(documents)), np.float32)
        if scores.size:
            _score(queries, documents, mean, scores)
        return as_tensors(scores) if is_tensor(embeddings1) or is_tensor(embeddings2) else scores

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """Score each query with the document at the same place, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : list of float, (T, C), or float, (B, T, C) or (T, C)
            Queries, as in `similarity`.
        embeddings2 : list of float, (T, C), or float, (B, T, C) or (T, C)
            Documents.
        **kwargs
            As in `similarity`.

        Returns
        -------
        float32, (B,)
            The scores, the same bits as in the matrix of `similarity`.

        Raises
        ------
        ValueError
            There are not as many queries as documents, the embeddings have other shapes, or an argument is unknown.
        """
        mean = self._options(kwargs)
        queries = _texts("embeddings1", embeddings1, kwargs.get("a_mask"))
        documents = _texts("embeddings2", embeddings2, kwargs.get("b_mask"))
        if len(queries) != len(documents):
            raise ValueError(f"there must be as many queries as documents, got {len(queries)} and {len(documents)}")
        scores = np.zeros(len(queries), np.float32)
        for i, (query, document) in enumerate(zip(queries, documents, strict=True)):
            _score([query], [document], mean, scores[i : i + 1].reshape(1, 1))
        return as_tensors(scores) if is_tensor(embeddings1) or is_tensor(embeddings2) else scores

    def _options(self, given: dict[str, Any]) -> bool:
        """Check the options of a call; tell whether scores are divided by the number of a query's tokens."""
        if unknown := [name for name in given if name not in _OPTIONS]:
            raise ValueError(f"similarity has no argument {unknown[0]}; arguments: {', '.join(_OPTIONS)}")
        check_device(given.get("device"))
        return bool(given.get("length_normalize", self.similarity_fn_name == "meanmaxsim"))


@rounding()
def _texts(name: str, embeddings: Any, mask: Any) -> list[Rows]:
    """Return the token embeddings of each text; padding is left out."""
    masks: Any = None if mask is None else [np.asarray(row, np.bool_) for row in mask]
    if isinstance(embeddings, list | tuple):
        texts = [as_float(text) for text in embeddings]
        if any(text.ndim != 2 for text in texts):
            raise ValueError(f"{name} must be a list of (T, C), got shapes {[text.shape for text in texts][:4]}")
    else:
        padded = as_float(embeddings)
        if padded.ndim not in (2, 3):
            raise ValueError(f"{name} must be a list of (T, C), or (B, T, C), or (T, C), got shape {padded.shape}")
        if padded.ndim == 2:
            masks = None if mask is None else [np.asarray(mask, np.bool_).reshape(-1)]
            texts = [padded]
        else:
            texts = list(padded)
            masks = padded.any(axis=2) if masks is None else masks
    if masks is not None:
        if len(masks) != len(texts) or any(len(text) > len(row) for text, row in zip(texts, masks, strict=True)):
            raise ValueError(f"the mask of {name} must have a value for each token of {len(texts)} texts")
        texts = [text[row[: len(text)]] for text, row in zip(texts, masks, strict=True)]
    if len({text.shape[1] for text in texts if len(text)}) > 1:
        raise ValueError(f"{name} must have one width, got {sorted({text.shape[1] for text in texts})}")
    return texts


def _score(queries: Sequence[Rows], documents: Sequence[Rows], mean: bool, out: Rows) -> None:
    """Write the scores (A, B)."""
    width = next((text.shape[1] for text in (*queries, *documents) if len(text)), 0)
    tokens, starts = _joined(queries, width)
    for first, last in _parts(documents):
        rows, ends = _joined(documents[first:last], width)
        out[:, first:last] = maxsim(tokens, rows, ends, starts, length_normalize=mean)
    empty = [i for i, document in enumerate(documents) if not len(document)]
    counts = np.maximum(np.diff(starts), 1) if mean else np.ones(len(queries))
    out[:, empty] = (_EMPTY / counts)[:, None]


def _joined(texts: Sequence[Rows], width: int) -> tuple[Rows, NDArray[np.int64]]:
    """Return the tokens of texts end to end, and where each begins."""
    filled = [text for text in texts if len(text)]
    rows = np.concatenate(filled) if filled else np.empty((0, width), np.float32)
    return rows, np.cumsum([0, *map(len, texts)], dtype=np.int64)


def _parts(texts: Sequence[Rows]) -> Iterator[tuple[int, int]]:
    """Yield the first document and the end of parts of a bounded size."""
    start = size = 0
    for i, text in enumerate(texts):
        if i > start and size + text.nbytes > _COPIED:
            yield start, i
            start, size = i, 0
        size += text.nbytes
    yield start, len(texts)
