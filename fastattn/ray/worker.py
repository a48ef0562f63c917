"""The worker of an actor: a model, loaded once, on the CPUs of the actor."""

from __future__ import annotations

import os
import socket
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import Precision
from fastattn.corpus.manifest import model_facts
from fastattn.corpus.work import TASK
from fastattn.kernels.vector.target import TARGET
from fastattn.runtime.threads import limit_threads
from fastattn.runtime.version import __version__

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["Worker", "model_name"]


def model_name(model: Any) -> str | None:
    """Return the name by which a node finds a model: an absolute path for a folder of this machine."""
    if model is None:
        return None
    folder = model if isinstance(model, (str, os.PathLike)) else getattr(model, "folder", None)
    if folder is None:
        raise ValueError("model: the nodes load it by its name: give a folder that each of them sees, or a name on the Hub")
    name = os.fspath(folder)
    return os.path.abspath(name) if Path(name).exists() else name


class Worker:
    """Encodes texts with a model that is loaded on first use, so that an actor that was restarted loads it again.

    Parameters
    ----------
    model : str or None
        As `SentenceTransformer` takes it.
    precision : {"float32", "bfloat16", "int8"}
        Of the arithmetic.
    num_cpus : float
        CPUs of the actor.
    """

    def __init__(self, model: str | None, precision: Precision, num_cpus: float) -> None:
        self._model, self._precision = model, precision
        # Ray's own value is 1 wherever it does not know the CPUs.
        limit_threads(max(1, int(num_cpus)))

    @cached_property
    def encoder(self) -> SentenceTransformer:
        """The model."""
        from fastattn.text.sentence_transformer import SentenceTransformer

        try:
            return SentenceTransformer(self._model, precision=self._precision)
        except (OSError, ValueError, ImportError) as error:
            # An OSError stays one: storage that cannot be reached may be there the next time.
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(
                f"model: {self._model or 'the default model'} cannot be loaded on node {socket.gethostname()}: {error}; "
                "a folder must be on storage that every node sees"
            ) from None

    def facts(self) -> dict[str, str]:
        """Return what must be the same on all nodes, and the node's name."""
        found = model_facts(None, self.encoder.folder)["hash"]
        return {"node": socket.gethostname(), "model": found, "fastattn": __version__, "CPU": TARGET.name}

    def encode(self, texts: list[str], options: dict[str, Any]) -> tuple[NDArray[np.float32], int, int]:
        """Return the vectors of texts (B, C), with options of `encode_iter`, and the numbers of tokens and of truncated texts."""
        width = self.encoder._kept_width(options.get("truncate_dim"), self.encoder._pipeline_of(None, TASK).width)
        rows = np.empty((len(texts), width), np.float32)
        for i, row in enumerate(self.encoder.encode_iter(texts, **options)):
            rows[i] = row
        return rows, self.encoder.counts.tokens, self.encoder.counts.truncated
