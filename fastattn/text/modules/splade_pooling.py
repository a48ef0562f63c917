"""SpladePooling: one sparse embedding per text from the logits of its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.kernels.ops.splade_pooling import check_options
from fastattn.text.compatibility import renamed
from fastattn.text.modules.module import LOGITS, SENTENCE, Features, as_size, read_config
from fastattn.text.modules.sparse_module import SparseModule
from fastattn.text.sparse_embeddings import SparseEmbeddings

__all__ = ["SpladePooling"]

# Bytes of the dense embeddings that exist at once.
_DENSE_BYTES = 2**24


class SpladePooling(SparseModule):
    """Pools the logits of a masked language model: ``max_t log(1 + relu(logits_t))``, or the sum over the tokens t.

    The logits are never held: the product with the vocabulary, the logarithm and the maximum are one kernel,
    `fastattn.splade_pooling`.

    Parameters
    ----------
    pooling_strategy : {"max", "sum"}
        What becomes of the tokens of a text.
    activation_function : {"relu", "log1p_relu"}
        "log1p_relu" takes the logarithm twice.
    embedding_dimension : int, optional
        Words of the vocabulary; by default the model's.  Also accepted as ``word_embedding_dimension``.
    chunk_size : int, optional
        Ignored, for compatibility: memory does not grow with the tokens of a text.

    Raises
    ------
    ValueError
        An argument has an unsupported value.

    References
    ----------
    Formal et al. 2021, arXiv:2109.10086, section 3.
    """

    kind = "SpladePooling"

    @renamed(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        pooling_strategy: Literal["max", "sum"] = "max",
        activation_function: Literal["relu", "log1p_relu"] = "relu",
        embedding_dimension: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        check_options(pooling_strategy, activation_function)
        self.pooling_strategy, self.activation_function = pooling_strategy, activation_function
        self.embedding_dimension = embedding_dimension
        self.chunk_size = chunk_size

    @classmethod
    def _load(cls, folder: Path) -> SpladePooling:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        width = content.get("embedding_dimension", content.get("word_embedding_dimension"))
        try:
            return cls(
                content.get("pooling_strategy", "max"),
                content.get("activation_function", "relu"),
                None if width is None else as_size(path, "embedding_dimension", width),
            )
        except ValueError as error:
            raise error if isinstance(error, CheckpointError) else CheckpointError(f"{path}: {error}") from error

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""
        if LOGITS not in widths:
            raise ValueError(
                f'SpladePooling reads the logits of a Transformer with transformer_task "fill-mask"; there are {", ".join(widths)}'
            )
        self.embedding_dimension = self.embedding_dimension or widths[LOGITS]
        if self.embedding_dimension != widths[LOGITS]:
            raise ValueError(f"SpladePooling expects {self.embedding_dimension} logits a token, and there are {widths[LOGITS]}")
        widths[SENTENCE] = widths[LOGITS]

    def _sparse(self, features: Features, offsets: NDArray[np.int64], most: int | None) -> SparseEmbeddings:
        """Return the embeddings (B, V) with at most `most` active dimensions each; None keeps all."""
        rows, product = features[LOGITS]
        step = max(1, _DENSE_BYTES // (4 * product.outputs))
        parts = []
        for first in range(0, len(offsets) - 1, step):
            ends = offsets[first : first + step + 1]
            dense = product.splade_pooling(
                rows[ends[0] : ends[-1]], ends - ends[0], self.pooling_strategy, self.activation_function
            )
            parts.append(SparseEmbeddings.from_dense(dense)._largest(most))
        return SparseEmbeddings._stacked(parts, product.outputs)

    def get_embedding_dimension(self) -> int | None:
        """Return the number of words of the vocabulary.

        Returns
        -------
        int or None
            V; None before the module is part of a model.
        """
        return self.embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        names = ("pooling_strategy", "activation_function", "embedding_dimension")
        return {name: getattr(self, name) for name in names}
