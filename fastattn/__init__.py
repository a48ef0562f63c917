"""fastattn: a transformer encoder for the CPU whose hot loops are Numba kernels."""

from fastattn import reference
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
from fastattn.pytorch.accelerate import FallbackWarning, accelerate, restore
from fastattn.runtime.version import __version__ as __version__
from fastattn.text.cross_encoder import CrossEncoder
from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = [
    "CrossEncoder",
    "Encoder",
    "EncoderConfig",
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderForTokenClassification",
    "EncoderWithPooler",
    "FallbackWarning",
    "SentenceTransformer",
    "accelerate",
    "attention_weights",
    "gelu",
    "layer_norm",
    "linear",
    "reference",
    "restore",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "softmax",
]
