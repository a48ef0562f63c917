"""Attention with products in bfloat16: as its definition at sizes around every block, with windows, a cap and biases."""

from typing import Any

import numpy as np
import pytest

from fastattn import reference
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.encoder.attend import IS_ROUNDED, attend_rows, head_scratch, head_words, pack_head, packed_values
from fastattn.kernels.ops._attend import KEY_BLOCK, NO_BOUND
from fastattn.kernels.records import Mask, Scoring, matrix
from tests.support.tolerance import assert_matches_reference

pytestmark = pytest.mark.jit
WINDOWS = [(None, None), (0, 0), (5, 0), (None, 0), (40, 33)]


@kernel
def attend_head(precision, count, d, scoring, query, key, value, bias, scratch, out):  # type: ignore[no-untyped-def]
    """Attention of one head; precision: an array of the dtype of its packed weights."""
    model = (precision,)
    keys, values = head_words(count, d)
    pack_head(model, count, d, matrix(key, 0, d), matrix(value, 0, d), scratch, (0, keys, keys + values))
    attend_rows(
        model, (count, np.int64(0)), (count, d, d), matrix(query, 0, d), matrix(scratch, 0, 0),
        packed_values(model, count, d, scratch, keys), Mask(bias, 0, count, 1),
        Scoring(scoring[0], scoring[1], scoring[2], scoring[3]), matrix(scratch, keys + values, 0), matrix(out, 0, d),
    )  # fmt: skip


@ParallelKernel
def attend_kernel(times, precision, count, d, scoring, query, key, value, bias, scratch, out):  # type: ignore[no-untyped-def]
    """`attend_head`, so many times."""
    for _ in prange(times):
        attend_head(precision, count, d, scoring, query, key, value, bias, scratch, out)


def compare(count: int, d: int, window: Any = (None, None), softcap: float = 0.0, bias: Any = None) -> None:
    """Compare with the definition; the truth has rounded queries, keys and values, and sums in float64."""
    rng = np.random.default_rng([count, d])
    query, key, value = rng.standard_normal((3, count, d), np.float32)
    value += 1
    scratch = np.full(head_scratch(count, d), np.nan, np.float32)
    out = np.full(count * d, np.nan, np.float32)
    left, right = (NO_BOUND if side is None else side for side in window)
    scale = 1 / d**0.5
    mask = np.empty(0, np.float32) if bias is None else bias.reshape(-1)
    rows = (part.reshape(-1) for part in (query, key, value))
    attend_kernel(1, np.empty(0, np.uint16), count, d, (scale, softcap, left, right), *rows, mask, scratch, out)
    options: dict[str, Any] = {"scale": scale, "softcap": softcap or None, "window": window}
    heads = [part[None] for part in (query, key, value)]
    exact = [reference.round_bfloat16(part).astype(np.float64) if IS_ROUNDED else part.astype(np.float64) for part in heads]
    wide = None if bias is None else bias.astype(np.float64)
    truth = reference.scaled_dot_product_attention(*exact, wide, **options)[0]
    definition = reference.scaled_dot_product_attention_bfloat16 if IS_ROUNDED else reference.scaled_dot_product_attention
    assert_matches_reference(out.reshape(count, d), truth, definition(*heads, bias, **options)[0])


@pytest.mark.parametrize("d", [1, 2, 15, 16, 31, 32, 33, 64, 80])
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
    bias = np.random.default_rng(0).standard_normal((45, 45), np.float32)
    bias[bias > 1.5] = -np.inf
    np.fill_diagonal(bias, 0)
    compare(45, 24, window, bias=bias)


def test_one_token_is_its_value() -> None:
    """The only weight is 1, which is a bfloat16: the result is the value, rounded."""
    value = np.float32([1 + 2.0**-9 + 2.0**-12, -3])
    scratch, out = np.zeros(head_scratch(1, 2), np.float32), np.zeros(2, np.float32)
    none = np.empty(0, np.float32)
    attend_kernel(1, np.empty(0, np.uint16), 1, 2, (1.0, 0.0, NO_BOUND, NO_BOUND), value, value, value, none, scratch, out)
    assert np.array_equal(out, reference.round_bfloat16(value) if IS_ROUNDED else value)
