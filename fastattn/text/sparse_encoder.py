"""SparseEncoder: sparse embeddings of texts, with the arguments of sentence-transformers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from fastattn.checkpoint.folder import CheckpointError, read_object, transformer_folder
from fastattn.config import Precision
from fastattn.runtime.memory import check_large
from fastattn.text.base import TextModel
from fastattn.text.compatibility import as_tensors, call_limit, check_call, check_torch, renamed
from fastattn.text.inputs import Inputs, is_single, items_of
from fastattn.text.model_folder import ModelSettings, check_modules, read_sparse_modules
from fastattn.text.modules import Module, SparseAutoEncoder, SparseLinear, SpladePooling, Transformer
from fastattn.text.modules.module import SENTENCE
from fastattn.text.modules.sparse_linear import SPARSE_LINEAR, has_linear, special_ids
from fastattn.text.older_names import OlderSparseEncoderNames
from fastattn.text.pipeline import Pipeline
from fastattn.text.prompts import prompted, resolve_prompt
from fastattn.text.routed_pipeline import RoutedModel
from fastattn.text.sparse_embeddings import SparseEmbeddings
from fastattn.text.sparse_pipeline import SparsePipeline
from fastattn.text.sparse_similarity import ModelSparseSimilarity
from fastattn.text.streaming import SparseStream, check_most

__all__ = ["SparseEncoder"]

logger = logging.getLogger(__name__)


class SparseEncoder(RoutedModel, SparseStream, ModelSparseSimilarity, OlderSparseEncoderNames, TextModel):
    """Sparse text embedding model, a drop-in for ``sentence_transformers.SparseEncoder``: SPLADE and its relatives.

    An embedding has a weight for each word of the vocabulary, most of them 0.  It is bit for bit the same in every batch, in every
    order and with any number of threads.  Calls are thread-safe.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder in the format of sentence-transformers, of a masked language model of Hugging Face, or of BGE-M3 (its sparse head
        ``sparse_linear``), or a name on the Hugging Face Hub.
    modules : iterable of fastattn.modules.Module, optional
        The modules of the model, instead of those of a folder.
    device : {None, "cpu"}
        For compatibility; only the CPU is supported.
    prompts : mapping of str to str, optional
        As in `SentenceTransformer`.
    default_prompt_name : str, optional
        As in `SentenceTransformer`.
    cache_folder : str, optional
        Folder of the Hub's cache.
    trust_remote_code : bool
        For compatibility: no code from a model folder is ever run.
    revision, local_files_only, token : optional
        Access to the Hugging Face Hub, as in `SentenceTransformer`.
    model_kwargs, processor_kwargs, config_kwargs : mapping, optional
        As in `SentenceTransformer`; `processor_kwargs` is also accepted as ``tokenizer_kwargs``.
    model_card_data : object, optional
        Object that receives the metrics of evaluators.
    backend : {"torch"}
        For compatibility; the computation runs in Numba kernels, not in torch.
    similarity_fn_name : {"cosine", "dot", "euclidean", "manhattan"}, optional
        Similarity function; by default the model's, else "dot".
    max_active_dims : int, optional
        Most weights of an embedding that are kept; by default the model's, else all.
    precision : {"float32", "bfloat16", "int8"}, optional
        Of the arithmetic in the encoder's layers and the product with the vocabulary, float32 by default.

    Raises
    ------
    FileNotFoundError
        The model was not found, or its folder lacks a file.
    CheckpointError
        A model file is damaged, or needs a feature that is not supported.
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has an unsupported value.

    Notes
    -----
    The logits of a text, a number for each token and each word, are never held: `fastattn.splade_pooling`.

    References
    ----------
    Formal et al. 2021, arXiv:2109.10086, section 3.
    """

    model_type = "SparseEncoder"
    _pipeline_type: ClassVar[type[Pipeline]] = SparsePipeline
    _pipeline: SparsePipeline

    @renamed(tokenizer_kwargs="processor_kwargs")
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
        max_active_dims: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        if model_name_or_path is None and modules is None:
            raise ValueError("model_name_or_path must be a folder or a name, got None: there is no default")
        # Checked before the model is loaded.
        self.similarity_fn_name = similarity_fn_name
        check_most(max_active_dims)
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
        where = self.folder or "modules"
        try:
            widths = check_modules(self._pipeline.given)
        except ValueError as error:
            if self.folder is None:
                raise
            raise CheckpointError(f"{where}: {error}") from error
        if SENTENCE not in widths:
            kinds = ", ".join(module.kind for module in self)
            raise CheckpointError(f"{where}: modules {kinds} give a text no embedding; expected a SpladePooling")
        self._width = widths[SENTENCE]
        if similarity_fn_name is None and self._settings.similarity in self.SUPPORTED_SIMILARITY_FN_NAMES:
            self.similarity_fn_name = self._settings.similarity
        self.max_active_dims = self._stored_most() if max_active_dims is None else max_active_dims

    def _default_prompts(self) -> dict[str, str]:
        return {"query": "", "document": ""}

    def _stored_most(self) -> int | None:
        """Return the number of active dimensions in the settings, or that of a sparse autoencoder."""
        if self.folder is not None:
            path = self.folder / "config_sentence_transformers.json"
            most = read_object(path).get("max_active_dims")
            if most is not None:
                try:
                    check_most(most)
                except (TypeError, ValueError) as error:
                    raise CheckpointError(f"{path}: {error}") from error
                return int(most)
        return next((module.k for module in self if isinstance(module, SparseAutoEncoder)), None)

    def _read_modules(self, folder: Path, settings: ModelSettings | None, **options: Any) -> list[Module]:
        """Read the modules; without ``modules.json`` of this type of model, BGE-M3's head, or that for masked words."""
        if settings is not None and os.path.lexists(folder / "modules.json"):
            return read_sparse_modules(folder, **options)
        inner = transformer_folder(folder)
        if has_linear(inner, SPARSE_LINEAR):
            transformer = Transformer(inner, transformer_task="feature-extraction", **options)
            return [transformer, SparseLinear._load(inner, transformer.vocab_size, special_ids(transformer.tokenizer))]
        named = read_object(inner / "config.json").get("architectures")
        if not isinstance(named, list) or not any(str(name).endswith("ForMaskedLM") for name in named):
            raise CheckpointError(
                f"{inner / 'config.json'}: architectures {named!r:.200} name no masked language model, and there is no "
                "modules.json of a SparseEncoder: an untrained head would give random answers"
            )
        return [Transformer._without_settings(inner, transformer_task="fill-mask", **options), SpladePooling()]

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

    @renamed(sentences="inputs")
    def encode(
        self,
        inputs: Inputs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Any = None,
        max_active_dims: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts.

        Texts are sorted by length and packed without padding into forwards of a fixed number of tokens, so neither the
        result nor the memory depends on `batch_size`.  The attribute `counts` then has the number of truncated texts.

        Parameters
        ----------
        inputs : str or iterable of str
            One text or several texts; also accepted as ``sentences``.  A text may be a dict ``{"text": ...}``, and several
            inputs may be pairs of texts, which become two segments.
        prompt_name : str, optional
            Name of the prompt that is put before each text.
        prompt : str, optional
            The prompt itself; `prompt_name` is then ignored.
        batch_size : int
            Ignored, for compatibility.
        show_progress_bar : bool, optional
            Show a progress bar; by default if this module's logger is at level INFO or DEBUG.
        convert_to_tensor : bool, optional
            If true, return a torch tensor; if false, a list with an embedding for each text.  By default neither: a
            `SparseEmbeddings`, which needs no torch.
        convert_to_sparse_tensor : bool
            If false, embeddings are dense: arrays, or torch tensors with ``convert_to_tensor=True``.
        save_to_cpu : bool
            Ignored, for compatibility.
        device : {None, "cpu"}, or a list of "cpu"
            For compatibility; only the CPU is supported.
        max_active_dims : int, optional
            Most weights of an embedding that are kept, the largest; by default the model's `max_active_dims`.
        pool : dict, optional
            Result of `start_multi_process_pool`, for compatibility; the call uses threads, not processes.
        chunk_size : int, optional
            Ignored, for compatibility.
        **kwargs
            ``sentences`` is an alias of `inputs`; ``task`` chooses the route of a Router; ``processing_kwargs`` as in
            `SentenceTransformer.encode`.

        Returns
        -------
        SparseEmbeddings, (B, V), or (V,) for one text
            The embeddings in the order of the texts, float32; (0, V) for no texts.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str, or `inputs` gives no texts, such as a table; the message gives the index
            and type.
        ValueError
            An argument is unknown or has an unsupported value, a text is not valid Unicode, or there is no route for ``task``.
        ImportError
            Tensors were requested, and torch is not installed.
        MemoryError
            Dense embeddings need more than the free memory; raised before the computation starts.
        RuntimeError
            Another thread removed texts from the list during the call.
        """
        limit = call_limit(SparseEncoder.encode, kwargs)
        check_call(batch_size, device, pool, chunk_size)
        check_most(max_active_dims)
        if convert_to_tensor:
            check_torch()
        single = self.is_singular_input(inputs)
        texts = items_of([inputs] if single else inputs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        pipeline = self._pipeline_of(limit, kwargs.get("task"))
        skip = pipeline.prompt_tokens(text)
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        width = pipeline.width
        if not convert_to_sparse_tensor:
            check_large(4 * len(texts) * width, "embeddings of shape {}", (len(texts), width))
        parts: list[SparseEmbeddings] = []
        rows = [np.empty(0, np.int64)]
        with pipeline.batches(texts, text, show_progress_bar=show_progress_bar, title="Embedding") as batches:
            for batch in batches:
                parts.append(pipeline.sparse(batch, skip, most))
                rows.append(batch.rows)
        self.counts = batches.counts
        found = SparseEmbeddings._stacked(parts, width)._at(np.argsort(np.concatenate(rows)))
        if self._dtype != np.float32:
            found = found.astype(self._dtype)
        result: Any = found if convert_to_sparse_tensor else found.toarray()
        result = result[0] if single else result
        if convert_to_tensor:
            return result.to_torch() if convert_to_sparse_tensor else as_tensors(result)
        return list(result) if convert_to_tensor is False and not single else result

    encode_query = prompted(encode, "query", ["query"], "Embed queries.")
    encode_document = prompted(encode, "document", ["document", "passage", "corpus"], "Embed documents.")

    def _pipeline_of(self, limit: int | None, task: str | None = None) -> SparsePipeline:
        return cast("SparsePipeline", super()._pipeline_of(limit, task))

    def get_embedding_dimension(self) -> int:
        """Return the width of an embedding: the words of the vocabulary.

        Returns
        -------
        int
            V.
        """
        return self._width

    def _saved_settings(self) -> dict[str, Any]:
        most = {} if self.max_active_dims is None else {"max_active_dims": self.max_active_dims}
        return {**super()._saved_settings(), "similarity_fn_name": self.similarity_fn_name, **most}
