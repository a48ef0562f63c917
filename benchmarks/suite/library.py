"""Base classes of the measured libraries.  An instance lives in a process of its own (``peer_worker``).

A method prepares its work and returns the call that is timed, whose result is an array for the gate.  One-time work (loading,
compiling, packing weights, converting inputs) belongs to the preparation.  Outputs of the elementwise ops and of the product
are allocated in the preparation too, for every library.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Run = Callable[[], Array]
Hidden = Callable[..., Array]  # ids (B, T), mask (B, T), token types (B, T) if not all 0 -> (B, T, C)

# As in the checkpoint's sentence_bert_config.json.
MAX_TOKENS = 256
BATCH = 32
# Tokens of every pair that a cross-encoder scores.
PAIR_TOKENS = 128


class Library:
    """Measured library in one precision, and the packages whose versions are reported."""

    packages: tuple[str, ...] = ()

    def __init__(self, threads: int, precision: str = "float32") -> None:
        self.threads, self.precision = threads, precision

    def versions(self) -> dict[str, str]:
        """Return the versions of `packages`."""
        return {name: importlib.metadata.version(name) for name in self.packages}

    def facts(self) -> dict[str, str]:
        """Return further facts that decide the library's speed, such as its threads; asked after the measurements."""
        return {}


class PaddedEncoder(Library):
    """Encoder of padded batches, with the tokenising, batching and pooling that embed texts."""

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the encoder, for one shape (B, T) or, with None, for any."""
        raise NotImplementedError

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Prepare the last hidden states of a batch."""
        ids, mask = arrays["ids"], arrays["mask"]
        call = self.hidden(Path(folder), ids.shape)
        return lambda: call(ids, mask)

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare texts to vectors: our tokenizer, texts sorted by length, padded batches of 32, mean pooling, unit length."""
        from tokenizers import Tokenizer

        call = self.hidden(Path(folder), None)
        tokenizer = Tokenizer.from_file(f"{folder}/checkpoint/tokenizer.json")
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        inputs = json.loads(Path(texts).read_text("utf-8"))

        def run() -> Array:
            rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(inputs)]
            order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
            result: Array | None = None
            for start in range(0, len(order), BATCH):
                group = order[start : start + BATCH]
                lengths = np.array([len(rows[i]) for i in group])
                mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
                ids = np.zeros(mask.shape, np.int64)
                ids[mask.astype(bool)] = np.concatenate([rows[i] for i in group])
                hidden = call(ids, mask)
                pooled = np.matmul(mask[:, None, :].astype(np.float32), hidden)[:, 0] / lengths[:, None]
                pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
                if result is None:
                    result = np.empty((len(rows), pooled.shape[1]), np.float32)
                result[group] = pooled
            return np.empty((0, 0), np.float32) if result is None else result

        return run

    def score(self, arrays: Arrays, folder: str, pairs: str) -> Run:
        """Prepare pairs of texts to scores: our tokenizer, batches of 32, BERT's pooler and classifier in NumPy, sigmoid."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        call = self.hidden(Path(folder), None)
        tokenizer = Tokenizer.from_file(f"{folder}/checkpoint/tokenizer.json")
        tokenizer.enable_padding()
        tokenizer.enable_truncation(PAIR_TOKENS)
        inputs = [tuple(pair) for pair in json.loads(Path(pairs).read_text("utf-8"))]
        head = load_file(f"{folder}/checkpoint/model.safetensors")
        pooler, classifier = ((head[f"{name}.weight"].T, head[f"{name}.bias"]) for name in ("bert.pooler.dense", "classifier"))

        def run() -> Array:
            scores = []
            for start in range(0, len(inputs), BATCH):
                rows = tokenizer.encode_batch_fast(inputs[start : start + BATCH])
                ids, mask, types = (
                    np.array([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask", "type_ids")
                )
                first = np.tanh(call(ids, mask, types)[:, 0] @ pooler[0] + pooler[1])
                scores.append(1 / (1 + np.exp(-(first @ classifier[0] + classifier[1])[:, 0])))
            return np.concatenate(scores)

        return run


def exported(folder: Path, part: str) -> Path:
    """Return the path of an export; raise OSError with the reason if the export failed."""
    reason = folder / f"{part}.error"
    if reason.exists():
        raise OSError(f"export failed: {reason.read_text('utf-8')}")
    return folder / part
