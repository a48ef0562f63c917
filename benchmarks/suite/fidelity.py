"""Embeddings of real texts: equal to the reference's in float32, and how close to it in a lower precision."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suite.corpus import corpus
from benchmarks.suite.labels import label, named, place, precision_of
from benchmarks.suite.library import MAX_TOKENS, Array
from benchmarks.suite.session import EMBEDDING_LIMIT, ENCODERS, WRONG, EncoderGate, Session, record
from benchmarks.suite.shapes import MINILM, TINY, Model
from benchmarks.suite.turns import WorkerError

GATE_TEXTS = 16
# Texts that the fidelity is measured on: of a trained model, of random weights, and in a run that only shows that it works.
TRAINED, RANDOM, FEW = 1000, 200, 20
# Least fidelity of each precision.  A library below is marked; if it is fastattn, its speed does not count.
LEAST = {
    "bfloat16": {"least cosine": 0.9999},
    "int8": {"least cosine": 0.995, "mean cosine": 0.999, "rank correlation": 0.999},
}
Numbers = dict[str, float]


def write_texts(session: Session, count: int) -> tuple[list[str], Path]:
    """Return texts, and their file for the workers."""
    texts = corpus(count)
    path = session.work / f"texts-{count}.json"
    path.write_text(json.dumps(texts), "utf-8")
    return texts, path


def token_rows(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, truncated to the model's limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def embedding_gate(folder: Path, texts: list[str]) -> Callable[[Array], None]:
    """Return the gate: the first embeddings, at unit length, must equal the reference's mean-pooled hidden states."""
    gate, truth = EncoderGate(folder), []
    for row in token_rows(folder, texts[:GATE_TEXTS]):
        ids = np.array([row])
        truth.append(gate.hidden(ids, np.ones_like(ids))[0].mean(axis=0))
    expected = unit(np.array(truth))

    def check(result: Array) -> None:
        shape = (len(texts), expected.shape[1])
        if result.shape != shape or not np.isfinite(result).all():
            raise AssertionError(f"embeddings of shape {result.shape} instead of {shape}, or not finite")
        error = float(np.abs(unit(result[:GATE_TEXTS]) - expected).max())
        if not error <= EMBEDDING_LIMIT:
            raise AssertionError(f"error {error:.2g}; the limit is {EMBEDDING_LIMIT:.0e}")

    return check


def unit(rows: Array) -> Array:
    """Return the rows at unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def numbers(truth: Array, found: Array) -> Numbers:
    """Return the least and the mean cosine of the embeddings to float32's, and the rank correlation of all pairs' similarities."""
    from fastattn.cli.fidelity import cosines, pair_scores, rank_correlation

    if found.shape != truth.shape or not np.isfinite(found).all():
        return {"least cosine": 0.0, "mean cosine": 0.0, "rank correlation": 0.0}
    each = cosines(truth, found)
    pairs = (pair_scores(unit(rows) @ unit(rows).T) for rows in (truth, found))
    return {"least cosine": float(each.min()), "mean cosine": float(each.mean()), "rank correlation": rank_correlation(*pairs)}


def is_coarse(found: Numbers, precision: str) -> bool:
    """Tell whether the fidelity is below the least of the precision."""
    return any(found[name] < least for name, least in LEAST[precision].items())


def fidelity(session: Session, model: Model, precision: str) -> dict[str, Numbers]:
    """Return the fidelity of each library that is not wrong, measured and recorded on first use.

    The truth is fastattn's float32, after its own gate: in float32, all libraries' embeddings agree to 1e-5.
    """
    key = model.name, precision
    if key not in session.fidelity:
        count = {MINILM.name: TRAINED, TINY.name: FEW}.get(model.name, RANDOM)
        ours = named("fastattn", precision)
        cell: dict[str, Any] = {
            "row": "fidelity", "case": f"{precision}, {count} texts", "model": model.name, "precision": precision, "times": {},
            "failures": {}, "goals": [], "least": LEAST[precision], "fidelity": {}, "coarse": [],
        }  # fmt: skip
        session.cells.append(cell)
        also = ("sentence-transformers-bfloat16",) if precision == "bfloat16" else ()
        for name in (ours, *ENCODERS[precision], *also):
            try:
                found = numbers(*(embeddings(session, model, count, library) for library in ("fastattn", name)))
            except (WorkerError, AssertionError) as error:
                cell["failures"][name] = str(error)
                continue
            cell["fidelity"][name] = found
            if found["mean cosine"] < WRONG:
                cell["failures"][name] = f"mean cosine {found['mean cosine']:.3g} to float32; the limit is {WRONG}"
            elif is_coarse(found, precision):
                cell["coarse"].append(name)
        goals(cell, ours)
        shown = (
            f"{label(name)} {found['least cosine']:.5f} / {found['mean cosine']:.5f}" for name, found in cell["fidelity"].items()
        )
        sys.stderr.write(f"fidelity, {place(cell)}: {', '.join(shown)}\n")
        for name, reason in cell["failures"].items():
            sys.stderr.write(f"  {name} failed: {reason}\n")
        session.fidelity[key] = {name: found for name, found in cell["fidelity"].items() if name not in cell["failures"]}
    return session.fidelity[key]


def embeddings(session: Session, model: Model, count: int, library: str) -> Array:
    """Return a library's embeddings of the texts; those of our float32, which pass a gate, are made once."""
    if library == "fastattn" and model.name in session.embeddings:
        return session.embeddings[model.name]
    folder = session.exports(model)
    texts, path = write_texts(session, count)
    found = session.result(library, "encode", folder=str(folder), texts=str(path))
    if library == "fastattn":
        embedding_gate(folder, texts)(found)
        session.embeddings[model.name] = found
    return found


def goals(cell: dict[str, Any], ours: str) -> None:
    """Record what our fidelity must reach, and our error against the least of the others."""
    own = cell["fidelity"].get(ours)
    for name, least in LEAST[cell["precision"]].items():
        record(cell, name, "cosine", own and (own[name],) * 3, least)
    others = {name: 1 - found["mean cosine"] for name, found in cell["fidelity"].items() if name != ours}
    if own and others:
        best = min(others, key=lambda name: others[name])
        times = others[best] / max(1 - own["mean cosine"], 1e-12)
        record(cell, f"1 - mean cosine of {label(best)}", "x", (times,) * 3, 1.0)


class Libraries(NamedTuple):
    """Libraries behind a tokenizer in one precision: ours, the others in it, all with float32's, and the fidelity of each."""

    ours: str
    peers: tuple[str, ...]
    every: tuple[str, ...]
    found: dict[str, Numbers]


def libraries(session: Session, model: Model, precision: str) -> Libraries:
    """Return the libraries that embed or score texts; torch is measured through sentence-transformers."""
    ours, found = named("fastattn", precision), {} if precision == "float32" else fidelity(session, model, precision)
    peers = tuple(name for name in ENCODERS[precision] if not name.startswith("torch"))
    names = dict.fromkeys((ours, "fastattn", "sentence-transformers", named("sentence-transformers", precision), *peers))
    every = tuple(name for name in names if precision_of(name) == "float32" or name in found)
    return Libraries(ours, peers, every, found)


def mark(cell: dict[str, Any], found: dict[str, Numbers], precision: str) -> None:
    """Put the fidelity beside the times of a cell."""
    for name, entry in cell["times"].items():
        if name in found:
            entry["cosines"] = [found[name]["least cosine"], found[name]["mean cosine"]]
            entry["coarse"] = is_coarse(found[name], precision)
