"""Definitions of every op and of the encoder in NumPy, simple and slow: the kernels are tested against them."""

from fastattn.reference.attention import attention_weights, scaled_dot_product_attention
from fastattn.reference.encoder import embeddings, encoder
from fastattn.reference.layer import encoder_layer, feed_forward, layer_attention_weights
from fastattn.reference.ops import gelu, layer_norm, linear, pooling, rms_norm, rotary_embedding, softmax
from fastattn.reference.positions import relative_bias, relative_position_bucket, rotary_tables, sinusoidal_positions
from fastattn.reference.precision import (
    integer_product,
    linear_bfloat16,
    linear_int8,
    mixed_linear,
    quantize_rows,
    quantize_table,
    quantize_weight,
    round_bfloat16,
)

__all__ = [
    "attention_weights",
    "embeddings",
    "encoder",
    "encoder_layer",
    "feed_forward",
    "gelu",
    "integer_product",
    "layer_attention_weights",
    "layer_norm",
    "linear",
    "linear_bfloat16",
    "linear_int8",
    "mixed_linear",
    "pooling",
    "quantize_rows",
    "quantize_table",
    "quantize_weight",
    "relative_bias",
    "relative_position_bucket",
    "rms_norm",
    "rotary_embedding",
    "rotary_tables",
    "round_bfloat16",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "softmax",
]
