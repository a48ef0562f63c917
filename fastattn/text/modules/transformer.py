"""Transformer: the encoder with its tokenizer, the first module of a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.folder import CheckpointError, read_object, transformer_folder
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.missing import check_folder
from fastattn.checkpoint.task_adapters import adapter_names
from fastattn.checkpoint.weights import checkpoint_files, remove_other_weights
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.heads import EncoderForMaskedLM, EncoderForSequenceClassification, EncoderWithProjection
from fastattn.runtime.files import write_json
from fastattn.text.compatibility import (
    check_mappings,
    loading_dtype,
    loading_precision,
    loading_task,
    processing_arguments,
    renamed,
)
from fastattn.text.modules.input_module import InputModule, copy_files, stamps
from fastattn.text.modules.learned import Learned
from fastattn.text.modules.module import SENTENCE, Array
from fastattn.text.modules.transformer_settings import BY_TASK, NAMES, OUTPUTS, TASKS, read_settings, stored_limit
from fastattn.text.pretrained_config import PretrainedConfig
from fastattn.text.query_expansion import check_lengths, checked_expansion, expansion_token
from fastattn.tokenizer.chat import Chat, chat_template
from fastattn.tokenizer.settings import STEPS
from fastattn.tokenizer.tokenizer import load_tokenizer

__all__ = ["Transformer"]

logger = logging.getLogger(__name__)

# Model types whose text embeddings are a projection, without a Pooling behind it.
_PROJECTED = ("clip",)
# Part of the model's vocabulary below which a tokenizer has few tokens: tables may be padded or trimmed.
_FEW = 0.5

_ModelWithHead = EncoderForSequenceClassification | EncoderForMaskedLM | EncoderWithProjection
_Model = Encoder | _ModelWithHead


class Transformer(InputModule):
    """Encoder with its tokenizer, always the first module of a model.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder with ``config.json``, weights and ``tokenizer.json``, or a name on the Hugging Face Hub.
    transformer_task : {"feature-extraction", "sequence-classification", "text-generation", "fill-mask"}, optional
        "sequence-classification" and "fill-mask", which is for a `SpladePooling`, add the head; "text-generation" is for a
        `LogitScore`.  By default as in
        ``sentence_bert_config.json``, else "feature-extraction".
    max_seq_length : int, optional
        Maximum number of tokens of a text; by default as in ``sentence_bert_config.json`` or the tokenizer's settings.
    do_lower_case : bool
        Lowercase texts before they are tokenised.
    query_length, document_length : int, optional
        Maximum number of tokens of a query and of a document, in a `MultiVectorEncoder`.
    query_expansion : mapping, optional
        Mask tokens behind short queries of a `MultiVectorEncoder`, which are scored as a query's own tokens are.  Keys: "strategy",
        "fixed" (each query has `length` tokens) or "min" (at least `length`); "length"; "attend", whether the query's own tokens
        see them, by default False; "token", by default the mask token.
    model_kwargs, processor_kwargs, config_kwargs : mapping, optional
        As in `SentenceTransformer`, but without ``float16``; also accepted as ``model_args``, ``tokenizer_args`` and
        ``config_args``.
    cache_dir : str, optional
        Folder of the Hub's cache.
    backend : {"torch"}
        For compatibility; the computation runs in Numba kernels, not in torch.
    precision : {"float32", "bfloat16", "int8"}, optional
        As in `SentenceTransformer`.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    CheckpointError
        A file is damaged, or needs a feature that is not supported.
    ValueError
        An argument has an unsupported value.
    """

    kind = "Transformer"
    _learned: Learned | None = None

    @renamed(model_args="model_kwargs", tokenizer_args="processor_kwargs", config_args="config_kwargs")
    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        *,
        transformer_task: str | None = None,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
        query_length: int | None = None,
        document_length: int | None = None,
        query_expansion: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        backend: str = "torch",
        precision: Precision | None = None,
    ) -> None:
        if backend != "torch":
            raise ValueError(f'backend must be "torch" (its default; torch is not used), got {backend!r}')
        check_mappings(model_kwargs=model_kwargs, processor_kwargs=processor_kwargs, config_kwargs=config_kwargs)
        if (dtype := loading_dtype(model_kwargs, config_kwargs)) != np.float32:
            raise ValueError(f"model_kwargs: the results of a Transformer are float32, got {dtype}: give it to the model")
        precision = loading_precision(precision, model_kwargs)
        loading = {name: value for name, value in (model_kwargs or {}).items() if name in ("revision", "token", "local_files_only")}
        found = find_model(model_name_or_path, cache_folder=cache_dir or (model_kwargs or {}).get("cache_dir"), **loading)
        folder = transformer_folder(found)
        path, settings = read_settings(folder)
        given = {
            "transformer_task": transformer_task,
            "max_seq_length": max_seq_length,
            "do_lower_case": do_lower_case or None,
            "query_length": query_length,
            "document_length": document_length,
            "query_expansion": query_expansion,
        }
        settings.update({name: value for name, value in given.items() if value is not None})
        settings["default_task"] = loading_task(model_kwargs) or settings.get("default_task")
        self._load(folder, path, settings, processing_arguments(processor_kwargs), precision or "float32")

    @classmethod
    def _without_settings(
        cls,
        folder: Path,
        transformer_task: str,
        processor_kwargs: Mapping[str, Any] | None = None,
        precision: Precision | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Transformer:
        """Load a folder of transformers: sentence-transformers reads its own settings file only where modules.json is."""
        settings["default_task"] = loading_task(model_kwargs)
        settings = {"transformer_task": transformer_task, **{name: value for name, value in settings.items() if value is not None}}
        module = cls.__new__(cls)
        module._load(folder, folder / "config.json", settings, processing_arguments(processor_kwargs), precision or "float32")
        return module

    def _load(self, folder: Path, path: Path, settings: dict[str, Any], given: Mapping[str, Any], precision: Precision) -> None:
        """Load the tokenizer and the encoder with the content `settings` of the file `path`; `given` are tokenizer arguments."""
        # Absolute, because the process may change its working directory before `save`.
        self.folder = folder.absolute()
        self.transformer_task = settings.get("transformer_task", TASKS[0])
        if self.transformer_task not in TASKS:
            supported = ", ".join(TASKS)
            raise CheckpointError(f"{path}: transformer_task {self.transformer_task!r} is not supported; supported: {supported}")
        self.do_lower_case = bool(settings.get("do_lower_case"))
        check_folder(self.folder, tokenizer=True)
        processing = {**settings.get("processor_kwargs", {}), **given}
        steps = {name: value for name, value in processing.items() if name in STEPS}
        self._tokenizer = load_tokenizer(self.folder, do_lower_case=self.do_lower_case, given=steps)
        content = read_object(self.folder / "config.json")
        self.default_task: str | None = settings.get("default_task")
        self.tasks = adapter_names(Settings(self.folder / "config.json", content))
        self.model: _Model
        kinds: dict[str, type[_ModelWithHead]] = {
            "sequence-classification": EncoderForSequenceClassification,
            "fill-mask": EncoderForMaskedLM,
        }
        if content.get("model_type") in _PROJECTED:
            kinds["feature-extraction"] = EncoderWithProjection
        if self.transformer_task not in kinds:
            self.model = self.encoder = Encoder.from_pretrained(self.folder, precision, adapter=self.default_task)
        else:
            self.model = kinds[self.transformer_task].from_pretrained(self.folder, precision, adapter=self.default_task)
            self.encoder = self.model.encoder
        self.encoder.config = PretrainedConfig.of(self.encoder.config, content, self.folder)
        if settings.get("module_output_name") == SENTENCE != self.output_name:
            raise CheckpointError(f"{path}: module_output_name {SENTENCE!r} is not supported; supported: {self.output_name}")
        self.chat = self._chat(settings)
        self._stamps = stamps(self.folder, checkpoint_files(self.folder))
        self._warn_of_few_tokens()
        limit = stored_limit(path, settings)
        limit = self._tokenizer.model_max_length if limit is None else limit
        try:
            self.max_seq_length = min(int(limit), self.max_positions)
            check_lengths(query_length=settings.get("query_length"), document_length=settings.get("document_length"))
            self.query_length: int | None = settings.get("query_length")
            self.document_length: int | None = settings.get("document_length")
            self.query_expansion = settings.get("query_expansion")
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        self._configure({**processing, "model_max_length": given.get("model_max_length", self.max_seq_length)})

    def _chat(self, settings: Mapping[str, Any]) -> Chat | None:
        """Return the tokenizer's chat template, where the settings name messages as inputs, or name no kind of inputs."""
        kinds = settings.get("modality_config")
        if kinds is not None and "message" not in kinds:
            return None
        template = chat_template(self.folder)
        if template is None:
            return None
        form = (kinds or {}).get("message", {}).get("format", "auto")
        return Chat(template, self._tokenizer, None if form == "auto" else form == "structured")

    @property
    def query_expansion(self) -> dict[str, Any] | None:
        """Mask tokens behind short queries; None for none."""
        return self._query_expansion

    @query_expansion.setter
    def query_expansion(self, value: Any) -> None:
        expansion = checked_expansion(value)
        if expansion is not None:
            expansion_token(expansion, self._tokenizer)
            length = expansion["length"]
            if self.query_length is not None and self.query_length < length:
                raise ValueError(f"query_length {self.query_length} is less than query_expansion's length {length}")
            if not self._tokenizer.num_special <= length <= self.max_positions:
                raise ValueError(
                    f"query_expansion: length must be from {self._tokenizer.num_special} to {self.max_positions}, got {length}"
                )
        self._query_expansion = expansion

    def _by_task(self) -> dict[str, Any]:
        """Return the settings for queries and documents that are not None."""
        return {name: value for name in BY_TASK if (value := getattr(self, name)) is not None}

    def _warn_of_few_tokens(self) -> None:
        """Warn of a tokenizer that has far fewer tokens than the model: it may be another model's, or hold special tokens only."""
        tokens, rows = len(self._tokenizer), self.encoder.config.vocab_size or 0
        if tokens < rows * _FEW:
            logger.warning(
                "%s: its tokenizer has %s tokens, and its model %s: words may become unknown tokens. Compare the tokenizer's files "
                "with those of the model's source; a conversion by a wrong tokenizer class keeps the special tokens only.",
                self.folder, f"{tokens:,}", f"{rows:,}",
            )  # fmt: skip

    @property
    def output_name(self) -> str:
        """Name of what the module writes: token embeddings, scores, what logits are computed of, or text embeddings."""
        return SENTENCE if isinstance(self.model, EncoderWithProjection) else NAMES[self.transformer_task]

    @property
    def precision(self) -> Precision:
        """Precision of the encoder's arithmetic, fixed when the module is loaded."""
        return self.encoder.precision

    @property
    def max_positions(self) -> int:
        """Maximum number of tokens of a sequence in the encoder."""
        return self.encoder.config.max_positions

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text, special tokens included; longer texts are truncated."""
        return min(self._tokenizer.model_max_length, self.max_positions)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        least, most = self._tokenizer.num_special, self.max_positions
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"max_seq_length must be an integer from {least} to {most}, got {value!r}")
        self._tokenizer.model_max_length = value

    @property
    def vocab_size(self) -> int:
        """Number of token ids of the encoder."""
        return self.encoder.config.vocab_size or 0

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's configuration, which has the values of ``config.json`` under transformers' names too."""
        return self.encoder.config  # type: ignore[return-value]

    @property
    def auto_model(self) -> _Model:
        """The encoder, under sentence-transformers' name for the inner model."""
        return self.model

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of a token embedding, or of CLIP's text embeddings.

        Returns
        -------
        int
            C.
        """
        return self.model.width if isinstance(self.model, EncoderWithProjection) else self.encoder.config.hidden_dim

    def _check_task(self, task: Any) -> None:
        """Raise a ValueError for the task of another adapter than the one that is loaded; names that no adapter has are ignored."""
        if task in self.tasks and task != self.default_task:
            loaded = "none" if self.default_task is None else repr(self.default_task)
            advice = f'load the model with model_kwargs={{"default_task": {task!r}}}'
            raise ValueError(f"task is {task!r}, and the adapter that is loaded is {loaded}: {advice}")

    def __repr__(self) -> str:
        """Show the configuration and the sizes of the encoder."""
        config, encoder = self.config, self.encoder
        name = (config.to_dict().get("architectures") or [config.to_dict().get("model_type")])[0]
        sizes = {"architecture": name, "num_hidden_layers": config.num_layers, "hidden_size": config.hidden_dim}
        shown = {**self.get_config_dict(), **sizes, "parameters": encoder.parameters_count, "precision": self.precision}
        return f"Transformer({shown})"

    def get_word_embedding_dimension(self) -> int:
        """`get_embedding_dimension` under its old name.

        Returns
        -------
        int
            C.
        """
        return self.get_embedding_dimension()

    def _features(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.int32] | None) -> Array:
        """Return the hidden states, or the scores, of packed token ids."""
        return self.model.forward_packed(ids, offsets, token_type_ids=types)

    def _width(self, widths: dict[str, int]) -> None:
        """Record the width of the output in `widths`."""
        model, width = self.model, self.get_embedding_dimension()
        if isinstance(model, EncoderForSequenceClassification):
            width = model.num_labels
        widths[self.output_name] = self.vocab_size if isinstance(model, EncoderForMaskedLM) else width

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``sentence_bert_config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        content: dict[str, Any] = {"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case}
        if self.transformer_task != TASKS[0]:
            content["transformer_task"] = self.transformer_task
        if self.default_task is not None:
            content["model_kwargs"] = {"default_task": self.default_task}
        if self.chat is not None:
            entry = {"method": "forward", "method_output_name": OUTPUTS[self.transformer_task]}
            message = {**entry, "format": "structured" if self.chat.structured else "flat"}
            content |= {"modality_config": {"text": entry, "message": message}, "module_output_name": self.output_name}
        return {**content, **self._by_task()}

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Copy the files of the checkpoint into a folder, and write the settings.

        The weights are those of the checkpoint in every precision, which is not stored, or those that were trained.

        Parameters
        ----------
        output_path : str or path
            Folder to write; created if missing.

        Raises
        ------
        FileNotFoundError
            The folder from which the model was loaded no longer exists.
        CheckpointError
            The files in that folder have changed since the model was loaded.
        """
        target = Path(output_path)
        if target.resolve() != self.folder.resolve():
            copy_files(self.folder, self._stamps, target)
            remove_other_weights(target, self._stamps)
        if self._learned is not None:
            self._learned.write(target)
        self.tokenizer.save_pretrained(target)
        write_json(target / "sentence_bert_config.json", self.get_config_dict())
