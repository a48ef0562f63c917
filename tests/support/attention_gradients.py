"""Gradients of attention: arrays, and the comparison with the reference in several orders of summation."""

from typing import Any

import numpy as np

import fastattn
from fastattn import reference
from tests.support.cases import normal
from tests.support.tolerance import ORDERS, assert_matches_reference

Given = dict[str, Any]
OP = fastattn.scaled_dot_product_attention_backward


def given(
    queries: int, keys: int, size: int, *, lead: tuple[int, ...] = (2, 3), values: int | None = None, groups: int = 0, **kw: Any
) -> Given:
    values = size if values is None else values
    key_lead = (*lead[:-1], groups) if groups else lead
    return {
        "grad": normal(*lead, queries, values, seed=3, **kw),
        "query": normal(*lead, queries, size, **kw),
        "key": normal(*key_lead, keys, size, seed=1, **kw),
        "value": normal(*key_lead, keys, values, seed=2, **kw),
    }


def cast(arrays: Given, dtype: Any) -> Given:
    return {k: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for k, x in arrays.items()}


def in_order(arrays: Given, order: int, **options: Any) -> list[Any]:
    """Return the reference's gradients where sums over D and E are in another order: the channels are permuted."""
    rng = np.random.default_rng(order)
    sizes_of = arrays["query"].shape[-1], arrays["value"].shape[-1]
    d, e = (np.arange(n) if order == 0 else rng.permutation(n) for n in sizes_of)
    permuted = {**arrays, "query": arrays["query"][..., d], "key": arrays["key"][..., d]}
    permuted |= {"value": arrays["value"][..., e], "grad": arrays["grad"][..., e]}
    found = list(reference.scaled_dot_product_attention_backward(**permuted, **options))
    for i, places in ((0, d), (1, d), (2, e)):
        found[i] = found[i][..., np.argsort(places)]
    return found


def cancelled(arrays: Given, scale: float, mask: Any) -> list[float]:
    """Bound the rounding of queries', keys', values' and the mask's gradients where grad v_s - delta cancels, as for a single key.

    Each of the two sums of E products errs by eps times the sum of the products' sizes, in the reference by chance not at all.
    """
    key, value = (np.repeat(arrays[n], arrays["query"].shape[-3] // arrays[n].shape[-3], axis=-3) for n in ("key", "value"))
    terms = np.abs(arrays["grad"]) @ np.abs(value).swapaxes(-1, -2)
    slope = float(np.finfo(np.float32).eps) * float(terms.max(initial=0))
    rows = arrays["query"].shape[-2]
    sizes_of = (np.abs(x).max(initial=0) * abs(scale) for x in (key, arrays["query"]))
    of_query, of_key = (float(x) for x in sizes_of)
    heads_of_key = arrays["query"].shape[-3] // arrays["key"].shape[-3]
    summed = terms.size / max(1, mask.size) if mask is not None else 0
    return [slope * of_query, slope * of_key * rows * heads_of_key, 0.0, slope * summed]


def check(arrays: Given, *, may_cancel: bool = False, **options: Any) -> tuple[Any, ...]:
    """Compare with the reference and return our gradients.  The yardstick of float64 is that of float32, scaled by eps."""
    wanted = OP(**arrays, **options)
    options.setdefault("scale", None)
    if options["scale"] is None and arrays["query"].shape[-1]:
        options["scale"] = arrays["query"].shape[-1] ** -0.5
    dtype = arrays["query"].dtype
    truth = reference.scaled_dot_product_attention_backward(**cast(arrays, np.float64), **cast(options, np.float64))
    if dtype == np.float64:
        narrow, narrow_options = cast(arrays, np.float32), cast(options, np.float32)
        wide = reference.scaled_dot_product_attention_backward(**cast(narrow, np.float64), **cast(narrow_options, np.float64))
        ratio = np.finfo(np.float64).eps / np.finfo(np.float32).eps
    yardsticks: list[list[Any]] = [[] for _ in truth]
    for order in range(ORDERS):
        if dtype == np.float64:
            found = in_order(narrow, order, **narrow_options)
            found = [None if x is None else t + ratio * (x - w) for x, t, w in zip(found, truth, wide, strict=True)]
        else:
            found = in_order(arrays, order, **options)
        for each, x in zip(yardsticks, found, strict=True):
            each.append(x)
    mask = options.get("attn_mask")
    if may_cancel:
        for each, t, bound in zip(yardsticks, truth, cancelled(arrays, options["scale"], mask), strict=True):
            if t is not None:
                each.append(t + bound)
    for x, like, t, each in zip(wanted, [*(arrays[n] for n in ("query", "key", "value")), mask], truth, yardsticks, strict=True):
        if t is None:
            assert x is None
            continue
        assert x.shape == like.shape and x.dtype == like.dtype
        assert_matches_reference(x, t, *(y.astype(x.dtype) for y in each))
    return wanted
