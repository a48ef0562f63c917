"""CrossEncoder: scores pairs of texts, with one score per label."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.config import Precision
from fastattn.runtime.memory import check_large
from fastattn.text.base import TextModel
from fastattn.text.compatibility import as_dtype, as_tensors, call_limit, check_call, check_mappings, check_torch, renamed
from fastattn.text.inputs import Pairs, pairs_of, texts_of
from fastattn.text.model_folder import ModelSettings, check_modules, read_modules_of
from fastattn.text.modules import Module
from fastattn.text.modules.activations import activation_name, resolve_activation
from fastattn.text.modules.module import SCORES
from fastattn.text.older_names import OlderCrossEncoderNames
from fastattn.text.prompts import resolve_prompt
from fastattn.text.scores import ModelActivation, scorer
from fastattn.text.streaming import ScoreStream

__all__ = ["CrossEncoder"]

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class CrossEncoder(ModelActivation, ScoreStream, OlderCrossEncoderNames, TextModel):
    """Model that scores pairs of texts, a drop-in for ``sentence_transformers.CrossEncoder``.

    The scores of a pair are bit for bit the same in every batch, in every order and with any number of threads.  Calls are
    thread-safe.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder in the format of sentence-transformers or Hugging Face, or a name on the Hugging Face Hub.
    modules : iterable of fastattn.modules.Module, optional
        The modules of the model, instead of those of a folder.
    device : {None, "cpu"}
        For compatibility; only the CPU is supported.
    prompts : mapping of str to str, optional
        Prompts by name: texts that are put before the first text of each pair.
    default_prompt_name : str, optional
        Name of the prompt for calls that name none.
    cache_folder : str, optional
        Folder of the Hub's cache.
    trust_remote_code : bool
        For compatibility: no code from a model folder is ever run.
    revision, local_files_only, token : optional
        Access to the Hugging Face Hub, as in `SentenceTransformer`.
    model_kwargs : mapping, optional
        As in `SentenceTransformer`; also accepted as ``automodel_args``.
    processor_kwargs : mapping, optional
        As in `SentenceTransformer`; also accepted as ``tokenizer_args`` and ``tokenizer_kwargs``.
    config_kwargs : mapping, optional
        As in `SentenceTransformer`, plus ``num_labels``; also accepted as ``config_args``.
    model_card_data : object, optional
        Object that receives the metrics of evaluators.
    backend : {"torch"}
        For compatibility; the computation runs in Numba kernels, not in torch.
    num_labels : int, optional
        Number of labels; must equal the checkpoint's, because a new head would be untrained.
    max_length : int, optional
        Maximum number of tokens of a pair.
    activation_fn : str or callable, optional
        Applied to the logits: a dotted name of torch, a function of an array, or a torch module.  By default the activation
        that the model's folder names, else sigmoid for one label and the identity for several.
    keep_in_fp32_modules : list of str, optional
        Ignored, for compatibility: the head is float32.
    precision : {"float32", "bfloat16", "int8"}, optional
        As in `SentenceTransformer`.

    Raises
    ------
    FileNotFoundError
        The model was not found, or its folder lacks a file.
    CheckpointError
        A model file is damaged, the model has no classification head, or it needs a feature that is not supported.
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has an unsupported value.

    References
    ----------
    Nogueira and Cho 2019, arXiv:1901.04085, section 3.
    """

    model_type = "CrossEncoder"

    @renamed(
        "classifier_dropout",
        model_name="model_name_or_path",
        automodel_args="model_kwargs",
        tokenizer_args="processor_kwargs",
        tokenizer_kwargs="processor_kwargs",
        config_args="config_kwargs",
        cache_dir="cache_folder",
        default_activation_function="activation_fn",
    )
    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        modules: Iterable[Module] | None = None,
        device: Any = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: str | Callable[..., Any] | None = None,
        keep_in_fp32_modules: list[str] | None = None,
        precision: Precision | None = None,
    ) -> None:
        if model_name_or_path is None and modules is None:
            raise ValueError("model_name_or_path must be a folder or a name, got None: there is no default")
        if isinstance(model_name_or_path, str) and "/" not in model_name_or_path and not Path(model_name_or_path).exists():
            model_name_or_path = f"cross-encoder/{model_name_or_path}"
        check_mappings(config_kwargs=config_kwargs)
        configuration = dict(config_kwargs or {})
        num_labels = configuration.pop("num_labels", None) if num_labels is None else num_labels
        resolve_activation("Identity" if activation_fn is None else activation_fn)  # raises before the weights are loaded
        super().__init__(
            model_name_or_path,
            modules=modules,
            device=device,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=configuration,
            model_card_data=model_card_data,
            backend=backend,
            precision=precision,
        )
        widths = check_modules(self._pipeline.modules)
        if SCORES not in widths:
            kinds = ", ".join(module.kind for module in self)
            raise CheckpointError(
                f"{self.folder or 'modules'}: modules {kinds} give a pair no score; expected a Transformer for "
                "sequence-classification, a Dense that writes scores, or a LogitScore"
            )
        self.num_labels = widths[SCORES]
        if num_labels is not None and num_labels != self.num_labels:
            raise ValueError(f"num_labels must be what the checkpoint has, {self.num_labels}, got {num_labels}")
        if max_length is not None:
            self.max_seq_length = max_length
        self.activation_fn = self._stored_activation() if activation_fn is None else activation_fn

    def _read_modules(self, folder: Path, settings: ModelSettings | None, **options: Any) -> list[Module]:
        """Read the modules; the checkpoint's own head if ``modules.json`` is missing or belongs to another type of model."""
        if settings is None or not os.path.lexists(folder / "modules.json"):
            return scorer(transformer_folder(folder), **options)
        return read_modules_of(folder, **options)

    @property
    def model(self) -> Any:
        """The encoder with its head."""
        return self._pipeline.transformer.model

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a pair, special tokens included; longer pairs are truncated."""
        return self._first_module().max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        module = self._first_module()
        least = module.tokenizer.num_special_tokens_to_add(True)
        if isinstance(value, int) and value < least:
            raise ValueError(f"max_seq_length must be an integer from {least} to {module.max_positions}, got {value!r}")
        module.max_seq_length = value

    def is_singular_input(self, inputs: Any) -> bool:
        """Tell whether `inputs` is a single pair.

        Parameters
        ----------
        inputs : (str, str), or sequence of (str, str)
            As in `predict`.

        Returns
        -------
        bool
        """
        return isinstance(inputs, (list, tuple, np.ndarray)) and len(inputs) > 0 and isinstance(inputs[0], str)

    @overload
    def predict(self, inputs: Pairs, *, convert_to_tensor: Literal[True], **kwargs: Any) -> torch.Tensor: ...
    @overload
    def predict(self, inputs: Pairs, *, convert_to_numpy: Literal[False], **kwargs: Any) -> list[torch.Tensor]: ...
    @overload
    def predict(
        self,
        inputs: list[tuple[str, str]] | list[list[str]] | NDArray[Any],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        activation_fn: str | Callable[..., Any] | None = ...,
        apply_softmax: bool | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **kwargs: Any,
    ) -> NDArray[np.float32]: ...
    @overload
    def predict(self, inputs: Pairs, *args: Any, **kwargs: Any) -> Any: ...

    @renamed("num_workers", sentences="inputs", activation_fct="activation_fn")
    def predict(
        self,
        inputs: Pairs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[..., Any] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score pairs of texts: ``activation(logits)``.

        Pairs are sorted by length and packed without padding into forwards of a fixed number of tokens, so neither the
        result nor the memory depends on `batch_size`.  Of a pair that is too long, the longer text is truncated first; the
        attribute `counts` then has the number of truncated pairs.

        Parameters
        ----------
        inputs : (str, str), or iterable of (str, str)
            One pair, or several pairs; also accepted as ``sentences``.
        prompt_name : str, optional
            Name of the prompt that is put before the first text of each pair.
        prompt : str, optional
            The prompt itself; `prompt_name` is then ignored.
        batch_size : int
            Ignored, for compatibility.
        show_progress_bar : bool, optional
            Show a progress bar; by default if this module's logger is at level INFO or DEBUG.
        activation_fn : str or callable, optional
            Function of the (B, L) logits of all pairs, instead of the model's; also accepted as ``activation_fct``.
        apply_softmax : bool, optional
            Apply a softmax over the labels of each pair, if there are several.
        convert_to_numpy : bool
            If false, return a list of torch tensors.
        convert_to_tensor : bool
            If true, return a torch tensor.
        device : {None, "cpu"}, or a list of "cpu"
            For compatibility; only the CPU is supported.
        pool : dict, optional
            Result of `start_multi_process_pool`, for compatibility; the call uses threads, not processes.
        chunk_size : int, optional
            Ignored, for compatibility.
        **kwargs
            ``sentences`` is an alias of `inputs`; ``processing_kwargs`` as in `SentenceTransformer.encode`; ``task`` is ignored,
            for compatibility.

        Returns
        -------
        float32, (B,) for one label, (B, L) for L labels; without the first axis for one pair
            The scores in the order of the pairs.

        Raises
        ------
        TypeError
            An input is not a pair of str; the message gives its index and type.
        ValueError
            An argument is unknown or has an unsupported value, a text is not valid Unicode, or `activation_fn` does not
            return a row for each pair.
        ImportError
            Tensors were requested, and torch is not installed.
        MemoryError
            The scores need more than the free memory; raised before the computation starts.
        """
        limit = call_limit(CrossEncoder.predict, kwargs)
        check_call(batch_size, device, pool, chunk_size)
        if convert_to_tensor or not convert_to_numpy:
            check_torch()
        single = self.is_singular_input(inputs)
        pairs = pairs_of([inputs] if single else inputs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        activation = resolve_activation(self.activation_fn if activation_fn is None else activation_fn)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        pipeline = self._pipeline_of(limit)
        skip = pipeline.prompt_tokens(text)
        check_large(4 * len(pairs) * self.num_labels, "scores of shape {}", (len(pairs), self.num_labels))
        logits = np.empty((len(pairs), self.num_labels), np.float32)
        with pipeline.batches(pairs, text, show_progress_bar=bool(show_progress_bar), title="Scoring") as batches:
            for batch in batches:
                logits[batch.rows] = pipeline.features(batch, skip)[SCORES]
        self.counts = batches.counts
        scores: Any = self._activated(logits, activation, bool(apply_softmax))
        if convert_to_tensor or not convert_to_numpy:
            # Arrays are float32 always, as sentence-transformers' are.
            scores = as_tensors(np.ascontiguousarray(as_dtype(scores, self._dtype)))
            scores = scores if convert_to_tensor else list(scores)
        return scores[0] if single else scores

    @renamed("num_workers", "convert_to_numpy", "convert_to_tensor", "apply_softmax", activation_fct="activation_fn")
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[..., Any] | None = None,
        device: Any = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Order documents by their score with a query, the highest first.

        Parameters
        ----------
        query : str
            The query.
        documents : sequence of str
            The documents.
        top_k : int, optional
            Number of documents to return; None returns all.
        return_documents : bool
            Include the text of each document.
        prompt_name, prompt, batch_size, show_progress_bar, activation_fn : optional
            As in `predict`.
        device, pool, chunk_size : optional
            As in `predict`.

        Returns
        -------
        list of dict
            ``corpus_id``, the index of the document; ``score``, a float; ``text`` with `return_documents`.

        Raises
        ------
        TypeError
            The query or a document is not a str.
        ValueError
            The model has several labels, or as in `predict`.
        """
        if self.num_labels != 1:
            raise ValueError(f"rank needs a model with one label, and this one has {self.num_labels}: use predict")
        documents = texts_of(documents, "documents")
        # By keyword, because a subclass may have overridden `predict`, with other positions.
        scores = self.predict(
            inputs=[(query, document) for document in documents],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k]
        texts = [{"text": documents[i]} if return_documents else {} for i in order]
        return [{"corpus_id": i, "score": scores[i], **text} for i, text in zip(order, texts, strict=True)]

    def _saved_settings(self) -> dict[str, Any]:
        return {**super()._saved_settings(), "activation_fn": activation_name(self.activation_fn)}
