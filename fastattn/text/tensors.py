"""Arrays as torch tensors, for those who have torch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def is_tensor(embeddings: Any) -> bool:
    """Whether this is a torch tensor, or a list that begins with one.

    Parameters
    ----------
    embeddings : object
        What was given.

    Returns
    -------
    bool
    """
    if isinstance(embeddings, (list, tuple)) and len(embeddings):
        embeddings = embeddings[0]
    return type(embeddings).__module__.partition(".")[0] == "torch"


def check_torch() -> None:
    """Raise an ImportError where a call asks for tensors and torch is not installed.

    Raises
    ------
    ImportError
        torch is not installed.
    """
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("tensors need torch: pip install 'fastattn[torch]'") from error


def as_tensors(result: Any) -> Any:
    """Return arrays as torch tensors, in lists and dicts too.

    Parameters
    ----------
    result : object
        Arrays; anything else stays.

    Returns
    -------
    object
        The same with tensors, which share the arrays' memory.
    """
    if isinstance(result, list):
        return [as_tensors(item) for item in result]
    if isinstance(result, dict):
        return {name: as_tensors(item) for name, item in result.items()}
    if isinstance(result, (np.ndarray, np.generic)):
        return importlib.import_module("torch").from_numpy(np.asarray(result))
    return result
