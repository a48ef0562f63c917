"""Training data: columns of texts and labels, and the batches of an epoch."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arguments import TrainingArguments

__all__ = ["LABELS", "Batch", "TrainingData", "columns_of", "epoch_batches", "named", "texts_of"]

LABELS = ("label", "labels", "score", "scores")


class TrainingData:
    """Columns of texts in their order, and labels.

    Parameters
    ----------
    dataset : mapping of str to lists, sequence of mappings, or ``datasets.Dataset``
        Columns by name; one named label, labels, score or scores holds the labels.
    name : str
        Argument that errors name.

    Raises
    ------
    TypeError
        The dataset, or a value, is of another kind.
    ValueError
        There are no rows, no texts, or columns of different lengths.
    """

    def __init__(self, dataset: Any, name: str = "train_dataset") -> None:
        columns = columns_of(dataset, name)
        lengths = {column: len(values) for column, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{name} must have columns of one length, got {lengths}")
        found = [column for column in columns if column in LABELS]
        if len(found) > 1:
            raise ValueError(f"{name} must have at most one column of labels, got {', '.join(found)}")
        self.names = [column for column in columns if column not in LABELS]
        if not self.names:
            raise ValueError(f"{name} has no column of texts, only {', '.join(columns) or 'none'}")
        self.texts = [columns[column] for column in self.names]
        self.labels: NDArray[Any] | None = None
        if not lengths[self.names[0]]:
            raise ValueError(f"{name} has no rows")
        for column, values in zip(self.names, self.texts, strict=True):
            for row, value in enumerate(values):
                if not isinstance(value, str) and not (
                    isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
                ):
                    raise TypeError(f"{name}: column {column!r}, row {row}: expected a text, got {type(value).__name__}")
        if found:
            self.labels = _numbers(columns[found[0]], f"{name}: column {found[0]!r}")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts[0])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of texts and labels."""
        digest = hashlib.blake2b(digest_size=16)
        for name, texts in zip(self.names, self.texts, strict=True):
            digest.update(f"{name}:{len(texts)}:".encode())
            for text in texts:
                digest.update(text.tobytes() if isinstance(text, np.ndarray) else repr(text).encode("utf-8", "surrogatepass"))
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def labels_of(self, batch: Batch) -> NDArray[Any] | None:
        """Return the labels of a batch.

        Parameters
        ----------
        batch : Batch
            Rows.

        Returns
        -------
        array or None
        """
        return None if self.labels is None else self.labels[batch.rows]


def named(dataset: Any, name: str) -> dict[str, TrainingData]:
    """Return datasets by name; one alone has the name ""."""
    if isinstance(dataset, Mapping) and dataset and all(_is_dataset(each) for each in dataset.values()):
        return {str(key): TrainingData(each, f"{name}[{key!r}]") for key, each in dataset.items()}
    return {"": TrainingData(dataset, name)}


def _is_dataset(value: Any) -> bool:
    """Tell whether a value is a dataset of its own, not a column."""
    is_rows = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping) or hasattr(value, "column_names") or is_rows


def columns_of(dataset: Any, name: str) -> dict[str, Sequence[Any]]:
    """Return the columns of a dataset by name."""
    if isinstance(dataset, Mapping):
        for column, values in dataset.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                raise TypeError(
                    f"{name}: column {column!r}: expected a list with a value for each row, got {type(values).__name__}"
                )
        return {str(column): list(values) for column, values in dataset.items()}
    if hasattr(dataset, "column_names"):
        return {column: list(dataset[column]) for column in dataset.column_names}
    if isinstance(dataset, Sequence) and not isinstance(dataset, (str, bytes)):
        rows = list(dataset)
        if not rows:
            raise ValueError(f"{name} has no rows")
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise TypeError(f"{name}: row {i}: expected a mapping of column names to values, got {type(row).__name__}")
            if row.keys() != rows[0].keys():
                raise ValueError(f"{name}: row {i} has the columns {list(row)}, and the first has {list(rows[0])}")
        return {column: [row[column] for row in rows] for column in rows[0]}
    raise TypeError(f"{name} must be a mapping of columns, a list of mappings or a datasets.Dataset, got {type(dataset).__name__}")


def _numbers(values: Sequence[Any], where: str) -> NDArray[Any]:
    """Return labels as whole numbers where all are, else as float32."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{where}: labels must have one shape: {error}") from error
    if array.dtype.kind not in "biuf":
        odd = next((row for row, value in enumerate(values) if np.asarray(value).dtype.kind not in "biuf"), 0)
        raise TypeError(f"{where}, row {odd}: labels must be numbers, got {values[odd]!r:.100}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        odd = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(f"{where}, row {odd}: labels must be finite, got {values[odd]!r:.100}")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


class Batch(NamedTuple):
    """Rows of a dataset."""

    dataset: str
    rows: NDArray[np.int64]


def epoch_batches(data: Mapping[str, TrainingData], args: TrainingArguments, epoch: int) -> list[Batch]:
    """Return the batches of an epoch, which depend on the data, the arguments and the epoch alone."""
    by_name = {}
    for i, (name, each) in enumerate(data.items()):
        seed = [args.seed if args.data_seed is None else args.data_seed, epoch, i]
        by_name[name] = [Batch(name, rows) for rows in _batches(each, args, np.random.default_rng(seed))]
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    if args.multi_dataset_batch_sampler == "round_robin":
        return [batch for turn in zip(*by_name.values(), strict=False) for batch in turn]
    order = np.repeat(np.arange(len(by_name)), [len(batches) for batches in by_name.values()])
    np.random.default_rng([args.seed, epoch, len(data)]).shuffle(order)
    waiting = [iter(batches) for batches in by_name.values()]
    return [next(waiting[i]) for i in order]


def _batches(data: TrainingData, args: TrainingArguments, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch of one dataset."""
    size = args.per_device_train_batch_size
    order = np.arange(len(data)) if args.train_sampling_strategy == "sequential" else rng.permutation(len(data))
    if args.batch_sampler == "no_duplicates":
        yield from _without_duplicates(data, order, size, args.dataloader_drop_last)
        return
    if args.batch_sampler == "group_by_label":
        if data.labels is None or data.labels.ndim != 1:
            raise ValueError('batch_sampler "group_by_label" needs a column of labels, one a row')
        order = _by_label(data.labels, order)
    elif args.train_sampling_strategy == "group_by_length":
        order = _by_length(data, order, size)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        if len(rows) == size or not args.dataloader_drop_last:
            yield rows


def _without_duplicates(data: TrainingData, order: NDArray[np.int64], size: int, drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Yield batches in which no text stands twice: a row with a text of the batch waits for a later one."""
    waiting = deque(order.tolist())
    while waiting:
        seen: set[Any] = set()
        batch: list[int] = []
        later: list[int] = []
        while waiting and len(batch) < size:
            row = waiting.popleft()
            texts = {values[row] if isinstance(values[row], str) else tuple(values[row]) for values in data.texts}
            if seen.isdisjoint(texts):
                batch.append(row)
                seen |= texts
            else:
                later.append(row)
        if len(batch) == size or not drop_last:
            yield np.array(batch, np.int64)
        waiting.extendleft(reversed(later))


def _by_label(labels: NDArray[Any], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs of rows with one label, in the order of their second rows; rows that are alone with theirs are left out."""
    waiting: dict[Any, int] = {}
    found: list[int] = []
    for row in order.tolist():
        label = labels[row].item()
        if label in waiting:
            found += [waiting.pop(label), row]
        else:
            waiting[label] = row
    return np.array(found, np.int64)


def _by_length(data: TrainingData, order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the rows in stretches of 50 batches, each the longest first."""
    lengths = np.array([sum(len(values[row]) for values in data.texts) for row in range(len(data))])
    parts = [order[start : start + 50 * size] for start in range(0, len(order), 50 * size)]
    return np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])


def texts_of(dataset: Any, name: str) -> list[str]:
    """Return the texts of a list of them, or of a dataset with one column of texts."""
    if isinstance(dataset, (list, tuple)) and dataset and isinstance(dataset[0], str):
        dataset = {"text": dataset}
    data = TrainingData(dataset, name)
    if len(data.names) > 1:
        raise ValueError(f"{name} must have one column of texts, got {', '.join(data.names)}")
    return list(data.texts[0])
