"""InputModule, the base class of a model's first module, and the files that such a module was read from."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, own_file
from fastattn.config import Precision
from fastattn.runtime.files import write_file
from fastattn.text.modules.module import Array, Module
from fastattn.tokenizer.chat import Chat
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["InputModule", "Stamps", "check_files", "copy_files", "stamps", "with_limit"]

Stamps = dict[str, tuple[int, int]]


class InputModule(Module):
    """First module of a model: it has the tokenizer, and makes of token ids what the modules after it read."""

    chat: Chat | None = None
    """How messages become texts; None for a model of plain texts."""
    _tokenizer: Tokenizer

    @property
    @abstractmethod
    def output_name(self) -> str:
        """Name of the array that the module writes."""

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """Precision of the arithmetic, fixed when the module is made."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    @abstractmethod
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text; longer texts are truncated."""

    @max_seq_length.setter
    @abstractmethod
    def max_seq_length(self, value: int) -> None: ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._tokenizer = Tokenizer.wrap(value, like=self._tokenizer)
        if self.chat is not None:
            self.chat = self.chat.with_tokenizer(self._tokenizer)

    @property
    def auto_model(self) -> Any:
        """The encoder, under sentence-transformers' name for the inner model; None without one."""
        return None

    def _check_task(self, task: Any) -> None:
        """Raise a ValueError for a task for which the module would need another adapter."""

    @abstractmethod
    def get_embedding_dimension(self) -> int:
        """Return the number of channels of the array that the module writes.

        Returns
        -------
        int
            C.
        """

    @abstractmethod
    def _features(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.int32] | None) -> Array:
        """Return the module's array for packed token ids."""

    def _configure(self, processing: Mapping[str, Any]) -> None:
        """Apply the arguments of the tokenizer that are not steps."""
        if "model_max_length" in processing:
            self.max_seq_length = processing["model_max_length"]
        if "truncation_side" in processing:
            self._tokenizer.truncation_side = processing["truncation_side"]


def with_limit(module: Any, limit: int) -> Any:
    """Return a first module with another maximum number of tokens."""
    limited = copy.copy(module)
    limited._tokenizer = copy.copy(module._tokenizer)
    limited.max_seq_length = limit
    return limited


def stamps(folder: Path, paths: Iterable[Path]) -> Stamps:
    """Return the size and modification time of files in a folder, by name."""
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in paths}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in stats.items()}


def check_files(folder: Path, read: Stamps) -> None:
    """Raise a CheckpointError if the files of which a module was read are other files by now."""
    if stamps(folder, map(folder.joinpath, read)) != read:
        raise CheckpointError(f"{folder}: its files were changed after they were read, so they may hold another model")


def copy_files(folder: Path, read: Stamps, target: Path) -> None:
    """Copy the files of which a module was read; CheckpointError if they are other files by now."""
    check_files(folder, read)
    for name in read:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(target / name, own_file(folder / name))
