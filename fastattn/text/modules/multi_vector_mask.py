"""MultiVectorMask: which token embeddings of a text are scored."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.text.modules.module import TOKENS, Features, Module, read_config
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["MultiVectorMask", "applies_to", "listed_tasks"]

logger = logging.getLogger(__name__)


class MultiVectorMask(Module):
    """Chooses the tokens of a text that late interaction scores.

    All tokens of a text are scored, those of a query's expansion too, but for the tokens of the skip list in the tasks
    `skiplist_tasks`; of a document only those in `keep_only_token_ids`, if that is given.

    Parameters
    ----------
    skiplist_words : sequence of str, optional
        Tokens that are not scored, for example punctuation; strings that are no tokens of the vocabulary are left out.
    skiplist_tasks : str or sequence of str, optional
        Tasks with a skip list; by default "document", which is also the task of a text that is encoded without one.
    keep_only_token_ids : sequence of int, optional
        The only tokens of a document that are scored.

    Raises
    ------
    ValueError
        An argument has the wrong type.

    References
    ----------
    Khattab & Zaharia 2020, arXiv:2004.12832, section 3.2 (query augmentation, punctuation of documents).
    """

    kind = "MultiVectorMask"
    library = "sentence_transformers.multi_vector_encoder.modules"

    def __init__(
        self,
        skiplist_words: Iterable[str] | None = None,
        *,
        skiplist_tasks: str | Iterable[str] | None = None,
        keep_only_token_ids: Iterable[int] | None = None,
    ) -> None:
        self.skiplist_words = _listed("skiplist_words", skiplist_words, str)
        self.skiplist_tasks = listed_tasks("skiplist_tasks", skiplist_tasks)
        self.keep_only_token_ids = None
        if keep_only_token_ids is not None:
            self.keep_only_token_ids = _listed("keep_only_token_ids", keep_only_token_ids, int)
        self._skipped: NDArray[np.int64] = np.empty(0, np.int64)

    @classmethod
    def _load(cls, folder: Path) -> MultiVectorMask:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        try:
            return cls(
                content.get("skiplist_words"),
                skiplist_tasks=content.get("skiplist_tasks"),
                keep_only_token_ids=content.get("keep_only_token_ids"),
            )
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def resolve_with_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Find the ids of `skiplist_words`; a model does so when it is made, and must be told where they are changed later.

        Parameters
        ----------
        tokenizer : Tokenizer
            The model's tokenizer.
        """
        unknown = tokenizer.special_tokens_map.get("unk_token")
        ids = {word: tokenizer.backend_tokenizer.token_to_id(word) for word in self.skiplist_words}
        none = None if unknown is None else tokenizer.backend_tokenizer.token_to_id(unknown)
        absent = [word for word, number in ids.items() if number is None or (number == none and word != unknown)]
        if absent:
            logger.warning("skiplist_words: %s are no tokens of this vocabulary, and are left out", ", ".join(map(repr, absent)))
        self._skipped = np.array([number for word, number in ids.items() if word not in absent], np.int64)

    def _width(self, widths: dict[str, int]) -> None:
        """Check that there are token embeddings."""
        if TOKENS not in widths:
            raise ValueError(f"MultiVectorMask reads {TOKENS}, which no module before it writes; there are {', '.join(widths)}")

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""
        ids, task = _input_ids(features), features.get("task")
        mask = features["attention_mask"]
        if task == "query":
            mask = mask | features.get("query_expansion_positions", False)
        if applies_to(self.skiplist_tasks, task) and len(self._skipped):
            mask = mask & ~np.isin(ids, self._skipped)
        if task != "query" and self.keep_only_token_ids:
            mask = mask & np.isin(ids, self.keep_only_token_ids)
        features["attention_mask"] = mask

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {
            "skiplist_words": self.skiplist_words,
            "skiplist_tasks": self.skiplist_tasks,
            "keep_only_token_ids": self.keep_only_token_ids,
        }


def listed_tasks(name: str, tasks: Any) -> list[str]:
    """Return tasks, one or several, as a list; "document" by default."""
    return ["document"] if tasks is None else _listed(name, [tasks] if isinstance(tasks, str) else tasks, str)


def applies_to(tasks: list[str], task: str | None) -> bool:
    """Tell whether a task is among `tasks`; no task counts as "document"."""
    return (task or "document") in tasks


def _listed(name: str, values: Any, kind: type) -> list[Any]:
    """Return the values as a list, [] for None; ValueError unless each is of a type."""
    found = [] if values is None else [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if isinstance(values, str) or not all(isinstance(value, kind) and not isinstance(value, bool) for value in found):
        raise ValueError(f"{name} must be a list of {kind.__name__}, got {values!r:.200}")
    return found


def _input_ids(features: Features) -> Any:
    if "input_ids" not in features:
        raise ValueError("MultiVectorMask works in a MultiVectorEncoder: other models do not score single tokens")
    return features["input_ids"]
