"""embedding_bag against the reference, and its kernel on tables of bfloat16 and int8."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.ops.embedding_bag import sum_bags
from fastattn.kernels.products.pack import pack_table
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, Array, normal, sizes
from tests.support.tolerance import assert_matches_reference, check

MODES = ("mean", "sum")


def bags(count: int, rows: int, number: int = 5) -> tuple[Array, Array]:
    """Return ids, and the starts of so many bags, some of them empty."""
    rng = np.random.default_rng([count, rows])
    starts = np.sort(rng.integers(0, count + 1, number))
    starts[0] = 0
    return rng.integers(0, rows, count), starts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", sizes(EDGES, lambda n: 40 * n))
def test_sizes(n: int, mode: str) -> None:
    ids, starts = bags(40, 9)
    check("embedding_bag", ids, normal(9, n), starts, mode=mode)
    check("embedding_bag", ids, normal(9, n), starts, mode=mode, per_sample_weights=normal(40))


@pytest.mark.parametrize("scale", SCALES)
def test_scales(scale: float) -> None:
    ids, starts = bags(60, 20)
    check("embedding_bag", ids, normal(20, 33, scale=scale), starts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    ids, starts = bags(30, 7)
    check("embedding_bag", ids, normal(7, 33, dtype=dtype), starts, per_sample_weights=normal(30, dtype=dtype))
    for whole in ("i4", "u1", ">i8", "u8"):
        check("embedding_bag", ids.astype(whole), normal(7, 5, dtype=dtype), starts.astype(whole))


def test_by_hand() -> None:
    table = np.array([[1, 10], [2, 20], [4, 40]], np.float32)
    ids, starts = np.array([0, 2, 1, 1]), np.array([0, 2, 2, 3])
    np.testing.assert_array_equal(fastattn.embedding_bag(ids, table, starts), [[2.5, 25], [0, 0], [2, 20], [2, 20]])
    sums = fastattn.embedding_bag(ids, table, np.array([0, 3, 4]), mode="sum", include_last_offset=True)
    np.testing.assert_array_equal(sums, [[7, 70], [2, 20]])
    factors = np.array([2, 1, 0, 3], np.float32)
    weighted = fastattn.embedding_bag(ids, table, np.array([0, 2]), per_sample_weights=factors)
    np.testing.assert_array_equal(weighted, [[3, 30], [3, 30]])
    np.testing.assert_array_equal(fastattn.embedding_bag([[0, 1], [2, 2]], table), [[1.5, 15], [4, 40]])


@pytest.mark.parametrize(("rows", "channels", "shape"), [(4, 3, (0, 2)), (4, 3, (3, 0)), (4, 0, (2, 2)), (0, 3, (2, 0))])
def test_empty(rows: int, channels: int, shape: tuple[int, int]) -> None:
    result = check("embedding_bag", np.zeros(shape, np.int64), normal(rows, channels))
    assert result.shape == (shape[0], channels) and not result.any()


def test_nan_and_infinity_stay_in_their_bag() -> None:
    table = normal(6, 20)
    table[3, 4], table[4, 5] = np.nan, np.inf
    result = check("embedding_bag", np.array([0, 3, 1, 2, 4, 5]), table, np.array([0, 2, 4]))
    assert np.isnan(result).sum() == 1 and np.isinf(result).sum() == 1


def test_contract() -> None:
    ids, starts = bags(40, 11)
    arrays = {"weight": normal(11, 34), "per_sample_weights": normal(40)}
    options: dict[str, Any] = {"input": ids, "offsets": starts}
    contract.any_layout("embedding_bag", arrays, **options)
    contract.bad_out("embedding_bag", arrays, **options)
    contract.bad_dtypes("embedding_bag", arrays, **options)
    contract.any_threads("embedding_bag", arrays, **options)
    contract.any_out("embedding_bag", arrays, **options)


@pytest.mark.jit
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_same_bits_alone_in_a_batch_and_by_any_thread(precision: str) -> None:
    """Bags of 0 to 700 ids, in any order."""
    table = pack_table(normal(500, 129), precision)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 500, int(length)) for length in [0, 700, *rng.integers(0, 90, 60), 0]]
    factors = [normal(len(text), seed=i) for i, text in enumerate(texts)]

    def run(chosen: list[int]) -> Array:
        ids = np.concatenate([texts[i] for i in chosen])
        out = np.full((len(chosen), 129), np.nan, np.float32)
        starts = np.concatenate([[0], np.cumsum([len(texts[i]) for i in chosen])])
        sum_bags(ids, starts, table, np.concatenate([factors[i] for i in chosen]), True, out)
        return out

    whole = run(list(range(len(texts))))
    assert np.isfinite(whole).all()
    for i in range(len(texts)):
        np.testing.assert_array_equal(run([i])[0], whole[i], strict=True)
    order = rng.permutation(len(texts))
    np.testing.assert_array_equal(run(list(order)), whole[order], strict=True)


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("n", sizes([1, 7, 8, 9, 31, 33, 64, 130], lambda n: 60 * n))
def test_low_precision_tables(n: int, precision: str, factors: bool) -> None:
    """The definition on the rounded table: sums are float32."""
    table = normal(13, n)
    levels, steps = reference.quantize_table(table)
    rounded = reference.round_bfloat16(table) if precision == "bfloat16" else levels * steps[:, None]
    ids, starts = bags(60, 13)
    scales = normal(60) if factors else None
    out = np.full((5, n), np.nan, np.float32)
    given = np.empty(0, np.float32) if scales is None else scales
    sum_bags(ids, np.append(starts, 60), pack_table(table, precision), given, True, out)

    def define(dtype: Any) -> Array:
        w = None if scales is None else scales.astype(dtype)
        return reference.embedding_bag(ids, rounded.astype(dtype), starts, per_sample_weights=w)

    assert_matches_reference(out, define(np.float64), define(np.float32))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"weight": normal(4)}, ValueError, r"weight must have shape \(V, C\), got \(4,\)"),
        ({"input": np.array([0, 4])}, ValueError, r"input must be in 0 .. 3, the rows of weight, got 0 .. 4"),
        ({"input": np.array([-1, 0])}, ValueError, r"input must be in 0 .. 3, the rows of weight, got -1 .. 0"),
        ({"input": np.array([2**64 - 1, 0], np.uint64)}, ValueError, "input must be in 0 .. 9223372036854775807"),
        ({"input": np.array([0.0, 1.0])}, TypeError, "input must be whole numbers, got float64"),
        ({"input": np.array([True, False])}, TypeError, "input must be whole numbers, got bool"),
        ({"input": np.zeros((1, 1, 1), int)}, ValueError, r"input must have shape \(N,\) or \(B, N\), got \(1, 1, 1\)"),
        ({"offsets": None}, ValueError, "offsets must be given"),
        ({"input": np.zeros((2, 1), int)}, ValueError, "offsets must be None where input has shape"),
        ({"offsets": np.array([[0]])}, ValueError, r"offsets must have shape \(B,\), got \(1, 1\)"),
        ({"offsets": np.array([1])}, ValueError, r"offsets must rise from 0 to 2, .*got \[1, 2\]"),
        ({"offsets": np.array([0, 2, 1])}, ValueError, r"offsets must rise from 0 to 2, .*got \[0, 2, 1, 2\]"),
        ({"offsets": np.array([0, 3])}, ValueError, r"offsets must rise from 0 to 2"),
        ({"offsets": np.array([0, 1]), "include_last_offset": True}, ValueError, r"offsets must rise from 0 to 2.*got \[0, 1\]"),
        ({"offsets": np.array([0.0])}, TypeError, "offsets must be whole numbers, got float64"),
        ({"mode": "max"}, ValueError, "mode must be one of mean, sum, got 'max'"),
        ({"per_sample_weights": normal(3)}, ValueError, r"per_sample_weights must have the shape of input, \(2,\), got \(3,\)"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type, words: str) -> None:
    given = {"input": np.array([0, 1]), "weight": normal(4, 3), "offsets": np.array([0]), **arguments}
    with pytest.raises(error, match=words):
        fastattn.embedding_bag(**given)
