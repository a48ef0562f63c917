"""Says whether a model folder loads, as what and in which precisions, by loading it, but for the numbers of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastattn
from fastattn.checkpoint.families import FAMILIES
from fastattn.checkpoint.folder import read_object, transformer_folder
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import tasks_of
from fastattn.checkpoint.weights import headers_only
from fastattn.config import PRECISIONS
from fastattn.text.folder_kind import RERANKER, kind_of_folder
from fastattn.text.modules import Transformer

__all__ = ["check_lines", "check_model"]

# Public classes for the heads of a folder.
_HEADS = {
    "pooler": "EncoderWithPooler",
    "sequence-classification": "EncoderForSequenceClassification",
    "token-classification": "EncoderForTokenClassification",
    "masked-lm": "EncoderForMaskedLM",
    "projection": "EncoderWithProjection",
}


def check_model(model: str) -> dict[str, Any]:
    """Return what a folder, or a model by its name, is: ``loads``, and what it loads as, or ``problem`` and ``advice``."""
    report: dict[str, Any] = {"model": model, "folder": None, "loads": False}
    try:
        folder = find_model(model)
        report["folder"] = str(folder)
        report.update(_examined(folder), loads=True)
    except (OSError, ValueError, ImportError) as error:
        report.update(problem=" ".join(str(error).split()), advice=_advice(report["folder"]))
    return report


def _examined(folder: Path) -> dict[str, Any]:
    """Return the class that loads a folder, its family, modules, heads and precisions; raise what loading raises."""
    kind = kind_of_folder(folder)
    with headers_only():
        model = getattr(fastattn, kind)(str(folder))
    width = model.num_labels if kind == RERANKER else model.get_embedding_dimension()
    found = {"as": kind, "modules": [module.kind for module in model], "width": width, "precisions": list(PRECISIONS)}
    if isinstance(model[0], Transformer):
        also = ["Encoder", *(_HEADS[task] for task in tasks_of(model[0].folder) if task in _HEADS)]
        found |= {"family": read_object(model[0].folder / "config.json").get("model_type"), "also": also}
    return found


def _advice(folder: str | None) -> str:
    """Return what to do about a folder that does not load."""
    if folder is None:
        return "give a model folder, or the name of a model on the Hugging Face Hub"
    try:
        config = read_object(transformer_folder(Path(folder)) / "config.json")
    except (OSError, ValueError):
        return "download the model again, or restore the file that is named"
    if config.get("auto_map") and config.get("model_type") not in FAMILIES:
        return (
            "the folder brings its own code (auto_map in config.json), which is never run: take a model of a family that "
            "`fastattn models` lists"
        )
    return "take a model of a family and a kind that `fastattn models` lists, or repair what is named"


def check_lines(report: dict[str, Any]) -> list[str]:
    """Return a report as lines of names and values."""
    if not report["loads"]:
        return [f"does not load        {report['problem']}", f"what to do           {report['advice']}"]
    shown = {
        "loads as": report["as"],
        "family": report.get("family"),
        "modules": ", ".join(report["modules"]),
        "also as": ", ".join(report.get("also", [])),
        "channels": report["width"],
        "precisions": ", ".join(report["precisions"]),
        "folder": report["folder"],
    }
    return [f"{name:<20} {value}" for name, value in shown.items() if value]
