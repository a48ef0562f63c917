"""Ops that make of tokens one vector, or one score, of a text."""

import itertools
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import linear, widened

Array: TypeAlias = NDArray[Any]


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def maxsim(
    query: Array, documents: Array, offsets: Array, query_offsets: Array | None = None, *, length_normalize: bool = False
) -> Array:
    """Late interaction, ``sum over query tokens q of max over document tokens t of q . t``.

    Parameters
    ----------
    query : ndarray of float16, float32 or float64, (Q, D)
        Embeddings of the query's tokens, or with `query_offsets` of all queries' tokens, end to end.
    documents : ndarray, (N, D)
        Embeddings of the documents' tokens, end to end.
    offsets : ndarray of int, (B + 1,)
        Document b has the tokens offsets[b] .. offsets[b + 1] - 1.
    query_offsets : ndarray of int, (A + 1,), optional
        Query a has the tokens query_offsets[a] .. query_offsets[a + 1] - 1.
    length_normalize : bool
        Divide each score by the number of the query's tokens.

    Returns
    -------
    ndarray, (B,), or (A, B) with `query_offsets`
        Dtype of `query`.  A document without tokens gets -inf, a query without tokens 0.

    References
    ----------
    Khattab & Zaharia 2020, arXiv:2004.12832, equation 3.
    """
    tokens, rows = widened(query), widened(documents)
    starts = np.array([0, len(tokens)]) if query_offsets is None else query_offsets
    scores = np.empty((len(starts) - 1, len(offsets) - 1), tokens.dtype)
    for a in range(len(starts) - 1):
        one = tokens[starts[a] : starts[a + 1]]
        for b in range(len(offsets) - 1):
            products = one @ rows[offsets[b] : offsets[b + 1]].T  # (Q, T)
            score = np.sum(np.max(products, axis=1, initial=-np.inf))
            scores[a, b] = score / max(1, len(one)) if length_normalize else score
    return np.asarray(scores[0] if query_offsets is None else scores, dtype=query.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def splade_pooling(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    offsets: Any = None,
    *,
    pooling_strategy: str = "max",
    activation_function: str = "relu",
) -> Array:
    """Sparse embeddings of texts, ``max_t log(1 + relu(x_t weight^T + bias))``, or the sum over the tokens t of a text.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, (N, C)
        Hidden states of the tokens of all texts, end to end.
    weight : ndarray, (V, C)
        A row for each word of the vocabulary.
    bias : ndarray, (V,), optional
        Added to each row of logits.
    offsets : int, (B + 1,), optional
        Text b is tokens offsets[b] .. offsets[b + 1] - 1; one text of all tokens by default.
    pooling_strategy : {"max", "sum"}
        What becomes of the tokens of a text.
    activation_function : {"relu", "log1p_relu"}
        ``log(1 + relu(.))``, or ``log(1 + log(1 + relu(.)))``.

    Returns
    -------
    ndarray, (B, V)
        Dtype of `x`; zeros for a text without tokens.

    Raises
    ------
    ValueError
        If `pooling_strategy` or `activation_function` is not one of the values above.

    References
    ----------
    Formal et al. 2021, arXiv:2107.05720, section 3.2, equation 1 (the sum); arXiv:2109.10086, section 3 (the maximum).
    """
    if pooling_strategy not in ("max", "sum"):
        raise ValueError(f'pooling_strategy must be "max" or "sum", got {pooling_strategy!r}')
    if activation_function not in ("relu", "log1p_relu"):
        raise ValueError(f'activation_function must be "relu" or "log1p_relu", got {activation_function!r}')
    scores = np.log1p(linear(widened(x), weight, bias, activation="relu"))  # (N, V)
    if activation_function == "log1p_relu":
        scores = np.log1p(scores)
    starts = [0, len(x)] if offsets is None else list(offsets)
    texts = [scores[first:last] for first, last in itertools.pairwise(starts)]
    if pooling_strategy == "max":
        pooled = [np.max(text, axis=0, initial=0) for text in texts]
    else:
        pooled = [np.sum(text, axis=0) for text in texts]
    return np.array(pooled, x.dtype).reshape(len(texts), len(weight))


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def embedding_bag(
    input: Array,
    weight: Array,
    offsets: Array | None = None,
    *,
    per_sample_weights: Array | None = None,
    mode: str = "mean",
    include_last_offset: bool = False,
) -> Array:
    """Mean or sum of rows of a table, ``sum_i w_i weight[input_i]`` over the ids of a bag, over their number for a mean.

    Parameters
    ----------
    input : ndarray of int, (N,) with `offsets`, or (B, N)
        The ids.
    weight : ndarray of float16, float32 or float64, (V, C)
        The table.
    offsets : ndarray of int, (B,) or (B + 1,), optional
        Where each bag begins.
    per_sample_weights : ndarray, shape of `input`, optional
        The factors w.
    mode : {"mean", "sum"}
        What the bag's rows become.
    include_last_offset : bool
        `offsets` ends with N.

    Returns
    -------
    ndarray, (B, C)
        Dtype of `weight`; zeros for an empty bag.

    Raises
    ------
    ValueError
        If `mode` is not one of the values above.

    References
    ----------
    torch.nn.functional.embedding_bag, its documentation.
    """
    if mode not in ("mean", "sum"):
        raise ValueError(f'mode must be "mean" or "sum", got {mode!r}')
    ids = np.asarray(input)
    if ids.ndim == 2:
        starts = np.arange(len(ids)) * ids.shape[1]
        ends = starts + ids.shape[1]
    else:
        starts = np.asarray(offsets).astype(np.int64)
        ends = starts[1:] if include_last_offset else np.append(starts[1:], ids.size)
    factors = np.ones(ids.size, weight.dtype) if per_sample_weights is None else per_sample_weights.reshape(-1)
    table, factors, ids = widened(weight), widened(factors), ids.reshape(-1)
    result = np.zeros((len(ends), weight.shape[1]), table.dtype)
    for bag, (start, end) in enumerate(zip(starts, ends, strict=False)):
        for i in range(start, end):
            result[bag] += factors[i] * table[ids[i]]
        if mode == "mean" and end > start:
            result[bag] /= end - start
    return result.astype(weight.dtype)


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
        If `mode` is not one of the values above.

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
    raise ValueError(f'mode must be "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean" or "lasttoken", got {mode!r}')
