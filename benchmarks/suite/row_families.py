"""Building blocks of other model families against BERT's at the same widths, as shares of the FMA limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.suite.session import Session, derived, record, share_of_limit
from benchmarks.suite.turns import Contender
from fastattn import EncoderConfig, reference
from fastattn.encoder import forward
from fastattn.parameters import random_parameters

BATCH, TOKENS = 8, 128
LEAST = 0.9
_SIZES: dict[str, Any] = {"num_layers": 4, "num_heads": 12, "hidden_dim": 768, "ff_dim": 3072, "vocab_size": 2000}
# RoBERTa, DistilBERT and ELECTRA have BERT's blocks; ALBERT adds a projection of its embeddings.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"positions": "learned", "type_vocab_size": 2},
    "mpnet": {"positions": "learned", "relative_buckets": 32},
    "albert": {"positions": "learned", "type_vocab_size": 2, "embedding_dim": 128, "activation": "gelu_tanh"},
    "modernbert": {
        "positions": "rotary", "rotary_theta": 160_000.0, "local_rotary_theta": 10_000.0, "ff_dim": 1152, "gated": True,
        "window": 64, "global_every": 3, "norm_first": True,
    },
    "nomic_bert": {"positions": "rotary", "gated": True, "activation": "silu", "type_vocab_size": 2},
}  # fmt: skip


def families(session: Session) -> None:
    """Time a forward with the blocks of each family; one layer in three of ModernBERT is global."""
    lengths = np.full(BATCH, TOKENS)
    ours = session.worker("fastattn")
    shares: dict[str, float] = {}
    for name, blocks in FAMILIES.items():
        config = EncoderConfig(**{**_SIZES, **blocks})
        ids = np.random.default_rng(0).integers(0, _SIZES["vocab_size"], BATCH * TOKENS)
        arrays = {"ids": ids, "offsets": np.arange(BATCH + 1) * TOKENS}
        parameters = random_parameters(config, 0)

        def encode(like: Any, parameters: Any = parameters, config: Any = config, ids: Any = ids) -> Any:
            typed = {key: array.astype(like.dtype) for key, array in parameters.items()}
            return reference.encoder(typed, ids[None, :TOKENS], **config.reference_options())[0]

        _, gate = derived(encode, (np.zeros(1, np.float32),), {}, lambda result: result[:TOKENS], contracts=False)
        options = {"config": {**_SIZES, **blocks}}
        flop = int(forward.flop(config, lengths))
        cell, times = session.measure(
            "families", f"{name} ({BATCH}, {TOKENS})",
            [Contender("fastattn", ours, "encoder", gate, options), session.machine()], arrays,
            model=name, flop=flop, tokens=BATCH * TOKENS,
        )  # fmt: skip
        share_of_limit(cell, times, None, flop, session.threads)
        shares[name] = cell["goals"][-1]["value"] if cell["goals"] else math.nan
        if name != "bert":
            record(cell, "BERT's share of the FMA limit", "x", (shares[name] / shares["bert"],) * 3, LEAST)
