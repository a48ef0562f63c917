"""Model objects of transformers: with eager attention, and after fastattn.accelerate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from benchmarks.suite.own import Fastattn
from benchmarks.suite.peers import Torch


class EagerAttention(Torch):
    """Model with eager attention: a torch op for each step."""

    implementation = "eager"


class Accelerated(Torch):
    """Model after fastattn.accelerate."""

    packages = (*Torch.packages, *Fastattn.packages)

    def facts(self) -> dict[str, str]:
        """Return the facts of `Fastattn`: threads, threading layer and CPU target."""
        return Fastattn(self.threads).facts()

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _model(self, folder: Path) -> Any:
        import fastattn

        return fastattn.accelerate(super()._model(folder))
