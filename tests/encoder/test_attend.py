"""Attention with products in bfloat16: as its definition at sizes around every block, with windows, a cap and biases."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.encoder.attend import IS_ROUNDED, attend_rows, head_scratch, head_words, pack_head, packed_values
from fastattn.kernels.ops._attend import KEY_BLOCK, NO_BOUND
from fastattn.kernels.records import Mask, Scoring, matrix
from fastattn.reference import precision
from tests.support.tolerance import assert_matches_reference

pytestmark = pytest.mark.jit
Array = NDArray[Any]
WINDOWS = [(None, None), (0, 0), (5, 0), (None, 0), (40, 33)]


@kernel
def attend_head(kind, sizes, scoring, query, key, value, bias, scratch, out):  # type: ignore[no-untyped-def]
    """Attention of one head; kind: an array of the dtype of its packed weights; sizes: T, S, D, a row's distance, the first."""
    tokens, seen, d, distance, at = sizes
    model = (kind,)
    keys, values = head_words(seen, d)
    pack_head(model, seen, d, matrix(key, at, distance), matrix(value, at, distance), scratch, (0, keys, keys + values))
    attend_rows(
        model, (tokens, np.int64(0)), (seen, d, d), matrix(query, at, distance), matrix(scratch, 0, 0),
        packed_values(model, seen, d, scratch, keys), Mask(bias, 0, seen, 1),
        Scoring(scoring[0], scoring[1], scoring[2], scoring[3]), matrix(scratch, keys + values, 0), matrix(out, 0, d),
    )  # fmt: skip


@ParallelKernel
def attend_kernel(times, kind, sizes, scoring, query, key, value, bias, scratch, out):  # type: ignore[no-untyped-def]
    """`attend_head`, so many times."""
    for _ in prange(times):
        attend_head(kind, sizes, scoring, query, key, value, bias, scratch, out)


def attend(
    query: Array, key: Array, value: Array, bias: Array | None, options: dict[str, Any], dtype: Any = np.uint16
) -> NDArray[np.float32]:
    """Run the kernel on rows that lie apart, NaN between them."""
    (tokens, d), seen = query.shape, len(key)
    scratch = np.full(head_scratch(seen, d), np.nan, np.float32)
    out = np.full(tokens * d, np.nan, np.float32)
    window = (NO_BOUND if side is None else side for side in options["window"])
    scoring = (options["scale"], options["softcap"] or 0.0, *window)
    rows = [np.pad(part, ((0, 0), (2, 3)), constant_values=np.nan).reshape(-1) for part in (query, key, value)]
    mask = np.empty(0, np.float32) if bias is None else bias.reshape(-1)
    attend_kernel(1, np.empty(0, dtype), (tokens, seen, d, d + 5, 2), scoring, *rows, mask, scratch, out)
    return out.reshape(tokens, d)


def inputs(tokens: int, d: int, seen: int | None = None) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng([tokens, d])
    query, key, value = (rng.standard_normal((n, d), np.float32) for n in (tokens, seen or tokens, seen or tokens))
    return [query, key, value + 1]


def compare(
    tokens: int, d: int, window: Any = (None, None), softcap: float = 0.0, bias: Any = None, seen: int | None = None
) -> None:
    """Compare with the definition; the truth has rounded queries, keys and values, and sums in float64."""
    parts = inputs(tokens, d, seen)
    options: dict[str, Any] = {"scale": 1 / d**0.5, "softcap": softcap or None, "window": window}
    out = attend(*parts, bias, options)
    heads = [part[None] for part in parts]
    wide_heads = [part.astype(np.float64) for part in heads]
    wide_bias = None if bias is None else bias.astype(np.float64)
    exact = [reference.round_bfloat16(part).astype(np.float64) for part in heads] if IS_ROUNDED else wide_heads
    truth = reference.scaled_dot_product_attention(*exact, wide_bias, **options)[0]
    definition = reference.scaled_dot_product_attention_bfloat16 if IS_ROUNDED else reference.scaled_dot_product_attention
    assert_matches_reference(out, truth, definition(*heads, bias, **options)[0])
    if IS_ROUNDED:
        # Only exponentials that lie at the edge of a rounding may go the other way: an error far below that of leaving it out.
        wanted = definition(*wide_heads, wide_bias, **options)[0]
        allowed = np.linalg.norm(wanted - truth) / 4 + 8 * np.finfo(np.float32).eps * np.linalg.norm(wanted)
        assert np.linalg.norm(out - wanted) <= allowed


@pytest.mark.parametrize("d", [1, 2, 15, 16, 31, 32, 33, 64, 80, 96, 128, 256])
def test_head_sizes(d: int) -> None:
    for count in (3, 40):
        compare(count, d)


@pytest.mark.parametrize(
    "count", [2, 15, 16, 17, 31, 32, 33, 63, 65, 127, KEY_BLOCK - 1, KEY_BLOCK, KEY_BLOCK + 1, 2 * KEY_BLOCK + 33]
)
def test_lengths(count: int) -> None:
    compare(count, 32)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("count", [7, 70, KEY_BLOCK + 90])
def test_windows(count: int, window: Any) -> None:
    compare(count, 16, window)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_cap_and_a_bias(window: Any) -> None:
    compare(45, 24, window, softcap=2.0)
    compare(KEY_BLOCK + 9, 24, window, softcap=2.0)
    bias = np.random.default_rng(0).standard_normal((45, 45), np.float32)
    bias[bias > 1.5] = -np.inf
    np.fill_diagonal(bias, 0)
    compare(45, 24, window, bias=bias)


@pytest.mark.parametrize("window", [*WINDOWS, (3, 3), (64, 64)])
@pytest.mark.parametrize(("tokens", "seen"), [(128, 10), (10, 128), (40, 1), (KEY_BLOCK + 90, KEY_BLOCK), (90, KEY_BLOCK + 33)])
def test_other_numbers_of_queries_and_keys(tokens: int, seen: int, window: Any) -> None:
    compare(tokens, 16, window, seen=seen)


def test_rows_that_see_no_key_are_zeros() -> None:
    bias = np.zeros((40, KEY_BLOCK + 40), np.float32)
    bias[::3] = -np.inf
    bias[1::3, :KEY_BLOCK] = -np.inf
    compare(40, 16, bias=bias, seen=KEY_BLOCK + 40)
    found = attend(*inputs(40, 16, KEY_BLOCK + 40), bias, {"scale": 0.25, "softcap": None, "window": (None, None)})
    assert not found[::3].any()


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_a_strange_query_stays_in_its_row(strange: float) -> None:
    options = {"scale": 0.25, "softcap": None, "window": (None, None)}
    query, key, value = inputs(KEY_BLOCK + 20, 16)
    clean = attend(query, key, value, None, options)
    query[17, 3] = strange
    found = attend(query, key, value, None, options)
    others = np.arange(len(query)) != 17
    assert found[others].tobytes() == clean[others].tobytes()
    assert not np.isfinite(found[17]).all()


def test_int8_has_the_attention_of_bfloat16() -> None:
    options = {"scale": 0.25, "softcap": None, "window": (None, None)}
    parts = inputs(70, 24)
    assert attend(*parts, None, options, np.int8).tobytes() == attend(*parts, None, options).tobytes()


def test_the_definition_has_the_blocks_of_the_kernel() -> None:
    assert precision._KEY_BLOCK == KEY_BLOCK


def test_one_token_is_its_value() -> None:
    """The only weight is 1, which is a bfloat16: the result is the value, rounded."""
    value = np.float32([[1 + 2.0**-9 + 2.0**-12, -3]])
    found = attend(value, value, value, None, {"scale": 1.0, "softcap": None, "window": (None, None)})
    assert np.array_equal(found, reference.round_bfloat16(value) if IS_ROUNDED else value)
