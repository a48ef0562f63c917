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
    EncoderWithProjection,
)
from fastattn.kernels.backward.activation_backward import activation_backward, gelu_backward
from fastattn.kernels.backward.cross_entropy import cross_entropy, cross_entropy_backward
from fastattn.kernels.backward.dropout import dropout, dropout_backward
from fastattn.kernels.backward.embedding_backward import embedding_backward, embedding_backward_rows
from fastattn.kernels.backward.layer_norm_backward import layer_norm_backward
from fastattn.kernels.backward.linear_backward import linear_backward
from fastattn.kernels.backward.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_backward
from fastattn.kernels.backward.rms_norm_backward import rms_norm_backward
from fastattn.kernels.backward.rotary_embedding_backward import rotary_embedding_backward
from fastattn.kernels.backward.scaled_dot_product_attention_backward import scaled_dot_product_attention_backward
from fastattn.kernels.backward.softmax_backward import softmax_backward
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.kernels.ops.embedding_bag import embedding_bag
from fastattn.kernels.ops.gelu import gelu
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.maxsim import maxsim
from fastattn.kernels.ops.rms_norm import rms_norm
from fastattn.kernels.ops.rotary_embedding import rotary_embedding
from fastattn.kernels.ops.softmax import softmax
from fastattn.kernels.ops.splade_pooling import splade_pooling
from fastattn.layer_config import Convolution, LayerConfig, Rotary
from fastattn.pytorch.accelerate import Calls, FallbackWarning, accelerate, calls, restore
from fastattn.runtime.version import __version__ as __version__
from fastattn.text.bge_m3 import BGEM3FlagModel
from fastattn.text.cross_encoder import CrossEncoder
from fastattn.text.multi_vector_encoder import MultiVectorEncoder
from fastattn.text.quantization import quantize_embeddings
from fastattn.text.sentence_transformer import SentenceTransformer
from fastattn.text.similarity_functions import SimilarityFunction
from fastattn.text.sparse_embeddings import SparseEmbeddings
from fastattn.text.sparse_encoder import SparseEncoder

__all__ = [
    "BGEM3FlagModel",
    "Calls",
    "Convolution",
    "CrossEncoder",
    "Encoder",
    "EncoderConfig",
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderForTokenClassification",
    "EncoderWithPooler",
    "EncoderWithProjection",
    "FallbackWarning",
    "LayerConfig",
    "MultiVectorEncoder",
    "Rotary",
    "SentenceTransformer",
    "SimilarityFunction",
    "SparseEmbeddings",
    "SparseEncoder",
    "accelerate",
    "activation_backward",
    "attention_weights",
    "calls",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding_backward",
    "embedding_backward_rows",
    "embedding_bag",
    "gelu",
    "gelu_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "maxsim",
    "quantize_embeddings",
    "reference",
    "restore",
    "rms_norm",
    "rms_norm_backward",
    "rotary_embedding",
    "rotary_embedding_backward",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "softmax",
    "softmax_backward",
    "splade_pooling",
    "util",
]


if not TYPE_CHECKING:  # A type checker would take every name for one of the package.

    def __getattr__(name: str) -> object:
        """Import ``fastattn.corpus``, ``fastattn.integrations``, ``fastattn.modules`` and ``fastattn.training`` on first use."""
        if name in ("corpus", "integrations", "modules", "training"):
            return importlib.import_module(f"fastattn.{name}")
        raise AttributeError(f"module 'fastattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__", "corpus", "integrations", "modules", "training"]
