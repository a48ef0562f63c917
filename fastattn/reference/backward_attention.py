"""Gradient of scaled dot-product attention."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.attention import attention_weights, visible_keys
from fastattn.reference.ops import widened

Array: TypeAlias = NDArray[Any]


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def scaled_dot_product_attention_backward(
    grad: Array,
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
) -> tuple[Array, Array, Array, Array | None]:
    """Gradient of attention, ``grad_value = P^T grad``, ``grad_query = scale dS key``, ``grad_key = scale dS^T query``.

    P are the weights, ``dS = P (grad value^T - D)`` with ``D_t = sum_e grad[t, e] out[t, e]``; the gradient of an added mask is dS.
    With a softcap c, dS has the factor ``1 - tanh(score / c)^2`` in the gradients of query and key.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., H, L, E)
        Gradient of the result.
    query : ndarray, (..., H, L, D)
        The queries.
    key : ndarray, (..., H, S, D)
        The keys; fewer heads with `enable_gqa`.
    value : ndarray, (..., H, S, E)
        The values; fewer heads with `enable_gqa`.
    attn_mask : ndarray of bool or float, broadcastable to (..., H, L, S), optional
        Bool: True lets a query see a key. Float: added to the score; -inf masks it.
    is_causal : bool
        Query t sees keys 0 .. t.
    scale : float, optional
        ``1 / sqrt(D)`` by default.
    enable_gqa : bool
        Query head h uses key and value head ``h // (H / heads)``.
    softcap : float, optional
        Bound of the scaled scores, approached by tanh.
    window : (left, right), optional
        Query t sees keys t-left .. t+right; None: no bound on that side.

    Returns
    -------
    grad_query, grad_key, grad_value : ndarray
        Shape and dtype of `query`, `key`, `value`. A masked score has gradient 0. A query that sees no key, and a key that no
        query of its batch entry and head sees, count as absent, whatever they hold.
    grad_mask : ndarray or None
        Shape and dtype of `attn_mask`; None unless it is a float array.

    References
    ----------
    Dao et al. 2022, arXiv:2205.14135, appendix B.2.
    """
    options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "softcap": softcap, "window": window}
    wide = widened(query)
    wide_key, wide_value = widened(key), widened(value)
    if enable_gqa:
        wide_key, wide_value = (np.repeat(x, query.shape[-3] // x.shape[-3], axis=-3) for x in (wide_key, wide_value))
    weights = attention_weights(wide, wide_key, attn_mask, **options)  # (..., H, L, S)
    shape = np.broadcast_shapes(weights.shape[:-2], wide_value.shape[:-2])
    weights = np.broadcast_to(weights, (*shape, *weights.shape[-2:]))
    visible = visible_keys(weights.shape, attn_mask, is_causal, window)
    seen, sees = np.any(visible, axis=-2)[..., None], np.any(visible, axis=-1)[..., None]
    wide, wide_grad = np.where(sees, wide, 0), np.where(sees, widened(grad), 0)
    wide_key, wide_value = np.where(seen, wide_key, 0), np.where(seen, wide_value, 0)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    out = weights @ wide_value  # (..., H, L, E)
    delta = np.sum(wide_grad * out, axis=-1, keepdims=True)  # (..., H, L, 1)
    slopes = np.where(visible, weights * (wide_grad @ np.swapaxes(wide_value, -1, -2) - delta), 0)  # (..., H, L, S)
    grad_mask = None
    if attn_mask is not None and attn_mask.dtype != np.bool_:
        grad_mask = _summed_to(slopes, attn_mask)
    if softcap is not None:
        scores = (wide @ np.swapaxes(wide_key, -1, -2)) * scale
        slopes = np.where(visible, slopes * (1 - np.tanh(scores / softcap) ** 2), 0)
    grad_query = (slopes @ wide_key) * scale
    grad_key = (np.swapaxes(slopes, -1, -2) @ wide) * scale
    grad_value = np.swapaxes(weights, -1, -2) @ wide_grad
    if enable_gqa:
        grad_key, grad_value = (
            x.reshape(*x.shape[:-3], like.shape[-3], -1, *x.shape[-2:]).sum(axis=-3)
            for x, like in ((grad_key, key), (grad_value, value))
        )
    return _summed_to(grad_query, query), _summed_to(grad_key, key), _summed_to(grad_value, value), grad_mask


def _summed_to(x: Array, like: Array) -> Array:
    """Return `x`, summed over the axes along which `like` was repeated, in the dtype of `like`."""
    extra = x.ndim - like.ndim
    axes = (*range(extra), *(i for i in range(extra, x.ndim) if like.shape[i - extra] == 1 != x.shape[i]))
    return np.asarray(x.sum(axis=axes, keepdims=True).reshape(like.shape)).astype(like.dtype)
