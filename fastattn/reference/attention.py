"""Scaled dot-product attention and its weights."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import softmax, widened

Array: TypeAlias = NDArray[Any]


@np.errstate(invalid="ignore", over="ignore", under="ignore")
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
        Bool: True lets a query see a key. Float: added to the score; -inf masks it.
    is_causal : bool
        Query t sees keys 0 .. t, for L != S too.
    scale : float, optional
        ``1 / sqrt(D)`` by default.
    enable_gqa : bool
        Query head h uses key head ``h // (H / key heads)``.
    softcap : float, optional
        Bound of the scaled scores, approached by tanh.
    window : (left, right), optional
        Query t sees keys t-left .. t+right; None: no bound on that side.  A key is seen where `attn_mask`, `is_causal` and
        `window` all allow it.

    Returns
    -------
    ndarray, (..., H, L, S)
        Dtype of `query`. A masked score is replaced by -inf whatever it was, so its weight is 0 even where the score is
        NaN. A row whose scores are all -inf gives zeros.

    Raises
    ------
    ValueError
        If the mask does not broadcast.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; grouped heads: Ainslie et al. 2023, arXiv:2305.13245,
    section 2.2; softcap: Gemma Team 2024, arXiv:2408.00118, section 2; window: Beltagy et al. 2020, arXiv:2004.05150,
    section 3.1.
    """
    wide_query, wide_key = widened(query), widened(key)
    if enable_gqa:
        wide_key = np.repeat(wide_key, query.shape[-3] // key.shape[-3], axis=-3)  # (..., H, S, D)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    scores = (wide_query @ np.swapaxes(wide_key, -1, -2)) * scale  # (..., H, L, S)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if attn_mask is not None and attn_mask.dtype != np.bool_:
        scores = scores + attn_mask.astype(scores.dtype)
    visible = visible_keys(scores.shape, attn_mask, is_causal, window)
    scores = np.where(visible, scores, -np.inf)  # (..., H, L, S)
    no_key = np.all(scores == -np.inf, axis=-1, keepdims=True)  # (..., H, L, 1)
    return np.where(no_key, 0, softmax(scores)).astype(query.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
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
        Bool: True lets a query see a key. Float: added to the score; -inf masks it.
    is_causal : bool
        Query t sees keys 0 .. t, for L != S too.
    scale : float, optional
        ``1 / sqrt(D)`` by default.
    enable_gqa : bool
        Query head h uses key and value head ``h // (H / heads)``.
    softcap : float, optional
        Bound of the scaled scores, approached by tanh.
    window : (left, right), optional
        Query t sees keys t-left .. t+right; None: no bound on that side.  A key is seen where `attn_mask`, `is_causal` and
        `window` all allow it.

    Returns
    -------
    ndarray, (..., H, L, E)
        Dtype of `query`. A key that no query of its batch entry and head may see counts as absent, whatever its key
        and value rows hold. A query that sees no key gives zeros.

    Raises
    ------
    ValueError
        If the mask does not broadcast.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1.
    """
    weights = attention_weights(
        widened(query),
        widened(key),
        attn_mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        softcap=softcap,
        window=window,
    )  # (..., H, L, S)
    sight: dict[str, Any] = {"is_causal": is_causal, "enable_gqa": enable_gqa, "window": window}
    return weighted_values(weights, widened(value), attn_mask, **sight).astype(query.dtype)


def weighted_values(
    weights: Array,
    value: Array,
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    enable_gqa: bool = False,
    window: tuple[int | None, int | None] | None = None,
) -> Array:
    """``weights value`` for weights (..., H, L, S); the values of keys that no query sees count as 0."""
    if enable_gqa:
        value = np.repeat(value, weights.shape[-3] // value.shape[-3], axis=-3)  # (..., H, S, E)
    seen = np.any(visible_keys(weights.shape, attn_mask, is_causal, window), axis=-2)  # (..., H, S)
    return np.asarray(weights @ np.where(seen[..., None], value, 0))


def visible_keys(
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
