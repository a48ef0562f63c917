"""Says everything that a folder lacks to be a model, in one message."""

from __future__ import annotations

import os
from pathlib import Path

from fastattn.checkpoint.families import FAMILIES, Settings
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.weights import weight_files

__all__ = ["SENTENCE_PIECE", "check_folder", "faults", "model_type"]

# Vocabularies of SentencePiece, which are not read; DeBERTa-v2's is.
SENTENCE_PIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_VOCABULARIES = ("vocab.txt", "vocab.json", "spm.model", *SENTENCE_PIECE)
# The most folders in which other places of a file are looked for.
_MOST_FOLDERS = 50


def check_folder(folder: Path, *, tokenizer: bool = False) -> None:
    """Raise one error for all that is missing: configuration, weights that can be read, and with `tokenizer` a vocabulary.

    A tokenizer that alone is missing is left to its reader.
    """
    found = faults(folder)
    if not found:
        return
    if tokenizer and not any(os.path.lexists(folder / name) for name in ("tokenizer.json", *_VOCABULARIES)):
        found.append(FileNotFoundError(f"{folder / 'tokenizer.json'}: no such file{_elsewhere(folder, 'tokenizer.json')}"))
    if len(found) == 1:
        raise found[0]
    what = "no model in this folder" if not any(folder.iterdir()) else "not a whole model"
    kind = FileNotFoundError if any(isinstance(error, FileNotFoundError) for error in found) else CheckpointError
    raise kind(f"{folder}: {what}: " + "; ".join(f"({i}) {error}" for i, error in enumerate(found, 1)))


def faults(folder: Path) -> list[Exception]:
    """Return what keeps the configuration and the weights of a folder from being read."""
    found: list[Exception] = []
    path = folder / "config.json"
    if not os.path.lexists(path):
        found.append(FileNotFoundError(f"{path}: no such file{_elsewhere(folder, 'config.json')}"))
    else:
        try:
            model_type(Settings(path))
        except (OSError, CheckpointError) as error:
            found.append(error)
    try:
        weight_files(folder)
    except (OSError, CheckpointError) as error:
        found.append(error)
    return found


def model_type(settings: Settings) -> str:
    """Return the ``model_type`` of a supported family."""
    found, supported = settings.values.get("model_type"), ", ".join(FAMILIES)
    if isinstance(found, str) and found in FAMILIES:
        return found
    if found is not None:
        raise settings.error(f"model_type {found!r} is not supported; supported: {supported}")
    raise settings.error(
        f'model_type None is not supported; add the family, for example "model_type": "{_likely(settings)}", to the file; '
        f"supported: {supported}"
    )


def _likely(settings: Settings) -> str:
    """Return the family that the architectures name, BERT if none does."""
    named = settings.values.get("architectures")
    for architecture in named if isinstance(named, list) else []:
        for name, family in FAMILIES.items():
            if str(architecture).startswith(family.model_class.removesuffix("Model")):
                return name
    return next(iter(FAMILIES))


def _elsewhere(folder: Path, name: str) -> str:
    """Say where in the folder, one level below, a file of that name lies."""
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())[:_MOST_FOLDERS]
    found = [f"{inner}/{name}" for inner in folders if (folder / inner / name).is_file()]
    return f" (there is {found[0]}: a model's files lie side by side)" if found else ""
