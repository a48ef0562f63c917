"""Compiles every kernel ahead of its first use: those of inference, and those of learning where they are asked for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from fastattn.cli.cases import MINILM, cases, ops
from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.pooling import normalize, pool
from fastattn.text.nearest import nearest

__all__ = ["warm_up", "warm_up_training"]

# Kernels are compiled for the dtypes of a model, whatever its sizes.
_SMALL = dataclasses.replace(MINILM, num_layers=1)
# What an encoder may have that the one above has not.
_OTHER = dataclasses.replace(
    _SMALL, norm="rms", norm_first=True, gated=True, activation="silu", positions="rotary", type_vocab_size=0
)


def warm_up(precision: Precision = "float32") -> Iterator[tuple[str, float]]:
    """Compile every kernel of inference for this CPU, or load it from the cache; yield each kernel's name and seconds.

    The encoder's kernels are those of float32 and of `precision`.
    """
    ids = np.zeros(256, np.int32)
    for arithmetic in dict.fromkeys(("float32", precision)):
        encoder = Encoder(_SMALL, precision=arithmetic)
        about = "encoder" if arithmetic == "float32" else f"encoder in {arithmetic}"
        for texts, offsets in (("many texts", [0, 64, 128, 192, 256]), ("one text", [0, 256])):
            start = time.perf_counter()
            encoder.forward_packed(ids, np.array(offsets))
            yield f"{about}, {texts}", time.perf_counter() - start
    start = time.perf_counter()
    hidden = np.zeros((256, MINILM.hidden_dim), np.float32)
    normalize(pool(hidden, np.array([0, 256]), "mean"))
    yield "pooling", time.perf_counter() - start
    start = time.perf_counter()
    for rows, ranges in (
        (hidden, None),
        (hidden.astype(np.int8), hidden[:2]),
        (np.zeros((256, MINILM.hidden_dim // 8), np.uint8), None),
    ):
        nearest(hidden[:1], [(np.arange(256), rows)], 1, "cosine", ranges)
    yield "search", time.perf_counter() - start
    prepared = cases()
    for name, op in ops().items():
        start = time.perf_counter()
        for case in prepared:
            if case.op == name:
                for dtype in (np.float32, np.float64):
                    case.bound(op, dtype)()
        yield name, time.perf_counter() - start


def warm_up_training(precision: Precision = "float32") -> Iterator[tuple[str, float]]:
    """Compile every kernel of learning; yield what was run, and the seconds.

    Products are those of float32 and, for that precision, of bfloat16: models are trained in no other.
    """
    # Not before: the other commands do without what trains.
    from fastattn.kernels.backward.cross_entropy import cross_entropy, cross_entropy_backward
    from fastattn.kernels.backward.softmax_backward import softmax_backward
    from fastattn.training.arguments import OPTIMIZERS
    from fastattn.training.encoder import EncoderGraph
    from fastattn.training.functions import Dropout, linear_cross_entropy
    from fastattn.training.graph import Parameter
    from fastattn.training.optimizer import clip_grad_norm_

    ids, offsets = np.zeros(256, np.int32), np.array([0, 64, 128, 256])
    cases: list[tuple[str, EncoderConfig, Precision]] = [
        ("encoder with layer norm", _SMALL, "float32"),
        ("encoder with RMS norm and rotary positions", _OTHER, "float32"),
    ]
    if precision == "bfloat16":
        cases.append(("encoder in bfloat16", _SMALL, precision))
    for name, config, arithmetic in cases:
        start = time.perf_counter()
        hidden = EncoderGraph(config, precision=arithmetic)(ids, offsets, None, Dropout(0.1, (0,)))
        hidden.backward(hidden.data)
        yield f"learning, {name}", time.perf_counter() - start
    start = time.perf_counter()
    x, weight = (Parameter(np.ones((rows, MINILM.hidden_dim), np.float32)) for rows in (256, 1000))
    bias, target = Parameter(np.zeros(1000, np.float32)), np.zeros(256, np.int64)
    for arithmetic in dict.fromkeys(arithmetic for *_, arithmetic in cases):
        linear_cross_entropy(x, weight, bias, target, arithmetic).backward()
    scores = np.zeros((4, 8), np.float32)
    cross_entropy(scores, np.zeros(4, np.int64))
    cross_entropy_backward(np.float32(1), scores, np.zeros(4, np.int64))
    softmax_backward(scores, scores)
    yield "learning, losses", time.perf_counter() - start
    for kind in dict.fromkeys(OPTIMIZERS.values()):
        start = time.perf_counter()
        clip_grad_norm_([x, weight], 1e-3)
        kind([x, weight], lr=1e-3).step()
        yield f"learning, {kind.__name__}", time.perf_counter() - start
