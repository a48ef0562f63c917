"""Cross-encoder: scores of pairs of texts, from the texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.suite.corpus import DISTINCT, corpus
from benchmarks.suite.fidelity import libraries, mark, token_rows
from benchmarks.suite.labels import precision_of, row_named
from benchmarks.suite.library import PAIR_TOKENS, Array
from benchmarks.suite.row_encode import LONG_ROUNDS
from benchmarks.suite.session import ONNX_RUNTIME, EncoderGate, Session, faster
from benchmarks.suite.shapes import Model
from benchmarks.suite.turns import Contender

PAIRS, GATE_PAIRS = 50, 4
# Largest error of a score, a sigmoid; in lower precision it only tells a wrong head, the fidelity is that of the embeddings.
LIMITS = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.2}
# Our speed over sentence-transformers' in float32, and over ONNX Runtime's in the precision.
GOALS: dict[str, tuple[float | None, float | None]] = {"float32": (None, None), "bfloat16": (None, None), "int8": (5.0, 1.8)}


def long_pairs(folder: Path, count: int) -> list[tuple[str, str]]:
    """Return pairs of texts of more than `PAIR_TOKENS` tokens, which every library cuts to so many."""
    texts = corpus(DISTINCT)
    long = [text for text, row in zip(texts, token_rows(folder, texts), strict=True) if len(row) > PAIR_TOKENS // 2 + 2]
    return list(zip(long[:count], long[count : 2 * count], strict=True))


def score_gates(folder: Path, pairs: list[tuple[str, str]]) -> dict[str, Callable[[Array], None]]:
    """Return the gates by precision: the first scores must be those of the reference's hidden states under BERT's head."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(PAIR_TOKENS)
    rows = tokenizer.encode_batch(pairs[:GATE_PAIRS])
    ids, mask, types = (np.array([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask", "type_ids"))
    head = load_file(folder / "checkpoint" / "model.safetensors")
    first = EncoderGate(folder).hidden(ids, mask, types=types)[:, 0]
    pooled = np.tanh(first @ head["bert.pooler.dense.weight"].T + head["bert.pooler.dense.bias"])
    truth = 1 / (1 + np.exp(-(pooled @ head["classifier.weight"].T + head["classifier.bias"])[:, 0]))

    def within(limit: float) -> Callable[[Array], None]:
        def gate(result: Array) -> None:
            if result.shape != (len(pairs),) or not np.isfinite(result).all():
                raise AssertionError(f"scores of shape {result.shape} instead of {(len(pairs),)}, or not finite")
            error = float(np.abs(result[: len(truth)] - truth).max())
            if not error <= limit:
                raise AssertionError(f"error {error:.2g}; the limit is {limit:.0e}")

        return gate

    return {precision: within(limit) for precision, limit in LIMITS.items()}


def cross_encoder(session: Session, model: Model, precision: str = "float32", count: int = PAIRS) -> None:
    """Time the scores of pairs of 128 tokens: our precision, our float32, sentence-transformers and the peers."""
    folder = session.exports(model)
    pairs = long_pairs(folder, count)
    path = session.work / f"pairs-{count}.json"
    path.write_text(json.dumps(pairs), "utf-8")
    checks = score_gates(folder, pairs)
    ours, peers, every, found = libraries(session, model, precision)
    options = {"folder": str(folder), "pairs": str(path)}
    contenders = [Contender(name, session.worker(name), "score", checks[precision_of(name)], options) for name in every]
    cell, times = session.measure(
        row_named("cross-encoder", precision), f"{count} pairs of {PAIR_TOKENS} tokens", contenders, rounds=LONG_ROUNDS,
        model=model.name, precision=precision, tokens=count * PAIR_TOKENS,
    )  # fmt: skip
    mark(cell, found, precision)
    over_torch, over_onnx_runtime = GOALS[precision]
    faster(cell, times, over_torch, ("sentence-transformers",), ours)
    faster(cell, times, None, peers, ours)
    if over_onnx_runtime:
        faster(cell, times, over_onnx_runtime, ONNX_RUNTIME, ours, "ONNX Runtime")
