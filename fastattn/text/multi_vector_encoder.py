"""MultiVectorEncoder: a vector for each token of a text, for late interaction, with sentence-transformers' arguments."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.pooling import normalize
from fastattn.text.base import TextModel
from fastattn.text.batches import TextBatch, modality
from fastattn.text.colbert_folders import ColbertFolder, read_colbert, register_markers
from fastattn.text.compatibility import as_dtype, as_tensors, call_limit, check_call, check_torch
from fastattn.text.inputs import Inputs, Text, is_single, items_of
from fastattn.text.late_interaction import TaskPipeline
from fastattn.text.maxsim_similarity import ModelMaxSim
from fastattn.text.model_folder import ModelSettings, check_modules
from fastattn.text.modules import BaseTokenPooling, Module, MultiVectorMask
from fastattn.text.modules.module import TOKENS
from fastattn.text.padded_late_interaction import ModelTaskCalls
from fastattn.text.pipeline import Pipeline
from fastattn.text.prompts import DOCUMENT_PROMPTS, given_prompts, prompted, resolve_prompt
from fastattn.text.streaming import TokenStream, check_token_pooling
from fastattn.text.token_embeddings import check_room

__all__ = ["MultiVectorEncoder"]

logger = logging.getLogger(__name__)

Rows = NDArray[np.float32]


class MultiVectorEncoder(ModelMaxSim, ModelTaskCalls, TokenStream, TextModel):
    """Late-interaction model (ColBERT), a drop-in for ``sentence_transformers.MultiVectorEncoder``: a vector for each token.

    The embeddings of a text are bit for bit the same in every batch, in every order and with any number of threads.  Calls are
    thread-safe.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder of sentence-transformers, of PyLate, or of Stanford's ColBERT, or its name on the Hugging Face Hub.
    modules : iterable of fastattn.modules.Module, optional
        The modules of the model, instead of those of a folder: a `Transformer`, a `Dense` that reads ``token_embeddings``,
        a `MultiVectorMask`, a `Normalize` of ``token_embeddings``.
    device : {None, "cpu"}
        For compatibility; only the CPU is supported.
    prompts : mapping of str to str, optional
        Prompts by name: texts that are put before each input, such as the markers of queries and documents; they take precedence
        over the model's own.
    default_prompt_name : str, optional
        Name of the prompt for calls of `encode` that name none.
    cache_folder : str, optional
        Folder of the Hub's cache.
    trust_remote_code : bool
        For compatibility: no code from a model folder is ever run.
    revision, local_files_only, token : optional
        Access to the Hugging Face Hub, as in `SentenceTransformer`.
    model_kwargs, processor_kwargs, config_kwargs : mapping, optional
        As in `SentenceTransformer`.
    model_card_data : object, optional
        Object that receives the metrics of evaluators.
    backend : {"torch"}
        For compatibility; the computation runs in Numba kernels, not in torch.
    similarity_fn_name : {"maxsim", "meanmaxsim"}, optional
        Similarity function; by default the model's, else "maxsim".
    precision : {"float32", "bfloat16", "int8"}, optional
        As in `SentenceTransformer`.

    Raises
    ------
    FileNotFoundError
        The model was not found, or its folder lacks a file.
    CheckpointError
        A model file is damaged, needs a feature that is not supported, or holds another kind of model.
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has an unsupported value.

    Notes
    -----
    Lengths and expansion of queries are settings of the first module: ``model[0].query_length``, ``document_length``,
    ``query_expansion``.  `encode` returns arrays unless tensors are asked for by ``convert_to_numpy=False``, the default of
    sentence-transformers.

    References
    ----------
    Khattab & Zaharia 2020, arXiv:2004.12832.
    """

    model_type = "MultiVectorEncoder"
    _pipeline_type: ClassVar[type[Pipeline]] = TaskPipeline

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
        similarity_fn_name: Any = None,
        precision: Precision | None = None,
    ) -> None:
        if model_name_or_path is None and modules is None:
            raise ValueError("model_name_or_path or modules must be given: there is no default model")
        # Checked before the model is loaded.
        self.similarity_fn_name = similarity_fn_name
        self._found = ColbertFolder([], {}, {})
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
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
            backend=backend,
            precision=precision,
        )
        given = given_prompts(prompts)
        self.prompts |= {task: prompt for task, prompt in self._found.prompts.items() if task not in given}
        register_markers(self.tokenizer, self._found.markers)
        del self._found
        widths = check_modules(self._pipeline.modules)
        if TOKENS not in widths:
            kinds = ", ".join(module.kind for module in self)
            raise CheckpointError(f"{self.folder or 'modules'}: modules {kinds} give no token embeddings")
        self._width = widths[TOKENS]
        masks = [module for module in self if isinstance(module, MultiVectorMask)]
        for mask in masks:
            mask.resolve_with_tokenizer(self.tokenizer)
        if self._pipeline.transformer.query_expansion is not None and not masks:
            logger.warning("query_expansion has no effect on scores without a MultiVectorMask, which lets its tokens be scored")
        if similarity_fn_name is None and self._settings.similarity in self.SUPPORTED_SIMILARITY_FN_NAMES:
            self.similarity_fn_name = self._settings.similarity

    def _default_prompts(self) -> dict[str, str]:
        return {"query": "", "document": ""}

    def _read_modules(self, folder: Path, settings: ModelSettings | None, **options: Any) -> list[Module]:
        self._found = read_colbert(folder, is_late_interaction=settings is not None, **options)
        return self._found.modules

    def _pipeline_for(self, task: str | None, limit: int | None) -> TaskPipeline:
        """Return the modules in a row for a task, and with a maximum number of tokens."""
        if not isinstance(task, str | None):
            raise TypeError(f"task must be a name, such as query or document, or None, got {type(task).__name__}")
        pipeline = TaskPipeline(self._pipeline.modules, task, limit)
        pipeline._loaded = self._pipeline._loaded
        return pipeline

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self._pipeline.transformer.encoder

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of a token's embedding.

        Returns
        -------
        int
            C.
        """
        return self._width

    def is_singular_input(self, inputs: Any) -> bool:
        """Tell whether `inputs` is a single text: a str, a dict or a 0-d array.

        Parameters
        ----------
        inputs : object
            As in `encode`.

        Returns
        -------
        bool
        """
        return is_single(inputs)

    @overload
    def encode(self, inputs: Text, *, output_value: None, **kwargs: Any) -> dict[str, Any]: ...
    @overload
    def encode(self, inputs: Inputs, *, output_value: None, **kwargs: Any) -> list[dict[str, Any]]: ...
    @overload
    def encode(self, inputs: Inputs, *, convert_to_numpy: Literal[False], **kwargs: Any) -> Any: ...
    @overload
    def encode(self, inputs: Text, prompt_name: str | None = ..., prompt: str | None = ..., **kwargs: Any) -> Rows: ...
    @overload
    def encode(self, inputs: Inputs, prompt_name: str | None = ..., prompt: str | None = ..., **kwargs: Any) -> list[Rows]: ...

    def encode(
        self,
        inputs: Inputs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] | None = "token_embeddings",
        convert_to_numpy: bool = True,
        device: Any = None,
        normalize_embeddings: bool = False,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed the tokens of texts; `encode_query` and `encode_document` choose prompt, lengths and mask too.

        Parameters
        ----------
        inputs : str or iterable of str
            One text or several texts.  A text may be a dict ``{"text": ...}``, and several inputs may be pairs of texts, which
            become two segments.
        prompt_name : str, optional
            Name of the prompt that is put before each text.
        prompt : str, optional
            The prompt itself; `prompt_name` is then ignored.
        batch_size : int
            Ignored, for compatibility.
        show_progress_bar : bool, optional
            Show a progress bar; by default if this module's logger is at level INFO or DEBUG.
        output_value : {"token_embeddings"}, optional
            Kind of result; None returns all features of each text, those of tokens that are not scored too.
        convert_to_numpy : bool
            If false, return torch tensors.
        device : {None, "cpu"}, or a list of "cpu"
            For compatibility; only the CPU is supported.
        normalize_embeddings : bool
            Normalise each token's embedding to unit length.
        pool : dict, optional
            Result of `start_multi_process_pool`, for compatibility; the call uses threads, not processes.
        chunk_size : int, optional
            Ignored, for compatibility.
        token_pooling : fastattn.modules.BaseTokenPooling, optional
            Pools the embeddings of texts of its tasks, after all modules.
        task : str, optional
            "query" or "document": chooses the number of tokens, the query's expansion and the tokens that are scored.
        **kwargs
            ``processing_kwargs={"text": {"max_length": ...}}`` is the maximum number of tokens for this call, but not for queries
            that are expanded to a fixed length.

        Returns
        -------
        list of float32, (T, C), or (T, C) for one text
            The embeddings of the tokens of each text that are scored, in the order of the texts.  None gives a list of dicts
            without padding: ``input_ids``, ``attention_mask`` (the tokens that are scored), ``token_type_ids`` if the tokenizer
            makes them, ``query_expansion_positions`` of an expanded query, ``modality``, ``token_embeddings``.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str, or `inputs` gives no texts, such as a table; the message gives the index
            and type.
        ValueError
            An argument is unknown or has an unsupported value, or a text is not valid Unicode.
        ImportError
            Tensors were requested, and torch is not installed.
        MemoryError
            The result needs more than the free memory; raised before the computation starts.
        RuntimeError
            Another thread removed texts from the list during the call.
        """
        limit = call_limit(MultiVectorEncoder.encode, kwargs)
        check_call(batch_size, device, pool, chunk_size)
        if output_value not in (TOKENS, None):
            raise ValueError(f'output_value must be "{TOKENS}" or None, got {output_value!r}')
        check_token_pooling(token_pooling)
        if not convert_to_numpy:
            check_torch()
        single = self.is_singular_input(inputs)
        texts = items_of([inputs] if single else inputs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        pipeline = self._pipeline_for(task, limit)
        check_room(pipeline, texts, text, self._width)
        result: Any = [None] * len(texts)
        with pipeline.batches(texts, text, show_progress_bar=show_progress_bar, title="Embedding") as batches:
            for batch in batches:
                found: Iterable[Any] = (
                    _features(pipeline, batch, token_pooling)
                    if output_value is None
                    else self._scored(pipeline, batch, normalize_embeddings, token_pooling)
                )
                for row, one in zip(batch.rows, found, strict=True):
                    result[row] = one
        self.counts = batches.counts
        if self._dtype != np.float32:
            result = as_dtype(result, self._dtype)
        if not convert_to_numpy:
            result = as_tensors(result)
        return result[0] if single else result

    def _scored(
        self, pipeline: TaskPipeline, batch: TextBatch, unit: bool, token_pooling: BaseTokenPooling | None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of the tokens of each text that are scored."""
        for one in pipeline.scored(batch):
            rows = normalize(one) if unit else one
            yield token_pooling.pool_one(rows) if token_pooling is not None and token_pooling.applies_to(pipeline.task) else rows

    encode_query = prompted(encode, "query", ["query"], "Embed the tokens of queries.")
    encode_document = prompted(encode, "document", DOCUMENT_PROMPTS, "Embed the tokens of documents.")

    def _saved_settings(self) -> dict[str, Any]:
        return {**super()._saved_settings(), "similarity_fn_name": self.similarity_fn_name}


def _features(pipeline: TaskPipeline, batch: TextBatch, token_pooling: BaseTokenPooling | None) -> Iterable[dict[str, Any]]:
    """Yield the outputs of the modules, and of a token pooling, for each text of a batch."""
    features = pipeline.features(batch)
    if token_pooling is not None:
        token_pooling._apply(features, batch.offsets, 0)
    typed = "token_type_ids" in pipeline.transformer.tokenizer.model_input_names
    if typed:
        features.setdefault("token_type_ids", np.zeros_like(batch.ids))
    arrays = {name: array for name, array in features.items() if name != "task"}
    kind = modality(pipeline.first.chat)
    for i, (first, last) in enumerate(itertools.pairwise(batch.offsets.tolist())):
        # Copies: a view would keep the arrays of the whole batch alive.
        places = {name: slice(first, last) if name in pipeline.token_names else i for name in arrays}
        one = {name: np.array(array[places[name]]) for name, array in arrays.items()}
        yield {**{name: x.astype(np.int64) if x.dtype == np.int32 else x for name, x in one.items()}, "modality": kind}
