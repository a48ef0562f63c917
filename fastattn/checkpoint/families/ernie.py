"""ERNIE: BERT, with a third embedding, of the task, in some checkpoints."""

from __future__ import annotations

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.bert import BERT, bert_config
from fastattn.config import EncoderConfig

__all__ = ["ERNIE"]


def _config(settings: Settings) -> EncoderConfig:
    # With it a row of a third table is added to the embeddings.
    settings.only(use_task_id=False)
    return bert_config(settings)


ERNIE = BERT._replace(title="ERNIE", model_class="ErnieModel", prefixes=("", "ernie."), config=_config)
