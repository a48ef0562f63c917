"""Layer of the encoder: attention and the feed-forward network."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference import ops
from fastattn.reference.attention import attention_weights, scaled_dot_product_attention
from fastattn.reference.ops import layer_norm, rotary_embedding
from fastattn.reference.positions import rotary_tables
from fastattn.reference.precision import Linear

Array: TypeAlias = NDArray[Any]


def feed_forward(
    parameters: Mapping[str, Array], prefix: str, x: Array, *, activation: str = "gelu", linear: Linear | None = None
) -> Array:
    """Feed-forward network, ``linear(linear(x, input, activation), output)``.

    With a gate, ``linear(linear(x, gate, activation) * linear(x, input), output)``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    prefix : str
        Prefix of ``.input.weight``: ``layers.{i}.feed_forward``.
    x : ndarray, (..., T, C)
        Hidden states.
    activation : str
        Activation of the first product, or of the gate.
    linear : callable, optional
        As in `encoder`.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of `x`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.3, equation 2; gate: Shazeer 2020, arXiv:2002.05202, section 2.
    """
    if f"{prefix}.gate.weight" in parameters:
        gate = product(parameters, f"{prefix}.gate", x, activation, linear=linear)  # (..., T, F)
        inner = gate * product(parameters, f"{prefix}.input", x, linear=linear)  # (..., T, F)
    else:
        inner = product(parameters, f"{prefix}.input", x, activation, linear=linear)  # (..., T, F)
    return product(parameters, f"{prefix}.output", inner, linear=linear)  # (..., T, C)


def encoder_layer(
    parameters: Mapping[str, Array],
    index: int,
    x: Array,
    attn_mask: Array | None = None,
    *,
    num_heads: int,
    activation: str = "gelu",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    is_causal: bool = False,
    rotary_theta: float | None = None,
    window: int | None = None,
    linear: Linear | None = None,
) -> Array:
    """One encoder layer.

    Post-norm: ``y = norm1(x + attention(x))``, then ``norm2(y + feed_forward(y))``.
    Pre-norm: ``y = x + attention(norm1(x))``, then ``y + feed_forward(norm2(y))``; a norm without a weight is left out.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    index : int
        The layer, from 0.
    x : ndarray, (..., T, C)
        Hidden states.
    attn_mask : ndarray, broadcastable to (..., H, T, T), optional
        As in `scaled_dot_product_attention`.
    num_heads : int
        Number of heads H.
    activation : str
        Activation of the feed-forward network.
    norm_first : bool
        Pre-norm instead of post-norm.
    layer_norm_eps : float
        Added to the variance.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float, optional
        Base of the rotary positions of queries and keys; None for no rotary positions.
    window : int, optional
        Token t sees tokens t - window .. t + window.
    linear : callable, optional
        As in `encoder`.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of `x`.

    References
    ----------
    Post-norm: Vaswani et al. 2017, arXiv:1706.03762, section 3.1. Pre-norm: Xiong et al. 2020, arXiv:2002.04745,
    section 3.1, table 1.
    """
    attention, ffn = f"layers.{index}.attention", f"layers.{index}.feed_forward"
    sides = (window, 0 if is_causal else window)
    if norm_first:
        normed = norm(parameters, f"{attention}.layer_norm", x, eps=layer_norm_eps)
        y = x + _self_attention(parameters, attention, normed, attn_mask, num_heads, sides, rotary_theta, linear)
        normed = norm(parameters, f"{ffn}.layer_norm", y, eps=layer_norm_eps)
        return y + feed_forward(parameters, ffn, normed, activation=activation, linear=linear)
    attended = _self_attention(parameters, attention, x, attn_mask, num_heads, sides, rotary_theta, linear)
    y = norm(parameters, f"{attention}.layer_norm", attended, residual=x, eps=layer_norm_eps)
    expanded = feed_forward(parameters, ffn, y, activation=activation, linear=linear)
    return norm(parameters, f"{ffn}.layer_norm", expanded, residual=y, eps=layer_norm_eps)


def layer_attention_weights(
    parameters: Mapping[str, Array],
    index: int,
    x: Array,
    attn_mask: Array | None = None,
    *,
    num_heads: int,
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    is_causal: bool = False,
    rotary_theta: float | None = None,
    window: int | None = None,
    linear: Linear | None = None,
) -> Array:
    """Attention weights of an encoder layer: `attention_weights` of the queries and keys of its input.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    index : int
        The layer, from 0.
    x : ndarray, (..., T, C)
        Hidden states, the input of `encoder_layer`.
    attn_mask : ndarray, broadcastable to (..., H, T, T), optional
        As in `attention_weights`.
    num_heads : int
        Number of heads H.
    norm_first : bool
        Pre-norm: queries and keys are projections of the normed `x`.
    layer_norm_eps : float
        Added to the variance.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float, optional
        Base of the rotary positions; None for no rotary positions.
    window : int, optional
        Token t sees tokens t - window .. t + window.
    linear : callable, optional
        As in `encoder`.

    Returns
    -------
    ndarray, (..., H, T, T)
        Dtype of `x`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """
    prefix = f"layers.{index}.attention"
    source = norm(parameters, f"{prefix}.layer_norm", x, eps=layer_norm_eps) if norm_first else x
    query, key, _ = _query_key_value(parameters, prefix, source, num_heads, rotary_theta, linear)
    return attention_weights(query, key, attn_mask, window=(window, 0 if is_causal else window))


def _query_key_value(
    parameters: Mapping[str, Array], prefix: str, x: Array, num_heads: int, rotary_theta: float | None, linear: Linear | None
) -> tuple[Array, Array, Array]:
    """Projections of x (..., T, C) to the heads, (..., H, T, D) each; rotary positions turn queries and keys."""
    split = (*x.shape[:-1], num_heads, x.shape[-1] // num_heads)  # (..., T, H, D)
    query, key, value = (
        np.swapaxes(product(parameters, f"{prefix}.{name}", x, linear=linear).reshape(split), -2, -3)  # (..., H, T, D)
        for name in ("query", "key", "value")
    )
    if rotary_theta is not None:
        cos, sin = (table.astype(x.dtype) for table in rotary_tables(query.shape[-2], query.shape[-1], rotary_theta))  # (T, D / 2)
        query, key = rotary_embedding(query, cos, sin), rotary_embedding(key, cos, sin)
    return query, key, value


def _self_attention(
    parameters: Mapping[str, Array],
    prefix: str,
    x: Array,
    attn_mask: Array | None,
    num_heads: int,
    window: tuple[int | None, int | None],
    rotary_theta: float | None,
    linear: Linear | None,
) -> Array:
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2), (..., T, C) to (..., T, C)."""
    query, key, value = _query_key_value(parameters, prefix, x, num_heads, rotary_theta, linear)
    heads = scaled_dot_product_attention(query, key, value, attn_mask, window=window)  # (..., H, T, D)
    joined = np.swapaxes(heads, -2, -3).reshape(x.shape)  # (..., T, C)
    return product(parameters, f"{prefix}.output", joined, linear=linear)  # (..., T, C)


def product(
    parameters: Mapping[str, Array], prefix: str, x: Array, activation: str | None = None, *, linear: Linear | None = None
) -> Array:
    """Product with the parameters under a prefix, by `linear` or else by `ops.linear`; the bias may be absent."""
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    if linear is None:
        return ops.linear(x, weight, bias, activation=activation)
    return linear(prefix, x, weight, bias, activation)


def norm(parameters: Mapping[str, Array], prefix: str, x: Array, *, residual: Array | None = None, eps: float) -> Array:
    """`layer_norm` with the parameters under a prefix; `x` itself if the weight is absent."""
    if f"{prefix}.weight" not in parameters:
        return x
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    return layer_norm(x, weight, bias, residual=residual, eps=eps)
