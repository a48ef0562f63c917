"""What SentenceTransformer and CrossEncoder share: the arguments of sentence-transformers, prompts, folders."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, own_file
from fastattn.checkpoint.hub import find_model
from fastattn.encoder.padding import pack, unpack
from fastattn.runtime.files import write_file, write_json
from fastattn.text.batches import Packed, checked, tokenize
from fastattn.text.compatibility import (
    CardData,
    Device,
    check_device,
    check_loading,
    check_mappings,
    given_prompts,
    processing_arguments,
)
from fastattn.text.model_folder import Recipe, read_modules_of, read_settings
from fastattn.text.modules import Module, Transformer
from fastattn.text.pipeline import Counts, Pipeline
from fastattn.text.tensors import as_tensors, is_tensor
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["TextModel"]

logger = logging.getLogger(__name__)


class TextModel:
    """A model that reads text: a Transformer and modules behind it.

    Parameters
    ----------
    model_name_or_path : str or path, optional
        A folder or a name.
    modules : iterable of Module, optional
        The modules, in place of a folder's.
    device : {None, "cpu"}
        For compatibility.
    prompts : mapping of str to str, optional
        Texts to put before an input, by name.
    default_prompt_name : str, optional
        The prompt where none is given.
    cache_folder, revision, local_files_only, token : optional
        As of `find_model`.
    model_kwargs, processor_kwargs, config_kwargs : mapping, optional
        As of `SentenceTransformer`.
    model_card_data : object, optional
        What is told the metrics of evaluators.
    backend : {"torch"}
        For compatibility.
    **options
        As of `Transformer`.

    Raises
    ------
    TypeError
        `modules` are another library's, or an argument is of another type than named.
    CheckpointError
        A file of the model is damaged or asks for something that is not supported.
    ValueError
        An argument is not one of those named.
    """

    model_type: ClassVar[str]
    modalities: ClassVar[list[str]] = ["text"]

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
        **options: Any,
    ) -> None:
        check_device(device)
        if backend != "torch":
            raise ValueError(f'backend must be "torch" (its default; torch is not used), got {backend!r}')
        check_mappings(model_kwargs=model_kwargs, processor_kwargs=processor_kwargs, config_kwargs=config_kwargs)
        given = given_prompts(prompts)
        check_loading(model_kwargs, config_kwargs)
        processing = processing_arguments(processor_kwargs)
        self.folder: Path | None = None
        settings: Recipe | None = None
        if modules is None or model_name_or_path is not None:
            self.folder = find_model(
                model_name_or_path, cache_folder=cache_folder, revision=revision, token=token, local_files_only=local_files_only
            )
            settings = read_settings(self.folder, self.model_type)
            chosen = self._read_modules(self.folder, settings, do_lower_case=processing.get("do_lower_case", False), **options)
        else:
            chosen = list(modules)
            for i, module in enumerate(chosen):
                if not isinstance(module, Module):
                    kind = f"{type(module).__module__}.{type(module).__qualname__}"
                    raise TypeError(
                        f"modules[{i}] must be one of fastattn.modules, got {kind}; a model of another library can be saved, "
                        "and its folder loaded here"
                    )
        self._settings = settings or Recipe({}, None, None, None, None)
        self._pipeline = Pipeline(chosen)
        if "model_max_length" in processing:
            self.max_seq_length = processing["model_max_length"]
        if "truncation_side" in processing:
            self.tokenizer.truncation_side = processing["truncation_side"]
        self.prompts: dict[str, str] = {**self._default_prompts(), **self._settings.prompts, **given}
        self.default_prompt_name = default_prompt_name or self._settings.default_prompt_name
        if self.default_prompt_name is not None:
            try:
                self._resolve_prompt(None, self.default_prompt_name)
            except ValueError as error:
                if default_prompt_name:
                    raise
                raise CheckpointError(f"{self.folder}: its default_prompt_name: {error}") from error
        self.counts = Counts(0, 0, 0)
        self.model_card_data = CardData() if model_card_data is None else model_card_data

    def _default_prompts(self) -> dict[str, str]:
        return {}

    def _read_modules(self, folder: Path, settings: Recipe | None, **options: Any) -> list[Module]:
        """Read the modules of a folder; `settings` is None for one of another type of model."""
        return read_modules_of(folder, **options)

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self._pipeline.modules)

    def __getitem__(self, index: int) -> Module:
        """A module."""
        return self._pipeline.modules[index]

    def __iter__(self) -> Iterator[Module]:
        """The modules."""
        return iter(self._pipeline.modules)

    def __repr__(self) -> str:
        """Show the class and its modules."""
        lines = [f"  ({i}): {module!r}" for i, module in enumerate(self)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def _first_module(self) -> Transformer:
        return self._pipeline.transformer

    def _last_module(self) -> Module:
        return self[-1]

    @property
    def device(self) -> Device:
        """The CPU."""
        return Device("cpu")

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Of the arithmetic."""
        return np.dtype(np.float32)

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text, special ones included; longer texts are cut."""
        return self._first_module().max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._first_module().max_seq_length = value

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; do not change it while another thread may be using it."""
        return self._first_module().tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._first_module().tokenizer = value

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

    def get_backend(self) -> str:
        """Return "torch", the default of the argument `backend`.

        Returns
        -------
        str
            "torch".
        """
        return "torch"

    def get_model_kwargs(self) -> list[str]:
        """Return the further arguments of the model.

        Returns
        -------
        list of str
            [].
        """
        return []

    def supports(self, modality: Any) -> bool:
        """Whether the model reads this kind of input.

        Parameters
        ----------
        modality : str
            "text" is what it reads.

        Returns
        -------
        bool
        """
        return modality in self.modalities

    def eval(self) -> TextModel:
        """Return the model: it never trains.

        Returns
        -------
        TextModel
            Itself.
        """
        return self

    def to(self, device: Any = None, *args: Any, **kwargs: Any) -> TextModel:
        """Return the model: it is on the CPU already.

        Parameters
        ----------
        device : {None, "cpu"}
            For compatibility.
        *args
            For compatibility.
        **kwargs
            For compatibility.

        Returns
        -------
        TextModel
            Itself.
        """
        check_device(device)
        return self

    def cpu(self) -> TextModel:
        """Return the model.

        Returns
        -------
        TextModel
            Itself.
        """
        return self

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise texts, or pairs of texts, into padded arrays.

        Parameters
        ----------
        inputs : sequence of str, or of (str, str)
            What is tokenised.
        prompt : str, optional
            Put before each.
        **kwargs
            ``task``, for compatibility.

        Returns
        -------
        dict of str to int64, (B, T)
            ``input_ids``, ``attention_mask``, ``token_type_ids`` where the tokenizer has them; ``modality``, and with a
            prompt ``prompt_length``.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str, or some are of each kind; the message gives its number.
        ValueError
            An argument is unknown, or a text is not valid Unicode.
        """
        if unknown := set(kwargs) - {"task"}:
            raise ValueError(f"preprocess has no argument {', '.join(sorted(unknown))}")
        if not len(inputs):
            return {}
        tokenizer = self.tokenizer
        found = tokenize(tokenizer, checked(inputs), prompt or "", self.max_seq_length)
        width = max(map(len, found.ids))
        columns: dict[str, Any] = {"input_ids": _padded(found.ids, width, tokenizer.pad_token_id or 0)}
        if "token_type_ids" in tokenizer.model_input_names:
            columns["token_type_ids"] = _padded(found.types or [np.zeros(len(row), np.int32) for row in found.ids], width, 0)
        columns["attention_mask"] = _padded([np.ones(len(row), np.int32) for row in found.ids], width, 0)
        columns["modality"] = "text"
        if prompt:
            columns["prompt_length"] = tokenizer.prefix_length(prompt, self.max_seq_length)
        return columns

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """`preprocess` under its old name.

        Parameters
        ----------
        texts : sequence of str, or of (str, str)
            What is tokenised.
        **kwargs
            As in `preprocess`.

        Returns
        -------
        dict of str to int64, (B, T)
            As of `preprocess`.
        """
        return self.preprocess(texts, **kwargs)

    def forward(self, input: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Apply the modules to a padded batch, as `preprocess` makes it.

        Parameters
        ----------
        input : mapping
            ``input_ids`` (B, T); ``attention_mask`` (B, T), bool or 0/1, 1 marks a real token; ``token_type_ids`` (B, T);
            ``prompt_length``, at least 0.  All but the first may be missing.
        **kwargs
            ``task``, for compatibility.

        Returns
        -------
        dict of str to arrays, or to tensors for tensors
            `input`, with what the modules make: ``token_embeddings`` (B, T, C), zeros at padding; ``sentence_embedding``
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
        batch = Packed(np.arange(len(ids)), tokens, types, offsets, 0)
        result = dict(input)
        for name, rows in self._pipeline.features(batch, _prompt_length(input)).items():
            if name in self._pipeline.token_names:
                rows = unpack(rows, real)
            result[name] = as_tensors(rows) if is_tensor(input["input_ids"]) else rows
        return result

    __call__ = forward

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """Return what `pool` takes; no process is started, because a call uses every thread of this one.

        Parameters
        ----------
        target_devices : list of "cpu", optional
            For compatibility.

        Returns
        -------
        dict
            The pool.

        Raises
        ------
        ValueError
            A device is another one.
        """
        for device in target_devices or ():
            check_device(device)
        return {"input": None, "output": None, "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: dict[str, Any]) -> None:
        """End the use of a pool.

        Parameters
        ----------
        pool : dict
            It cannot be used again.
        """
        pool.clear()

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Call an evaluator of sentence-transformers.

        Parameters
        ----------
        evaluator : callable
            Is given the model and the path.
        output_path : str, optional
            Where it may write.

        Returns
        -------
        dict of str to float, or float
            What it returns.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    def save(
        self,
        path: str,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write the model into a folder that this package and sentence-transformers read.

        Parameters
        ----------
        path : str
            The folder.
        model_name : str, optional
            For compatibility.
        create_model_card : bool
            Copy the ``README.md`` that came with the model.
        train_datasets : list of str, optional
            For compatibility.
        safe_serialization : bool
            Must be true: weights are written as safetensors.

        Raises
        ------
        ValueError
            `safe_serialization` is false.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: nothing is pickled here")
        target = Path(path)
        entries = []
        for i, module in enumerate(self):
            name = "" if i == 0 else f"{i}_{module.kind}"
            module.save(target / name)
            entries.append({"idx": i, "name": str(i), "path": name, "type": f"sentence_transformers.models.{module.kind}"})
        write_json(target / "modules.json", entries)
        write_json(target / "config_sentence_transformers.json", self._saved_settings())
        if create_model_card and self.folder is not None and (self.folder / "README.md").is_file():
            write_file(target / "README.md", own_file(self.folder / "README.md").read_bytes())

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
            As of `save`.
        """
        self.save(path, model_name, create_model_card, train_datasets, safe_serialization)

    def _saved_settings(self) -> dict[str, Any]:
        """Return what ``config_sentence_transformers.json`` will say."""
        return {"model_type": self.model_type, "prompts": self.prompts, "default_prompt_name": self.default_prompt_name}

    def _resolve_prompt(self, prompt: str | None, name: str | None) -> str:
        """Return the prompt to use, "" for none."""
        if prompt is not None:
            if name is not None:
                logger.warning("prompt and prompt_name are both given: prompt is used")
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"there is no prompt {name!r}; prompts: {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def _check_call(self, batch_size: int, device: Any, pool: Any, chunk_size: int | None, unknown: set[str], name: str) -> None:
        """Check the arguments that `encode` and `predict` share."""
        if unknown:
            raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
        if batch_size <= 0:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}")
        if chunk_size is not None and chunk_size <= 0:
            raise ValueError(f"chunk_size must be a positive integer, got {chunk_size}")
        if pool is not None and not (isinstance(pool, dict) and "processes" in pool):
            raise ValueError(f"pool must be what start_multi_process_pool returned, and not stopped, got {pool!r}")
        for one in device if isinstance(device, (list, tuple)) else [device]:
            check_device(one)


def _prompt_length(input: Mapping[str, Any]) -> int:
    """Return how many tokens of each text of a batch are the prompt's."""
    try:
        length = operator.index(input.get("prompt_length", 0))
    except TypeError:
        raise TypeError(f"prompt_length must be a whole number, got {input['prompt_length']!r:.50}") from None
    if length < 0:
        raise ValueError(f"prompt_length must be at least 0, got {length}")
    return length


def _padded(rows: Sequence[NDArray[np.int32]], width: int, value: int) -> NDArray[np.int64]:
    out = np.full((len(rows), width), value, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
