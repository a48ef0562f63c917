"""scaled_dot_product_attention against the reference."""

from typing import Any

import numpy as np
import pytest

import fastattn
from tests.support import contract
from tests.support.cases import DTYPES, normal, sizes
from tests.support.tolerance import check

OP = "scaled_dot_product_attention"
INF = float("inf")


def qkv(
    queries: int, keys: int, size: int, *, lead: tuple[int, ...] = (2, 3), values: int | None = None, **kw: Any
) -> dict[str, Any]:
    return {
        "query": normal(*lead, queries, size, **kw),
        "key": normal(*lead, keys, size, seed=1, **kw),
        "value": normal(*lead, keys, size if values is None else values, seed=2, **kw),
    }


def check_qkv(given: dict[str, Any], **options: Any) -> Any:
    return check(OP, given["query"], given["key"], given["value"], **options)


def keep(*shape: int, seed: int = 7, share: float = 0.7) -> Any:
    """Return a random boolean mask in which a share of the keys takes part."""
    return np.random.default_rng([seed, *shape]).random(shape) < share


def work(queries: int, keys: int, size: int) -> float:
    return 6 * queries * keys * max(size, 8) / 8


LENGTHS = [(t, t) for t in (1, 2, 7, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 127)]
UNEQUAL = [(1, 7), (7, 1), (1, 513), (5, 33), (33, 5), (29, 130), (130, 29)]


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(*t, 8) for t in LENGTHS + UNEQUAL], work))
def test_lengths(queries: int, keys: int, size: int) -> None:
    given = qkv(queries, keys, size)
    check_qkv(given)
    check_qkv(given, is_causal=True)
    check_qkv(given, attn_mask=keep(queries, keys))


@pytest.mark.parametrize("count", sizes([511, 512, 513, 1025, 2100], work=lambda n: n * n))
def test_long(count: int) -> None:
    given = qkv(count, count, 16, lead=(2,))
    check_qkv(given)
    check_qkv(given, is_causal=True)
    check_qkv(given, window=(100, 30))
    check_qkv(given, attn_mask=keep(2, 1, count))


@pytest.mark.jit
def test_very_long() -> None:
    check_qkv(qkv(3, 10_000, 32, lead=(2,)))
    check_qkv(qkv(10_000, 3, 32, lead=(2,)))


@pytest.mark.parametrize("size", sizes([1, 6, 8, 16, 32, 33, 64, 80, 128], work=lambda d: 100 * d))
def test_head_sizes(size: int) -> None:
    given = qkv(37, 41, size)
    check_qkv(given)
    check_qkv(given, attn_mask=keep(37, 41))


@pytest.mark.parametrize(("size", "values"), [(1, 5), (5, 1), (8, 33), (33, 16), (6, 8)], ids=str)
def test_value_size(size: int, values: int) -> None:
    given = qkv(5, 6, size, values=values)
    check_qkv(given)
    check_qkv(given, is_causal=True)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0, 80.0, 1e4])
def test_sizes_of_the_input(scale: float) -> None:
    """Softmax of large scores selects one key, of small scores averages all."""
    given = qkv(15, 17, 8, scale=scale)
    check_qkv(given)
    check_qkv(given, is_causal=True)
    check_qkv(given, attn_mask=keep(15, 17))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(1, 1, 1), (3, 5, 7), (33, 65, 32)], work))
def test_dtypes(queries: int, keys: int, size: int, dtype: type) -> None:
    given = qkv(queries, keys, size, dtype=dtype)
    check_qkv(given)
    check_qkv(given, is_causal=True)
    check_qkv(given, attn_mask=normal(queries, keys, dtype=dtype), softcap=5.0, window=(3, 1))


@pytest.mark.parametrize("shape", [(5, 8), (3, 1, 5, 8), (1, 3, 5, 8), (4, 3, 5, 8), (2, 2, 3, 5, 8)], ids=str)
def test_leading_axes(shape: tuple[int, ...]) -> None:
    check_qkv(qkv(*shape[-2:], 6, lead=shape[:-2]))


@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("keys", [0, 4])
@pytest.mark.parametrize("size", [0, 6])
@pytest.mark.parametrize("lead", [(2,), (0, 2), (2, 0)], ids=str)
def test_empty(lead: tuple[int, ...], size: int, keys: int, queries: int) -> None:
    """Without keys the result is 0; without channels all scores are 0."""
    check_qkv(qkv(queries, keys, size, lead=lead))
    check_qkv(qkv(queries, keys, size, lead=lead, values=5), is_causal=True)


AXES = [(9,), (1,), (5, 9), (1, 9), (5, 1), (1, 1), (3, 5, 9), (3, 1, 9), (1, 5, 1), (2, 3, 5, 9), (2, 1, 1, 9)]
MORE_AXES = [(2, 1, 5, 9), (1, 3, 5, 9), (2, 3, 1, 9), (2, 3, 5, 1), (2, 1, 1, 1)]


@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
@pytest.mark.parametrize("shape", [*AXES, *MORE_AXES], ids=str)
def test_mask_of_every_broadcastable_shape(shape: tuple[int, ...], dtype: type) -> None:
    given = qkv(5, 9, 6)
    if dtype is np.bool_:
        check_qkv(given, attn_mask=keep(*shape))
    else:
        added = normal(*shape, scale=3)
        check_qkv(given, attn_mask=added)
        added[~keep(*shape)] = -INF
        check_qkv(given, attn_mask=added)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 9, 6), (40, 600, 16)], work))
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_kinds_of_mask(kind: str, queries: int, keys: int, size: int) -> None:
    given = qkv(queries, keys, size)
    no_row, holes, tail = np.ones((3, queries, keys), bool)
    no_row[1] = no_row[-1] = False
    holes[:, keys // 3 : keys // 2] = False
    tail[:, keys // 2 :] = False
    for mask in (no_row, holes, tail, np.zeros((queries, keys), bool), np.eye(queries, keys, dtype=bool)):
        added = np.where(mask, normal(queries, keys), np.float32(-INF))
        result = check_qkv(given, attn_mask=mask if kind == "bool" else added)
        assert (result[:, :, ~mask.any(axis=1)] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, INF, -INF], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 9, 6), (30, 600, 16)], work))
def test_nothing_behind_a_mask_has_an_effect(queries: int, keys: int, size: int, bad: float) -> None:
    """Keys and values masked for all queries change no bit of the result, even if they are NaN or infinite."""
    mask = np.ones((2, 1, 1, keys), bool)
    mask[0, ..., keys // 3 : keys // 2] = mask[0, ..., -1] = mask[1, ..., :2] = False
    given = qkv(queries, keys, size)
    hidden = np.broadcast_to(~mask.swapaxes(-1, -2), given["key"].shape)
    dirty = {name: np.where(hidden, np.float32(bad), x) if name != "query" else x for name, x in given.items()}
    expected = fastattn.scaled_dot_product_attention(**given, attn_mask=mask)
    added = np.where(mask, np.float32(0), np.float32(-INF))
    per_query = np.broadcast_to(mask, (2, 3, queries, keys))
    for form in (mask, added, per_query):
        contract.assert_same_bits(check_qkv(dirty, attn_mask=form), expected)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (None, 0)}, {"window": (2, 0)}], ids=str)
@pytest.mark.parametrize("values", [5, 16, 32])
def test_keys_after_the_last_query_are_not_read(values: int, options: dict[str, Any]) -> None:
    given = qkv(4, 9, 6, values=values)
    expected = check_qkv(given, **options)
    given["key"][..., 4:, :] = given["value"][..., 4:, :] = np.nan
    contract.assert_same_bits(check_qkv(given, **options), expected)


def test_nan_in_a_masked_score_is_replaced() -> None:
    """A NaN key spoils only the query that sees it, given a finite value."""
    given = qkv(3, 5, 6, lead=(1,))
    given["key"][0, 2] = np.nan
    mask = np.ones((3, 5), bool)
    mask[0, 2] = mask[2, 2] = False
    result = check_qkv(given, attn_mask=mask)
    assert np.isnan(result[0, 1]).all() and np.isfinite(result[0, [0, 2]]).all()


@pytest.mark.parametrize("place", ["query", "key", "value", "attn_mask"])
def test_nan_in_sight_is_kept(place: str) -> None:
    given = {**qkv(5, 9, 6), "attn_mask": normal(5, 9)}
    given[place][..., 3, 4] = np.nan
    mask = given.pop("attn_mask")
    assert np.isnan(check_qkv(given, attn_mask=mask)).any()


@pytest.mark.parametrize("window", [(0, 0), (2, 0), (0, 3), (None, 1), (4, None), (None, None), (100, 100)], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(7, 7, 6), (5, 12, 6), (12, 5, 6), (130, 130, 8)], work))
def test_window(queries: int, keys: int, size: int, window: tuple[int | None, int | None]) -> None:
    given = qkv(queries, keys, size)
    check_qkv(given, window=window)
    check_qkv(given, window=window, is_causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, (2, 0), (0, 3), (None, 1), (4, None), (100, 100)], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(7, 7, 6), (5, 12, 6), (12, 5, 6), (40, 600, 8)], work))
def test_mask_causal_and_window_together(queries: int, keys: int, size: int, window: Any, dtype: type) -> None:
    given = qkv(queries, keys, size, values=5, dtype=dtype)
    no_key, rows, ones = np.zeros((queries, keys), bool), keep(queries, 1), np.ones((queries, keys), bool)
    added = np.where(keep(queries, keys), normal(queries, keys), -INF).astype(dtype)
    for mask in (no_key, rows, ones, keep(queries, keys), keep(2, 3, 1, keys), added):
        result = check_qkv(given, attn_mask=mask, is_causal=True, window=window)
        for left_out in no_key, rows:
            if mask is left_out:
                assert not result[:, :, ~mask.any(axis=1)].any()


def test_what_causal_hides_is_not_read_behind_a_mask() -> None:
    given = qkv(4, 9, 6)
    expected = check_qkv(given, attn_mask=keep(4, 9), is_causal=True)
    given["key"][..., 4:, :] = given["value"][..., 4:, :] = np.nan
    contract.assert_same_bits(check_qkv(given, attn_mask=keep(4, 9), is_causal=True), expected)


@pytest.mark.parametrize("softcap", [0.5, 5.0, 50.0])
def test_softcap(softcap: float) -> None:
    for scale in (1.0, 80.0):
        given = qkv(7, 9, 6, scale=scale)
        check_qkv(given, softcap=softcap)
        check_qkv(given, softcap=softcap, is_causal=True)
        check_qkv(given, softcap=softcap, attn_mask=normal(7, 9), scale=2.0)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 3.0, -1.0])
def test_scale(scale: float) -> None:
    given = qkv(7, 9, 6)
    check_qkv(given, scale=scale)
    check_qkv(given, scale=scale, is_causal=True)
    check_qkv(given, scale=scale, attn_mask=keep(7, 9))


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4), (6, 3), (1, 1)], ids=str)
def test_grouped_heads(heads: int, groups: int) -> None:
    given = {"query": normal(2, heads, 5, 6), "key": normal(2, groups, 7, 6), "value": normal(2, groups, 7, 8)}
    check_qkv(given, enable_gqa=True)
    check_qkv(given, enable_gqa=True, is_causal=True)
    check_qkv(given, enable_gqa=True, attn_mask=keep(2, heads, 5, 7))


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(3, 5, 6), (33, 70, 16)], work))
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (3, 2), "softcap": 9.0}], ids=str)
def test_contract(options: dict[str, Any], queries: int, keys: int, size: int) -> None:
    arrays = qkv(queries, keys, size)
    contract.any_layout(OP, arrays, **options)
    contract.any_out(OP, arrays, **options)
    contract.bad_out(OP, arrays, **options)
    contract.bad_dtypes(OP, arrays, **options)
    contract.any_threads(OP, arrays, **options)


def test_mask_layouts_and_overlap() -> None:
    arrays = {**qkv(3, 5, 6), "attn_mask": normal(3, 5)}
    contract.any_layout(OP, arrays)
    contract.any_layout(OP, {**arrays, "attn_mask": keep(2, 3, 3, 5)})
    contract.any_out(OP, arrays)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "complex64", "object"])
def test_mask_dtypes(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"attn_mask.*{dtype}"):
        fastattn.scaled_dot_product_attention(**qkv(3, 5, 6), attn_mask=np.zeros((3, 5), dtype))


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads(OP, qkv(300, 300, 32))
    contract.any_threads(OP, qkv(700, 700, 8, lead=(1,)), is_causal=True)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 5, 6), (130, 600, 16)], work))
def test_same_bits_alone_and_in_a_batch(queries: int, keys: int, size: int) -> None:
    given = qkv(queries, keys, size)
    for options in ({}, {"is_causal": True}, {"window": (3, 2)}, {"attn_mask": keep(2, 3, queries, keys)}):
        together = fastattn.scaled_dot_product_attention(**given, **options)
        for b, h in ((0, 0), (1, 2)):
            alone = {n: x[b, h] if isinstance(x, np.ndarray) else x for n, x in {**given, **options}.items()}
            contract.assert_same_bits(fastattn.scaled_dot_product_attention(**alone), together[b, h])


def test_same_bits_whether_a_query_is_alone() -> None:
    """Sums of a row do not depend on the other rows."""
    given = qkv(31, 40, 8)
    together = fastattn.scaled_dot_product_attention(**given)
    for t in (0, 13, 14, 30):
        alone = fastattn.scaled_dot_product_attention(given["query"][..., t : t + 1, :], given["key"], given["value"])
        contract.assert_same_bits(alone, together[..., t : t + 1, :])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query": (6,)}, "query"),
        ({"key": (2, 3, 9, 5)}, "key"),
        ({"key": (2, 2, 9, 6), "value": (2, 2, 9, 6)}, "key"),
        ({"key": (4, 3, 9, 6), "value": (4, 3, 9, 6)}, "key"),
        ({"value": (2, 3, 8, 6)}, "value"),
        ({"value": (2, 2, 9, 6)}, "value"),
        ({"attn_mask": (5, 8)}, "attn_mask"),
        ({"attn_mask": (9, 5)}, "attn_mask"),
        ({"attn_mask": (4, 1, 5, 9)}, "attn_mask"),
        ({"attn_mask": (1, 2, 3, 5, 9)}, "attn_mask"),
    ],
    ids=str,
)
def test_wrong_shapes(changes: dict[str, tuple[int, ...]], named: str) -> None:
    given = {**qkv(5, 9, 6), **{name: np.zeros(shape, np.float32) for name, shape in changes.items()}}
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        fastattn.scaled_dot_product_attention(**given)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"softcap": 0.0}, "softcap"),
        ({"softcap": -1.0}, "softcap"),
        ({"window": (-1, 0)}, "window"),
        ({"window": (1, 2, 3)}, "window"),
        ({"window": 3}, "window"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        fastattn.scaled_dot_product_attention(**qkv(5, 9, 6), **options)


def test_heads_that_do_not_group() -> None:
    given = {"query": normal(2, 4, 5, 6), "key": normal(2, 3, 7, 6), "value": normal(2, 3, 7, 6)}
    for enable_gqa in (False, True):
        with pytest.raises(ValueError, match="heads"):
            fastattn.scaled_dot_product_attention(**given, enable_gqa=enable_gqa)
