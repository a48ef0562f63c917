"""Definitions of every op and of the encoder in NumPy, simple and slow: the kernels are tested against them."""

from fastattn.reference.attention import attention_weights, scaled_dot_product_attention
from fastattn.reference.backward_attention import scaled_dot_product_attention_backward
from fastattn.reference.backward_elements import activation_backward, dropout, dropout_backward, gelu_backward
from fastattn.reference.backward_linear import linear_backward, linear_bfloat16_backward
from fastattn.reference.backward_rows import (
    embedding_backward,
    embedding_backward_rows,
    layer_norm_backward,
    rms_norm_backward,
    rotary_embedding_backward,
    softmax_backward,
)
from fastattn.reference.encoder import embeddings, encoder
from fastattn.reference.layer import encoder_layer, feed_forward, layer_attention_weights
from fastattn.reference.losses import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    linear_cross_entropy_backward,
)
from fastattn.reference.ops import gelu, layer_norm, linear, rms_norm, rotary_embedding, softmax
from fastattn.reference.optimizers import adagrad, adam, rmsprop, sgd
from fastattn.reference.positions import (
    alibi_bias,
    alibi_slopes,
    disentangled_row,
    relative_bias,
    relative_position_bucket,
    rotary_tables,
    sinusoidal_positions,
)
from fastattn.reference.precision import (
    integer_product,
    linear_bfloat16,
    linear_int8,
    mixed_linear,
    quantize_rows,
    quantize_table,
    quantize_weight,
    round_bfloat16,
    scaled_dot_product_attention_bfloat16,
)
from fastattn.reference.texts import embedding_bag, maxsim, pooling, splade_pooling

__all__ = [
    "activation_backward",
    "adagrad",
    "adam",
    "alibi_bias",
    "alibi_slopes",
    "attention_weights",
    "cross_entropy",
    "cross_entropy_backward",
    "disentangled_row",
    "dropout",
    "dropout_backward",
    "embedding_backward",
    "embedding_backward_rows",
    "embedding_bag",
    "embeddings",
    "encoder",
    "encoder_layer",
    "feed_forward",
    "gelu",
    "gelu_backward",
    "integer_product",
    "layer_attention_weights",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "linear_bfloat16",
    "linear_bfloat16_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "linear_int8",
    "maxsim",
    "mixed_linear",
    "pooling",
    "quantize_rows",
    "quantize_table",
    "quantize_weight",
    "relative_bias",
    "relative_position_bucket",
    "rms_norm",
    "rms_norm_backward",
    "rmsprop",
    "rotary_embedding",
    "rotary_embedding_backward",
    "rotary_tables",
    "round_bfloat16",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "scaled_dot_product_attention_bfloat16",
    "sgd",
    "sinusoidal_positions",
    "softmax",
    "softmax_backward",
    "splade_pooling",
]
