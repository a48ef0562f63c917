"""attention_weights against the reference, and against scaled_dot_product_attention."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.ops import attention, attention_weights
from tests.support import contract
from tests.support.cases import DTYPES, normal, read_only, sizes
from tests.support.tolerance import assert_matches_reference, check, truth_and_yardsticks

OP = "attention_weights"
INF = float("inf")


def heads(queries: int, keys: int, size: int, *, lead: tuple[int, ...] = (2, 3), **kw: Any) -> dict[str, Any]:
    return {"query": normal(*lead, queries, size, **kw), "key": normal(*lead, keys, size, seed=1, **kw)}


def check_heads(given: dict[str, Any], **options: Any) -> Any:
    return check(OP, given["query"], given["key"], **options)


def keep(*shape: int, seed: int = 7, share: float = 0.7) -> Any:
    """Return a random boolean mask in which a share of the keys takes part."""
    return np.random.default_rng([seed, *shape]).random(shape) < share


def work(queries: int, keys: int, size: int) -> float:
    return 6 * queries * keys * max(size, 8) / 8


LENGTHS = [(t, t) for t in (1, 2, 7, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 127)]
UNEQUAL = [(1, 7), (7, 1), (1, 513), (5, 33), (33, 5), (29, 130), (130, 29)]


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(*t, 8) for t in LENGTHS + UNEQUAL], work))
def test_lengths(queries: int, keys: int, size: int) -> None:
    given = heads(queries, keys, size)
    check_heads(given)
    check_heads(given, is_causal=True)
    check_heads(given, attn_mask=keep(queries, keys))


@pytest.mark.parametrize("count", sizes([511, 512, 513, 1025], work=lambda n: n * n))
def test_long(count: int) -> None:
    given = heads(count, count, 16, lead=(2,))
    check_heads(given)
    check_heads(given, is_causal=True)
    check_heads(given, window=(100, 30))
    check_heads(given, attn_mask=keep(2, 1, count))


@pytest.mark.parametrize("size", sizes([1, 6, 8, 16, 32, 33, 64, 80, 128], work=lambda d: 100 * d))
def test_head_sizes(size: int) -> None:
    given = heads(37, 41, size)
    check_heads(given)
    check_heads(given, attn_mask=keep(37, 41))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0, 80.0, 1e4])
def test_sizes_of_the_input(scale: float) -> None:
    """Softmax of large scores selects one key, of small scores averages all."""
    given = heads(15, 17, 8, scale=scale)
    check_heads(given)
    check_heads(given, is_causal=True)
    check_heads(given, attn_mask=keep(15, 17))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(1, 1, 1), (3, 5, 7), (33, 65, 32)], work))
def test_dtypes(queries: int, keys: int, size: int, dtype: type) -> None:
    given = heads(queries, keys, size, dtype=dtype)
    check_heads(given)
    check_heads(given, is_causal=True)
    check_heads(given, attn_mask=normal(queries, keys, dtype=dtype), softcap=5.0, window=(3, 1))


@pytest.mark.parametrize("shape", [(5, 8), (3, 1, 5, 8), (1, 3, 5, 8), (4, 3, 5, 8), (2, 2, 3, 5, 8)], ids=str)
def test_leading_axes(shape: tuple[int, ...]) -> None:
    check_heads(heads(*shape[-2:], 6, lead=shape[:-2]))


def test_a_batch_or_head_axis_that_repeats() -> None:
    check(OP, normal(2, 3, 5, 6), normal(1, 3, 7, 6))
    check(OP, normal(3, 5, 6), normal(2, 3, 7, 6))
    check(OP, normal(2, 1, 5, 6), normal(2, 3, 7, 6))


@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("keys", [0, 4])
@pytest.mark.parametrize("size", [0, 6])
@pytest.mark.parametrize("lead", [(2,), (0, 2), (2, 0)], ids=str)
def test_empty(lead: tuple[int, ...], size: int, keys: int, queries: int) -> None:
    """Without channels all scores are 0, and all keys get the same weight."""
    check_heads(heads(queries, keys, size, lead=lead))
    check_heads(heads(queries, keys, size, lead=lead), is_causal=True)


AXES = [(9,), (1,), (5, 9), (1, 9), (5, 1), (3, 5, 9), (3, 1, 9), (1, 5, 1), (2, 3, 5, 9), (2, 1, 1, 9), (2, 3, 5, 1)]


@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
@pytest.mark.parametrize("shape", AXES, ids=str)
def test_mask_of_every_broadcastable_shape(shape: tuple[int, ...], dtype: type) -> None:
    given = heads(5, 9, 6)
    if dtype is np.bool_:
        check_heads(given, attn_mask=keep(*shape))
    else:
        added = normal(*shape, scale=3)
        check_heads(given, attn_mask=added)
        added[~keep(*shape)] = -INF
        check_heads(given, attn_mask=added)


@pytest.mark.parametrize("bad", [np.nan, INF, -INF], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 9, 6), (30, 600, 16)], work))
def test_nothing_behind_a_mask_has_an_effect(queries: int, keys: int, size: int, bad: float) -> None:
    mask = np.ones((2, 1, 1, keys), bool)
    mask[0, ..., keys // 3 : keys // 2] = mask[0, ..., -1] = mask[1, ..., :2] = False
    given = heads(queries, keys, size)
    expected = fastattn.attention_weights(**given, attn_mask=mask)
    hidden = np.broadcast_to(~mask.swapaxes(-1, -2), given["key"].shape)
    given["key"] = np.where(hidden, np.float32(bad), given["key"])
    for form in (mask, np.where(mask, np.float32(0), np.float32(-INF)), np.broadcast_to(mask, (2, 3, queries, keys))):
        contract.assert_same_bits(check_heads(given, attn_mask=form), expected)
        assert not expected[np.broadcast_to(~mask, expected.shape)].any()


@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (2, 0)}], ids=str)
def test_what_no_query_sees_has_no_effect(options: dict[str, Any]) -> None:
    given = heads(4, 9, 6)
    expected = check_heads(given, **options)
    given["key"][..., 4:, :] = np.nan
    contract.assert_same_bits(check_heads(given, **options), expected)


@pytest.mark.parametrize("place", ["query", "key", "attn_mask"])
@pytest.mark.parametrize("bad", [np.nan, INF], ids=str)
def test_nan_in_sight_is_kept(place: str, bad: float) -> None:
    given = {**heads(5, 9, 6), "attn_mask": normal(5, 9)}
    given[place][..., 3, 4] = bad
    mask = given.pop("attn_mask")
    assert np.isnan(check_heads(given, attn_mask=mask)).any()


@pytest.mark.parametrize("window", [(0, 0), (2, 0), (0, 3), (None, 1), (4, None), (None, None), (100, 100)], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(7, 7, 6), (5, 12, 6), (12, 5, 6), (130, 130, 8)], work))
def test_window(queries: int, keys: int, size: int, window: tuple[int | None, int | None]) -> None:
    given = heads(queries, keys, size)
    check_heads(given, window=window)
    check_heads(given, window=window, is_causal=True)
    check_heads(given, window=window, attn_mask=keep(queries, keys))
    no_key, added = np.zeros((queries, keys), bool), np.where(keep(queries, keys), normal(queries, keys), np.float32(-INF))
    for mask in (no_key, keep(queries, 1), keep(queries, keys), keep(2, 3, 1, keys), added):
        result = check_heads(given, window=window, is_causal=True, attn_mask=mask)
        assert mask is not no_key or not result.any()


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("softcap", [None, 0.5, 50.0])
def test_scale_and_softcap(scale: float, softcap: float | None) -> None:
    given = heads(7, 9, 6, scale=3.0)
    check_heads(given, scale=scale, softcap=softcap)
    check_heads(given, scale=scale, softcap=softcap, is_causal=True)
    check_heads(given, scale=scale, softcap=softcap, attn_mask=keep(7, 9))


@pytest.mark.parametrize(("count", "groups"), [(4, 1), (4, 2), (4, 4), (6, 3), (1, 1)], ids=str)
def test_grouped_heads(count: int, groups: int) -> None:
    given = {"query": normal(2, count, 5, 6), "key": normal(2, groups, 7, 6)}
    check_heads(given, enable_gqa=True)
    check_heads(given, enable_gqa=True, attn_mask=keep(2, count, 5, 7))


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 9, 6), (130, 700, 16)], work))
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (3, 2), "softcap": 9.0}], ids=str)
def test_attention_is_the_weights_times_the_values(options: dict[str, Any], queries: int, keys: int, size: int) -> None:
    given = heads(queries, keys, size)
    value = normal(2, 3, keys, 5, seed=2)
    weights = fastattn.attention_weights(**given, **options)
    attention = reference.scaled_dot_product_attention
    truth, yardsticks = truth_and_yardsticks(attention, (given["query"], given["key"], value), options, contracts=True)
    assert_matches_reference(weights @ value, truth, *yardsticks)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(3, 5, 6), (33, 70, 16)], work))
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (3, 2), "softcap": 9.0}], ids=str)
def test_contract(options: dict[str, Any], queries: int, keys: int, size: int) -> None:
    arrays = heads(queries, keys, size)
    contract.any_layout(OP, arrays, **options)
    contract.any_out(OP, arrays, **options)
    contract.bad_out(OP, arrays, **options)
    contract.bad_dtypes(OP, arrays, **options)
    contract.any_threads(OP, arrays, **options)


def test_mask_layouts_and_overlap() -> None:
    arrays = {**heads(3, 5, 6), "attn_mask": normal(3, 5)}
    contract.any_layout(OP, arrays)
    contract.any_layout(OP, {**arrays, "attn_mask": keep(2, 3, 3, 5)})
    contract.any_out(OP, arrays)


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads(OP, heads(300, 300, 32))
    contract.any_threads(OP, heads(700, 700, 8, lead=(1,)), is_causal=True)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(31, 40, 8), (130, 600, 16)], work))
@pytest.mark.parametrize("options", [{}, {"window": (300, 2)}], ids=str)
def test_same_bits_alone_and_in_a_batch(options: dict[str, Any], queries: int, keys: int, size: int) -> None:
    """Bits of a row depend on no other head and no other row."""
    given = heads(queries, keys, size)
    together = fastattn.attention_weights(**given, **options)
    alone = fastattn.attention_weights(given["query"][1, 2], given["key"][1, 2], **options)
    contract.assert_same_bits(alone, together[1, 2])
    if not options:
        for t in (0, 13, 14, 30):
            contract.assert_same_bits(
                fastattn.attention_weights(given["query"][..., t : t + 1, :], given["key"]), together[..., t : t + 1, :]
            )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query": (6,)}, "query"),
        ({"key": (2, 3, 9, 5)}, "key"),
        ({"key": (2, 2, 9, 6)}, "key"),
        ({"key": (4, 3, 9, 6)}, "query and key must"),
        ({"attn_mask": (5, 8)}, "attn_mask"),
        ({"attn_mask": (4, 1, 5, 9)}, "attn_mask"),
        ({"attn_mask": (1, 2, 3, 5, 9)}, "attn_mask"),
    ],
    ids=str,
)
def test_wrong_shapes(changes: dict[str, tuple[int, ...]], named: str) -> None:
    given = {**heads(5, 9, 6), **{name: np.zeros(shape, np.float32) for name, shape in changes.items()}}
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        fastattn.attention_weights(**given)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"softcap": 0.0}, "softcap"),
        ({"window": (-1, 0)}, "window"),
        ({"window": 3}, "window"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        fastattn.attention_weights(**heads(5, 9, 6), **options)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "object"])
def test_mask_dtypes(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"attn_mask.*{dtype}"):
        fastattn.attention_weights(**heads(3, 5, 6), attn_mask=np.zeros((3, 5), dtype))


@pytest.mark.jit
@pytest.mark.parametrize("op", ["attention_weights", "scaled_dot_product_attention"])
def test_a_mask_of_any_layout_compiles_nothing(op: str) -> None:
    given = heads(5, 7, 4)
    arrays = [*given.values(), *([given["key"]] if op != OP else [])]
    mask = normal(5, 7)
    unaligned = np.zeros(mask.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(mask.shape)
    unaligned[...] = mask
    expected = getattr(fastattn, op)(*arrays, attn_mask=mask)
    kernel = (attention_weights.attention_weights_kernel if op == OP else attention.attention_kernel).dispatcher
    before = list(kernel.overloads)
    for other in (read_only(mask), unaligned, np.asfortranarray(mask), np.broadcast_to(mask, (2, 3, 5, 7))):
        np.testing.assert_array_equal(getattr(fastattn, op)(*arrays, attn_mask=other), expected)
    assert list(kernel.overloads) == before
