"""Token rows of the batches of a run: those of the next step are made while this one computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastattn.text.batches import TokenRow, groups, joined, rows_of, tokenize
from fastattn.training.data import Batch, TrainingData

__all__ = ["IdRows", "Inputs"]

Columns = list[list[TokenRow]]


class Inputs:
    """Makes token rows of texts, with a prompt for each column.

    Parameters
    ----------
    first : Transformer or TrainableEncoder
        It has the tokenizer and the most tokens of a text.
    prompts : str or mapping, optional
        As in `TrainingArguments`.
    pairs : bool
        The columns of a row are one input.
    """

    def __init__(self, first: Any, prompts: str | Mapping[str, Any] | None, *, pairs: bool) -> None:
        self._first, self._prompts, self._pairs = first, prompts, pairs

    def check(self, *datasets: Mapping[str, TrainingData] | None) -> None:
        """Raise an error for prompts of columns and datasets that there are not, or that are no texts."""
        data = [(name, each) for given in datasets for name, each in (given or {}).items()]
        if self._pairs:
            _check_prompts_of_pairs(self._prompts, {name for name, _ in data if name})
            return
        _check_prompts(self._prompts, {name for name, _ in data if name} | {column for _, each in data for column in each.names})

    def ahead(self, data: Mapping[str, TrainingData], steps: Iterator[list[Batch]]) -> Iterator[tuple[list[Batch], list[Columns]]]:
        """Yield each step's batches with the token rows of their columns."""

        def made(batches: list[Batch]) -> list[Columns]:
            return [self.columns(data[batch.dataset], batch) for batch in batches]

        with ThreadPoolExecutor(1) as reader:
            waiting = [(batches, reader.submit(made, batches)) for batches in itertools.islice(steps, 1)]
            while waiting:
                batches, rows = waiting.pop(0)
                waiting += [(following, reader.submit(made, following)) for following in itertools.islice(steps, 1)]
                yield batches, rows.result()

    def columns(self, data: TrainingData, batch: Batch) -> Columns:
        """Return the token rows of each column of a batch."""
        if self._pairs:
            pairs = list(zip(*([texts[row] for row in batch.rows] for texts in data.texts), strict=True))
            # Before the first text, as in CrossEncoder.predict.
            return [self._rows(pairs, self._prompt(batch.dataset, ""))]
        columns = zip(data.names, data.texts, strict=True)
        return [self._rows([texts[row] for row in batch.rows], self._prompt(batch.dataset, name)) for name, texts in columns]

    def _rows(self, texts: Sequence[Any], prompt: str) -> list[TokenRow]:
        first = self._first
        parts = [
            tokenize(first.tokenizer, texts[group], prompt, first.max_seq_length, group.start, first.chat)
            for group in groups(texts, prompt)
        ]
        rows = rows_of(joined(parts))
        if not prompt or first.chat is not None:
            return rows
        length = first.tokenizer.prefix_length(prompt, first.max_seq_length)
        return [row._replace(prompt_tokens=length) for row in rows]

    def _prompt(self, dataset: str, column: str) -> str:
        prompts: Any = self._prompts
        if isinstance(prompts, Mapping) and isinstance(prompts.get(dataset), Mapping | str):
            prompts = prompts[dataset]
        return str(prompts.get(column, "") if isinstance(prompts, Mapping) else prompts or "")


def _check_prompts(prompts: Any, known: set[str]) -> None:
    if not isinstance(prompts, Mapping):
        return
    for name, prompt in prompts.items():
        if known and name not in known:
            raise ValueError(f"prompts: there is no column or dataset {name!r}, only {', '.join(sorted(known))}")
        if not isinstance(prompt, (str, Mapping)):
            raise TypeError(f"prompts[{name!r}] must be a text, or texts by column, got {type(prompt).__name__}")
        _check_prompts(prompt, known)


def _check_prompts_of_pairs(prompts: Any, datasets: set[str]) -> None:
    if not isinstance(prompts, Mapping):
        return
    for name, prompt in prompts.items():
        if name not in datasets or not isinstance(prompt, str):
            named = f", here {', '.join(sorted(datasets))}" if datasets else ""
            raise ValueError(
                f"prompts of a CrossEncoder must be a text, or a text for each dataset{named}: the columns of a row are one input; "
                f"got {name!r}: {prompt!r:.80}"
            )


class IdRows(Inputs):
    """Makes token rows of a dataset whose first column has token ids."""

    def __init__(self) -> None:
        super().__init__(None, None, pairs=False)

    def columns(self, data: TrainingData, batch: Batch) -> Columns:
        """Return the token rows of a batch, in one column."""
        return [[TokenRow(data.texts[0][row], None) for row in batch.rows]]
