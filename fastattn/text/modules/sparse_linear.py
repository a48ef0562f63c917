"""SparseLinear: BGE-M3's sparse head, a weight for each token of a text from its hidden state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError, own_file
from fastattn.checkpoint.weights import Tensors
from fastattn.kernels.ops.linear import linear
from fastattn.runtime.files import write_file
from fastattn.text.modules.module import IDS, SENTENCE, TOKENS, Array, Features, as_array, check_width
from fastattn.text.modules.sparse_module import SparseModule
from fastattn.text.sparse_embeddings import SparseEmbeddings
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["SPARSE_LINEAR", "SparseLinear", "has_linear", "read_linear", "special_ids"]

SPARSE_LINEAR = "sparse_linear"
# The endings of a head's own file, the first that is there.
_ENDINGS = ("safetensors", "pt", "bin")
# Roles of the tokens that have no weight.
_SPECIAL = ("cls", "bos", "eos", "sep", "pad", "unk")


def has_linear(folder: Path, name: str) -> bool:
    """Tell whether a folder has a linear map in a file of its own."""
    return any((folder / f"{name}.{ending}").exists() for ending in _ENDINGS)


def read_linear(folder: Path, name: str) -> tuple[Path, Array, Array]:
    """Return the path, the weight and the bias of a linear map in a file of its own."""
    paths = [folder / f"{name}.{ending}" for ending in _ENDINGS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        others = " or ".join(other.name for other in paths[1:])
        raise FileNotFoundError(f"{paths[0]}: no such file, nor {others}: bge-m3 has this head")
    tensors = Tensors(folder, [own_file(path)])
    if "weight" not in tensors or "bias" not in tensors or len(tensors.shape("weight")) != 2:
        raise CheckpointError(f"{path}: expected a matrix 'weight' and a 'bias', found {', '.join(tensors.names()) or 'nothing'}")
    weight, bias = (np.array(tensors.read(part, tensors.shape(part))) for part in ("weight", "bias"))
    return path, weight, bias


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the tokens that have no weight."""
    found = (getattr(tokenizer, f"{role}_token_id") for role in _SPECIAL)
    return [number for number in found if number is not None]


class SparseLinear(SparseModule):
    """Weight ``relu(w h_t + b)`` of each token t; a token id that occurs several times has the greatest.  Special tokens have none.

    Parameters
    ----------
    weight : float, (1, C)
        w.
    bias : float, (1,)
        b.
    vocab_size : int
        Words of the vocabulary.
    special_ids : sequence of int
        Ids of the tokens that are left out.

    Raises
    ------
    ValueError
        An array has the wrong shape.

    References
    ----------
    Chen et al. 2024, arXiv:2402.03216, section 3.2, "lexical retrieval".
    """

    kind = "SparseLinear"
    library = None

    def __init__(self, weight: ArrayLike, bias: ArrayLike, vocab_size: int, special_ids: Any = ()) -> None:
        self.weight = as_array("weight", weight, (1, *np.shape(weight)[1:2]))
        self.bias = as_array("bias", bias, (1,))
        self.vocab_size, self.special_ids = vocab_size, sorted({int(i) for i in special_ids})

    @classmethod
    def _load(cls, folder: Path, vocab_size: int, special_ids: Any) -> SparseLinear:
        """Read the head from a model's folder."""
        path, weight, bias = read_linear(folder, SPARSE_LINEAR)
        try:
            return cls(weight, bias, vocab_size, special_ids)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""
        check_width("SparseLinear", TOKENS, self.weight.shape[1], widths)
        widths[SENTENCE] = self.vocab_size

    def _sparse(self, features: Features, offsets: NDArray[np.int64], most: int | None) -> SparseEmbeddings:
        """Return the embeddings (B, V) with at most `most` active dimensions each; None keeps all."""
        ids, width = features[IDS], self.vocab_size
        weights = linear(np.ascontiguousarray(features[TOKENS]), self.weight, self.bias)[:, 0]
        kept = (weights > 0) & ~np.isin(ids, self.special_ids)
        places = (np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * width + ids)[kept]
        order = np.argsort(places, kind="stable")
        places, weights = places[order], weights[kept][order]
        firsts = np.flatnonzero(np.diff(places, prepend=-1))
        largest = np.maximum.reduceat(weights, firsts) if len(firsts) else weights
        ends = np.searchsorted(places[firsts], np.arange(len(offsets)) * width)
        return SparseEmbeddings(ends, places[firsts] % width, largest, (len(offsets) - 1, width))._largest(most)

    def get_embedding_dimension(self) -> int:
        """Return the number of words of the vocabulary.

        Returns
        -------
        int
            V.
        """
        return self.vocab_size

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in the file."""
        return {"weight": self.weight, "bias": self.bias}

    def save(self, output_path: Any) -> None:
        """Write ``sparse_linear.safetensors`` into a model's folder.

        Parameters
        ----------
        output_path : str or path
            The folder; created if missing.
        """
        from safetensors.numpy import save

        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{SPARSE_LINEAR}.safetensors", save(self._tensors()))
