"""Records of a head as a checkpoint stores it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeadStep", "StoredHead"]

Array = NDArray[np.float32]


class HeadStep(NamedTuple):
    """A step of a head: ``norm(activation(x weight^T + bias))``; the activation as in `fastattn.linear`."""

    weight: Array
    bias: Array | None
    activation: str | None
    norm_weight: Array | None
    norm_bias: Array | None


class StoredHead(NamedTuple):
    """The steps of a head, applied to a pooled vector per sequence, or to every token if `pooling` is None."""

    steps: tuple[HeadStep, ...]
    pooling: str | None
    layer_norm_eps: float
    id2label: dict[int, str]
    # The number of steps before the pooling.
    pooled_step: int = 0
    # The id that "lasttoken" passes over.
    pad_token_id: int | None = None
    # The id of the token that ends a text.
    end: int | None = None
    # Bound of the logits, approached by tanh.
    softcap: float | None = None
