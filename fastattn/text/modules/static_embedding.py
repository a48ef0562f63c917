"""StaticEmbedding: the mean of a text's token embeddings, without an encoder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError, read_object, whole_file
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.weights import SINGLE, Tensors, remove_other_weights, weight_files
from fastattn.config import Precision, check_precision
from fastattn.kernels.ops.embedding_bag import sum_bags
from fastattn.kernels.products.pack import pack_table
from fastattn.parameters import check_finite
from fastattn.runtime.files import write_file
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding
from fastattn.text.compatibility import processing_arguments
from fastattn.text.modules.input_module import InputModule, Stamps, check_files, copy_files, stamps
from fastattn.text.modules.module import SENTENCE, Array, Module
from fastattn.text.modules.norms import Normalize
from fastattn.tokenizer.limits import read_backend
from fastattn.tokenizer.settings import NO_LIMIT, STEPS
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["StaticEmbedding", "model2vec_modules"]

# Names of the table in model.safetensors: sentence-transformers' and model2vec's.
_TABLES = ("embedding.weight", "embeddings")


class StaticEmbedding(InputModule):
    """Mean of the embeddings of a text's tokens, ``sum_i w_i E[m_i] / n`` over its n tokens; always the first module of a model.

    There are no special tokens, and no maximum number of tokens unless the tokenizer's file has one.  A text without tokens gets
    zeros.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer, or a fast tokenizer of transformers
        Makes token ids; its truncation is kept, its padding and its special tokens are not used.
    embedding_weights : float, (V, C)
        E, a row for each token id, or for each number in `token_mapping`.
    embedding_dim : int, optional
        C; without `embedding_weights` the table is random: normal with standard deviation 1, to be trained.
    token_mapping : int, (M,), optional
        m, the row of each token id, as in folders of model2vec with a reduced vocabulary.
    token_weights : float, (M,) or (V,), optional
        w, the factor of each token id, as in folders of model2vec.
    precision : {"float32", "bfloat16", "int8"}, optional
        Of the table in memory, float32 by default: half or a quarter of the bytes to read.  Sums are float32 in each.
    seed : int
        Of a random table.
    base_model : str, optional
        Ignored, for compatibility.

    Raises
    ------
    TypeError
        `tokenizer` is none, or an array does not hold numbers.
    ValueError
        An array has the wrong shape, a row number is not in the table, or a weight is not finite.

    References
    ----------
    Tulkens and van Dongen 2024, Model2Vec, its documentation; sentence-transformers 6.2, class StaticEmbedding.

    Examples
    --------
    >>> import numpy as np
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from fastattn import SentenceTransformer
    >>> from fastattn.modules import StaticEmbedding
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "tea": 1, "pot": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> model = SentenceTransformer(modules=[StaticEmbedding(words, np.array([[0, 0], [2, 0], [0, 4]], np.float32))])
    >>> model.encode("tea pot")
    array([1., 2.], dtype=float32)
    """

    kind = "StaticEmbedding"
    output_name = SENTENCE
    _learns = False

    @rounding()
    def __init__(
        self,
        tokenizer: Any,
        embedding_weights: ArrayLike | None = None,
        embedding_dim: int | None = None,
        *,
        token_mapping: ArrayLike | None = None,
        token_weights: ArrayLike | None = None,
        precision: Precision | None = None,
        seed: int = 0,
        base_model: str | None = None,
    ) -> None:
        backend = _without_special_tokens(tokenizer)
        if embedding_weights is None:
            if type(embedding_dim) is not int or embedding_dim < 1:
                raise ValueError(f"embedding_weights or embedding_dim, at least 1, must be given, got None and {embedding_dim!r}")
            check_large(4 * len(backend) * embedding_dim, "a table of shape {}", (len(backend), embedding_dim))
            embedding_weights = np.random.default_rng(seed).standard_normal((len(backend), embedding_dim), np.float32)
        table = np.asarray(embedding_weights, np.float32)
        if table.ndim != 2 or embedding_dim not in (None, table.shape[1]):
            wanted = "C" if embedding_dim is None else embedding_dim
            raise ValueError(f"embedding_weights must have shape (V, {wanted}), got {table.shape}")
        self._mapping = None if token_mapping is None else _mapping(token_mapping, len(table))
        count = len(table) if self._mapping is None else len(self._mapping)
        self._weights = None
        if token_weights is not None:
            self._weights = np.ascontiguousarray(token_weights, np.float32)
            if self._weights.shape != (count,):
                raise ValueError(f"token_weights must have shape ({count},), a factor for each token id, got {self._weights.shape}")
        self.num_embeddings, self.embedding_dim = count, int(table.shape[1])
        self._precision: Precision = check_precision(precision or "float32", "precision")
        check_finite({"embedding_weights": table}, self._precision)
        check_large(4 * table.size, "a table of shape {}", table.shape)
        self._table = pack_table(table, self._precision)
        # What `save` writes if the module was not read from a folder.
        self._given = self._table.reshape(table.shape) if self._precision == "float32" else table
        self._folder: Path | None = None
        self._stamps: Stamps = {}
        self._tokenizer = backend

    @classmethod
    def _load(
        cls,
        folder: Path,
        processor_kwargs: Mapping[str, Any] | None = None,
        precision: Precision | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> StaticEmbedding:
        """Read the module's folder: that of sentence-transformers, or of model2vec; `model_kwargs` would choose an adapter."""
        if model_kwargs:
            raise ValueError(f"model_kwargs: {next(iter(model_kwargs))} needs a Transformer: a StaticEmbedding has no adapters")
        given = processing_arguments(processor_kwargs)
        if step := next((name for name in given if name in STEPS), None):
            raise ValueError(f"processor_kwargs: {step} needs a Transformer: a StaticEmbedding has the steps of its tokenizer.json")
        folder = folder.absolute()
        path = folder / "tokenizer.json"
        backend = read_backend(whole_file(path))
        tensors, name = _open(folder)
        mapping = tensors.read_integers("mapping", tensors.shape("mapping")) if "mapping" in tensors else None
        weights = tensors.read_numbers("weights") if "weights" in tensors else None
        # model2vec has tables of int8, whose numbers are the embeddings.
        table = tensors.read_numbers(name)
        try:
            module = cls(backend, table, token_mapping=mapping, token_weights=weights, precision=precision)
        except ValueError as error:
            raise CheckpointError(f"{tensors.where}: {error}") from error
        config = [folder / "config.json"] if (folder / "config.json").is_file() else []
        module._folder, module._stamps = folder, stamps(folder, [*weight_files(folder), *config, path])
        module._given = np.empty(0, np.float32)
        module._configure(given)
        return module

    @classmethod
    def from_model2vec(cls, model_id_or_path: str | os.PathLike[str], precision: Precision | None = None) -> StaticEmbedding:
        """Read a model of model2vec.

        Parameters
        ----------
        model_id_or_path : str or path
            Its folder, or its name on the Hugging Face Hub.
        precision : {"float32", "bfloat16", "int8"}, optional
            As in the constructor.

        Returns
        -------
        StaticEmbedding
            The table with its mapping and weights.  ``normalize`` in ``config.json`` is a module of its own, `Normalize`.

        Raises
        ------
        FileNotFoundError
            The model was not found, or its folder lacks a file.
        CheckpointError
            A file is damaged, or needs a feature that is not supported.

        Notes
        -----
        As in sentence-transformers, unknown tokens count and long texts are not truncated; model2vec's own ``StaticModel`` leaves
        unknown tokens out, and truncates to 512 tokens.
        """
        return cls._load(find_model(model_id_or_path), precision=precision)

    @property
    def precision(self) -> Precision:
        """Precision of the table, fixed when the module is made."""
        return self._precision

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.num_embeddings

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text; infinity without one, as in sentence-transformers."""
        limit = self._tokenizer.model_max_length
        return cast("int", math.inf if limit >= NO_LIMIT else limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if value is not None and value != math.inf and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"max_seq_length must be a positive integer, or infinity, got {value!r}")
        self._tokenizer.model_max_length = NO_LIMIT if value is None or value == math.inf else value

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of an embedding.

        Returns
        -------
        int
            C.
        """
        return self.embedding_dim

    def _width(self, widths: dict[str, int]) -> None:
        """Record the width of the output in `widths`."""
        widths[SENTENCE] = self.embedding_dim

    def learn(self) -> Array:
        """Return the table, (V, C) of float32, to be changed in place; `save` writes it from now on, `install` encodes with it."""
        if not self._learns:
            if self._folder is not None:
                # `save` may have written the tokenizer.
                read = {name: stamp for name, stamp in self._stamps.items() if name != "tokenizer.json"}
                check_files(self._folder, read)
                tensors, name = _open(self._folder)
                self._given = tensors.read_numbers(name)
            self._given, self._folder, self._learns = np.array(self._given, np.float32, order="C"), None, True
        return self._given

    def install(self) -> None:
        """Encode with the table as it is now."""
        self._table = pack_table(self._given, self._precision)

    def _rows(self, ids: NDArray[np.int32]) -> tuple[NDArray[np.int64], Array]:
        """Return the row of each token, and its factor; none where all are 1."""
        rows = ids.astype(np.int64) if self._mapping is None else self._mapping[ids]
        return rows, np.empty(0, np.float32) if self._weights is None else self._weights[ids]

    def _features(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.int32] | None) -> Array:
        """Return the mean of each text's rows."""
        rows, factors = self._rows(ids)
        out = np.empty((len(offsets) - 1, self.embedding_dim), np.float32)
        sum_bags(rows, np.ascontiguousarray(offsets, np.int64), self._table, factors, True, out)
        return out

    def get_config_dict(self) -> dict[str, Any]:
        """Return no content: a StaticEmbedding has no ``config.json`` in sentence-transformers.

        Returns
        -------
        dict
            Empty.
        """
        return {}

    def __repr__(self) -> str:
        """Show the sizes of the table and the precision."""
        shown = {"num_embeddings": self.num_embeddings, "embedding_dim": self.embedding_dim, "precision": self.precision}
        return f"{type(self).__name__}({shown})"

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Write the table and the tokenizer into a folder, those of the module's folder if it has one.

        The table is that before it was packed, in every precision, which is not stored.

        Parameters
        ----------
        output_path : str or path
            Folder to write; created if missing.

        Raises
        ------
        FileNotFoundError
            The folder from which the module was read no longer exists.
        CheckpointError
            The files in that folder have changed since the module was read.
        """
        target = Path(output_path)
        target.mkdir(parents=True, exist_ok=True)
        if self._folder is not None:
            if target.resolve() != self._folder.resolve():
                copy_files(self._folder, self._stamps, target)
                remove_other_weights(target, self._stamps)
        else:
            from safetensors.numpy import save

            arrays: dict[str, NDArray[Any] | None] = {_TABLES[0]: self._given}
            if self._mapping is not None or self._weights is not None:
                arrays = {_TABLES[1]: self._given, "mapping": self._mapping, "weights": self._weights}
            found = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
            write_file(target / "model.safetensors", save(found))
            remove_other_weights(target, ["model.safetensors"])
        _write_tokenizer(self._tokenizer, target / "tokenizer.json")


def _open(folder: Path) -> tuple[Tensors, str]:
    """Open the weights of a folder; return them and the name of the table."""
    tensors = Tensors(folder)
    name = next((name for name in _TABLES if name in tensors), None)
    if name is None or len(tensors.shape(name)) != 2:
        there = ", ".join(f"{name} {tensors.shape(name)}" for name in tensors.names()[:8]) or "nothing"
        raise CheckpointError(f"{tensors.where}: expected a table {' or '.join(_TABLES)} of shape (V, C), found {there}")
    return tensors, name


def _mapping(values: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Return the row of each token id; ValueError unless each is in the table."""
    mapping = np.asarray(values)
    if mapping.ndim != 1 or mapping.dtype.kind not in "iu":
        raise ValueError(f"token_mapping must be whole numbers of shape (M,), got {mapping.dtype} of shape {mapping.shape}")
    if mapping.size and not 0 <= mapping.min() <= mapping.max() < rows:
        raise ValueError(f"token_mapping must be in 0 .. {rows - 1}, the rows of the table, got {mapping.min()} .. {mapping.max()}")
    return mapping.astype(np.int64)


def _without_special_tokens(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer that adds no special tokens, with the truncation of the given one."""
    from tokenizers import Tokenizer as Backend

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Backend):
        kinds = "a fastattn, tokenizers or (fast) transformers tokenizer"
        raise TypeError(f"tokenizer must be {kinds}, got {type(tokenizer).__name__}")
    truncation = backend.truncation or {}
    return Tokenizer(
        Backend.from_str(backend.to_str()),
        model_max_length=truncation.get("max_length", NO_LIMIT),
        cut_left=truncation.get("direction") == "left",
        adds_special_tokens=False,
    )


def _write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write ``tokenizer.json`` with the tokenizer's maximum number of tokens, unless the file says the same already."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    if tokenizer.model_max_length < NO_LIMIT:
        backend.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    content = backend.to_str(pretty=True)
    if path.is_file():
        before = Backend.from_file(str(path))
        before.no_padding()
        if json.loads(before.to_str()) == json.loads(content):
            return
    write_file(path, content.encode())


def model2vec_modules(folder: Path, **options: Any) -> list[Module]:
    """Read a folder of model2vec that has no ``modules.json``: a StaticEmbedding, and a Normalize if it says so; [] for others."""
    if not _is_model2vec(folder):
        return []
    static = StaticEmbedding._load(folder, **options)
    return [static, Normalize()] if read_object(folder / "config.json").get("normalize") else [static]


def _is_model2vec(folder: Path) -> bool:
    """Tell whether a folder is one of model2vec, which names no other family and has a table of its name."""
    kind = read_object(folder / "config.json").get("model_type")
    return kind in (None, "model2vec") and (folder / SINGLE[0]).is_file() and _TABLES[1] in Tensors(folder)
