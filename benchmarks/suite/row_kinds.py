"""Other kinds of models against sentence-transformers and transformers: sparse, late interaction, a decoder, DeBERTa's blocks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import random_models
from benchmarks.suite.fidelity import token_rows, write_texts
from benchmarks.suite.labels import named, row_named
from benchmarks.suite.library import PAIR_TOKENS, Array
from benchmarks.suite.random_models import QWEN3, TINY_DECODER, TOKEN_CHANNELS, Decoder
from benchmarks.suite.row_encode import LONG_ROUNDS
from benchmarks.suite.row_pairs import LIMITS, long_pairs
from benchmarks.suite.session import PEER_LIMIT, EncoderGate, Session, derived, faster, near, record, within
from benchmarks.suite.shapes import BERT_BASE, TINY, Model
from benchmarks.suite.turns import Contender

DEBERTA_BASE = BERT_BASE._replace(name="deberta-v3-base")
TEXTS, PAIRS, DOCUMENTS = 32, 50, 10_000
# Our speed over that of the other library.
GOALS = {"sparse": 4.0, "late interaction": 3.0, "top 10": 3.0, "decoder": 1.3, "decoder in bfloat16": 1.5, "disentangled": 3.0}
# Share of the logits of all tokens that the peak memory of a sparse `encode` may be.
MOST_OF_LOGITS = 0.1
_FIRST = 4


def _folder(session: Session, kind: str, name: str, make: Callable[[Path], None]) -> Path:
    return random_models.write(session.work / "random" / f"{kind}-{name}", make)


def _real(session: Session, folder: Path, texts: list[str]) -> tuple[EncoderGate, list[Array]]:
    """Return the reference encoder of a folder, and its hidden states for the first texts."""
    gate, rows = EncoderGate(folder), token_rows(folder, texts[:_FIRST])
    return gate, [gate.hidden(np.array([row]), np.ones((1, len(row)), np.int64))[0] for row in rows]


def _steps(folder: Path, task: str, x: Array, count: int | None = None) -> Array:
    """Return the steps of a head, or the first of them, by the reference in float64."""
    from fastattn import reference
    from fastattn.checkpoint.reader import read_head

    head = read_head(folder / "checkpoint", task)
    for step in head.steps[:count]:
        bias = None if step.bias is None else step.bias.astype(np.float64)
        x = reference.linear(x, step.weight.astype(np.float64), bias)
        x = np.tanh(x) if step.activation == "tanh" else reference.gelu(x) if step.activation == "gelu" else x
        if step.norm_weight is not None:
            x = reference.layer_norm(x, step.norm_weight, step.norm_bias, eps=head.layer_norm_eps)
    return x


def sparse(session: Session, model: Model = BERT_BASE, count: int = TEXTS) -> None:
    """Time `encode` of a SPLADE model, and look at its peak memory beside what the logits of all tokens would take."""
    folder = _folder(session, "splade", model.name, random_models.splade(model))
    texts, path = write_texts(session, count)
    truth = np.concatenate([_pooled(folder, hidden) for hidden in _real(session, folder, texts)[1]])
    options = {"folder": str(folder), "texts": str(path)}
    tokens = sum(map(len, token_rows(folder, texts)))
    gate = within(PEER_LIMIT, truth, lambda result: result[:_FIRST])
    contenders = [Contender(name, session.worker(name), "sparse", gate, options) for name in ("fastattn", "sentence-transformers")]
    cell, times = session.measure(
        "sparse encode", f"{count} texts", contenders, rounds=LONG_ROUNDS, model=model.name, tokens=tokens
    )
    faster(cell, times, GOALS["sparse"], ("sentence-transformers",))
    if "fastattn" not in times:
        return
    worker = session.worker("fastattn")
    worker.ask("prepare", key="memory", work="sparse", arrays=None, options=options)
    worker.ask("warm", key="memory", seconds=0)
    beside = worker.ask("memory", key="memory")["bytes"] - 4 * truth.shape[1] * count
    worker.ask("clear")
    share = beside / (4 * truth.shape[1] * tokens)
    record(cell, "peak memory, of the logits of all tokens", "share", (share,) * 3, MOST_OF_LOGITS, at_most=True)
    sys.stderr.write(f"sparse encode: peak memory beside the result {beside / 2**20:.1f} MiB, {100 * share:.1f} % of the logits\n")


def _pooled(folder: Path, hidden: Array) -> Array:
    from fastattn import reference
    from fastattn.checkpoint.reader import read_head

    last = read_head(folder / "checkpoint", "masked-lm").steps[-1]
    rows = _steps(folder, "masked-lm", hidden, -1)
    return reference.splade_pooling(rows, last.weight.astype(np.float64), None if last.bias is None else last.bias)


def late_interaction(session: Session, model: Model = BERT_BASE, count: int = TEXTS, documents: int = DOCUMENTS) -> None:
    """Time `encode_document` of a late-interaction model, and the best ten of many documents for a query."""
    from safetensors.numpy import load_file

    folder = _folder(session, "late", model.name, random_models.late_interaction(model))
    texts, path = write_texts(session, count)
    weight = load_file(folder / "checkpoint" / "1_Dense" / "model.safetensors")["linear.weight"].astype(np.float64)
    rows = np.concatenate([hidden @ weight.T for hidden in _real(session, folder, texts)[1]])
    truth = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    options = {"folder": str(folder), "texts": str(path)}
    gate = within(PEER_LIMIT, truth, lambda result: result[: len(truth)])
    every = ("fastattn", "sentence-transformers")
    cell, times = session.measure(
        "late interaction", f"{count} texts",
        [Contender(name, session.worker(name), "token_vectors", gate, options) for name in every],
        rounds=LONG_ROUNDS, model=model.name, tokens=sum(map(len, token_rows(folder, texts))),
    )  # fmt: skip
    faster(cell, times, GOALS["late interaction"], every[1:])
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(20, 100, documents))])
    arrays = {"query": _unit(rng, 32), "rows": _unit(rng, int(offsets[-1])), "offsets": offsets}
    _, gate = derived(_best, tuple(arrays.values()), {}, lambda result: result, contracts=False)
    cell, times = session.measure(
        "best ten", f"of {documents} documents", [Contender(name, session.worker(name), "best_ten", gate) for name in every], arrays
    )
    faster(cell, times, GOALS["top 10"], every[1:])


def _unit(rng: Any, count: int) -> Array:
    rows = rng.standard_normal((count, TOKEN_CHANNELS), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _best(query: Array, rows: Array, offsets: Array) -> Array:
    from fastattn import reference

    return np.sort(reference.maxsim(query, rows, offsets))[-10:][::-1]


def decoder(session: Session, sizes: Decoder = QWEN3, shape: tuple[int, int] = (8, 128)) -> None:
    """Time a forward of a decoder's layers; the truth is the reference in float32, since float64 takes twice its memory."""
    from fastattn import reference
    from fastattn.checkpoint.reader import read_encoder

    folder = _folder(session, "decoder", sizes.name, random_models.decoder(sizes))
    ids = np.random.default_rng(0).integers(0, sizes.vocab, shape)
    config, parameters = read_encoder(folder / "checkpoint")
    truth = reference.encoder(parameters, ids[:1], **config.reference_options())[0].astype(np.float64)
    del parameters
    arrays, options = {"ids": ids, "mask": np.ones_like(ids)}, {"folder": str(folder)}

    def first(result: Array) -> Array:
        return result.reshape(-1, sizes.hidden)[: len(truth)]

    for precision, goal in (("float32", "decoder"), ("bfloat16", "decoder in bfloat16")):
        gate = within(PEER_LIMIT, truth, first) if precision == "float32" else near(truth, first)
        ours, theirs = (named(library, precision) for library in ("fastattn", "torch"))
        cell, times = session.measure(
            row_named("forward", precision), str(shape),
            [Contender(name, session.worker(name), "forward", gate, options) for name in (ours, theirs)],
            arrays, rounds=LONG_ROUNDS, model=sizes.name, tokens=ids.size,
        )  # fmt: skip
        faster(cell, times, GOALS[goal], (theirs,), ours)


def disentangled(session: Session, model: Model = DEBERTA_BASE, count: int = PAIRS) -> None:
    """Time the scores of pairs by a cross-encoder of DeBERTa-v3's blocks."""
    from tokenizers import Tokenizer

    folder = _folder(session, "disentangled", model.name, random_models.disentangled(model))
    pairs = long_pairs(folder, count)
    path = session.work / f"pairs-{count}.json"
    path.write_text(json.dumps(pairs), "utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(PAIR_TOKENS)
    ids = np.array([row.ids for row in tokenizer.encode_batch(pairs[:_FIRST])])
    first = EncoderGate(folder).hidden(ids, np.ones_like(ids))[:, 0]
    truth = 1 / (1 + np.exp(-_steps(folder, "sequence-classification", first)[:, 0]))

    def gate(result: Array) -> None:
        error = float(np.abs(result[: len(truth)] - truth).max()) if result.shape == (count,) else np.inf
        if not error <= LIMITS["float32"]:
            raise AssertionError(f"error {error:.2g}; the limit is {LIMITS['float32']:.0e}")

    options = {"folder": str(folder), "pairs": str(path)}
    contenders = [Contender(name, session.worker(name), "score", gate, options) for name in ("fastattn", "sentence-transformers")]
    cell, times = session.measure(
        "cross-encoder", f"{count} pairs of {PAIR_TOKENS} tokens", contenders, rounds=LONG_ROUNDS,
        model=model.name, tokens=count * PAIR_TOKENS,
    )  # fmt: skip
    faster(cell, times, GOALS["disentangled"], ("sentence-transformers",))


def kinds(session: Session) -> None:
    """Measure every kind."""
    sparse(session)
    late_interaction(session)
    decoder(session)
    disentangled(session)


def smoke(session: Session) -> None:
    """Run every kind on models so small that their numbers mean nothing."""
    sparse(session, TINY, 5)
    late_interaction(session, TINY, 5, 40)
    decoder(session, TINY_DECODER, (2, 9))
    disentangled(session, TINY, 4)
