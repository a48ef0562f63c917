"""Methods of sentence-transformers and torch under other names, and methods that change nothing here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from fastattn.encoder.torch_names import TorchNames, check_device
from fastattn.text.fit import CrossEncoderFit, SentenceTransformerFit
from fastattn.text.modules import Module, Pooling, SpladePooling
from fastattn.text.pipeline import Pipeline
from fastattn.text.sparse_pipeline import SparsePipeline
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["OlderCrossEncoderNames", "OlderSentenceTransformerNames", "OlderSparseEncoderNames", "OlderTextModelNames"]

Loaded = TypeVar("Loaded", bound="OlderSentenceTransformerNames")
Model = TypeVar("Model", bound="OlderTextModelNames")


class OlderTextModelNames(TorchNames):
    """Older names of `TextModel`'s methods, and methods that change nothing."""

    max_seq_length: int
    tokenizer: Tokenizer
    preprocess: Callable[..., dict[str, Any]]
    save: Callable[..., None]
    __iter__: Callable[[], Iterator[Module]]

    @property
    def processor(self) -> Tokenizer:
        """The tokenizer under its other name."""
        return self.tokenizer

    def get_max_seq_length(self) -> int:
        """`max_seq_length` under its old name.

        Returns
        -------
        int
            Tokens.
        """
        return self.max_seq_length

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """`preprocess` under its old name.

        Parameters
        ----------
        texts : sequence of str, or of (str, str)
            The texts, or the pairs of texts.
        **kwargs
            As in `preprocess`.

        Returns
        -------
        dict of str to int64, (B, T)
            As in `preprocess`.
        """
        return self.preprocess(texts, **kwargs)

    def save_pretrained(
        self,
        path: str,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """`save` under its other name.

        Parameters
        ----------
        path, model_name, create_model_card, train_datasets, safe_serialization : optional
            As in `save`.
        """
        self.save(
            path,
            model_name=model_name,
            create_model_card=create_model_card,
            train_datasets=train_datasets,
            safe_serialization=safe_serialization,
        )

    def get_backend(self) -> str:
        """Return "torch", the default of the argument `backend`.

        Returns
        -------
        str
            "torch".
        """
        return "torch"

    def get_model_kwargs(self) -> list[str]:
        """Return the names of the model's extra keyword arguments: none.

        Returns
        -------
        list of str
            An empty list.
        """
        return []

    def half(self: Model) -> Model:
        """Return the results as float16 from now on; the computation stays in float32.

        Returns
        -------
        TextModel
            Itself.
        """
        self._dtype = np.dtype(np.float16)
        return self

    def children(self) -> Iterator[Module]:
        """Iterate over the modules, as over the model itself.

        Yields
        ------
        Module
            A module.
        """
        return iter(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over the modules and their names: "0", "1", ...

        Yields
        ------
        (str, Module)
            A name and a module.
        """
        return ((str(i), module) for i, module in enumerate(self))

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """Return a value for the argument `pool`; no process is started, because a call uses all threads of this process.

        Parameters
        ----------
        target_devices : list of "cpu", optional
            For compatibility; only the CPU is supported.

        Returns
        -------
        dict
            The pool.

        Raises
        ------
        ValueError
            A device is not the CPU.
        """
        for device in target_devices or ():
            check_device(device)
        return {"input": None, "output": None, "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: dict[str, Any]) -> None:
        """Invalidate a pool.

        Parameters
        ----------
        pool : dict
            Pool from `start_multi_process_pool`; later calls refuse it.
        """
        pool.clear()


class OlderSentenceTransformerNames(SentenceTransformerFit):
    """Older names of `SentenceTransformer`'s methods."""

    encode: Callable[..., Any]
    get_embedding_dimension: Callable[[], int]
    truncate_embeddings: Callable[..., Any]
    _pipeline: Pipeline

    def encode_multi_process(
        self,
        sentences: list[str],
        pool: dict[str, Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """`encode` with a pool, under its old name.

        Parameters
        ----------
        sentences : list of str
            The texts.
        pool : dict
            From `start_multi_process_pool`.
        prompt_name, prompt, batch_size, chunk_size, show_progress_bar : optional
            As in `encode`.
        precision, normalize_embeddings, truncate_dim : optional
            As in `encode`.

        Returns
        -------
        float32, (B, C)
            As in `encode`.
        """
        return self.encode(
            inputs=sentences,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )

    def get_sentence_embedding_dimension(self) -> int:
        """`get_embedding_dimension` under its old name.

        Returns
        -------
        int
            As from `get_embedding_dimension`.
        """
        return self.get_embedding_dimension()

    @classmethod
    def load(cls: type[Loaded], input_path: str) -> Loaded:
        """Load a model folder: the constructor under its old name.

        Parameters
        ----------
        input_path : str
            The folder.

        Returns
        -------
        SentenceTransformer
        """
        return cls(input_path)  # type: ignore[call-arg]

    @contextlib.contextmanager
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """`truncate_embeddings` under its old name.

        Parameters
        ----------
        truncate_dim : int, optional
            Number of channels to keep; None keeps all.
        """
        with self.truncate_embeddings(truncate_dim):
            yield

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Set whether pooling includes the tokens of a prompt.

        Parameters
        ----------
        include_prompt : bool
            New `include_prompt` of the first Pooling module.
        """
        for module in self._pipeline.modules:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                break


class OlderSparseEncoderNames:
    """Older names of `SparseEncoder`'s methods, and settings that change nothing."""

    get_embedding_dimension: Callable[[], int]
    _pipeline: SparsePipeline

    def get_sentence_embedding_dimension(self) -> int:
        """`get_embedding_dimension` under its old name.

        Returns
        -------
        int
            As from `get_embedding_dimension`.
        """
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Set whether pooling includes the tokens of a prompt.

        Parameters
        ----------
        include_prompt : bool
            New `include_prompt` of the first Pooling module, which a SPLADE model does not have.
        """
        for module in self._pipeline.everything():
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                break

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """`chunk_size` of the SpladePooling, which is ignored; None without one."""
        return next((module.chunk_size for module in self._pipeline.everything() if isinstance(module, SpladePooling)), None)

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, value: int | None) -> None:
        for module in self._pipeline.everything():
            if isinstance(module, SpladePooling):
                module.chunk_size = value


class OlderCrossEncoderNames(CrossEncoderFit):
    """Older names of `CrossEncoder`'s properties, and a method that changes nothing."""

    activation_fn: Any
    max_seq_length: int

    @property
    def max_length(self) -> int:
        """`max_seq_length` under its old name."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.max_seq_length = value

    @property
    def default_activation_function(self) -> Any:
        """`activation_fn` under its old name."""
        return self.activation_fn

    def set_keep_in_fp32_modules(self, module_names: list[str]) -> None:
        """Do nothing: everything is float32.

        Parameters
        ----------
        module_names : list of str
            Ignored, for compatibility.
        """
