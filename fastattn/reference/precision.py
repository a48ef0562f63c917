"""Products in bfloat16 and in int8, and the quantisation of their operands.

Quantisation is float32, each operation rounded to nearest even in the order in which it is written: the levels, scales, zero points
and integer sums of a kernel are equal to these bit for bit.

In int8 a row is cut into chains of `INT8_BLOCK` channels, the last of which may be shorter.  Each has its own scale, and its
integer sum, at most 512 * 255 * 127 < 2^24, is exact in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.attention import attention_weights, weighted_values
from fastattn.reference.ops import activate, linear, widened

Array: TypeAlias = NDArray[Any]
# linear(name, x, weight, bias, activation): the product of a layer, such as "layers.0.attention.query".
Linear: TypeAlias = Callable[[str, Array, Array, Array | None, str | None], Array]

INT8_BLOCK = 512
PRECISIONS = ("float32", "bfloat16", "int8")

_KEY_BLOCK = 512
_STEP = np.float32(1 / 255)
_SMALLEST_SCALE = np.finfo(np.float32).tiny  # 2^-126, whose inverse is finite


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def round_bfloat16(x: Array) -> Array:
    """Round to bfloat16, the float32 numbers with 8 significant bits: to the nearest, a tie to the even one.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
        The values; float64 is rounded to float32 first.

    Returns
    -------
    ndarray of float32, shape of `x`
        Denormal numbers are kept, NaN stays NaN, and a value beyond the largest bfloat16 by half a step or more gives inf.

    References
    ----------
    Kalamkar et al. 2019, arXiv:1905.12322, section 3.
    """
    single = np.asarray(x, dtype=np.float32)
    bits = single.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return np.asarray(np.where(np.isnan(single), np.float32(np.nan), rounded.view(np.float32)))


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def quantize_rows(x: Array, smooth: Array | None = None) -> tuple[Array, Array, Array]:
    """Quantise each chain of each row to 8 bits, ``x smooth = scale (levels - zero)`` but for rounding.

    With ``v = x smooth``, ``low = min(0, min v)`` and ``high = max(0, max v)`` of a chain:
    ``scale = max(high / 255 - low / 255, 2^-126)``, ``zero = min(rint(-low / scale), 255)`` and
    ``levels = min(rint(v / scale) + zero, 255)``.  Each division is a product with the rounded inverse.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., K)
        The rows, for example one per token; rounded to float32 first.
    smooth : ndarray, (K,), optional
        Factor of each channel.

    Returns
    -------
    levels : ndarray of uint8, (..., K)
        The quantised rows.  A chain of zeros has the levels 0.
    scale : ndarray of float32, (..., chains)
        Step between two levels; NaN for a chain with NaN or an infinite v, whose levels and zero are 0 and mean nothing.
    zero : ndarray of uint8, (..., chains)
        Level of 0.

    References
    ----------
    A scale per token, from its own values: Yao et al. 2022, arXiv:2206.01861, section 4.1.  Zero point: Jacob et al. 2017,
    arXiv:1712.05877, section 2.1, equation 1.  Smoothing: Xiao et al. 2022, arXiv:2211.10438, section 4, equation 3.
    """
    v: Array = x.astype(np.float32)  # (..., K)
    if smooth is not None:
        v = v * smooth.astype(np.float32)
    chains = _chains(v)  # (..., chains, 512)
    low, high = np.min(chains, axis=-1, initial=0), np.max(chains, axis=-1, initial=0)  # (..., chains)
    scale = np.maximum(high * _STEP - low * _STEP, _SMALLEST_SCALE)
    scale = np.where(np.isfinite(low) & np.isfinite(high), scale, np.float32(np.nan))
    inverse = np.float32(1) / scale
    zero = np.minimum(np.rint(-low * inverse), np.float32(255))
    levels = np.minimum(np.rint(chains * inverse[..., None]) + zero[..., None], np.float32(255))
    known = np.isfinite(scale)
    levels = np.where(known[..., None], levels, 0).astype(np.uint8)
    return _rows(levels, x.shape), scale, np.where(known, zero, 0).astype(np.uint8)


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def quantize_weight(weight: Array, smooth: Array | None = None) -> tuple[Array, Array, Array]:
    """Quantise each chain of each output channel to 8 bits, ``weight / smooth = scale levels`` but for rounding.

    With ``w = weight / smooth`` of a chain: ``scale = max|w| / 127`` and ``levels = rint(w / scale)``, at most 127 in magnitude.

    Parameters
    ----------
    weight : ndarray of float16, float32 or float64, (N, K)
        One row per output channel; rounded to float32 first.
    smooth : ndarray, (K,), optional
        The factors that `quantize_rows` multiplies the product's other operand with.

    Returns
    -------
    levels : ndarray of int8, (N, K)
        The quantised weights, -127 .. 127.
    scale : ndarray of float32, (N, chains)
        Step between two levels; 0 for a chain of zeros, whose levels are 0, and NaN for one with NaN or an infinite w.
    sums : ndarray of int32, (N, chains)
        Sum of a chain's levels, which the zero point of the other operand is multiplied with.

    References
    ----------
    A scale per output channel: Dettmers et al. 2022, arXiv:2208.07339, section 3.1.  Smoothing: Xiao et al. 2022,
    arXiv:2211.10438, section 4, equation 3.
    """
    w: Array = weight.astype(np.float32)  # (N, K)
    if smooth is not None:
        w = w / smooth.astype(np.float32)
    levels, scale = _symmetric(_chains(w))
    return _rows(levels, weight.shape), scale, np.asarray(np.sum(levels, axis=-1, dtype=np.int32))


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def quantize_table(table: Array) -> tuple[Array, Array]:
    """Quantise each row of an embedding table to 8 bits, ``table = scale levels`` but for rounding.

    ``scale = max|row| / 127`` and ``levels = rint(row / scale)``, at most 127 in magnitude; a row is not cut into chains.

    Parameters
    ----------
    table : ndarray of float16, float32 or float64, (V, C)
        One row per token; rounded to float32 first.

    Returns
    -------
    levels : ndarray of int8, (V, C)
        The quantised rows, -127 .. 127.
    scale : ndarray of float32, (V,)
        Step between two levels; 0 for a row of zeros, NaN for one with NaN or inf.

    References
    ----------
    Symmetric rows: Wu et al. 2020, arXiv:2004.09602, section 3.1.2.
    """
    return _symmetric(table.astype(np.float32))


def integer_product(levels: Array, zero: Array, weight_levels: Array, sums: Array) -> Array:
    """Integer sums of a product in int8, ``sum_k levels weight_levels - zero sums`` of each chain.

    Parameters
    ----------
    levels : ndarray of uint8, (..., K)
        Of `quantize_rows`.
    zero : ndarray of uint8, (..., chains)
        Of `quantize_rows`.
    weight_levels : ndarray of int8, (N, K)
        Of `quantize_weight`.
    sums : ndarray of int32, (N, chains)
        Of `quantize_weight`.

    Returns
    -------
    ndarray of int32, (..., N, chains)
        The sums, less than 2^24 in magnitude.

    References
    ----------
    Jacob et al. 2017, arXiv:1712.05877, section 2.3, equation 7.
    """
    # A matrix product in float32 is fast and, since no sum of a part of a chain reaches 2^24, exact.
    wide, wide_weight = levels.astype(np.float32), weight_levels.astype(np.float32)
    result = np.zeros((*levels.shape[:-1], *sums.shape), np.int32)  # (..., N, chains)
    for chain in range(sums.shape[1]):
        here = slice(chain * INT8_BLOCK, (chain + 1) * INT8_BLOCK)
        result[..., chain] = wide[..., here] @ wide_weight[:, here].T
    return result - zero[..., None, :].astype(np.int32) * sums


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def linear_int8(
    x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None, smooth: Array | None = None
) -> Array:
    """Product in int8, ``activation(bias + sum_chain d weight_scale scale)`` with the integers d of `integer_product`.

    ``y = bias``, then for each chain in order ``y = fma(d weight_scale, scale, y)``: a product, rounded, and a multiply-add,
    rounded once.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., K)
        The rows, quantised by `quantize_rows`.
    weight : ndarray, (N, K)
        One row per output channel, quantised by `quantize_weight`.
    bias : ndarray, (N,), optional
        Added to each row; rounded to float32 first.
    activation : str, optional
        As in `linear`; computed in float32.
    smooth : ndarray, (K,), optional
        Positive factors: rows are multiplied with them and weights divided by them, so that a channel with large values in all rows
        takes fewer levels from the others.

    Returns
    -------
    ndarray, (..., N)
        Dtype of `x`.  A row with NaN or inf gives NaN.

    References
    ----------
    Xiao et al. 2022, arXiv:2211.10438, section 2, equation 2, and section 4; the zero point: Jacob et al. 2017, arXiv:1712.05877,
    section 2.3.
    """
    levels, scale, zero = quantize_rows(x, smooth)
    weight_levels, weight_scale, sums = quantize_weight(weight, smooth)
    d = integer_product(levels, zero, weight_levels, sums).astype(np.float32)  # (..., N, chains)
    y = np.zeros((*x.shape[:-1], len(weight)), np.float32)  # (..., N)
    if bias is not None:
        y += bias.astype(np.float32)
    for chain in range(sums.shape[1]):
        y = _fma(d[..., chain] * weight_scale[:, chain], scale[..., chain, None], y)
    return activate(y, activation).astype(x.dtype)


def linear_bfloat16(x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None) -> Array:
    """Product in bfloat16, ``linear(round_bfloat16(x), round_bfloat16(weight), bias)``.

    Only the two operands are rounded; sums, bias and activation are those of `linear`, in the dtype of `x`.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (..., K)
        The rows.
    weight : ndarray, (N, K)
        One row per output channel.
    bias : ndarray, (N,), optional
        Added to each row.
    activation : str, optional
        As in `linear`.

    Returns
    -------
    ndarray, (..., N)
        Dtype of `x`.

    References
    ----------
    Kalamkar et al. 2019, arXiv:1905.12322, section 3.
    """
    dtype = widened(x).dtype
    rounded, rounded_weight = round_bfloat16(x).astype(dtype), round_bfloat16(weight).astype(dtype)
    return linear(rounded, rounded_weight, bias, activation=activation).astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def scaled_dot_product_attention_bfloat16(
    query: Array, key: Array, value: Array, attn_mask: Array | None = None, **options: Any
) -> Array:
    """Attention whose two products take bfloat16, ``sum(round(e) r round(value)) / sum(e r)`` with ``e = exp(scores - top)``.

    The scores are those of `scaled_dot_product_attention` for queries and keys rounded by `round_bfloat16`; mask, softmax and sums
    are not rounded.  Keys come in blocks of 512, as the online softmax takes them: ``top`` is a query's greatest score up to the
    end of the key's block, and ``r = exp(top - max(scores))`` rescales the block afterwards.

    Parameters
    ----------
    query, key, value, attn_mask
        As in `scaled_dot_product_attention`.
    **options
        The other arguments of `scaled_dot_product_attention`.

    Returns
    -------
    ndarray, (..., H, L, E)
        Dtype of `query`.

    References
    ----------
    Kalamkar et al. 2019, arXiv:1905.12322, section 3, of the products in Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; the
    blocks: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3.
    """
    q, k, v = (round_bfloat16(x).astype(widened(x).dtype) for x in (query, key, value))
    weights = attention_weights(q, k, attn_mask, **options)  # (..., H, L, S)
    rounded, top = np.empty_like(weights), np.zeros((*weights.shape[:-1], 1), weights.dtype)
    for start in range(0, weights.shape[-1], _KEY_BLOCK):
        block = weights[..., start : start + _KEY_BLOCK]
        # A weight is exp(score - max(scores)) / sum: e is its ratio to the greatest one.
        top = np.maximum(top, np.max(block, axis=-1, keepdims=True, initial=0))
        unit = np.where(top == 0, 1, top)
        rounded[..., start : start + _KEY_BLOCK] = round_bfloat16(block / unit).astype(weights.dtype) * unit
    sight = {name: options[name] for name in ("is_causal", "enable_gqa", "window") if name in options}
    return np.asarray(weighted_values(rounded, v, attn_mask, **sight)).astype(query.dtype)


def mixed_linear(precision: str | Mapping[str, str], smooth: Mapping[str, Array] | None = None) -> Linear:
    """Return the `linear` argument of `encoder` that computes each product of the layers in a precision of its own.

    Parameters
    ----------
    precision : {"float32", "bfloat16", "int8"} or mapping of str to these
        Of all products, or of each by the prefix of its parameters, such as ``layers.0.attention.query``; "float32", which is
        `linear` in the dtype of its input, for those that a mapping lacks.
    smooth : mapping of str to ndarray, optional
        Argument `smooth` of `linear_int8` by prefix; a product that it lacks has none.

    Returns
    -------
    callable
        ``linear(name, x, weight, bias, activation)``, the product.

    Raises
    ------
    ValueError
        If a precision is not one of the values above.
    """
    plan = {"": precision} if isinstance(precision, str) else precision
    default = precision if isinstance(precision, str) else "float32"
    for kind in plan.values():
        if kind not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {kind!r}")
    vectors = {} if smooth is None else smooth

    def product(name: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
        kind = plan.get(name, default)
        if kind == "int8":
            return linear_int8(x, weight, bias, activation=activation, smooth=vectors.get(name))
        return (linear_bfloat16 if kind == "bfloat16" else linear)(x, weight, bias, activation=activation)

    return product


def _chains(rows: Array) -> Array:
    """Cut rows (..., K) into chains (..., chains, 512), the last filled up with zeros."""
    rest = -rows.shape[-1] % INT8_BLOCK
    filled = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, rest)])
    return filled.reshape(*rows.shape[:-1], filled.shape[-1] // INT8_BLOCK, INT8_BLOCK)


def _rows(chains: Array, shape: tuple[int, ...]) -> Array:
    """Put chains together to rows of a shape: the inverse of `_chains`."""
    return chains.reshape(*shape[:-1], chains.shape[-2] * INT8_BLOCK)[..., : shape[-1]]


def _symmetric(w: Array) -> tuple[Array, Array]:
    """Levels and scales of the last axis without a zero point."""
    largest = np.max(np.abs(w), axis=-1, initial=0)
    scale = np.where(np.isfinite(largest), largest / np.float32(127), np.float32(np.nan))
    levels = np.clip(np.rint(w / scale[..., None]), -127, 127)
    return np.where(scale[..., None] > 0, levels, 0).astype(np.int8), scale


def _fma(a: Array, b: Array, c: Array) -> Array:
    """Return a b + c of float32 arrays, rounded once.

    The sum in float64 is rounded to odd (Boldo and Melquiond 2008, doi:10.1109/TC.2007.70819): an inexact sum takes the neighbour
    whose last bit is 1, which is never a tie of float32.
    """
    product = a.astype(np.float64) * b  # exact: 48 bits
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)  # of the sum: Knuth's two-sum
    even = (total.view(np.int64) & 1) == 0
    beside = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(even & (np.abs(error) > 0), beside, total).astype(np.float32)
