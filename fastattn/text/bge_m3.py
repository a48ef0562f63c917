"""BGEM3FlagModel: bge-m3's dense, sparse and multi-vector embeddings of a text in one forward, as FlagEmbedding gives them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.checkpoint.hub import find_model
from fastattn.config import Precision
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.pooling import normalize, pool
from fastattn.kernels.ops.maxsim import maxsim
from fastattn.runtime.rounding import rounding
from fastattn.text.batches import TextBatch
from fastattn.text.inputs import is_single, texts_of
from fastattn.text.modules import Transformer
from fastattn.text.modules.input_module import with_limit
from fastattn.text.modules.module import IDS, TOKENS
from fastattn.text.modules.sparse_linear import SparseLinear, read_linear, special_ids
from fastattn.text.pipeline import Counts, Pipeline
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["BGEM3FlagModel"]

Rows = NDArray[np.float32]

_DENSE, _SPARSE, _COLBERT = "dense_vecs", "lexical_weights", "colbert_vecs"


class BGEM3FlagModel:
    """bge-m3: a dense, a sparse and a multi-vector embedding of each text, a drop-in for ``FlagEmbedding.BGEM3FlagModel``.

    With h the hidden states of a text: dense = h[0];  the weight of token t = relu(w . h[t] + b), of a word the greatest among its
    tokens;  vector of token t = W h[t] + b, of all tokens but the first.

    The embeddings of a text are bit for bit the same in every batch, in every order and with any number of threads.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder with an XLM-RoBERTa, ``sparse_linear`` and ``colbert_linear`` (.safetensors or .pt), or a name on the Hugging Face
        Hub.
    normalize_embeddings : bool
        Normalise dense and multi-vector embeddings to unit length.
    use_fp16 : bool
        For compatibility: arithmetic and results are float32.
    max_length : int, optional
        Maximum number of tokens of a text; by default as the folder says.
    cache_dir, revision, local_files_only, token : optional
        Access to the Hugging Face Hub, as in `SentenceTransformer`.
    precision : {"float32", "bfloat16", "int8"}, optional
        Of the arithmetic in the encoder's layers.

    Raises
    ------
    FileNotFoundError
        The model was not found, or a file is missing.
    CheckpointError
        A file is damaged, or needs a feature that is not supported.

    References
    ----------
    Chen et al. 2024, arXiv:2402.03216, section 3.1.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        *,
        max_length: int | None = None,
        cache_dir: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.folder = find_model(
            model_name_or_path, cache_folder=cache_dir, revision=revision, token=token, local_files_only=local_files_only
        )
        self.normalize_embeddings = bool(normalize_embeddings)
        transformer = Transformer(transformer_folder(self.folder), max_seq_length=max_length, precision=precision)
        self._pipeline = Pipeline([transformer])
        self._sparse = SparseLinear._load(self.folder, transformer.vocab_size, special_ids(transformer.tokenizer))
        path, weight, bias = read_linear(self.folder, "colbert_linear")
        sizes, size = (self._sparse.weight.shape[1], weight.shape[1]), transformer.get_embedding_dimension()
        if sizes != (size, size) or bias.shape != weight.shape[:1]:
            raise CheckpointError(f"{path} and sparse_linear must have {size} columns, found {sizes[1]} and {sizes[0]}")
        self._colbert = PackedLinear(weight, bias, None)
        self.counts = Counts(0, 0, 0)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._pipeline.transformer.tokenizer

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        *,
        show_progress_bar: bool = False,
    ) -> dict[str, Any]:
        """Embed texts; one forward gives all kinds of embeddings.

        Parameters
        ----------
        sentences : str or iterable of str
            One text or several texts.
        batch_size : int, optional
            Ignored, for compatibility.
        max_length : int, optional
            Maximum number of tokens of a text in this call.
        return_dense, return_sparse, return_colbert_vecs : bool
            Kinds of embeddings.
        show_progress_bar : bool
            Show a progress bar.

        Returns
        -------
        dict of str to object
            ``dense_vecs``, float32 (B, C), or (C,) for one text; ``lexical_weights``, for each text a dict of token ids, as str, to
            weights above 0; ``colbert_vecs``, for each text float32 (T - 1, C).  None for kinds that are not asked for.

        Raises
        ------
        TypeError
            A text is not a str.
        ValueError
            `max_length` is out of range, or a text is not valid Unicode.
        """
        single = is_single(sentences)
        texts = texts_of([sentences] if single else sentences, "sentences")
        transformer = self._pipeline.transformer
        pipeline = self._pipeline if max_length is None else Pipeline([with_limit(transformer, max_length)])
        dense = np.empty((len(texts), transformer.get_embedding_dimension()), np.float32) if return_dense else None
        weights: list[Any] | None = [None] * len(texts) if return_sparse else None
        vectors: list[Any] | None = [None] * len(texts) if return_colbert_vecs else None
        with pipeline.batches(texts, "", show_progress_bar=show_progress_bar, title="Embedding") as batches:
            for batch in batches:
                hidden = transformer.encoder.forward_packed(batch.ids, batch.offsets)
                if dense is not None:
                    dense[batch.rows] = self._unit(pool(hidden, batch.offsets, "cls"))
                if weights is not None:
                    for row, found in zip(batch.rows, self._lexical_weights(hidden, batch), strict=True):
                        weights[row] = found
                if vectors is not None:
                    projected = self._unit(self._colbert(hidden))
                    for row, (first, last) in zip(batch.rows, itertools.pairwise(batch.offsets.tolist()), strict=True):
                        vectors[row] = projected[first + 1 : last].copy()
        self.counts = batches.counts
        result: dict[str, Any] = {_DENSE: dense, _SPARSE: weights, _COLBERT: vectors}
        return {name: found[0] if single and found is not None else found for name, found in result.items()}

    def _unit(self, rows: Rows) -> Rows:
        return normalize(rows) if self.normalize_embeddings else rows

    @rounding()
    def _lexical_weights(self, hidden: Rows, batch: TextBatch) -> Iterator[dict[str, float]]:
        """Yield for each text the greatest weight of each token id."""
        found = self._sparse._sparse({TOKENS: hidden, IDS: batch.ids}, batch.offsets, None)
        for first, last in itertools.pairwise(found.indptr.tolist()):
            words, weights = found.indices[first:last].tolist(), found.data[first:last].tolist()
            yield {str(word): weight for word, weight in zip(words, weights, strict=True)}

    def convert_id_to_token(self, lexical_weights: Any) -> Any:
        """Replace the token ids of sparse embeddings by the tokens.

        Parameters
        ----------
        lexical_weights : dict of str to float, or list of these
            From `encode`.

        Returns
        -------
        dict of str to float, or list of these
            Weights by token.
        """
        if isinstance(lexical_weights, Mapping):
            return {self.tokenizer.decode([int(word)]): weight for word, weight in lexical_weights.items()}
        return [self.convert_id_to_token(one) for one in lexical_weights]

    def compute_lexical_matching_score(
        self, lexical_weights_1: Mapping[str, float], lexical_weights_2: Mapping[str, float]
    ) -> float:
        """Score two sparse embeddings: the sum of the products of weights of the same token.

        Parameters
        ----------
        lexical_weights_1, lexical_weights_2 : dict of str to float
            From `encode`.

        Returns
        -------
        float
            The score.
        """
        return sum(weight * lexical_weights_2[word] for word, weight in lexical_weights_1.items() if word in lexical_weights_2)

    def colbert_score(self, q_reps: Rows, p_reps: Rows) -> float:
        """Score two multi-vector embeddings: the mean over the query's tokens of the greatest dot product.

        Parameters
        ----------
        q_reps : float32, (Q, C)
            A query, from `encode`.
        p_reps : float32, (T, C)
            A passage.

        Returns
        -------
        float
            The score.
        """
        return float(maxsim(q_reps, p_reps, [0, len(p_reps)], length_normalize=True)[0])
