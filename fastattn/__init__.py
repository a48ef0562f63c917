"""fastattn: a transformer encoder for the CPU whose hot loops are Numba kernels."""

from fastattn import reference
from fastattn.accelerate import FallbackWarning, accelerate, restore
from fastattn.config import EncoderConfig
from fastattn.cross_encoder import CrossEncoder
from fastattn.encoder import Encoder
from fastattn.heads import (
    EncoderForMaskedLM,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    EncoderWithPooler,
)
from fastattn.kernels.attention import scaled_dot_product_attention
from fastattn.kernels.attention_weights import attention_weights
from fastattn.kernels.gelu import gelu
from fastattn.kernels.layer_norm import layer_norm
from fastattn.kernels.linear import linear
from fastattn.kernels.rotary_embedding import rotary_embedding
from fastattn.kernels.softmax import softmax
from fastattn.sentence import SentenceTransformer

__version__ = "0.1.0"

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
    "rotary_embedding",
    "scaled_dot_product_attention",
    "softmax",
]
