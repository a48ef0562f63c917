"""A head as a checkpoint stores it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeadStep", "StoredHead"]

Array = NDArray[np.float32]


class HeadStep(NamedTuple):
    """A step of a head: ``norm(activation(x weight^T + bias))``.

    Parameters
    ----------
    weight : float32, (C_out, C_in)
        Of the linear map.
    bias : float32, (C_out,), or None
        Of the linear map.
    activation : str or None
        As in `fastattn.linear`, or "tanh".
    norm_weight : float32, (C_out,), or None
        Of the layer norm; None: there is none.
    norm_bias : float32, (C_out,), or None
        Of the layer norm.
    """

    weight: Array
    bias: Array | None
    activation: str | None
    norm_weight: Array | None
    norm_bias: Array | None


class StoredHead(NamedTuple):
    """A head as it is stored.

    Parameters
    ----------
    steps : tuple of HeadStep
        One after the other.
    pooling : str or None
        How a sequence becomes one vector first; None: every token goes through the steps.
    layer_norm_eps : float
        Added to the variance.
    id2label : dict of int to str
        The names of the classes; empty for a head without.
    """

    steps: tuple[HeadStep, ...]
    pooling: str | None
    layer_norm_eps: float
    id2label: dict[int, str]
