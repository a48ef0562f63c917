"""Reads files of pickled tensors by torch, without running the code that a pickle may hold."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from fastattn.checkpoint.folder import CheckpointError, whole_file

__all__ = ["load_pickle", "refusal"]

# In earlier versions torch.load(weights_only=True) can run code of the file: CVE-2025-32434.
_TORCH = (2, 6)
_NOT_A_TENSOR = re.compile(r"GLOBAL ([\w.]+)")


def refusal(path: Path) -> str | None:
    """Return why a pickle cannot be read with this installation; None if it can."""
    advice = f"where torch is installed, `fastattn convert {path.parent}` writes model.safetensors, which needs no torch"
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return (
            f"{path}: refused, because a pickle can run any code when it is read, and torch, which can read the tensors alone, "
            f"is not installed; {advice}"
        )
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < _TORCH:
        return (
            f"{path}: refused, because a pickle can run any code when it is read by torch {torch.__version__}; torch from "
            f"{'.'.join(map(str, _TORCH))} on can read the tensors alone; {advice}"
        )
    return None


def load_pickle(path: Path) -> Any:
    """Return what a pickle of tensors holds; CheckpointError if it needs code, or if torch is missing or too old."""
    whole_file(path)
    if reason := refusal(path):
        raise CheckpointError(reason)
    torch = importlib.import_module("torch")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files from before torch 1.6 cannot be memory-mapped.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message advises to run the code.
        found = _NOT_A_TENSOR.search(str(error))
        what = f"it holds {found[1]}, which is no tensor" if found else f"not a file of pickled tensors ({type(error).__name__})"
        raise CheckpointError(
            f"{path}: refused by torch.load(weights_only=True): {what}; take the model's safetensors, or a file with its "
            "tensors alone, from its source"
        ) from error
