"""Layer of the encoder: attention and the feed-forward network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference import ops
from fastattn.reference.attention import attention_weights, scaled_dot_product_attention
from fastattn.reference.ops import layer_norm, rms_norm, rotary_embedding
from fastattn.reference.positions import disentangled_row
from fastattn.reference.precision import Linear

Array: TypeAlias = NDArray[Any]
Window: TypeAlias = tuple[int | None, int | None]
# attend(query, key, value, attn_mask, **options): the heads' attention.
Attend: TypeAlias = Callable[..., Array]
Rotary: TypeAlias = tuple[Sequence[float], float]


def feed_forward(
    parameters: Mapping[str, Array],
    prefix: str,
    x: Array,
    *,
    activation: str = "gelu",
    top_k: int = 1,
    linear: Linear | None = None,
) -> Array:
    """Feed-forward network, ``linear(linear(x, input, activation), output)``.

    With a gate, ``linear(linear(x, gate, activation) * linear(x, input), output)``.

    With a router, ``experts_bias + sum_e p_e linear(linear(x, input_e, activation), output_e)`` over the `top_k` experts e of the
    greatest ``p = softmax(linear(x, router))``, of equal ones the first; the p_e of a token are not scaled to the sum 1.

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
    top_k : int
        Experts of a token, where there is a router.
    linear : callable, optional
        As in `encoder`.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of `x`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.3, equation 2; gate: Shazeer 2020, arXiv:2002.05202, section 2; experts:
    Shazeer et al. 2017, arXiv:1701.06538, section 2, with the softmax before the choice.
    """
    if f"{prefix}.router.weight" in parameters:
        return _mixture(parameters, prefix, x, activation, top_k, linear)
    if f"{prefix}.gate.weight" in parameters:
        gate = product(parameters, f"{prefix}.gate", x, activation, linear=linear)  # (..., T, F)
        inner = gate * product(parameters, f"{prefix}.input", x, linear=linear)  # (..., T, F)
    else:
        inner = product(parameters, f"{prefix}.input", x, activation, linear=linear)  # (..., T, F)
    return product(parameters, f"{prefix}.output", inner, linear=linear)  # (..., T, C)


def _mixture(parameters: Mapping[str, Array], prefix: str, x: Array, activation: str, top_k: int, linear: Linear | None) -> Array:
    """The feed-forward network of a layer with experts, whose matrices are stacked."""
    p = ops.softmax(product(parameters, f"{prefix}.router", x))  # (..., T, E)
    chosen = np.zeros(p.shape, bool)
    np.put_along_axis(chosen, np.argsort(-p, axis=-1, kind="stable")[..., :top_k], True, axis=-1)
    count = p.shape[-1]
    out = np.zeros_like(x) + parameters[f"{prefix}.experts_bias.weight"]
    for e in range(count):
        mine = chosen[..., e]
        if not mine.any():
            continue
        y = x[mine]  # (tokens, C)
        for name, kind in (("input", activation), ("output", None)):
            whole = {part: parameters.get(f"{prefix}.experts.{name}.{part}") for part in ("weight", "bias")}
            cut = {f"{prefix}.experts.{name}.{part}": np.split(rows, count)[e] for part, rows in whole.items() if rows is not None}
            y = product(cut, f"{prefix}.experts.{name}", y, kind, linear=linear)
        out[mine] += p[..., e][mine][:, None] * y
    return out


def encoder_layer(
    parameters: Mapping[str, Array],
    index: int,
    x: Array,
    attn_mask: Array | None = None,
    *,
    num_heads: int,
    num_key_value_heads: int | None = None,
    activation: str = "gelu",
    norm: str = "layer",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    window: Window = (None, None),
    rotary: Rotary | None = None,
    attention_scale: float | None = None,
    softcap: float | None = None,
    disentangled_max_distance: int | None = None,
    top_k: int = 1,
    convolution_activation: str | None = None,
    linear: Linear | None = None,
    attend: Attend | None = None,
) -> Array:
    """One encoder layer.

    Post-norm: ``y = norm1(x + attention(x))``, then ``norm2(y + feed_forward(y))``.
    Pre-norm: ``y = x + attention(norm1(x))``, then ``y + feed_forward(norm2(y))``; a norm without a weight is left out.
    With output norms, pre-norm sublayers are normed by them before the sum; of post-norm layers
    ``y = norm1(x + output_norm(x + attention(x)))``.  With a convolution beside the layer
    ``layer_norm(layer(x) + activation(sum_k W_k x[t + k - (K - 1) / 2] + bias))``, where x is 0 outside the sequence.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters; ``layers.{i}.convolution.weight`` (C, K C) has the matrices W_k beside each other.
    index : int
        The layer, from 0.
    x : ndarray, (..., T, C)
        Hidden states.
    attn_mask : ndarray, broadcastable to (..., H, T, T), optional
        As in `scaled_dot_product_attention`.
    num_heads : int
        Number of heads H.
    num_key_value_heads : int, optional
        Heads of keys and values; H by default.
    activation : str
        Activation of the feed-forward network.
    norm : {"layer", "rms"}
        Kind of the norms.
    norm_first : bool
        Pre-norm instead of post-norm.
    layer_norm_eps : float
        Added to the variance, or to the mean of the squares.
    window : (left, right)
        Token t sees tokens t - left .. t + right; None: no bound on that side.
    rotary : (inv_freq, scaling), optional
        Queries and keys turn by the angles ``t inv_freq[i]``, i < R / 2, in the first R channels of a head; cosines and sines are
        multiplied by `scaling`.
    attention_scale : float, optional
        Factor of the scores; D^-0.5 by default.
    softcap : float, optional
        As in `scaled_dot_product_attention`.
    disentangled_max_distance : int, optional
        Argument of `disentangled_row`.
    top_k : int
        As in `feed_forward`.
    convolution_activation : str, optional
        Activation of the convolution beside the layer.
    linear, attend : callable, optional
        As in `encoder`.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of `x`.

    References
    ----------
    Post-norm: Vaswani et al. 2017, arXiv:1706.03762, section 3.1. Pre-norm: Xiong et al. 2020, arXiv:2002.04745,
    section 3.1, table 1.  Disentangled scores: He et al. 2020, arXiv:2006.03654, section 3.1, equation 4.
    """
    attention, ffn = f"layers.{index}.attention", f"layers.{index}.feed_forward"
    norms: dict[str, Any] = {"kind": norm, "eps": layer_norm_eps}
    source = normed(parameters, f"{attention}.layer_norm", x, **norms) if norm_first else x
    query, key, value = _query_key_value(parameters, attention, source, num_heads, num_key_value_heads, rotary, linear, norms)
    scores: dict[str, Any] = {"scale": attention_scale, "softcap": softcap, "window": window, "enable_gqa": True}
    mask = _scores_by_distance(parameters, attention, query, key, attn_mask, attention_scale, disentangled_max_distance)
    heads = (attend or scaled_dot_product_attention)(query, key, value, mask, **scores)  # (..., H, T, D)
    joined = np.swapaxes(heads, -2, -3).reshape(*x.shape[:-1], num_heads * heads.shape[-1])  # (..., T, H D)
    attended = product(parameters, f"{attention}.output", joined, linear=linear)  # (..., T, C)
    residual = None if norm_first else x
    attended = normed(parameters, f"{attention}.output_norm", attended, residual=residual, **norms)
    if norm_first:
        y = x + attended
        expanded = normed(parameters, f"{ffn}.layer_norm", y, **norms)
    else:
        y = expanded = normed(parameters, f"{attention}.layer_norm", attended, residual=x, **norms)
    expanded = feed_forward(parameters, ffn, expanded, activation=activation, top_k=top_k, linear=linear)
    expanded = normed(parameters, f"{ffn}.output_norm", expanded, **norms)
    out = y + expanded if norm_first else normed(parameters, f"{ffn}.layer_norm", expanded, residual=y, **norms)
    beside = f"layers.{index}.convolution"
    if f"{beside}.weight" not in parameters:
        return out
    convolved = product(parameters, beside, neighbours(x, parameters[f"{beside}.weight"]), convolution_activation, linear=linear)
    return normed(parameters, f"{beside}.layer_norm", convolved, residual=out, **norms)


def neighbours(x: Array, weight: Array) -> Array:
    """Return the rows around each row of x (..., T, C), beside each other (..., T, K C), for a convolution's weight (C, K C)."""
    size, t = weight.shape[1] // x.shape[-1], x.shape[-2]
    around = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(size // 2, size // 2), (0, 0)])  # (..., T + K - 1, C)
    return np.concatenate([around[..., k : k + t, :] for k in range(size)], axis=-1)


def layer_attention_weights(
    parameters: Mapping[str, Array],
    index: int,
    x: Array,
    attn_mask: Array | None = None,
    *,
    num_heads: int,
    num_key_value_heads: int | None = None,
    norm: str = "layer",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    window: Window = (None, None),
    rotary: Rotary | None = None,
    attention_scale: float | None = None,
    softcap: float | None = None,
    disentangled_max_distance: int | None = None,
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
    num_key_value_heads : int, optional
        Heads of keys and values; H by default.
    norm : {"layer", "rms"}
        Kind of the norms.
    norm_first : bool
        Pre-norm instead of post-norm.
    layer_norm_eps : float
        Added to the variance, or to the mean of the squares.
    window : (left, right)
        Token t sees tokens t - left .. t + right; None: no bound on that side.
    rotary : (inv_freq, scaling), optional
        Queries and keys turn by the angles ``t inv_freq[i]``, i < R / 2, in the first R channels of a head; cosines and sines are
        multiplied by `scaling`.
    attention_scale : float, optional
        Factor of the scores; D^-0.5 by default.
    softcap : float, optional
        As in `scaled_dot_product_attention`.
    disentangled_max_distance : int, optional
        Argument of `disentangled_row`.
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
    norms: dict[str, Any] = {"kind": norm, "eps": layer_norm_eps}
    source = normed(parameters, f"{prefix}.layer_norm", x, **norms) if norm_first else x
    query, key, _ = _query_key_value(parameters, prefix, source, num_heads, num_key_value_heads, rotary, linear, norms)
    mask = _scores_by_distance(parameters, prefix, query, key, attn_mask, attention_scale, disentangled_max_distance)
    return attention_weights(query, key, mask, scale=attention_scale, softcap=softcap, window=window, enable_gqa=True)


def _query_key_value(
    parameters: Mapping[str, Array],
    prefix: str,
    x: Array,
    num_heads: int,
    num_key_value_heads: int | None,
    rotary: Rotary | None,
    linear: Linear | None,
    norms: dict[str, Any],
) -> tuple[Array, Array, Array]:
    """Query (..., H, T, D), key and value (..., G, T, D) of an attention's input."""

    def heads(name: str, count: int) -> Array:
        rows = product(parameters, f"{prefix}.{name}", x, linear=linear)  # (..., T, H D)
        weight, size = parameters.get(f"{prefix}.{name}_norm.weight"), rows.shape[-1] // count
        if weight is not None and len(weight) == rows.shape[-1]:
            rows = normed(parameters, f"{prefix}.{name}_norm", rows, **norms)
        split = np.swapaxes(rows.reshape(*rows.shape[:-1], count, size), -2, -3)  # (..., H, T, D)
        if weight is not None and len(weight) == size < rows.shape[-1]:
            split = normed(parameters, f"{prefix}.{name}_norm", split, **norms)
        if rotary is None or name == "value":
            return split
        inv_freq, scaling = rotary
        angle = np.arange(x.shape[-2], dtype=np.float64)[:, None] * np.asarray(inv_freq, np.float64)  # (T, R / 2)
        cos, sin = (np.asarray(table * scaling, x.dtype) for table in (np.cos(angle), np.sin(angle)))
        turning, rest = np.split(split, [2 * len(inv_freq)], axis=-1)
        return np.concatenate([rotary_embedding(turning, cos, sin), rest], axis=-1)

    groups = num_heads if num_key_value_heads is None else num_key_value_heads
    return heads("query", num_heads), heads("key", groups), heads("value", groups)


def _scores_by_distance(
    parameters: Mapping[str, Array],
    prefix: str,
    query: Array,
    key: Array,
    attn_mask: Array | None,
    scale: float | None,
    max_distance: int | None,
) -> Array | None:
    """The mask, to which the disentangled terms of the scores are added: of queries and keys (..., H, T, D)."""
    tables = {name: parameters.get(f"{prefix}.relative_{name}.weight") for name in ("key", "query")}
    if tables["key"] is None and tables["query"] is None:
        return attn_mask
    t = np.arange(query.shape[-2])
    total: Any = 0
    for name, rows in (("key", query), ("query", key)):
        if (table := tables[name]) is not None:
            by_head = table.reshape(len(table), rows.shape[-3], -1).swapaxes(0, 1)  # (H, 2 S, D)
            products = rows @ by_head.swapaxes(-1, -2)  # (..., H, T, 2 S)
            row = disentangled_row(t[:, None] - t[None, :], len(table) // 2, max_distance)  # (T, T)
            terms = products[..., t[:, None], row] if name == "key" else products[..., t[None, :], row]
            total = total + terms  # (..., H, T, T)
    total = total * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return np.asarray(total)
    return np.where(attn_mask, total, -np.inf) if attn_mask.dtype == bool else total + attn_mask


def product(
    parameters: Mapping[str, Array], prefix: str, x: Array, activation: str | None = None, *, linear: Linear | None = None
) -> Array:
    """Product with the parameters under a prefix, by `linear` or else by `ops.linear`; the bias may be absent."""
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    if linear is None:
        return ops.linear(x, weight, bias, activation=activation)
    return linear(prefix, x, weight, bias, activation)


def normed(
    parameters: Mapping[str, Array], prefix: str, x: Array, *, residual: Array | None = None, eps: float, kind: str = "layer"
) -> Array:
    """`layer_norm` or `rms_norm` with the parameters under a prefix; ``x`` itself if the weight is absent."""
    if f"{prefix}.weight" not in parameters:
        return x
    weight, bias = parameters[f"{prefix}.weight"], parameters.get(f"{prefix}.bias")
    if kind == "rms":
        return rms_norm(x, weight, residual=residual, eps=eps)
    return layer_norm(x, weight, bias, residual=residual, eps=eps)
