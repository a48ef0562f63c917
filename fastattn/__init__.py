"""fastattn: a transformer encoder for the CPU whose hot loops are Numba kernels."""

import importlib
from typing import TYPE_CHECKING

from fastattn import reference, util
from fastattn.config import EncoderConfig
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.heads import (
    EncoderForMaskedLM,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    EncoderWithPooler,
)
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.kernels.ops.gelu import gelu
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.rms_norm import rms_norm
from fastattn.kernels.ops.rotary_embedding import rotary_embedding
from fastattn.kernels.ops.softmax import softmax
from fastattn.pytorch.accelerate import Calls, FallbackWarning, accelerate, calls, restore
from fastattn.runtime.version import __version__ as __version__
from fastattn.text.cross_encoder import CrossEncoder
from fastattn.text.quantization import quantize_embeddings
from fastattn.text.sentence_transformer import SentenceTransformer
from fastattn.text.similarity_functions import SimilarityFunction

__all__ = [
    "Calls",
    "CrossEncoder",
    "Encoder",
    "EncoderConfig",
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderForTokenClassification",
    "EncoderWithPooler",
    "FallbackWarning",
    "SentenceTransformer",
    "SimilarityFunction",
    "accelerate",
    "attention_weights",
    "calls",
    "gelu",
    "layer_norm",
    "linear",
    "quantize_embeddings",
    "reference",
    "restore",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "softmax",
    "util",
]


if not TYPE_CHECKING:  # A type checker would take every name for one of the package.

    def __getattr__(name: str) -> object:
        """Import ``fastattn.integrations`` and ``fastattn.modules`` on their first use."""
        if name in ("integrations", "modules"):
            return importlib.import_module(f"fastattn.{name}")
        raise AttributeError(f"module 'fastattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__", "integrations", "modules"]
