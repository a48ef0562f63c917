"""Token pooling: fewer vectors for a document, whose tokens are grouped and averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.encoder.pooling import normalize
from fastattn.kernels.ops.linear import linear
from fastattn.runtime.rounding import rounding
from fastattn.text.modules.clusters import ward_clusters
from fastattn.text.modules.module import TOKENS, Features, Module, read_config
from fastattn.text.modules.multi_vector_mask import applies_to, listed_tasks

__all__ = ["BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling"]

Rows = NDArray[np.float32]


class BaseTokenPooling(Module):
    """Base class of token poolings, which define `pool_one`: modules of a `MultiVectorEncoder`, or an argument of its `encode`.

    Parameters
    ----------
    tasks : str or sequence of str, optional
        Tasks whose texts are pooled; by default "document", which is also the task of a text that is encoded without one.

    Raises
    ------
    ValueError
        `tasks` are not names.
    """

    library = "sentence_transformers.multi_vector_encoder.modules"

    def __init__(self, *, tasks: str | Iterable[str] | None = None) -> None:
        self.tasks = listed_tasks("tasks", tasks)

    def applies_to(self, task: str | None) -> bool:
        """Tell whether texts of a task are pooled.

        Parameters
        ----------
        task : str or None
            A task; None counts as "document".

        Returns
        -------
        bool
        """
        return applies_to(self.tasks, task)

    def pool_one(self, embedding: Rows, **kwargs: Any) -> Rows:
        """Pool the tokens of a text.

        Parameters
        ----------
        embedding : float32, (T, C)
            Token embeddings.
        **kwargs
            Ignored, for compatibility.

        Returns
        -------
        float32, (P, C)
            Fewer vectors.

        Raises
        ------
        NotImplementedError
            A subclass must define this method.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pool_one")

    def pool(
        self, embeddings: Any, *, task: str | None = None, attention_mask: Any = None, padding_side: str = "right"
    ) -> list[Rows] | Rows:
        """Pool the tokens of several texts.

        Parameters
        ----------
        embeddings : list of float32, (T, C), or float32, (B, T, C)
            Token embeddings of each text, or padded with zeros.
        task : str, optional
            Task of the texts; without one of `tasks` they are returned as they are.
        attention_mask : bool, (B, T), optional
            Tokens that are no padding, for a padded array.
        padding_side : {"right", "left"}
            Side of the padding, before and afterwards.

        Returns
        -------
        list of float32, (P, C), or float32, (B, P, C)
            As `embeddings`.

        Raises
        ------
        ValueError
            `embeddings` are neither, or `padding_side` is unknown.
        """
        if not self.applies_to(task):
            return embeddings  # type: ignore[no-any-return]
        if padding_side not in ("left", "right"):
            raise ValueError(f'padding_side must be "left" or "right", got {padding_side!r}')
        if isinstance(embeddings, list):
            texts = [np.asarray(embedding, np.float32) for embedding in embeddings]
            if any(text.ndim != 2 for text in texts):
                raise ValueError(f"embeddings must be (T, C) for each text, got shapes {[text.shape for text in texts][:4]}")
            return [self._pooled(text) for text in texts]
        padded = np.asarray(embeddings, np.float32)
        if padded.ndim != 3:
            raise ValueError(f"embeddings must be a list of (T, C), or (B, T, C), got shape {padded.shape}")
        real = np.asarray(attention_mask, np.bool_) if attention_mask is not None else _real(padded, padding_side)
        pooled = [self._pooled(text[mask]) for text, mask in zip(padded, real, strict=True)]
        out = np.zeros((len(pooled), max(map(len, pooled), default=0), padded.shape[2]), np.float32)
        for row, text in zip(out, pooled, strict=True):
            row[: len(text)] = text
            if padding_side == "left":
                row[:] = np.roll(row, len(row) - len(text), axis=0)
        return out

    def _pooled(self, text: Rows) -> Rows:
        return np.asarray(self.pool_one(text), np.float32)

    def _width(self, widths: dict[str, int]) -> None:
        """Check that there are token embeddings."""
        if TOKENS not in widths:
            raise ValueError(f"{self.kind} reads {TOKENS}, which no module before it writes; there are {', '.join(widths)}")

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the pooled vectors of each text in place of its first tokens, and mask the others."""
        if "attention_mask" not in features:
            raise ValueError(f"{self.kind} works in a MultiVectorEncoder: other models do not score single tokens")
        if not self.applies_to(features.get("task")):
            return
        rows, mask = features[TOKENS], features["attention_mask"]
        pooled, kept = np.zeros_like(rows), np.zeros_like(mask)
        for first, last in itertools.pairwise(offsets.tolist()):
            text = self._pooled(rows[first:last][mask[first:last]])
            if text.ndim != 2 or text.shape[1] != rows.shape[1] or len(text) > last - first:
                raise ValueError(f"{self.kind} must make at most {last - first} rows of {rows.shape[1]} channels, got {text.shape}")
            pooled[first : first + len(text)], kept[first : first + len(text)] = text, True
        features[TOKENS], features["attention_mask"] = pooled, kept


class HierarchicalTokenPooling(BaseTokenPooling):
    """Merges tokens into clusters by Ward's criterion on cosine distances, and averages each.

    Parameters
    ----------
    pool_factor : float
        About one token of `pool_factor` is left; 1 merges none.
    num_protected_tokens : int
        First tokens of a text that are not merged, such as ``[CLS]``.
    normalize_embeddings : bool
        Normalise all results to unit length; a folder without this setting is read as false.
    tasks : str or sequence of str, optional
        Tasks whose texts are pooled; by default "document".

    Raises
    ------
    ValueError
        `pool_factor` is below 1, or `num_protected_tokens` negative.

    Notes
    -----
    Expects token embeddings of unit length.  Work of order T^2 (C + 30), memory 8 T^2 bytes for a text of T tokens.

    References
    ----------
    Clavié et al. 2024, arXiv:2409.14683, section 3 (hierarchical clustering); Ward 1963.
    """

    kind = "HierarchicalTokenPooling"

    def __init__(
        self,
        pool_factor: float = 1.0,
        *,
        num_protected_tokens: int = 1,
        normalize_embeddings: bool = True,
        tasks: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(tasks=tasks)
        if not isinstance(pool_factor, int | float) or not 1 <= pool_factor < float("inf"):
            raise ValueError(f"pool_factor must be a number of at least 1, got {pool_factor!r}")
        if not isinstance(num_protected_tokens, int) or num_protected_tokens < 0:
            raise ValueError(f"num_protected_tokens must be an integer of at least 0, got {num_protected_tokens!r}")
        self.pool_factor = pool_factor
        self.num_protected_tokens = num_protected_tokens
        self.normalize_embeddings = bool(normalize_embeddings)

    @classmethod
    def _load(cls, folder: Path) -> HierarchicalTokenPooling:
        """Read the module's folder."""
        path = folder / "config.json"
        content = {"normalize_embeddings": False, **read_config(path)}
        known = ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks")
        try:
            return cls(**{name: content[name] for name in known if content.get(name) is not None})
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    @rounding()
    def pool_one(self, embedding: Rows, **kwargs: Any) -> Rows:
        """Pool the tokens of a text.

        Parameters
        ----------
        embedding : float32, (T, C)
            Token embeddings.
        **kwargs
            Ignored, for compatibility.

        Returns
        -------
        float32, (P, C)
            The protected tokens, then the mean of each cluster.
        """
        protected, rest = embedding[: self.num_protected_tokens], embedding[self.num_protected_tokens :]
        count = max(int(len(rest) // self.pool_factor), 1)
        if count < len(rest):
            distances = np.clip(1 - linear(rest, rest), 0, 2)
            clusters = ward_clusters(distances, count)
            sums = np.zeros((int(clusters.max()) + 1, rest.shape[1]), np.float32)
            np.add.at(sums, clusters, rest)
            embedding = np.concatenate([protected, sums / np.bincount(clusters)[:, None].astype(np.float32)])
        return normalize(embedding) if self.normalize_embeddings else embedding

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {
            "pool_factor": self.pool_factor,
            "num_protected_tokens": self.num_protected_tokens,
            "normalize_embeddings": self.normalize_embeddings,
            "tasks": self.tasks,
        }


class LambdaTokenPooling(BaseTokenPooling):
    """Pools the tokens of a text by a function; a model with it cannot be saved.

    Parameters
    ----------
    pool_fn : callable
        Function of token embeddings (T, C) that returns fewer, (P, C).
    tasks : str or sequence of str, optional
        Tasks whose texts are pooled; by default "document".

    Raises
    ------
    TypeError
        `pool_fn` cannot be called.
    """

    kind = "LambdaTokenPooling"

    def __init__(self, pool_fn: Callable[[Rows], Any], *, tasks: str | Iterable[str] | None = None) -> None:
        super().__init__(tasks=tasks)
        if not callable(pool_fn):
            raise TypeError(f"pool_fn must be a function, got {type(pool_fn).__name__}")
        self.pool_fn = pool_fn

    def pool_one(self, embedding: Rows, **kwargs: Any) -> Rows:
        """Pool the tokens of a text by the function.

        Parameters
        ----------
        embedding : float32, (T, C)
            Token embeddings.
        **kwargs
            Ignored, for compatibility.

        Returns
        -------
        float32, (P, C)
            What the function returns.
        """
        return self.pool_fn(embedding)  # type: ignore[no-any-return]

    def save(self, output_path: Any) -> None:
        """Raise an error: a function cannot be saved.

        Parameters
        ----------
        output_path : str or path
            Ignored.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "LambdaTokenPooling holds a function, which cannot be saved: give it to encode(token_pooling=...)"
        )


def _real(padded: NDArray[np.float32], padding_side: str) -> NDArray[np.bool_]:
    """Return which tokens are real: those up to the last that is not zero, or from the first on."""
    side = slice(None, None, -1) if padding_side == "right" else slice(None)
    there: NDArray[np.bool_] = np.asarray(padded.any(axis=2))[:, side]
    return np.maximum.accumulate(there, axis=1)[:, side]
