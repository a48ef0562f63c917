"""Losses that rank a query's document above the documents of the other queries in the batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import concatenate, log_sum_exp, sum_of, where
from fastattn.training.graph import Tensor
from fastattn.training.losses.loss import Column, Loss
from fastattn.training.losses.similarities import cos_sim, similarity_name, similarity_of_all

__all__ = [
    "CachedMultipleNegativesRankingLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
]

Array = NDArray[Any]
Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
PartitionMode = Literal["joint", "per_direction"]
HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]

_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
_PARTITIONS = ("joint", "per_direction")
_HARDNESS = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


class MultipleNegativesRankingLoss(Loss):
    """Cross-entropy of each query's document among all documents of the batch (InfoNCE).

    ::

        loss = -1/B sum_i [ s q_i.d_i - log sum_{z in pool(i)} exp(s z) ]

    where . is the similarity and s the scale. A row of the dataset is (query, document) or (query, document, negative, ...);
    the pool of row i has

    - query_to_doc: q_i.d for all documents and negatives of the batch,
    - query_to_query: q_i.q_j for j != i,
    - doc_to_query: q_j.d_i for all j,
    - doc_to_doc: d.d_i for all documents and negatives except row i's own.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    scale : float
        1 / temperature.
    similarity_fct : callable, str or SimilarityFunction
        Similarity of each of (A, C) to each of (B, C): a name, a function of `fastattn.util`, or one of two Tensors.
    directions : sequence of str
        Which similarities are in the pool; query_to_doc must be.
    partition_mode : {"joint", "per_direction"}
        One sum over the whole pool, or the mean of one for each direction.
    hardness_mode : {"in_batch_negatives", "hard_negatives", "all_negatives"}, optional
        Documents whose logits grow by ``hardness_strength * q_i.d``, a constant without gradient: those of other rows, the
        row's own negatives, or both.
    hardness_strength : float
        0 changes nothing.

    Raises
    ------
    ValueError
        An argument has a value that is not listed here.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Sources: A. van den Oord, Y. Li, O. Vinyals, Representation
    Learning with Contrastive Predictive Coding, 2018, arXiv:1807.03748; M. Henderson et al., Efficient Natural Language
    Response Suggestion for Smart Reply, 2017, arXiv:1705.00652; all four directions: Z. Li et al., Towards General Text
    Embeddings with Multi-stage Contrastive Learning, 2023, arXiv:2308.03281.
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Any = cos_sim,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(model)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if isinstance(directions, str) or not set(directions) <= set(_DIRECTIONS) or "query_to_doc" not in directions:
            raise ValueError(f"directions must be query_to_doc and others of {', '.join(_DIRECTIONS)}, got {directions!r}")
        if partition_mode not in _PARTITIONS:
            raise ValueError(f"partition_mode must be one of {', '.join(_PARTITIONS)}, got {partition_mode!r}")
        if partition_mode == "per_direction" and {"query_to_query", "doc_to_doc"} & set(directions):
            raise ValueError(
                "partition_mode must be 'joint' for query_to_query and doc_to_doc, whose similarities do not include that of a "
                f"query to its document; got 'per_direction' with {directions!r}"
            )
        if hardness_mode not in _HARDNESS:
            raise ValueError(f"hardness_mode must be one of {', '.join(map(str, _HARDNESS))}, got {hardness_mode!r}")
        if not hardness_strength >= 0:
            raise ValueError(f"hardness_strength must not be negative, got {hardness_strength}")
        if hardness_mode is not None and hardness_strength == 0:
            warnings.warn("hardness_mode has no effect while hardness_strength is 0", stacklevel=2)
        self.scale = scale
        self.similarity_fct = similarity_of_all(similarity_fct)
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength

    @property
    def temperature(self) -> float:
        """1 / scale."""
        return 1.0 / self.scale

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Queries, documents, and any number of columns of negatives.
        labels : array, optional
            Not used.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are fewer than 2 columns.
        """
        return self._of_rows(embeddings, 0, len(embeddings[0].data) if embeddings else 0)

    def _of_rows(self, embeddings: list[Tensor], begin: int, end: int) -> Tensor:
        """Return the part of the loss that queries `begin` to `end` have; all parts add up to the loss."""
        self._check_columns(embeddings, 2)
        queries, documents = embeddings[0], concatenate(embeddings[1:])
        count, copies = len(queries.data), len(embeddings) - 1
        if count * copies == 1:
            name = type(self).__name__
            warnings.warn(f"{name} has no negative in a batch of one example, its loss is 0: use larger batches", stacklevel=2)
        some_queries, some_documents = queries[begin:end], embeddings[1][begin:end]
        own = np.arange(begin, end)[:, None] == np.arange(count)  # (rows, B)
        scores = {"query_to_doc": self.similarity_fct(some_queries, documents)}
        if "query_to_query" in self.directions:
            scores["query_to_query"] = where(~own, self.similarity_fct(some_queries, queries), -np.inf)
        if "doc_to_query" in self.directions:
            scores["doc_to_query"] = self.similarity_fct(queries, some_documents).T
        if "doc_to_doc" in self.directions:
            same_row = np.tile(own, copies)
            scores["doc_to_doc"] = where(~same_row, self.similarity_fct(documents, some_documents).T, -np.inf)
        harder = self._harder(scores["query_to_doc"].data, own, copies)
        scores = {name: each * self.scale for name, each in scores.items()}
        if harder is not None:
            scores["query_to_doc"] = scores["query_to_doc"] + harder
        positive = scores["query_to_doc"][np.arange(end - begin), np.arange(begin, end)]
        if self.partition_mode == "joint":
            normalizer = log_sum_exp(concatenate(list(scores.values()), axis=1))
        else:
            sums = [log_sum_exp(each) for each in scores.values()]
            normalizer = sum(sums[1:], sums[0]) * (1 / len(sums))
        return sum_of(normalizer - positive) * (1 / count)

    def _harder(self, similarities: Array, own: Array, copies: int) -> Array | None:
        """Return what is added to the logits of the documents that `hardness_mode` selects."""
        if self.hardness_mode is None or self.hardness_strength == 0:
            return None
        is_own, is_positive = np.tile(own, copies), np.zeros((1, own.shape[1] * copies), bool)
        is_positive[:, : own.shape[1]] = True
        chosen = {
            "in_batch_negatives": ~is_own,
            "hard_negatives": is_own & ~is_positive,
            "all_negatives": ~(is_own & is_positive),
        }[self.hardness_mode]
        return np.where(chosen, similarities.dtype.type(self.hardness_strength) * similarities, 0)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {
            "scale": self.scale,
            "similarity_fct": similarity_name(self.similarity_fct),
            "directions": self.directions,
            "partition_mode": self.partition_mode,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` of large batches in the memory of small ones, by a gradient cache.

    Value and gradients are those of `MultipleNegativesRankingLoss`, whose equation see. Each mini-batch is embedded twice:
    once for the gradients of the loss at all embeddings, and once to go backward from them.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    scale, similarity_fct : optional
        As in `MultipleNegativesRankingLoss`.
    mini_batch_size : int
        Texts embedded at once, and queries whose similarities are in memory at once.
    mini_batch_num_tokens : int, optional
        Most tokens embedded at once, instead of `mini_batch_size` texts; a longer text is alone.
    directions, partition_mode, hardness_mode, hardness_strength : optional
        As in `MultipleNegativesRankingLoss`.

    Raises
    ------
    ValueError
        An argument has a value that is not listed.

    Notes
    -----
    Source: L. Gao, Y. Zhang, J. Han, J. Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    2021, arXiv:2101.06983.
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Any = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(model, scale, similarity_fct, directions, partition_mode, hardness_mode, hardness_strength)
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be positive, got {mini_batch_size}")
        if mini_batch_num_tokens is not None and mini_batch_num_tokens < 1:
            raise ValueError(f"mini_batch_num_tokens must be positive or None, got {mini_batch_num_tokens}")
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens

    def parts(self, texts: Column) -> list[slice]:
        """Return the mini-batches of a column.

        Parameters
        ----------
        texts : sequence
            The token ids of each text.

        Returns
        -------
        list of slice
            Consecutive parts.
        """
        if self.mini_batch_num_tokens is None:
            return [slice(i, min(i + self.mini_batch_size, len(texts))) for i in range(0, len(texts), self.mini_batch_size)]
        found, begin, tokens = [], 0, 0
        for i, text in enumerate(texts):
            if i > begin and tokens + len(text) > self.mini_batch_num_tokens:
                found.append(slice(begin, i))
                begin, tokens = i, 0
            tokens += len(text)
        return [*found, slice(begin, len(texts))]

    def add_gradients(self, embeddings: list[Tensor], labels: Array | None, scale: float) -> float:
        """Compute the loss and add its gradients to the embeddings, `mini_batch_size` queries at a time.

        Parameters
        ----------
        embeddings : list of Parameter, each (B, C)
            The embeddings of each column, without what they were computed from.
        labels : array, optional
            Not used.
        scale : float
            Factor of the gradients.

        Returns
        -------
        float
            The loss.
        """
        self._check_columns(embeddings, 2)
        count, total = len(embeddings[0].data), 0.0
        for begin in range(0, count, self.mini_batch_size):
            part = self._of_rows(embeddings, begin, min(begin + self.mini_batch_size, count))
            (part * scale).backward()
            total += part.item()
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        sizes = {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": self.mini_batch_num_tokens}
        return {**super().get_config_dict(), **sizes}


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """Mean of the cross-entropies of each query's document and of each document's query.

    It is `MultipleNegativesRankingLoss` with the directions query_to_doc and doc_to_query and `partition_mode`
    "per_direction", under the name that sentence-transformers had for it.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    scale, similarity_fct : optional
        As in `MultipleNegativesRankingLoss`.

    Notes
    -----
    Source: A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv:2103.00020.
    """

    def __init__(self, model: Any, scale: float = 20.0, similarity_fct: Any = cos_sim) -> None:
        both: tuple[Direction, ...] = ("query_to_doc", "doc_to_query")
        super().__init__(model, scale, similarity_fct, directions=both, partition_mode="per_direction")
