"""ERNIE: BERT, with a third embedding, of the task, in some checkpoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import BERT, EMBEDDINGS, NAMES, bert_config
from fastattn.checkpoint.families.family import Block, Stored
from fastattn.config import EncoderConfig

__all__ = ["ERNIE"]


def _config(settings: Settings) -> EncoderConfig:
    settings.flag("use_task_id", False)
    return bert_config(settings)


def _with_task(stored: Stored, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the positions with the embedding of task 0 added, which transformers takes unless it is told a task."""
    positions = stored.read(name, shape)
    if not stored.settings.flag("use_task_id", False):
        return positions
    tasks = stored.settings.size("task_type_vocab_size", 3)
    table = stored.read("embeddings.task_type_embeddings.weight", (tasks, shape[1]))
    return np.asarray(positions + table[0])


ERNIE = BERT._replace(
    title="ERNIE",
    model_class="ErnieModel",
    prefixes=("", "ernie."),
    config=_config,
    names=(
        NAMES._replace(
            outside={**EMBEDDINGS, "embeddings.position": Block("embeddings.position_embeddings", derive=_with_task)},
        ),
    ),
)
