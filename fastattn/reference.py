"""The definition of every op and of the encoder, in NumPy: the specification the kernels are tested against.

Shape letters: ``B`` batch, ``T`` tokens, ``C`` hidden, ``H`` heads, ``D`` = C/H, ``F`` feed-forward, ``V`` vocabulary.
In attention ``L`` counts queries, ``S`` keys and ``E`` is the head size of the values.

Arithmetic is done in the dtype of the input. float16 is the exception: it is computed in float32 and rounded once, at
the end. Nothing is checked here beyond what decides the meaning; the public ops do the checks.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_erf64 = np.vectorize(math.erf, otypes=[np.float64])


@np.errstate(invalid="ignore", over="ignore")
def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax along one axis, ``exp(x - max x) / sum(exp(x - max x))``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The scores.
    axis : int
        The axis that sums to 1.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. A row that is all -inf, or that holds inf or NaN, gives NaN, as in torch.

    References
    ----------
    Milakov and Gimelshein 2018, arXiv:1805.02867, section 2 (safe softmax).
    """
    wide = _wide(x)
    shifted = wide - np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
    numerator = np.exp(shifted)
    result = numerator / np.sum(numerator, axis=axis, keepdims=True)
    return np.asarray(result, dtype=x.dtype)


@np.errstate(invalid="ignore", over="ignore")
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    residual: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Layer norm, ``(z - mean z) / sqrt(var z + eps) * weight + bias`` with ``z = x + residual``.

    Mean and (biased) variance are taken over the trailing axes that `weight` has; over the last axis without one.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., C)
        The rows to normalise.
    weight : ndarray, (C,) or several trailing axes of `x`, optional
        The gain.
    bias : ndarray, shape of `weight`, optional
        The shift.
    residual : ndarray, shape of `x`, optional
        Added to `x` first.
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    References
    ----------
    Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3, equation 3.
    """
    z = _wide(x) if residual is None else _wide(x) + _wide(residual)  # (..., C)
    scaled_by = weight if weight is not None else bias
    axes = tuple(range(-1 if scaled_by is None else -scaled_by.ndim, 0))
    count = max(1, math.prod(z.shape[axis] for axis in axes))
    centred = z - np.sum(z, axis=axes, keepdims=True) / count  # (..., C)
    variance = np.sum(centred * centred, axis=axes, keepdims=True) / count  # (..., 1)
    result: Array = centred / np.sqrt(variance + eps)  # (..., C)
    if weight is not None:
        result = result * _wide(weight)
    if bias is not None:
        result = result + _wide(bias)
    return result.astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore")
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """Gaussian error linear unit, ``x Phi(x) = x / 2 (1 + erf(x / sqrt 2))``.

    The tanh form is ``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The input.
    approximate : {"none", "tanh"}
        "none" is the erf form.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `approximate` is neither "none" nor "tanh".

    References
    ----------
    Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    wide = _wide(x)
    if approximate == "none":
        gate = 1 + _erf(wide * math.sqrt(0.5))
    elif approximate == "tanh":
        gate = 1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    else:
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    return np.asarray(0.5 * wide * gate, dtype=x.dtype)


@np.errstate(invalid="ignore", over="ignore")
def linear(x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None) -> Array:
    """Product with a weight matrix, ``activation(x weight^T + bias)``.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., K)
        The rows.
    weight : ndarray, (M, K)
        One row per output channel, as in torch.
    bias : ndarray, (M,), optional
        Added to each row.
    activation : {None, "gelu", "gelu_tanh", "relu", "silu"}
        Applied last.

    Returns
    -------
    ndarray, (..., M)
        Dtype of `x`.

    Raises
    ------
    ValueError
        If `activation` is none of those named.
    """
    result = _wide(x) @ _wide(weight).T  # (..., M)
    if bias is not None:
        result = result + _wide(bias)
    return _activate(result, activation).astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore")
def attention_weights(
    query: Array,
    key: Array,
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
) -> Array:
    """Attention weights, ``softmax(mask(cap(scale query key^T)))`` with ``cap(s) = softcap tanh(s / softcap)``.

    Parameters
    ----------
    query : ndarray of float16, float32 or float64, (..., H, L, D)
        The queries.
    key : ndarray, (..., H, S, D)
        The keys; fewer heads with `enable_gqa`.
    attn_mask : ndarray of bool or float, broadcastable to (..., H, L, S), optional
        Bool: True takes part. Float: added to the score, and -inf masks it.
    is_causal : bool
        Query t sees keys 0 .. t, for L != S too.
    scale : float, optional
        ``1 / sqrt(D)`` by default.
    enable_gqa : bool
        Query head h uses key head ``h // (H / key heads)``.
    softcap : float, optional
        The bound that the scaled scores approach.
    window : (left, right), optional
        Query t sees keys t-left .. t+right; None: no bound on that side.

    Returns
    -------
    ndarray, (..., H, L, S)
        Dtype of `query`. A masked score is replaced by -inf whatever it was, so its weight is 0 even where the score is
        NaN. A row whose scores are all -inf gives zeros.

    Raises
    ------
    ValueError
        If both `attn_mask` and `is_causal` are given, or the mask does not broadcast.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; grouped heads: Ainslie et al. 2023, arXiv:2305.13245,
    section 2.2; softcap: Gemma Team 2024, arXiv:2408.00118, section 2; window: Beltagy et al. 2020, arXiv:2004.05150,
    section 3.1.
    """
    wide_query, wide_key = _wide(query), _wide(key)
    if enable_gqa:
        wide_key = np.repeat(wide_key, query.shape[-3] // key.shape[-3], axis=-3)  # (..., H, S, D)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    scores = (wide_query @ np.swapaxes(wide_key, -1, -2)) * scale  # (..., H, L, S)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if attn_mask is not None and attn_mask.dtype != np.bool_:
        scores = scores + attn_mask.astype(scores.dtype)
    visible = _visible(scores.shape, attn_mask, is_causal, window)
    scores = np.where(visible, scores, -np.inf)  # (..., H, L, S)
    no_key = np.all(scores == -np.inf, axis=-1, keepdims=True)  # (..., H, L, 1)
    return np.where(no_key, 0, softmax(scores)).astype(query.dtype)


@np.errstate(invalid="ignore", over="ignore")
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
) -> Array:
    """Attention, ``weights value`` with the weights of `attention_weights`.

    Parameters
    ----------
    query : ndarray of float16, float32 or float64, (..., H, L, D)
        The queries.
    key : ndarray, (..., H, S, D)
        The keys; fewer heads with `enable_gqa`.
    value : ndarray, (..., H, S, E)
        The values; fewer heads with `enable_gqa`.
    attn_mask : ndarray of bool or float, broadcastable to (..., H, L, S), optional
        Bool: True takes part. Float: added to the score, and -inf masks it.
    is_causal : bool
        Query t sees keys 0 .. t, for L != S too.
    scale : float, optional
        ``1 / sqrt(D)`` by default.
    enable_gqa : bool
        Query head h uses key and value head ``h // (H / heads)``.
    softcap : float, optional
        The bound that the scaled scores approach.
    window : (left, right), optional
        Query t sees keys t-left .. t+right; None: no bound on that side.

    Returns
    -------
    ndarray, (..., H, L, E)
        Dtype of `query`. A key that no query of its batch entry and head may see counts as absent, whatever its key
        and value rows hold. A query that sees no key gives zeros.

    Raises
    ------
    ValueError
        If both `attn_mask` and `is_causal` are given, or the mask does not broadcast.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1.
    """
    weights = attention_weights(
        _wide(query),
        _wide(key),
        attn_mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        softcap=softcap,
        window=window,
    )  # (..., H, L, S)
    wide_value = _wide(value)
    if enable_gqa:
        wide_value = np.repeat(wide_value, query.shape[-3] // value.shape[-3], axis=-3)  # (..., H, S, E)
    seen = np.any(_visible(weights.shape, attn_mask, is_causal, window), axis=-2)  # (..., H, S)
    return (weights @ np.where(seen[..., None], wide_value, 0)).astype(query.dtype)


@np.errstate(invalid="ignore", over="ignore")
def rotary_embedding(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions, ``x cos + rotate_half(x) sin`` with ``rotate_half((a, b)) = (-b, a)`` for the halves of a row.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., T, D)
        Queries or keys; D is even.
    cos, sin : ndarray, (T, D / 2)
        The tables, of `rotary_tables` or others; channels i and i + D / 2 turn by the same angle.

    Returns
    -------
    ndarray, (..., T, D)
        Dtype of `x`.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.4.2, equation 34, with channel i + D / 2 in place of the neighbour of i.
    """
    half = x.shape[-1] // 2
    a, b = _wide(x[..., :half]), _wide(x[..., half:])  # (..., T, D / 2)
    wide_cos, wide_sin = _wide(cos), _wide(sin)
    return np.concatenate([a * wide_cos - b * wide_sin, b * wide_cos + a * wide_sin], axis=-1).astype(x.dtype)


def rotary_tables(num_tokens: int, head_dim: int, theta: float = 10000.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of the angles ``t theta^(-2 i / D)``.

    Parameters
    ----------
    num_tokens : int
        T.
    head_dim : int
        D, even.
    theta : float
        The base.

    Returns
    -------
    cos, sin : ndarray of float64, (T, D / 2)

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.2.2, equation 15.
    """
    t = np.arange(num_tokens, dtype=np.float64)[:, None]  # (T, 1)
    angle = t * theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)  # (T, D / 2)
    return np.cos(angle), np.sin(angle)


def relative_position_bucket(distance: Array, num_buckets: int = 32, max_distance: int = 128) -> NDArray[np.int64]:
    """Bucket of the distance of a key from a query; keys behind the query use the upper half of the buckets.

    Of the n buckets of a side the first n / 2 hold one distance each, the others grow with its logarithm up to
    `max_distance`; greater distances fall into the last.  The logarithm is taken in float32 and its bucket cut off, as in
    the models that were trained so.

    Parameters
    ----------
    distance : ndarray of int, any shape
        Place of the key minus place of the query.
    num_buckets : int
        Of both sides together.
    max_distance : int
        Where the last bucket begins.

    Returns
    -------
    ndarray of int64, shape of `distance`

    References
    ----------
    Raffel et al. 2020, arXiv:1910.10683, section 2.1; Song et al. 2020, arXiv:2004.09297, section 4.1.
    """
    side = num_buckets // 2
    exact = side // 2
    away = np.abs(distance)
    ratio = np.maximum(away, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
    far = np.minimum(exact + steps.astype(np.int64), side - 1)
    return np.asarray(np.where(np.asarray(distance) > 0, side, 0) + np.where(away < exact, away, far), np.int64)


def relative_bias(weight: Array, num_tokens: int, max_distance: int = 128) -> Array:
    """Bias of the scores by relative position, ``bias[h, t, s] = weight[bucket(s - t), h]``.

    Parameters
    ----------
    weight : ndarray, (buckets, H)
        The table.
    num_tokens : int
        T.
    max_distance : int
        Where the last bucket begins.

    Returns
    -------
    ndarray, (H, T, T)
        Dtype of `weight`.

    References
    ----------
    Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """
    t = np.arange(num_tokens)
    buckets = relative_position_bucket(t[None, :] - t[:, None], len(weight), max_distance)  # (T, T)
    return np.moveaxis(weight[buckets], -1, 0)  # (H, T, T)


def sinusoidal_positions(num_tokens: int, hidden_dim: int) -> NDArray[np.float64]:
    """Sinusoidal positions, ``sin(t / 10000^(2i/C))`` in channel 2i and ``cos`` of the same angle in channel 2i+1.

    Parameters
    ----------
    num_tokens : int
        T.
    hidden_dim : int
        C; the last cosine is left out when it is odd.

    Returns
    -------
    ndarray of float64, (T, C)
        The encoding.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    t = np.arange(num_tokens, dtype=np.float64)[:, None]  # (T, 1)
    channel = np.arange(hidden_dim)[None, :]  # (1, C)
    angle = t / 10000.0 ** ((channel - channel % 2) / max(hidden_dim, 1))  # (T, C)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def embeddings(
    parameters: Mapping[str, Array],
    x: Array,
    token_type_ids: Array | None = None,
    *,
    positions: str | None = None,
    layer_norm_eps: float = 1e-12,
) -> Array:
    """Input of the first layer, ``projection(layer_norm(token[x] + position[t] + token_type[...]))``.

    The token-type term, the norm and the projection are left out where their parameters are absent.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    x : ndarray, int (..., T) or float (..., T, E)
        Token ids, or vectors that take the place of the token embeddings; E is C without a projection.
    token_type_ids : ndarray of int, (..., T), optional
        Zeros by default.
    positions : {"learned", "sinusoidal", "rotary", None}
        The positions to add, counted from 0; rotary ones have no part here.
    layer_norm_eps : float
        Added to the variance.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of the parameters, or of a float `x`.

    Raises
    ------
    ValueError
        If `positions` is none of those named.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3, figure 2; projection: Lan et al. 2019, arXiv:1909.11942, section 3.1.
    """
    is_ids = np.issubdtype(x.dtype, np.integer)
    hidden = parameters["embeddings.token.weight"][x] if is_ids else x  # (..., T, E)
    num_tokens, hidden_dim = hidden.shape[-2:]
    if positions == "learned":
        hidden = hidden + parameters["embeddings.position.weight"][:num_tokens]
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
        What precedes ``.input.weight``: ``layers.{i}.feed_forward``.
    x : ndarray, (..., T, C)
        Hidden states.
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
        Of the first product, or of the gate.

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
        H.
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
        Of the feed-forward network.
    norm_first : bool
        Pre-norm instead of post-norm.
    layer_norm_eps : float
        Added to the variance.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float, optional
        Base of the rotary positions that queries and keys get; none without it.
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
    """`attention_weights` of the queries and keys that an encoder layer makes of its input.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    index : int
        The layer, from 0.
    x : ndarray, (..., T, C)
        Hidden states that `encoder_layer` takes.
    attn_mask : ndarray, broadcastable to (..., H, T, T), optional
        As in `attention_weights`.
    num_heads : int
        H.
    norm_first : bool
        Pre-norm: queries and keys are made of the normed `x`.
    layer_norm_eps : float
        Added to the variance.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float, optional
        Base of the rotary positions; none without it.
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
    is_causal: bool = False,
    rotary_theta: float = 10000.0,
    local_rotary_theta: float | None = None,
    window: int | None = None,
    global_every: int = 1,
    relative_max_distance: int = 128,
    return_hidden_states: bool = False,
    return_attention: bool = False,
) -> Any:
    """Encode each sequence by itself: its embeddings, then every layer, then the final norm if there is one.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters; their dtype is the one that is computed in.
    x : ndarray, int (B, T) or float (B, T, E)
        Token ids, or vectors that take the place of the token embeddings.
    attention_mask : ndarray of bool or 0/1, (B, T), optional
        True marks a token; the others are taken out before anything is computed, so they have no influence and take up
        no position.
    token_type_ids : ndarray of int, (B, T), optional
        Zeros by default.
    num_layers : int
        Number of layers.
    num_heads : int
        H.
    activation : {"gelu", "gelu_tanh", "relu", "silu"}
        Of the feed-forward network.
    norm_first : bool
        Pre-norm layers instead of post-norm.
    layer_norm_eps : float
        Added to the variance.
    positions : {"learned", "sinusoidal", "rotary", None}
        The positions to add, or to turn queries and keys by, counted from 0.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float
        Base of rotary positions.
    local_rotary_theta : float, optional
        The base in local layers; the same without it.
    window : int, optional
        In local layers token t sees tokens t - window .. t + window.
    global_every : int
        With a window, layer i is local unless i is a multiple of this.
    relative_max_distance : int
        Of `relative_bias`, which is added to the scores of every layer where ``relative_bias.weight`` is there.
    return_hidden_states : bool
        Return those of every layer too.
    return_attention : bool
        Return `layer_attention_weights` of every layer too.

    Returns
    -------
    hidden : ndarray, (B, T, C)
        Hidden states; zeros where `attention_mask` is False.  Alone, or the first of a tuple with the following.
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
        hidden = embeddings(parameters, x[b, real[b]], types, positions=positions, layer_norm_eps=layer_norm_eps)
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


def pooling(hidden: Array, mode: str) -> Array:
    """One vector for a sequence, from its hidden states ``h_1 .. h_T``.

    Parameters
    ----------
    hidden : ndarray, (T, C)
        The sequence, without padding.
    mode : {"mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}
        ``sum h / T``, ``h_1``, ``max h``, ``sum h / sqrt T``, ``sum t h_t / sum t`` or ``h_T``.

    Returns
    -------
    ndarray, (C,)
        Dtype of `hidden`; zeros for T = 0.

    Raises
    ------
    ValueError
        If `mode` is none of those named.

    References
    ----------
    Reimers and Gurevych 2019, arXiv:1908.10084, section 3; weighted mean: Muennighoff 2022, arXiv:2202.08904,
    section 4.1.1, equation 2.
    """
    num_tokens = hidden.shape[0]
    if num_tokens == 0:
        return np.zeros_like(hidden, shape=hidden.shape[1])
    if mode == "mean":
        return np.asarray(np.sum(hidden, axis=0) / num_tokens)
    if mode == "cls":
        return np.asarray(hidden[0])
    if mode == "max":
        return np.asarray(np.max(hidden, axis=0))
    if mode == "mean_sqrt_len_tokens":
        return np.asarray(np.sum(hidden, axis=0) / math.sqrt(num_tokens))
    if mode == "weightedmean":
        weights = np.arange(1, num_tokens + 1, dtype=hidden.dtype)  # (T,)
        return np.asarray(weights @ hidden / np.sum(weights))
    if mode == "lasttoken":
        return np.asarray(hidden[-1])
    raise ValueError(f"mode {mode!r} is not a way of pooling")


def _wide(x: Array) -> Array:
    """Return `x` in the dtype that is computed in: float32 for float16, its own otherwise."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _erf(x: Array) -> Array:
    """Return the error function of `x`, taken in float64 and rounded to the dtype of `x`."""
    return np.asarray(_erf64(x.astype(np.float64)), dtype=x.dtype)


@np.errstate(invalid="ignore", over="ignore")
def _activate(x: Array, activation: str | None) -> Array:
    """Apply an activation by its name; silu is ``x / (1 + exp(-x))``."""
    if activation is None:
        return x
    if activation == "gelu":
        return gelu(x)
    if activation == "gelu_tanh":
        return gelu(x, approximate="tanh")
    if activation == "relu":
        return np.asarray(np.maximum(x, 0))
    if activation == "silu":
        return np.asarray(x / (1 + np.exp(-x)))
    raise ValueError(f'activation must be None, "gelu", "gelu_tanh", "relu" or "silu", got {activation!r}')


def _visible(
    shape: tuple[int, ...],
    attn_mask: Array | None,
    is_causal: bool,
    window: tuple[int | None, int | None] | None,
) -> NDArray[np.bool_]:
    """Return which key each query may see, (..., H, L, S)."""
    t = np.arange(shape[-2])[:, None]  # (L, 1)
    s = np.arange(shape[-1])[None, :]  # (1, S)
    visible = np.ones(shape, dtype=bool)  # (..., H, L, S)
    if is_causal:
        if attn_mask is not None:
            raise ValueError("attn_mask must be None when is_causal is True")
        visible &= s <= t
    if attn_mask is not None:
        visible &= attn_mask if attn_mask.dtype == np.bool_ else attn_mask != -np.inf
    if window is not None:
        left, right = window
        if left is not None:
            visible &= s >= t - left
        if right is not None:
            visible &= s <= t + right
    return visible


def _query_key_value(
    parameters: Mapping[str, Array], prefix: str, x: Array, num_heads: int, rotary_theta: float | None
) -> tuple[Array, Array, Array]:
    """Projections of x (..., T, C) to the heads, (..., H, T, D) each, the first two turned by their positions."""
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
    """`linear` with the parameters under a prefix; a missing bias is none."""
    return linear(x, parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias"), activation=activation)


def _norm(parameters: Mapping[str, Array], prefix: str, x: Array, *, residual: Array | None = None, eps: float) -> Array:
    """`layer_norm` with the parameters under a prefix; without a weight there, `x` itself."""
    if f"{prefix}.weight" not in parameters:
        return x
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    return layer_norm(x, weight, bias, residual=residual, eps=eps)
