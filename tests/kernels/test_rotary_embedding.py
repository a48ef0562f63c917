"""rotary_embedding against the reference."""

import math

import numpy as np
import pytest

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, SCALES, Array, normal, sizes
from tests.support.tolerance import check


def tables(tokens: int, size: int, dtype: type = np.float32) -> tuple[Array, Array]:
    cos, sin = reference.rotary_tables(tokens, size)
    return cos.astype(dtype), sin.astype(dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("tokens", "size"), sizes([(1, 2), (7, 6), (3, 30), (5, 32), (31, 34), (9, 64), (65, 66), (129, 128)]))
def test_sizes(tokens: int, size: int, scale: float) -> None:
    check("rotary_embedding", normal(tokens, size, scale=scale), *tables(tokens, size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 6), (2, 3, 7, 16), (2, 1, 3, 4, 34)], ids=str)
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: type) -> None:
    check("rotary_embedding", normal(*shape, dtype=dtype), *tables(*shape[-2:], dtype=dtype))


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 3, 4), (2, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    assert check("rotary_embedding", normal(*shape), *tables(*shape[-2:])).shape == shape


def test_a_quarter_turn() -> None:
    """A rotation by 90 degrees takes (a, b) to (-b, a); a rotation by 0 leaves (a, b)."""
    x = np.array([[1, 2, 3, 4], [1, 2, 3, 4]], np.float32)
    cos, sin = np.array([[0, 0], [1, 1]], np.float32), np.array([[1, 1], [0, 0]], np.float32)
    np.testing.assert_array_equal(fastattn.rotary_embedding(x, cos, sin), [[-3, -4, 1, 2], [1, 2, 3, 4]])


def test_tables_by_hand() -> None:
    cos, sin = reference.rotary_tables(4, 6, theta=100.0)
    for t in range(4):
        for i in range(3):
            angle = t / 100 ** (2 * i / 6)
            assert math.isclose(cos[t, i], math.cos(angle), abs_tol=1e-15)
            assert math.isclose(sin[t, i], math.sin(angle), abs_tol=1e-15)


def test_scores_depend_on_the_distance_alone() -> None:
    q, k = normal(1, 8, dtype=np.float64, seed=1), normal(1, 8, dtype=np.float64, seed=2)
    turned = [fastattn.rotary_embedding(np.repeat(x, 20, axis=0), *tables(20, 8, np.float64)) for x in (q, k)]
    scores = turned[0] @ turned[1].T
    for distance in (-7, 0, 3):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-13)


@pytest.mark.parametrize(("lead", "tokens", "size"), sizes([(2, 3, 6), (3, 41, 34)]))
def test_contract(lead: int, tokens: int, size: int) -> None:
    cos, sin = tables(tokens, size)
    arrays = {"x": normal(lead, tokens, size), "cos": cos, "sin": sin}
    contract.any_layout("rotary_embedding", arrays)
    contract.bad_out("rotary_embedding", arrays)
    contract.bad_dtypes("rotary_embedding", arrays)
    contract.any_threads("rotary_embedding", arrays)
    contract.any_out("rotary_embedding", arrays)


@pytest.mark.jit
def test_threads_on_a_large_array() -> None:
    cos, sin = tables(333, 64)
    contract.any_threads("rotary_embedding", {"x": normal(2, 5, 333, 64), "cos": cos, "sin": sin})


@pytest.mark.parametrize(
    ("x", "cos", "sin", "words"),
    [
        ((4,), (4, 2), (4, 2), r"x must have shape \(..., T, D\)"),
        ((3, 5), (3, 2), (3, 2), "D even, got \\(3, 5\\)"),
        ((3, 4), (4, 2), (3, 2), r"cos must have shape .*\(3, 2\).*got \(4, 2\)"),
        ((3, 4), (3, 2), (3, 4), r"sin must have shape .*\(3, 2\).*got \(3, 4\)"),
    ],
)
def test_bad_shapes(x: tuple[int, ...], cos: tuple[int, ...], sin: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fastattn.rotary_embedding(normal(*x), normal(*cos), normal(*sin))
