"""scaled_dot_product_attention_backward against the reference, and the reference against finite differences."""

import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest

from fastattn import reference
from fastattn.kernels.backward._head_room import scratch_size
from tests.support.attention_gradients import OP, Given, cast, check, given
from tests.support.cases import DTYPES, f64, layouts, normal, sizes
from tests.support.contract import BAD_DTYPES, assert_same_bits

INF = float("inf")


def keep(*shape: int, seed: int = 7, share: float = 0.7) -> Any:
    """Return a random boolean mask in which a share of the keys takes part."""
    return np.random.default_rng([seed, *shape]).random(shape) < share


def with_holes(*shape: int, dtype: Any = np.float32) -> Any:
    """Return an added mask in which some scores are masked."""
    return np.where(keep(*shape), normal(*shape), -INF).astype(dtype)


def work(queries: int, keys: int, size: int) -> float:
    return 15 * queries * keys * max(size, 8) / 8


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}, {"window": (2, 1), "is_causal": True}, {"scale": -0.7}], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_reference_is_the_slope_of_the_forward(groups: int, options: Given) -> None:
    """Central differences of <grad, attention> along random directions, each array's and the mask's."""
    arrays = cast(given(4, 5, 3, lead=(2, 2), values=2, groups=groups), np.float64)
    arrays["attn_mask"] = with_holes(2, 4, 5, dtype=np.float64)
    grad = arrays.pop("grad")
    found = reference.scaled_dot_product_attention_backward(grad, **arrays, enable_gqa=True, **options)
    step = 1e-5
    for name, slope in zip(arrays, found, strict=True):
        direction = f64(*arrays[name].shape, seed=9)

        def loss(amount: float, name: str = name, direction: Any = direction) -> float:
            moved = {**arrays, name: arrays[name] + amount * direction}
            return float((grad * reference.scaled_dot_product_attention(**moved, enable_gqa=True, **options)).sum())

        assert abs((loss(step) - loss(-step)) / (2 * step) - (slope * direction).sum()) < 1e-8


LENGTHS = [(t, t) for t in (1, 2, 7, 13, 16, 17, 31, 63, 64, 65, 127, 128, 129, 257)]
UNEQUAL = [(1, 7), (7, 1), (1, 130), (130, 1), (129, 65), (65, 193)]


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(*t, 8) for t in LENGTHS + UNEQUAL], work))
def test_lengths(queries: int, keys: int, size: int) -> None:
    arrays = given(queries, keys, size)
    check(arrays)
    check(arrays, is_causal=True)
    check(arrays, attn_mask=keep(queries, keys))
    check(arrays, attn_mask=with_holes(queries, keys), window=(40, 70))


@pytest.mark.jit
@pytest.mark.parametrize("count", [511, 513, 1025])
def test_long(count: int) -> None:
    arrays = given(count, count, 16, lead=(2,))
    check(arrays)
    check(arrays, window=(100, 30))


@pytest.mark.parametrize(("size", "values"), [(1, 1), (1, 5), (6, 8), (8, 33), (16, 16), (33, 16), (64, 64), (0, 4)], ids=str)
def test_head_sizes(size: int, values: int) -> None:
    check(given(5, 6, size, values=values))
    check(given(5, 6, size, values=values), attn_mask=normal(5, 6), is_causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(1, 1, 1), (3, 5, 7), (70, 65, 32)], work))
def test_dtypes(queries: int, keys: int, size: int, dtype: type) -> None:
    arrays = given(queries, keys, size, dtype=dtype)
    check(arrays)
    check(arrays, attn_mask=with_holes(queries, keys, dtype=dtype), softcap=5.0, window=(3, 1))


@pytest.mark.parametrize("scale", [1e-3, 3.0, 80.0, 1e4])
def test_sizes_of_the_input(scale: float) -> None:
    """Softmax of large scores selects one key, of small scores averages all."""
    arrays = given(15, 17, 8, scale=scale)
    check(arrays)
    check(arrays, is_causal=True)
    check(arrays, attn_mask=keep(15, 17))


AXES = [(9,), (1,), (5, 9), (1, 9), (5, 1), (1, 1), (3, 5, 9), (3, 1, 9), (1, 5, 1), (2, 3, 5, 9), (2, 1, 1, 9)]
MORE_AXES = [(2, 1, 5, 9), (1, 3, 5, 9), (2, 3, 1, 9), (2, 3, 5, 1), (2, 1, 1, 1)]


@pytest.mark.parametrize("shape", [*AXES, *MORE_AXES], ids=str)
def test_mask_of_every_broadcastable_shape(shape: tuple[int, ...]) -> None:
    arrays = given(5, 9, 6)
    assert check(arrays, attn_mask=keep(*shape))[3] is None
    check(arrays, attn_mask=normal(*shape, scale=3))
    check(arrays, attn_mask=with_holes(*shape), enable_gqa=True)


def test_mask_of_another_dtype_and_many_heads() -> None:
    check(given(5, 9, 6, lead=(3, 2, 5)), attn_mask=normal(2, 1, 5, 9))
    assert OP(**given(5, 9, 6), attn_mask=np.zeros((5, 9)))[3].dtype == np.float64


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 9, 6), (140, 150, 16)], work))
def test_kinds_of_mask(queries: int, keys: int, size: int, added: bool) -> None:
    """A query that sees no key, and a key that no query sees, have gradient 0; what stands there is not read."""
    arrays = given(queries, keys, size)
    no_row, holes, tail = np.ones((3, queries, keys), bool)
    no_row[1] = no_row[-1] = False
    holes[:, keys // 3 : keys // 2] = False
    tail[:, keys // 2 :] = False
    for keeps in (no_row, holes, tail, np.zeros((queries, keys), bool), np.eye(queries, keys, dtype=bool)):
        mask = np.where(keeps, normal(queries, keys), np.float32(-INF)) if added else keeps
        expected = check(arrays, attn_mask=mask)
        alone, unseen = ~keeps.any(axis=1), ~keeps.any(axis=0)
        assert not expected[0][:, :, alone].any()
        assert not expected[1][:, :, unseen].any() and not expected[2][:, :, unseen].any()
        dirty = {name: x.copy() for name, x in arrays.items()}
        for name in ("query", "grad"):
            dirty[name][:, :, alone] = np.nan
        for name in ("key", "value"):
            dirty[name][:, :, unseen] = INF
        for a, b in zip(check(dirty, attn_mask=mask), expected, strict=True):
            if b is not None:
                assert_same_bits(a, b)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (2, 0)}], ids=str)
def test_keys_after_the_last_query_are_not_read(options: Given) -> None:
    arrays = given(4, 9, 6)
    expected = OP(**arrays, **options)
    arrays["key"][..., 4:, :] = arrays["value"][..., 4:, :] = np.nan
    for a, b in zip(check(arrays, **options)[:3], expected, strict=False):
        assert_same_bits(a, b)


@pytest.mark.parametrize("place", ["grad", "query", "key", "value", "attn_mask"])
def test_nan_in_sight_is_kept(place: str) -> None:
    arrays = {**given(5, 9, 6), "attn_mask": normal(5, 9)}
    arrays[place][..., 3, 4] = np.nan
    mask = arrays.pop("attn_mask")
    assert any(np.isnan(x).any() for x in check(arrays, attn_mask=mask))


@pytest.mark.parametrize("window", [(0, 0), (2, 0), (0, 3), (None, 1), (4, None), (100, 100)], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(7, 7, 6), (5, 12, 6), (12, 5, 6), (300, 200, 8)], work))
def test_window(queries: int, keys: int, size: int, window: tuple[int | None, int | None]) -> None:
    arrays = given(queries, keys, size)
    check(arrays, window=window)
    check(arrays, window=window, is_causal=True, attn_mask=with_holes(3, queries, keys), softcap=2.0)


@pytest.mark.parametrize("softcap", [0.5, 5.0, 50.0])
def test_softcap(softcap: float) -> None:
    for scale in (1.0, 80.0):
        arrays = given(7, 9, 6, scale=scale)
        check(arrays, softcap=softcap)
        check(arrays, softcap=softcap, attn_mask=normal(7, 9), scale=2.0)


@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, -1.0])
def test_scale(scale: float) -> None:
    check(given(7, 9, 6), scale=scale)
    check(given(7, 9, 6), scale=scale, attn_mask=keep(7, 9))


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4), (6, 3)], ids=str)
def test_grouped_heads(heads: int, groups: int) -> None:
    arrays = given(5, 7, 6, lead=(2, heads), values=8, groups=groups)
    check(arrays, enable_gqa=True)
    check(arrays, enable_gqa=True, is_causal=True, attn_mask=normal(heads, 5, 7))


@pytest.mark.parametrize("shape", [(5, 8), (3, 1, 5, 8), (4, 3, 5, 8), (2, 2, 3, 5, 8)], ids=str)
def test_leading_axes_and_repeated_ones(shape: tuple[int, ...]) -> None:
    """Where an array is repeated, its gradient is summed."""
    arrays = given(*shape[-2:], 6, lead=shape[:-2])
    check(arrays)
    for name in ("key", "value", "query"):
        if len(shape) > 3:
            check({**arrays, name: arrays[name][:1, ..., :, :]})
    if len(shape) > 2:
        check({**arrays, "key": arrays["key"][..., :1, :, :], "value": arrays["value"][..., :1, :, :]})


@pytest.mark.parametrize("lead", [(2,), (0, 2), (2, 0)], ids=str)
@pytest.mark.parametrize(("queries", "keys", "size"), [(0, 4, 6), (3, 0, 6), (3, 4, 0), (0, 0, 0)])
def test_empty(queries: int, keys: int, size: int, lead: tuple[int, ...]) -> None:
    check(given(queries, keys, size, lead=lead))
    check(given(queries, keys, size, lead=lead, values=0), attn_mask=normal(queries, keys))


@pytest.mark.jit
def test_random_calls() -> None:
    """Five hundred small calls: sizes, masks and options drawn together."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        queries, keys, size, values = (int(rng.integers(1, n)) for n in (20, 20, 10, 10))
        groups, each = int(rng.integers(1, 3)), int(rng.integers(1, 3))
        batch = int(rng.integers(1, 3))
        arrays = given(queries, keys, size, lead=(batch, groups * each), values=values, groups=groups)
        options: Given = {"enable_gqa": True, "is_causal": bool(rng.random() < 0.3)}
        if rng.random() < 0.3:
            options["softcap"] = float(rng.uniform(0.5, 9))
        if rng.random() < 0.3:
            options["window"] = tuple(None if rng.random() < 0.3 else int(rng.integers(0, 9)) for _ in range(2))
        if rng.random() < 0.6:
            shape = [n if rng.random() < 0.7 else 1 for n in (batch, groups * each, queries, keys)][int(rng.integers(0, 4)) :]
            options["attn_mask"] = keep(*shape) if rng.random() < 0.4 else with_holes(*shape)
        check(arrays, may_cancel=True, **options)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(3, 5, 6), (150, 70, 16)], work))
def test_layouts_and_inputs_left_alone(queries: int, keys: int, size: int) -> None:
    arrays = {**given(queries, keys, size), "attn_mask": normal(queries, keys)}
    before = {name: x.copy() for name, x in arrays.items()}
    expected = OP(**arrays)
    for name, x in arrays.items():
        for other in layouts(x).values():
            for a, b in zip(OP(**{**arrays, name: other}), expected, strict=True):
                assert_same_bits(a, b)
        np.testing.assert_array_equal(x, before[name])


@pytest.mark.jit
@pytest.mark.parametrize("options", [{}, {"is_causal": True, "softcap": 3.0}, {"enable_gqa": True}], ids=str)
def test_same_bits_for_any_number_of_threads(options: Given) -> None:
    arrays = given(200, 300, 16, lead=(3, 4), groups=2 if "enable_gqa" in options else 0)
    count = numba.get_num_threads()
    for mask in (None, normal(200, 300), normal(3, 1, 1, 300), normal(4, 1, 300)):
        found = []
        try:
            for threads in sorted({1, min(2, count), count}) * 2:
                numba.set_num_threads(threads)
                found.append(OP(**arrays, attn_mask=mask, **options))
        finally:
            numba.set_num_threads(count)
        for other in found[1:]:
            for a, b in zip(other, found[0], strict=True):
                assert a is b is None or (assert_same_bits(a, b) is None)


@pytest.mark.parametrize(("queries", "keys", "size"), sizes([(5, 5, 6), (130, 200, 16)], work))
def test_same_bits_alone_and_in_a_batch(queries: int, keys: int, size: int) -> None:
    arrays = given(queries, keys, size)
    for options in ({}, {"is_causal": True}, {"window": (3, 2)}, {"attn_mask": with_holes(2, 3, queries, keys)}):
        together = OP(**arrays, **options)
        for b, h in ((0, 0), (1, 2)):
            alone = OP(**{n: x[b, h] if isinstance(x, np.ndarray) else x for n, x in {**arrays, **options}.items()})
            for x, y in zip(alone, together, strict=True):
                assert x is y is None or (assert_same_bits(x, y[b, h]) is None)


@pytest.mark.jit
def test_memory_is_linear_in_the_length() -> None:
    arrays = {length: given(length, length, 8, lead=(1,)) for length in (1000, 4000)}
    OP(**arrays[1000])
    used = {}
    for length, each in arrays.items():
        tracemalloc.start()
        try:
            OP(**each)
            used[length] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert used[4000] < 4.5 * used[1000] < 4.5 * 1000 * 1000
    assert scratch_size(80_000, 80_000, 32, 32, np.float32) < 2.1 * scratch_size(40_000, 40_000, 32, 32, np.float32)


@pytest.mark.parametrize("name", ["grad", "query", "key", "value"])
def test_bad_dtypes(name: str) -> None:
    arrays = given(3, 5, 6)
    for dtype in (*BAD_DTYPES, "float64"):
        with pytest.raises(TypeError, match=rf"\b{name}\b"):
            OP(**{**arrays, name: arrays[name].astype(dtype)})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"grad": (2, 3, 5, 5)}, "grad"),
        ({"grad": (5, 6)}, "grad"),
        ({"query": (6,)}, "query"),
        ({"key": (2, 3, 9, 5)}, "key"),
        ({"key": (2, 2, 9, 6), "value": (2, 2, 9, 6)}, "key"),
        ({"value": (2, 3, 8, 6)}, "value"),
        ({"attn_mask": (5, 8)}, "attn_mask"),
        ({"attn_mask": (4, 1, 5, 9)}, "attn_mask"),
    ],
    ids=str,
)
def test_wrong_shapes(changes: dict[str, tuple[int, ...]], named: str) -> None:
    arrays = {**given(5, 9, 6), **{name: np.zeros(shape, np.float32) for name, shape in changes.items()}}
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        OP(**arrays)


@pytest.mark.parametrize(
    ("options", "named"), [({"softcap": 0.0}, "softcap"), ({"window": (-1, 0)}, "window"), ({"window": 3}, "window")], ids=str
)
def test_wrong_options(options: Given, named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        OP(**given(5, 9, 6), **options)


@pytest.mark.jit
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"enable_gqa": True}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_torch(masked: bool, options: Given) -> None:
    """torch.autograd through torch's attention."""
    torch = pytest.importorskip("torch")
    if masked and "is_causal" in options:
        pytest.skip("torch takes no mask beside is_causal")
    arrays = cast(given(70, 70, 16, lead=(2, 4), groups=2 if "enable_gqa" in options else 0), np.float64)
    mask = f64(4, 70, 70, seed=5) if masked else None
    grad = arrays.pop("grad")
    found = OP(grad, **arrays, attn_mask=mask, **options)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (*arrays.values(), *([mask] if masked else []))]
    result = torch.nn.functional.scaled_dot_product_attention(*leaves, **options)
    for x, t in zip(found, torch.autograd.grad(result, leaves, torch.from_numpy(grad)), strict=False):
        np.testing.assert_allclose(x, t.numpy(), rtol=0, atol=64 * np.finfo(np.float64).eps * np.abs(t.numpy()).max())
