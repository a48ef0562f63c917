"""Datasets of Ray Data: a column of embeddings beside a column of texts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.config import Precision, check_precision
from fastattn.corpus import tables
from fastattn.corpus.source import EMBEDDING
from fastattn.corpus.work import Options, document_prompt
from fastattn.corpus.writers import OUTPUT_PRECISIONS, converter
from fastattn.ray.cluster import connect, cpus_of_nodes, plan, ray
from fastattn.ray.worker import Worker, model_name

__all__ = ["embed_dataset"]


def embed_dataset(
    ds: Any,
    column: str = "text",
    model: Any = None,
    *,
    output_column: str = EMBEDDING,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    precision: Precision = "float32",
    output_precision: str = "float32",
    ranges: ArrayLike | None = None,
    batch_tokens: int | None = None,
    batch_size: int = 1024,
    actors: int | None = None,
    num_cpus: float | None = None,
) -> Any:
    """Add the embeddings of a column of texts to a dataset of Ray Data.

    The dataset is mapped by a pool of actors; each loads the model once, and computes in as many threads as it has CPUs.  Blocks
    come and go as Arrow tables, and vectors are fixed-size lists, as `fastattn.corpus.embed_file` writes them.  A text has the bits
    that it has on one machine.  As with any map of Ray Data, nothing is computed before the result is used, and the order of the
    rows is kept only if ``DataContext.execution_options.preserve_order`` is set.

    Parameters
    ----------
    ds : ray.data.Dataset
        The dataset.
    column : str
        Column of the texts.
    model : str, path or SentenceTransformer, optional
        A folder that every node sees, or a name on the Hub; of a model, its folder.  By default as in `SentenceTransformer`.
    output_column : str
        Column of the embeddings.
    prompt, prompt_name, normalize_embeddings, truncate_dim : optional
        As in `SentenceTransformer.encode_document`.
    precision : {"float32", "bfloat16", "int8"}
        Of the model's arithmetic.
    output_precision : {"float32", "float16", "int8", "uint8", "binary", "ubinary"}
        Of the numbers in the column.
    ranges : float, (2, C), optional
        The least and the largest value of each channel; int8 and uint8 need them, since no actor sees all embeddings.
    batch_tokens : int, optional
        As in `SentenceTransformer.encode_iter`.
    batch_size : int
        Rows that an actor gets at a time.
    actors : int, optional
        Number of actors; by default as many as fit.
    num_cpus : float, optional
        CPUs, and so threads, of each; by default those of the smallest node but one.  One CPU of the cluster must be left, because
        Ray Data reads and writes with it, and would wait for ever without it.

    Returns
    -------
    ray.data.Dataset
        The dataset with the column of embeddings.

    Raises
    ------
    TypeError
        `ds` is not a dataset.
    ValueError
        An argument has an unsupported value, or the actors take all CPUs of the cluster.  When the result is used also: there is no
        such column, or it is not of text or has a null.
    OSError
        When the result is used: the model is not on a node.
    ConnectionError
        ``RAY_ADDRESS`` names a cluster that cannot be reached.
    ImportError
        Ray or pyarrow is not installed.

    Examples
    --------
    >>> import ray
    >>> from fastattn.ray import embed_dataset
    >>> ds = ray.data.read_parquet("s3://bucket/texts")  # doctest: +SKIP
    >>> embed_dataset(ds, "body", "/shared/model").write_parquet("s3://bucket/vectors")  # doctest: +SKIP
    """
    data = ray("ray.data")
    if not isinstance(ds, data.Dataset):
        raise TypeError(f"ds must be a ray.data.Dataset, got {type(ds).__name__}")
    if output_precision not in OUTPUT_PRECISIONS:
        raise ValueError(f"output_precision must be one of {', '.join(OUTPUT_PRECISIONS)}, got {output_precision!r}")
    if output_precision in ("int8", "uint8") and ranges is None:
        raise ValueError(
            f"output_precision {output_precision!r} needs ranges, (2, C): np.stack([x.min(axis=0), x.max(axis=0)]) of a sample x"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    connect()
    count, num_cpus = plan(cpus_of_nodes(), actors, num_cpus, spare=1)
    return ds.map_batches(
        _Blocks,
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=data.ActorPoolStrategy(size=count),
        num_cpus=num_cpus,
        fn_constructor_kwargs={
            "column": column,
            "output_column": output_column,
            "worker": (model_name(model), check_precision(precision), num_cpus),
            "options": Options(prompt, prompt_name, normalize_embeddings, truncate_dim, output_precision),
            "ranges": None if ranges is None else np.asarray(ranges, np.float32),
            "batch_tokens": batch_tokens,
        },
    )


class _Blocks:
    """Adds embeddings to tables of Arrow."""

    def __init__(
        self,
        column: str,
        output_column: str,
        worker: tuple[str | None, Precision, float],
        options: Options,
        ranges: NDArray[np.float32] | None,
        batch_tokens: int | None,
    ) -> None:
        self._column, self._name = column, output_column
        # The model is loaded by the first block: Ray Data starts an actor whose constructor fails again and again.
        self._worker = Worker(*worker)
        self._settings, self._batch_tokens = options, batch_tokens
        self._convert = converter(options.precision, ranges)

    @cached_property
    def _options(self) -> dict[str, Any]:
        """Options of `encode_iter`."""
        return {
            "prompt": self._settings.prompt,
            "prompt_name": document_prompt(self._worker.encoder, self._settings),
            "normalize_embeddings": self._settings.normalize_embeddings,
            "truncate_dim": self._settings.truncate_dim,
            "batch_tokens": self._batch_tokens,
        }

    def __call__(self, table: Any) -> Any:
        """Return a table with the embeddings of its texts."""
        options = self._options
        if self._column not in table.column_names:
            raise ValueError(f"no column {self._column!r}, found columns {', '.join(table.column_names)}")
        if self._name in table.column_names:
            raise ValueError(f"there is a column {self._name!r} already: output_column gives the embeddings another name")
        texts = tables.texts("the dataset", table, self._column)
        for text in texts:
            if not isinstance(text, str):
                found = "null" if text is None else f"not UTF-8: {text[:20]!r}"
                raise ValueError(f"column {self._column!r} must be text, and a row is {found}: leave it out with ds.filter")
        vectors, _, _ = self._worker.encode([str(text) for text in texts], options)
        return table.append_column(self._name, tables.lists(self._convert(vectors)))
