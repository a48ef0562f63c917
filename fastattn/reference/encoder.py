"""The encoder, layer by layer."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.attention import attention_weights, scaled_dot_product_attention
from fastattn.reference.ops import layer_norm, linear, rotary_embedding
from fastattn.reference.positions import relative_bias, rotary_tables, sinusoidal_positions

Array: TypeAlias = NDArray[Any]


def embeddings(
    parameters: Mapping[str, Array],
    x: Array,
    token_type_ids: Array | None = None,
    *,
    positions: str | None = None,
    padding_idx: int | None = None,
    layer_norm_eps: float = 1e-12,
) -> Array:
    """Input of the first layer, ``projection(layer_norm(token[x] + position[t] + token_type[...]))``.

    The token-type term, the norm and the projection are left out if their parameters are absent.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    x : ndarray, int (..., T) or float (..., T, E)
        Token ids, or vectors used instead of token embeddings; E is C without a projection.
    token_type_ids : ndarray of int, (..., T), optional
        Zeros by default.
    positions : {"learned", "sinusoidal", "rotary", None}
        The positions to add, counted from 0; "rotary" adds nothing here.
    padding_idx : int, optional
        Token id that has row 0 of the learned table wherever it stands; the other ids have rows 1, 2, ... in their order.
    layer_norm_eps : float
        Added to the variance.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of the parameters, or of a float `x`.

    Raises
    ------
    ValueError
        If `positions` is not one of the values above.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3, figure 2; projection: Lan et al. 2019, arXiv:1909.11942, section 3.1.
    """
    is_ids = np.issubdtype(x.dtype, np.integer)
    hidden = parameters["embeddings.token.weight"][x] if is_ids else x  # (..., T, E)
    num_tokens, hidden_dim = hidden.shape[-2:]
    if positions == "learned":
        places = np.arange(num_tokens)
        if padding_idx is not None:
            counted = x != padding_idx if is_ids else np.ones(x.shape[:-1], bool)  # (..., T)
            places = np.cumsum(counted, axis=-1) * counted
        hidden = hidden + parameters["embeddings.position.weight"][places]
    elif positions == "sinusoidal":
        hidden = hidden + sinusoidal_positions(num_tokens, hidden_dim).astype(hidden.dtype)
    elif positions not in ("rotary", None):
        raise ValueError(f'positions must be "learned", "sinusoidal", "rotary" or None, got {positions!r}')
    if "embeddings.token_type.weight" in parameters:
        hidden = hidden + parameters["embeddings.token_type.weight"][0 if token_type_ids is None else token_type_ids]
    hidden = _norm(parameters, "embeddings.layer_norm", hidden, eps=layer_norm_eps)
    return _linear(parameters, "embeddings.projection", hidden) if "embeddings.projection.weight" in parameters else hidden


def feed_forward(parameters: Mapping[str, Array], prefix: str, x: Array, *, activation: str = "gelu") -> Array:
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
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
        Activation of the first product, or of the gate.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of `x`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.3, equation 2; gate: Shazeer 2020, arXiv:2002.05202, section 2.
    """
    if f"{prefix}.gate.weight" in parameters:
        inner = _linear(parameters, f"{prefix}.gate", x, activation) * _linear(parameters, f"{prefix}.input", x)  # (..., T, F)
    else:
        inner = _linear(parameters, f"{prefix}.input", x, activation)  # (..., T, F)
    return _linear(parameters, f"{prefix}.output", inner)  # (..., T, C)


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
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
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
        normed = _norm(parameters, f"{attention}.layer_norm", x, eps=layer_norm_eps)
        y = x + _self_attention(parameters, attention, normed, attn_mask, num_heads, sides, rotary_theta)
        normed = _norm(parameters, f"{ffn}.layer_norm", y, eps=layer_norm_eps)
        return y + feed_forward(parameters, ffn, normed, activation=activation)
    attended = _self_attention(parameters, attention, x, attn_mask, num_heads, sides, rotary_theta)
    y = _norm(parameters, f"{attention}.layer_norm", attended, residual=x, eps=layer_norm_eps)
    expanded = feed_forward(parameters, ffn, y, activation=activation)
    return _norm(parameters, f"{ffn}.layer_norm", expanded, residual=y, eps=layer_norm_eps)


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

    Returns
    -------
    ndarray, (..., H, T, T)
        Dtype of `x`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """
    prefix = f"layers.{index}.attention"
    source = _norm(parameters, f"{prefix}.layer_norm", x, eps=layer_norm_eps) if norm_first else x
    query, key, _ = _query_key_value(parameters, prefix, source, num_heads, rotary_theta)
    return attention_weights(query, key, attn_mask, window=(window, 0 if is_causal else window))


def encoder(
    parameters: Mapping[str, Array],
    x: Array,
    attention_mask: Array | None = None,
    *,
    token_type_ids: Array | None = None,
    num_layers: int,
    num_heads: int,
    activation: str = "gelu",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    positions: str | None = None,
    padding_idx: int | None = None,
    is_causal: bool = False,
    rotary_theta: float = 10000.0,
    local_rotary_theta: float | None = None,
    window: int | None = None,
    global_every: int = 1,
    relative_max_distance: int = 128,
    return_hidden_states: bool = False,
    return_attention: bool = False,
) -> Any:
    """Encode each sequence separately: embeddings, every layer, and the final norm if its parameters are present.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters; their dtype is the dtype of the arithmetic.
    x : ndarray, int (B, T) or float (B, T, E)
        Token ids, or vectors used instead of token embeddings.
    attention_mask : ndarray of bool or 0/1, (B, T), optional
        True marks a real token.  All other tokens are removed before the computation, so they have no influence and no
        position.
    token_type_ids : ndarray of int, (B, T), optional
        Zeros by default.
    num_layers : int
        Number of layers.
    num_heads : int
        Number of heads H.
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
        Activation of the feed-forward network.
    norm_first : bool
        Pre-norm layers instead of post-norm.
    layer_norm_eps : float
        Added to the variance.
    positions : {"learned", "sinusoidal", "rotary", None}
        Positions, counted from 0: added to the embeddings, or (rotary) a rotation of queries and keys.
    padding_idx : int, optional
        Argument of `embeddings`.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float
        Base of rotary positions.
    local_rotary_theta : float, optional
        Base of rotary positions in local layers; by default `rotary_theta`.
    window : int, optional
        In local layers token t sees tokens t - window .. t + window.
    global_every : int
        With a window, layer i is global if i is a multiple of `global_every`, else local.
    relative_max_distance : int
        Argument of `relative_bias`, which every layer adds to its scores if `parameters` has ``relative_bias.weight``.
    return_hidden_states : bool
        Also return the hidden states of every layer.
    return_attention : bool
        Also return the `layer_attention_weights` of every layer.

    Returns
    -------
    hidden : ndarray, (B, T, C)
        Hidden states; zeros where `attention_mask` is False.  The first of a tuple if another output is requested.
    hidden_states : ndarray, (layers + 1, B, T, C)
        With `return_hidden_states`: the input of each layer, then `hidden`.
    attention : ndarray, (layers, B, H, T, T)
        With `return_attention`; zeros where `attention_mask` of the query or of the key is False.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3; local and global layers: Warner et al. 2024, arXiv:2412.13663,
    section 2.1.2.
    """
    real = np.ones(x.shape[:2], dtype=bool) if attention_mask is None else attention_mask.astype(bool)  # (B, T)
    weight = parameters["layers.0.attention.query.weight"]
    b_all, t_all = x.shape[:2]
    states = np.zeros((num_layers + 1 if return_hidden_states else 1, b_all, t_all, weight.shape[1]), weight.dtype)
    attention = np.zeros((num_layers if return_attention else 0, b_all, num_heads, t_all, t_all), weight.dtype)
    for b in range(b_all):
        types = None if token_type_ids is None else token_type_ids[b, real[b]]
        choices: dict[str, Any] = {"positions": positions, "padding_idx": padding_idx, "layer_norm_eps": layer_norm_eps}
        hidden = embeddings(parameters, x[b, real[b]], types, **choices)
        table = parameters.get("relative_bias.weight")
        bias = None if table is None else relative_bias(table, len(hidden), relative_max_distance)  # (H, T, T)
        for index in range(num_layers):
            local = window is not None and index % global_every != 0
            theta = rotary_theta if local_rotary_theta is None or not local else local_rotary_theta
            options: dict[str, Any] = {
                "num_heads": num_heads,
                "norm_first": norm_first,
                "layer_norm_eps": layer_norm_eps,
                "is_causal": is_causal,
                "rotary_theta": theta if positions == "rotary" else None,
                "window": window if local else None,
            }
            if return_hidden_states:
                states[index, b, real[b]] = hidden
            if return_attention:
                both = real[b][:, None] & real[b]  # (T, T)
                weights = layer_attention_weights(parameters, index, hidden, bias, **options)  # (H, tokens, tokens)
                attention[index, b][:, both] = weights.reshape(num_heads, -1)
            hidden = encoder_layer(parameters, index, hidden, bias, activation=activation, **options)
        states[-1, b, real[b]] = _norm(parameters, "layer_norm", hidden, eps=layer_norm_eps)
    asked = [*([states] if return_hidden_states else []), *([attention] if return_attention else [])]
    return (states[-1], *asked) if asked else states[-1]


def _query_key_value(
    parameters: Mapping[str, Array], prefix: str, x: Array, num_heads: int, rotary_theta: float | None
) -> tuple[Array, Array, Array]:
    """Projections of x (..., T, C) to the heads, (..., H, T, D) each; rotary positions turn queries and keys."""
    split = (*x.shape[:-1], num_heads, x.shape[-1] // num_heads)  # (..., T, H, D)
    query, key, value = (
        np.swapaxes(_linear(parameters, f"{prefix}.{name}", x).reshape(split), -2, -3)  # (..., H, T, D)
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
) -> Array:
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2), (..., T, C) to (..., T, C)."""
    query, key, value = _query_key_value(parameters, prefix, x, num_heads, rotary_theta)
    heads = scaled_dot_product_attention(query, key, value, attn_mask, window=window)  # (..., H, T, D)
    return _linear(parameters, f"{prefix}.output", np.swapaxes(heads, -2, -3).reshape(x.shape))  # (..., T, C)


def _linear(parameters: Mapping[str, Array], prefix: str, x: Array, activation: str | None = None) -> Array:
    """`linear` with the parameters under a prefix; the bias may be absent."""
    return linear(x, parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias"), activation=activation)


def _norm(parameters: Mapping[str, Array], prefix: str, x: Array, *, residual: Array | None = None, eps: float) -> Array:
    """`layer_norm` with the parameters under a prefix; `x` itself if the weight is absent."""
    if f"{prefix}.weight" not in parameters:
        return x
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    return layer_norm(x, weight, bias, residual=residual, eps=eps)
