"""TextModel, the base of SentenceTransformer and CrossEncoder: loading, modules, preprocess, forward, saving."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.hub import find_model
from fastattn.config import Precision
from fastattn.encoder.padding import pack, unpack
from fastattn.encoder.torch_names import check_device
from fastattn.runtime.version import __version__
from fastattn.text.batches import TextBatch, groups, joined, modality, padded, tokenize
from fastattn.text.compatibility import (
    CardData,
    as_tensors,
    call_limit,
    check_mappings,
    is_tensor,
    loading_dropout,
    loading_dtype,
    loading_precision,
    loading_task,
    processing_arguments,
)
from fastattn.text.inputs import items_of
from fastattn.text.model_folder import ModelSettings, read_model_settings, read_modules_of, write_model_folder
from fastattn.text.modules import InputModule, Module
from fastattn.text.modules.input_module import with_limit
from fastattn.text.older_names import OlderTextModelNames
from fastattn.text.overrides import PackedCalls
from fastattn.text.pipeline import Counts, Pipeline
from fastattn.text.prompts import given_prompts, resolve_prompt
from fastattn.tokenizer.settings import STEPS
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["TextModel"]


class TextModel(OlderTextModelNames, PackedCalls):
    """Text model: a module that reads token ids, and the modules that follow it.

    Parameters
    ----------
    model_name_or_path : str or path, optional
        A model folder, or a name on the Hugging Face Hub.
    modules : iterable of Module, optional
        The modules of the model, instead of those of a folder.
    device : {None, "cpu"}
        For compatibility; only the CPU is supported.
    prompts : mapping of str to str, optional
        Prompts by name: texts that are put before each input.
    default_prompt_name : str, optional
        Name of the prompt for calls that name none.
    cache_folder, revision, local_files_only, token : optional
        Access to the Hugging Face Hub, as in `SentenceTransformer`.
    model_kwargs, processor_kwargs, config_kwargs : mapping, optional
        As in `SentenceTransformer`.
    model_card_data : object, optional
        Object that receives the metrics of evaluators.
    backend : {"torch"}
        For compatibility; torch is not used.
    precision : {"float32", "bfloat16", "int8"}, optional
        As in `SentenceTransformer`.
    **options
        Arguments of `Transformer`.

    Raises
    ------
    TypeError
        An element of `modules` is not a fastattn module, or an argument has the wrong type.
    CheckpointError
        A model file is damaged, or needs a feature that is not supported.
    ValueError
        An argument has an unsupported value.
    """

    model_type: ClassVar[str]
    modalities: ClassVar[list[str]] = ["text"]
    _pipeline_type: ClassVar[type[Pipeline]] = Pipeline

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None,
        *,
        modules: Iterable[Module] | None,
        device: Any,
        prompts: Mapping[str, str | None] | None,
        default_prompt_name: str | None,
        cache_folder: str | None,
        revision: str | None,
        local_files_only: bool,
        token: bool | str | None,
        model_kwargs: Mapping[str, Any] | None,
        processor_kwargs: Mapping[str, Any] | None,
        config_kwargs: Mapping[str, Any] | None,
        model_card_data: Any,
        backend: str,
        precision: Precision | None,
        **options: Any,
    ) -> None:
        check_device(device)
        if backend != "torch":
            raise ValueError(f'backend must be "torch" (its default; torch is not used), got {backend!r}')
        check_mappings(model_kwargs=model_kwargs, processor_kwargs=processor_kwargs, config_kwargs=config_kwargs)
        given, processing = given_prompts(prompts), processing_arguments(processor_kwargs)
        self._dtype, asked = loading_dtype(model_kwargs, config_kwargs), loading_precision(precision, model_kwargs)
        if (task := loading_task(model_kwargs)) is not None:
            options["model_kwargs"] = {"default_task": task}
        self.folder: Path | None = None
        settings: ModelSettings | None = None
        if modules is None or model_name_or_path is not None:
            self.folder = find_model(
                model_name_or_path, cache_folder=cache_folder, revision=revision, token=token, local_files_only=local_files_only
            )
            settings = read_model_settings(self.folder, self.model_type)
            chosen = self._read_modules(self.folder, settings, processor_kwargs=processor_kwargs, precision=asked, **options)
        else:
            if steps := [name for name in processing if name in STEPS]:
                raise ValueError(
                    f"processor_kwargs: {steps[0]} needs a folder: the tokenizer of the given modules is loaded already"
                )
            chosen = list(modules)
            for i, module in enumerate(chosen):
                if not isinstance(module, Module):
                    kind = f"{type(module).__module__}.{type(module).__qualname__}"
                    raise TypeError(
                        f"modules[{i}] must be one of fastattn.modules, got {kind}; a model of another library can be saved, "
                        "and its folder loaded here"
                    )
        self._settings = settings or ModelSettings({}, None, None, None, None, {})
        self._pipeline = self._pipeline_type(chosen)
        if asked not in (None, self.precision):
            raise ValueError(f"precision is {asked!r}, and the given Transformer was loaded in {self.precision}: give it to that")
        self._first_module()._configure(processing)
        if dropout := loading_dropout(config_kwargs):
            transformer = self._pipeline.transformer
            transformer.encoder.config = transformer.config.changed(**dropout)
        self.prompts: dict[str, str] = {**self._default_prompts(), **self._settings.prompts, **given}
        self.default_prompt_name = default_prompt_name or self._settings.default_prompt_name
        if self.default_prompt_name is not None:
            try:
                resolve_prompt(self.prompts, self.default_prompt_name, None, None)
            except ValueError as error:
                if default_prompt_name:
                    raise
                raise CheckpointError(f"{self.folder}: its default_prompt_name: {error}") from error
        self.counts = Counts(0, 0, 0)
        name = self.folder if model_name_or_path is None else model_name_or_path
        self.model_card_data = CardData(None if name is None else str(name)) if model_card_data is None else model_card_data

    def _default_prompts(self) -> dict[str, str]:
        return {}

    def _read_modules(self, folder: Path, settings: ModelSettings | None, **options: Any) -> list[Module]:
        """Read the modules of a folder; `settings` is None if the folder holds another type of model."""
        return read_modules_of(folder, **options)

    def __len__(self) -> int:
        """Number of modules."""
        return len(self._pipeline.modules)

    def __getitem__(self, index: int) -> Module:
        """Return the module at an index."""
        return self._pipeline.modules[index]

    def __iter__(self) -> Iterator[Module]:
        """Iterate over the modules."""
        return iter(self._pipeline.modules)

    def __repr__(self) -> str:
        """Show the class, the folder and the modules."""
        lines = [] if self.folder is None else [f"  folder: {self.folder}"]
        lines += [f"  ({i}): {module!r}" for i, module in enumerate(self)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def _first_module(self) -> InputModule:
        return self._pipeline.first

    def _last_module(self) -> Module:
        return self[-1]

    @property
    def transformers_model(self) -> Any:
        """The encoder, with its head if it has one; None for a model without an encoder."""
        return self._first_module().auto_model

    @property
    def config(self) -> Any:
        """The encoder's configuration, which has the values of ``config.json`` under transformers' names too."""
        return getattr(self.transformers_model, "config", None)

    @property
    def precision(self) -> Precision:
        """Precision of the encoder's arithmetic, fixed when the model is loaded."""
        return self._first_module().precision

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text, special tokens included; longer texts are truncated."""
        return self._first_module().max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._first_module().max_seq_length = value

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; do not change its settings while another thread may use it."""
        return self._first_module().tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._first_module().tokenizer = value

    def supports(self, modality: Any) -> bool:
        """Tell whether the model reads a kind of input.

        Parameters
        ----------
        modality : str
            Kind of input; only "text" is supported.

        Returns
        -------
        bool
        """
        return modality in self.modalities

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise texts, or pairs of texts, into padded arrays.

        Parameters
        ----------
        inputs : sequence of str, or of (str, str)
            The texts, or the pairs of texts.
        prompt : str, optional
            Text that is put before each input.
        **kwargs
            ``processing_kwargs`` as in a call of the model; ``task`` is ignored, for compatibility.

        Returns
        -------
        dict of str to int64, (B, T)
            ``input_ids``, ``attention_mask``, ``token_type_ids`` if the tokenizer makes them; ``modality``; and
            ``prompt_length`` if a prompt is given that is no message of a chat template.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str, or texts and pairs are mixed; the message gives the index.
        ValueError
            An argument is unknown, or a text is not valid Unicode.
        """
        first = self._pipeline_of(call_limit(type(self).preprocess, kwargs), kwargs.get("task")).first
        tokenizer, limit, chat = first.tokenizer, first.max_seq_length, first.chat
        texts, prompt = items_of(inputs), prompt or ""
        if not texts:
            return {}
        found = joined([tokenize(tokenizer, texts[group], prompt, limit, group.start, chat) for group in groups(texts, prompt)])
        width = max(map(len, found.ids))
        columns: dict[str, Any] = {"input_ids": padded(found.ids, width, tokenizer.pad_token_id or 0)}
        if "token_type_ids" in tokenizer.model_input_names:
            columns["token_type_ids"] = padded(found.types or [np.zeros(len(row), np.int32) for row in found.ids], width, 0)
        columns["attention_mask"] = padded([np.ones(len(row), np.int32) for row in found.ids], width, 0)
        columns["modality"] = modality(chat)
        if prompt and chat is None:
            columns["prompt_length"] = tokenizer.prefix_length(prompt, limit)
        return columns

    def _pipeline_of(self, limit: int | None, task: str | None = None) -> Pipeline:
        """Return the pipeline of a task, or one with another maximum number of tokens."""
        pipeline = self._pipeline.of_task(task)
        if limit is None:
            return pipeline
        return type(pipeline)([with_limit(pipeline.first, limit), *pipeline.modules[1:]])

    def forward(self, input: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Apply the modules to a padded batch, such as `preprocess` returns.

        Parameters
        ----------
        input : mapping
            ``input_ids`` (B, T); ``attention_mask`` (B, T), bool or 0/1, 1 marks a real token; ``token_type_ids`` (B, T);
            ``prompt_length``, at least 0.  Only ``input_ids`` is required.
        **kwargs
            ``task`` is ignored, for compatibility.

        Returns
        -------
        dict of str to arrays, or to torch tensors if ``input_ids`` is a tensor
            `input` and the outputs of the modules: ``token_embeddings`` (B, T, C), zeros at padding; ``sentence_embedding``
            (B, C); ``scores`` (B, L).

        Raises
        ------
        TypeError
            ``input_ids``, ``token_type_ids`` or ``prompt_length`` are not whole numbers.
        ValueError
            A shape is wrong, an id is out of range, ``prompt_length`` is negative, or the mask holds anything but 0 and 1.
        """
        if unknown := set(kwargs) - {"task"}:
            raise ValueError(f"forward has no argument {', '.join(sorted(unknown))}")
        if "input_ids" not in input:
            raise ValueError(f"input must have input_ids, got {', '.join(input) or 'nothing'}")
        ids = np.asarray(input["input_ids"])
        if ids.ndim != 2:
            raise ValueError(f"input_ids must have shape (B, T), got {ids.shape}")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"input_ids must be whole numbers, got {ids.dtype}")
        tokens, offsets, types, real = pack(ids, input.get("attention_mask"), input.get("token_type_ids"))
        batch = TextBatch(np.arange(len(ids)), tokens, types, offsets, 0)
        result = dict(input)
        pipeline = self._pipeline_of(None, kwargs.get("task"))
        for name, rows in pipeline.features(batch, _prompt_length(input)).items():
            if name in pipeline.token_names:
                rows = unpack(rows, real)
            result[name] = as_tensors(rows) if is_tensor(input["input_ids"]) else rows
        return result

    __call__ = forward

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Evaluate the model with an evaluator of sentence-transformers.

        Parameters
        ----------
        evaluator : callable
            Called with the model and `output_path`.
        output_path : str, optional
            Folder for the evaluator's files; created if missing.

        Returns
        -------
        dict of str to float, or float
            The evaluator's result.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    def save(
        self,
        path: str | None,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write the model into a folder that this package and sentence-transformers read.

        Parameters
        ----------
        path : str
            Folder to write; created if missing.  None writes nothing.
        model_name : str, optional
            Ignored, for compatibility.
        create_model_card : bool
            Copy the ``README.md`` of the model's folder.
        train_datasets : list of str, optional
            Ignored, for compatibility.
        safe_serialization : bool
            Must be true: weights are written as safetensors, never pickled.

        Raises
        ------
        ValueError
            `safe_serialization` is false.
        """
        if path is None:
            return
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: weights are written as safetensors, never pickled")
        readme = self.folder / "README.md" if create_model_card and self.folder is not None else None
        write_model_folder(Path(path), list(self), self._saved_settings(), readme)

    def _saved_settings(self) -> dict[str, Any]:
        """Return the content of ``config_sentence_transformers.json``."""
        prompts = {"prompts": self.prompts, "default_prompt_name": self.default_prompt_name}
        return {"model_type": self.model_type, "__version__": {**self._settings.versions, "fastattn": __version__}, **prompts}


def _prompt_length(input: Mapping[str, Any]) -> int:
    """Return the number of prompt tokens at the start of each text."""
    try:
        length = operator.index(input.get("prompt_length", 0))
    except TypeError:
        raise TypeError(f"prompt_length must be a whole number, got {input['prompt_length']!r:.50}") from None
    if length < 0:
        raise ValueError(f"prompt_length must be at least 0, got {length}")
    return length
