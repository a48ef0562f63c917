"""transformers' own model as a user holds it: as it is, with the attention written out, and after fastattn.accelerate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from benchmarks.suite.own import Fastattn
from benchmarks.suite.peers import Torch


class EagerAttention(Torch):
    """The model with its attention op by op."""

    implementation = "eager"


class Accelerated(Torch):
    """The model after fastattn.accelerate."""

    packages = (*Torch.packages, *Fastattn.packages)

    def facts(self) -> dict[str, str]:
        """Return what decides the speed of the kernels."""
        return Fastattn(self.threads).facts()

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _model(self, folder: Path) -> Any:
        import fastattn

        return fastattn.accelerate(super()._model(folder))
