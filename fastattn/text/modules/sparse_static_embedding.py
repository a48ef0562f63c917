"""SparseStaticEmbedding: a weight for each token of a text, without an encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError, own_file, read_json
from fastattn.checkpoint.weights import Tensors
from fastattn.text.modules.module import IDS, SENTENCE, Array, Features, as_array, read_config
from fastattn.text.modules.sparse_module import SparseModule
from fastattn.text.sparse_embeddings import SparseEmbeddings
from fastattn.tokenizer.tokenizer import TokenIds, Tokenizer, load_tokenizer

__all__ = ["SparseStaticEmbedding"]


class _PlainTokenizer(Tokenizer):
    """Tokenizer that gives a model's texts no special tokens; its other methods do."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _PlainTokenizer:
        """Return a tokenizer with the same settings, which it does not share."""
        plain = cls.__new__(cls)
        plain.__dict__.update(tokenizer.__dict__)
        return plain

    def rows(self, texts: Sequence[str], max_length: int) -> TokenIds:
        """Return the ids of texts without special tokens, at most `max_length` a text."""
        rows = list(self._ids(texts, max_length, False))
        return TokenIds([self.cut(row, max_length) for row in rows], None, sum(len(row) > max_length for row in rows))

    def pair_rows(self, pairs: Sequence[Sequence[str]], max_length: int) -> TokenIds:
        """Raise a ValueError: words of two texts would be mixed."""
        raise ValueError("inputs must be texts, got pairs: a SparseStaticEmbedding reads one text at a time")


class SparseStaticEmbedding(SparseModule):
    """First and only module of a model, or of a route: the weight of each token that occurs in a text, 0 for the others.

    Special tokens are not added.  A token that occurs twice counts once.

    Parameters
    ----------
    tokenizer : tokenizer
        A fastattn, tokenizers or (fast) transformers tokenizer.
    weight : float, (V,), optional
        Weight of each token, such as its inverse document frequency; ones by default.
    frozen : bool
        For compatibility: weights are never trained here.

    Raises
    ------
    TypeError
        `tokenizer` is of another kind.
    ValueError
        `weight` has more than one axis.

    References
    ----------
    Geng et al. 2024, arXiv:2411.04403, section 3.
    """

    kind = "SparseStaticEmbedding"
    chat = None

    def __init__(self, tokenizer: Any, weight: ArrayLike | None = None, frozen: bool = False) -> None:
        self._tokenizer = _PlainTokenizer.of(Tokenizer.wrap(tokenizer))
        shape = np.shape(weight) if weight is not None else (len(self._tokenizer),)
        if len(shape) != 1:
            raise ValueError(f"weight must have shape (V,), got {shape}")
        self.weight: Array = as_array("weight", np.ones(shape) if weight is None else weight, shape)
        self.frozen = frozen

    @classmethod
    def from_json(cls, json_path: str | os.PathLike[str], tokenizer: Any, **config: Any) -> SparseStaticEmbedding:
        """Read the weights from a JSON file that maps tokens to weights, such as ``idf.json``.

        Parameters
        ----------
        json_path : str or path
            The file.
        tokenizer : tokenizer
            As in the constructor.
        **config
            Other arguments of the constructor.

        Returns
        -------
        SparseStaticEmbedding

        Raises
        ------
        FileNotFoundError
            There is no such file.
        CheckpointError
            The file does not map tokens to numbers.
        """
        path = Path(json_path)
        content = read_json(path)
        if not isinstance(content, dict) or not all(type(weight) in (int, float) for weight in content.values()):
            raise CheckpointError(f"{path}: expected a JSON object of numbers by token")
        module = cls(tokenizer, **config)
        weight = np.zeros(len(module._tokenizer), np.float32)
        for token, value in content.items():
            # A string that is no token is the unknown token, as in sentence-transformers.
            if isinstance(found := module._tokenizer.convert_tokens_to_ids(token), int):
                weight[found] = value
        module.weight = weight
        return module

    @classmethod
    def _load(cls, folder: Path, places: Sequence[Path] = ()) -> SparseStaticEmbedding:
        """Read the module's folder; the file of ``path`` may lie in one of `places` too."""
        path = folder / "config.json"
        content = read_config(path)
        tokenizer, frozen = load_tokenizer(folder), bool(content.get("frozen"))
        source = content.get("path")
        if source is None:
            tensors = Tensors(folder)
            if "weight" not in tensors:
                raise CheckpointError(f"{tensors.where}: tensor 'weight' is missing")
            try:
                return cls(tokenizer, np.array(tensors.read("weight", tensors.shape("weight"))), frozen)
            except ValueError as error:
                raise CheckpointError(f"{tensors.where}: {error}") from error
        if not isinstance(source, str) or not source.endswith(".json"):
            raise CheckpointError(f"{path}: path must be the name of a JSON file, found {source!r:.200}")
        name = source.replace("\\", "/").rpartition("/")[2]
        found = next((place / name for place in (folder, *places) if (place / name).is_file()), folder / name)
        return cls.from_json(own_file(found), tokenizer, frozen=frozen)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._tokenizer = _PlainTokenizer.of(Tokenizer.wrap(value, like=self._tokenizer))

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text; longer texts are truncated."""
        return self._tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"max_seq_length must be an integer of at least 0, got {value!r}")
        self._tokenizer.model_max_length = value

    def _configure(self, processing: Mapping[str, Any]) -> None:
        """Apply the arguments of the tokenizer that are not steps."""
        if "model_max_length" in processing:
            self.max_seq_length = processing["model_max_length"]
        if "truncation_side" in processing:
            self._tokenizer.truncation_side = processing["truncation_side"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.weight)

    def _width(self, widths: dict[str, int]) -> None:
        """Record the width of the output in `widths`."""
        widths[SENTENCE] = len(self.weight)

    def _sparse(self, features: Features, offsets: NDArray[np.int64], most: int | None) -> SparseEmbeddings:
        """Return the embeddings (B, V) with at most `most` active dimensions each; None keeps all."""
        width = len(self.weight)
        texts = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        places = np.unique(texts * width + features[IDS])
        places = places[self.weight[places % width] != 0] if width else places
        ends = np.searchsorted(places, np.arange(len(offsets)) * width)
        columns = places % max(width, 1)
        return SparseEmbeddings(ends, columns, self.weight[columns], (len(offsets) - 1, width))._largest(most)

    def get_embedding_dimension(self) -> int:
        """Return the number of words of the vocabulary.

        Returns
        -------
        int
            V.
        """
        return len(self.weight)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {"frozen": self.frozen}

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``."""
        return {"weight": self.weight}

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Write the module and its tokenizer into a folder.

        Parameters
        ----------
        output_path : str or path
            Folder to write; created if missing.
        """
        super().save(output_path)
        self._tokenizer.save_pretrained(output_path)
