"""The trained weights of a Transformer: read once in a form that changes in place, packed again, written as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.checkpoint.weights import checkpoint_files, remove_other_weights
from fastattn.encoder.encoder import Encoder
from fastattn.text.modules.input_module import check_files

__all__ = ["Learned", "learn"]

_WEIGHTS = "model.safetensors"
_TASKS = {"sequence-classification": "sequence-classification", "fill-mask": "masked-lm"}


class Learned:
    """The checkpoint of a Transformer that was trained."""

    def __init__(self, module: Any) -> None:
        self.checkpoint = TrainableCheckpoint(module.folder, _TASKS.get(module.transformer_task))

    def install(self, module: Any) -> None:
        """Let a Transformer compute with the weights as they are now."""
        config, precision = module.encoder.config, module.encoder.precision
        parameters, head = self.checkpoint.applied()
        encoder = Encoder(self.checkpoint.config, parameters=parameters, precision=precision)
        model = encoder if head is None else type(module.model)(encoder, head)
        encoder.config = config
        module.model, module.encoder = model, encoder

    def write(self, target: Path) -> list[Path]:
        """Write the weights into a folder, in place of those that it has; return the files that a checkpoint is read of."""
        self.checkpoint.write(target / _WEIGHTS)
        remove_other_weights(target, (_WEIGHTS,))
        return checkpoint_files(target)


def learn(module: Any) -> Learned:
    """Return the trained weights of a Transformer, which `save` writes from now on; at first they are those of its folder."""
    if module._learned is None:
        check_files(module.folder, module._stamps)
        module._learned = Learned(module)
    learned: Learned = module._learned
    return learned
