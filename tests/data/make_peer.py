"""Writes peer.npz, sparse.npz and signatures.json, sentence-transformers' answers and signatures: needs both it and torch.

Run from the project's folder: ``PYTHONPATH=. python tests/data/make_peer.py``.
"""

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers

from fastattn.text.modules.activations import TORCH_ACTIVATIONS
from tests.support.peer_cases import DATA, embedding_answers, score_answers
from tests.support.sparse_cases import sparse_answers

VERSION = 1
PRECISIONS = ("int8", "uint8", "binary", "ubinary")


def versions() -> dict[str, Any]:
    """Return the versions of the format and of the libraries."""
    names = {"sentence-transformers": sentence_transformers, "transformers": transformers, "torch": torch}
    return {"version": VERSION, **{name: module.__version__ for name, module in names.items()}}


def load_embedder(folder: str) -> Any:
    """Return a model of sentence-transformers."""
    return sentence_transformers.SentenceTransformer(folder, device="cpu")


def load_scorer(folder: str) -> Any:
    """Return a model of sentence-transformers."""
    return sentence_transformers.CrossEncoder(folder, device="cpu")


def load_sparse(folder: str) -> Any:
    """Return a model of sentence-transformers."""
    return sentence_transformers.SparseEncoder(folder, device="cpu")


def activations() -> dict[str, Any]:
    """Return torch's activations on a grid, in float64 and in float32."""
    grid = torch.linspace(-30, 30, 1201, dtype=torch.float32).reshape(1, -1)
    found = {"grid": grid.numpy()}
    for name in TORCH_ACTIVATIONS:
        function = getattr(torch.nn, name)(**({"dim": 1} if name == "Softmax" else {}))
        found[f"{name}/float64"] = function(grid.double()).numpy()
        found[f"{name}/float32"] = function(grid).numpy()
    return found


def quantized() -> dict[str, Any]:
    """Return embeddings, and sentence-transformers' quantisations of them."""
    rng = np.random.default_rng(0)
    rows, others = rng.standard_normal((2, 120, 20)).astype(np.float32)
    rows[:, 3] = 1.5
    ranges = np.stack([others.min(axis=0), others.max(axis=0)])
    found = {"rows": rows, "others": others}
    for precision in PRECISIONS:
        quantize = sentence_transformers.util.quantization.quantize_embeddings
        found[f"{precision}/own"] = quantize(rows, precision)
        found[f"{precision}/calibrated"] = quantize(rows, precision, calibration_embeddings=others)
        found[f"{precision}/ranges"] = quantize(rows, precision, ranges=ranges)
        for i, part in enumerate(quantize([rows[:50], rows[50:]], precision)):
            found[f"{precision}/list/{i}"] = part
    return found


def signatures() -> dict[str, Any]:
    """Return the parameters of the public methods, and the properties, that these classes add to torch's Module."""
    names = ("SentenceTransformer", "CrossEncoder", "SparseEncoder")
    classes = {name: getattr(sentence_transformers, name) for name in names}
    found: dict[str, Any] = {}
    for name, kind in classes.items():
        methods, properties = {}, set()
        for owner in kind.__mro__:
            if not owner.__module__.startswith("sentence_transformers"):
                continue
            for key, value in vars(owner).items():
                if key.startswith("_") and key != "__init__":
                    continue
                if isinstance(value, property):
                    properties.add(key)
                elif callable(getattr(kind, key)):
                    methods.setdefault(key, parameters(getattr(kind, key)))
        found[name] = {"methods": dict(sorted(methods.items())), "properties": sorted(properties)}
    return found


def parameters(function: Any) -> list[list[str]]:
    """Return the name, kind and default of each parameter but `self`."""
    found = inspect.signature(function).parameters.values()
    return [[p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)] for p in found if p.name not in ("self", "cls")]


def golden() -> dict[str, Any]:
    """Return all answers."""
    with tempfile.TemporaryDirectory() as folder:
        embeddings = embedding_answers(load_embedder, Path(folder) / "embedders")
        scores = score_answers(load_scorer, Path(folder) / "scorers")
    parts = {"embed": embeddings, "score": scores, "activation": activations(), "quantize": quantized()}
    return {f"{part}/{name}": array for part, answers in parts.items() for name, array in answers.items()}


def write_sparse() -> None:
    """Write the answers of sparse models."""
    with tempfile.TemporaryDirectory() as folder:
        found = sparse_answers(load_sparse, Path(folder))
    np.savez_compressed(DATA / "sparse.npz", about=json.dumps(versions()), **found)


def main() -> None:
    """Write all files."""
    write_sparse()
    np.savez_compressed(DATA / "peer.npz", about=json.dumps(versions()), **golden())
    (DATA / "signatures.json").write_text(json.dumps({"about": versions(), **signatures()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
