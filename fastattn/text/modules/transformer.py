"""Transformer: the encoder with its tokenizer, the first module of a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.checkpoint.folder import CheckpointError, own_file, read_object, transformer_folder
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.missing import check_folder
from fastattn.checkpoint.weights import checkpoint_files, remove_other_weights
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.heads import EncoderForSequenceClassification
from fastattn.runtime.files import write_file, write_json
from fastattn.text.compatibility import check_mappings, loading_dtype, loading_precision, processing_arguments, renamed
from fastattn.text.modules.module import SCORES, TOKENS, Module
from fastattn.text.pretrained_config import PretrainedConfig
from fastattn.tokenizer.settings import STEPS
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Transformer"]

logger = logging.getLogger(__name__)

# The settings file is sentence_<name>_config.json: older versions named it after the architecture.
_ARCHITECTURES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# Keys of the settings file that would change the result.
_UNSUPPORTED = ("processing_kwargs", "query_length", "document_length", "query_expansion", "tokenizer_name_or_path")
_TASKS = ("feature-extraction", "sequence-classification")
# Older names of keys.
_RENAMED = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
# The output of transformers' models that the module is, by task.
_OUTPUTS = {"feature-extraction": "last_hidden_state", "sequence-classification": "logits"}
# Part of the model's vocabulary below which a tokenizer has few tokens: tables may be padded or trimmed.
_FEW = 0.5


class Transformer(Module):
    """Encoder with its tokenizer, always the first module of a model.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder with ``config.json``, weights and ``tokenizer.json``, or a name on the Hugging Face Hub.
    transformer_task : {"feature-extraction", "sequence-classification"}, optional
        "sequence-classification" adds the head.  By default as in ``sentence_bert_config.json``, else "feature-extraction".
    max_seq_length : int, optional
        Maximum number of tokens of a text; by default as in ``sentence_bert_config.json`` or the tokenizer's settings.
    do_lower_case : bool
        Lowercase texts before they are tokenised.
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

    @renamed(model_args="model_kwargs", tokenizer_args="processor_kwargs", config_args="config_kwargs")
    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        *,
        transformer_task: str | None = None,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
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
        path, settings = _read_settings(folder)
        given = {"transformer_task": transformer_task, "max_seq_length": max_seq_length, "do_lower_case": do_lower_case or None}
        settings.update({name: value for name, value in given.items() if value is not None})
        self._load(folder, path, settings, processing_arguments(processor_kwargs), precision or "float32")

    @classmethod
    def _without_settings(
        cls,
        folder: Path,
        transformer_task: str,
        processor_kwargs: Mapping[str, Any] | None = None,
        precision: Precision | None = None,
        **settings: Any,
    ) -> Transformer:
        """Load a folder of transformers: sentence-transformers reads its own settings file only where modules.json is."""
        settings = {"transformer_task": transformer_task, **{name: value for name, value in settings.items() if value is not None}}
        module = cls.__new__(cls)
        module._load(folder, folder / "config.json", settings, processing_arguments(processor_kwargs), precision or "float32")
        return module

    def _load(self, folder: Path, path: Path, settings: dict[str, Any], given: Mapping[str, Any], precision: Precision) -> None:
        """Load the tokenizer and the encoder with the content `settings` of the file `path`; `given` are tokenizer arguments."""
        # Absolute, because the process may change its working directory before `save`.
        self.folder = folder.absolute()
        self.transformer_task = settings.get("transformer_task", _TASKS[0])
        if self.transformer_task not in _TASKS:
            supported = ", ".join(_TASKS)
            raise CheckpointError(f"{path}: transformer_task {self.transformer_task!r} is not supported; supported: {supported}")
        self.do_lower_case = bool(settings.get("do_lower_case"))
        check_folder(self.folder, tokenizer=True)
        processing = {**settings.get("processor_kwargs", {}), **given}
        steps = {name: value for name, value in processing.items() if name in STEPS}
        self._tokenizer = load_tokenizer(self.folder, do_lower_case=self.do_lower_case, given=steps)
        self.model: Encoder | EncoderForSequenceClassification
        if self.transformer_task == _TASKS[0]:
            self.model = self.encoder = Encoder.from_pretrained(self.folder, precision)
        else:
            self.model = EncoderForSequenceClassification.from_pretrained(self.folder, precision)
            self.encoder = self.model.encoder
        self.encoder.config = PretrainedConfig.of(self.encoder.config, read_object(self.folder / "config.json"))
        self._stamps = _stamps(self.folder)
        self._warn_of_few_tokens()
        limit = settings.get("processor_kwargs", {}).get("model_max_length", settings.get("max_seq_length"))
        if limit is None:
            limit = self._tokenizer.model_max_length
        elif not isinstance(limit, (int, float)) or not 1 <= limit < float("inf"):
            raise CheckpointError(f"{path}: max_seq_length must be a positive number, found {limit!r}")
        try:
            self.max_seq_length = min(int(limit), self.max_positions)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        self._configure({**processing, "model_max_length": given.get("model_max_length", self.max_seq_length)})

    def _configure(self, processing: Mapping[str, Any]) -> None:
        """Apply the arguments of the tokenizer that are not steps."""
        if "model_max_length" in processing:
            self.max_seq_length = processing["model_max_length"]
        if "truncation_side" in processing:
            self._tokenizer.truncation_side = processing["truncation_side"]

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
        """Name of the array that the module writes: token embeddings, or the scores of the head."""
        return TOKENS if self.transformer_task == _TASKS[0] else SCORES

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
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._tokenizer = Tokenizer.wrap(value, like=self._tokenizer)

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's configuration, which has the values of ``config.json`` under transformers' names too."""
        return self.encoder.config  # type: ignore[return-value]

    @property
    def auto_model(self) -> Encoder | EncoderForSequenceClassification:
        """The encoder, under sentence-transformers' name for the inner model."""
        return self.model

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of a token embedding.

        Returns
        -------
        int
            C.
        """
        return self.encoder.config.hidden_dim

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

    def _width(self, widths: dict[str, int]) -> None:
        """Record the width of the output in `widths`."""
        model = self.model
        labels = model.num_labels if isinstance(model, EncoderForSequenceClassification) else None
        widths[self.output_name] = self.get_embedding_dimension() if labels is None else labels

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``sentence_bert_config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        task = {} if self.transformer_task == _TASKS[0] else {"transformer_task": self.transformer_task}
        return {"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case, **task}

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Copy the files of the checkpoint into a folder, and write the settings.

        The weights are those of the checkpoint in every precision, which is not stored.

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
            if _stamps(self.folder) != self._stamps:
                raise CheckpointError(f"{self.folder}: its files were changed after they were read, so they may hold another model")
            for name in self._stamps:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                write_file(target / name, own_file(self.folder / name))
            remove_other_weights(target, self._stamps)
        self.tokenizer.save_pretrained(target)
        write_json(target / "sentence_bert_config.json", self.get_config_dict())


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and modification time of the configuration and weight files, by name."""
    paths = checkpoint_files(folder)
    stats = [path.stat() for path in paths]
    return {path.relative_to(folder).as_posix(): (s.st_size, s.st_mtime_ns) for path, s in zip(paths, stats, strict=True)}


def _read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and content of the module's settings file."""
    paths = [folder / f"sentence_{name}_config.json" for name in _ARCHITECTURES]
    path = next((path for path in paths if path.exists()), paths[0])
    settings = {_RENAMED.get(name, name): value for name, value in read_object(path).items()}
    for key in _UNSUPPORTED:
        if settings.get(key):
            raise CheckpointError(f"{path}: {key} {settings[key]!r} is not supported")
    output = settings.get("module_output_name", TOKENS)
    if output not in (TOKENS, SCORES):
        raise CheckpointError(f"{path}: module_output_name {output!r} is not supported; supported: {TOKENS}, {SCORES}")
    wanted = {"method": "forward", "method_output_name": _OUTPUTS.get(settings.get("transformer_task", _TASKS[0]))}
    text = (settings.get("modality_config") or {"text": wanted}).get("text")
    if text != wanted:
        raise CheckpointError(f"{path}: modality_config with text {text!r} is not supported; supported: {wanted!r}")
    try:
        settings["processor_kwargs"] = _arguments(settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return path, settings


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer arguments in the settings; an error for an argument of transformers that cannot be followed."""
    given = {name: settings.get(name) for name in _RENAMED.values()}
    check_mappings(**given)
    # A type of the weights is not followed: float32 is nearer to the truth, and other precisions are asked for.
    model = {name: value for name, value in (given["model_kwargs"] or {}).items() if name not in ("dtype", "torch_dtype")}
    loading_dtype(model, given["config_kwargs"])
    return processing_arguments(given["processor_kwargs"])
