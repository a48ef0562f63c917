"""dropout and its gradient: the published words of Philox, the reference, and statistics of the mask."""

import math
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.vector.philox import philox
from fastattn.reference.backward_elements import philox as philox_twin
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, JIT, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows

# The known answers for philox4x32-10 that the authors' library Random123 is tested with: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@kernel
def words_of(a: Any, b: Any, c: Any, d: Any, key: Any, other_key: Any) -> Any:
    return philox(a, b, c, d, key, other_key)


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: str, key: str, words: str) -> None:
    assert list(words_of(*numbers(counter), *numbers(key))) == numbers(words)
    low, high = numbers(key)
    twin = philox_twin(np.array([numbers(counter)], np.uint64), low + (high << 32))
    assert twin[0].tolist() == numbers(words)


def test_an_element_takes_its_word() -> None:
    """Element 4 of offset 0 is kept where the first word of counter 1 is at least p 2^32."""
    word = int(philox_twin(np.array([1], np.uint64), 7)[0, 0])
    for size in (5, 8):
        x = np.ones(size, np.float32)
        assert fastattn.dropout(x, word / 2**32, 7)[4] > 0
        assert fastattn.dropout(x, (word + 1) / 2**32, 7)[4] == 0


def test_finite_differences() -> None:
    x, grad = f64(9, 7), f64(9, 7, seed=1)
    check_slopes(lambda x: np.sum(grad * reference.dropout(x, 0.3, 5, 2)), [x], reference.dropout_backward(grad, 0.3, 5, 2))


@pytest.mark.parametrize("count", sizes((*EDGES, 1000)))
def test_lengths(count: int) -> None:
    for p, seed, offset in ((0.1, 0, 0), (0.5, 2**64 - 1, 1), (0.9, 2**32, 2**62), (0.3, 1, 2**34 - 3)):
        for op in ("dropout", "dropout_backward"):
            found = check_gradients(op, normal(count), p, seed, offset, orders=1)
            np.testing.assert_array_equal(found == 0, reference.dropout(normal(count), p, seed, offset) == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    found = check_gradients("dropout", normal(5, 33, dtype=dtype), 0.25, 3, orders=1)
    np.testing.assert_array_equal(found == 0, fastattn.dropout(normal(5, 33), 0.25, 3) == 0)


def test_random_calls() -> None:
    for rng, array in random_rows():
        x = array(*rng.integers(1, 30, rng.integers(1, 3)))
        seed, offset = int(rng.integers(0, 2**64, dtype=np.uint64)), int(rng.integers(0, 2**62))
        p = float(rng.choice([0.0, 0.1, 0.5, 0.99, 1.0, rng.random()]))
        check_gradients("dropout", x, p, seed, offset, orders=1)
        contract.assert_same_bits(fastattn.dropout_backward(x, p, seed, offset), fastattn.dropout(x, p, seed, offset))


def mask(count: int, p: float, seed: int, offset: int = 0) -> Array:
    kept: Array = fastattn.dropout(np.ones(count, np.float32), p, seed, offset) != 0
    return kept


COUNT = 400_000 if JIT else 4_000
# Standard deviations that a mean of so many independent numbers exceeds once in 10^6 times; the seeds are fixed.
FAR = 5.0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_share_and_independence(p: float) -> None:
    """The share that is dropped; the correlation of neighbours, of words of one counter, of seeds, and of offsets."""
    first = mask(COUNT, p, 1)
    deviation = math.sqrt(p * (1 - p) / COUNT)
    assert abs((1 - first.mean()) - p) < FAR * deviation
    for other in (
        mask(COUNT, p, 2),
        mask(COUNT, p, 1 + 2**32),
        mask(COUNT, p, 1, COUNT),
        *(np.roll(first, k) for k in (1, 2, 3, 4, 384)),
    ):
        both = (first - (1 - p)) * (other - (1 - p))
        assert abs(both.mean()) < FAR * p * (1 - p) / math.sqrt(COUNT)
    for word in range(4):
        assert abs((1 - first[word::4].mean()) - p) < FAR * 2 * deviation


def test_expectation() -> None:
    x = np.full(COUNT, 3.0)
    found = fastattn.dropout(x, 0.1, 0)
    np.testing.assert_allclose(found[found != 0], 3 / 0.9, rtol=4e-16)
    assert abs(found.mean() - 3) < FAR * 3 * math.sqrt(0.1 / 0.9 / COUNT)


def test_no_dropout_all_and_nearly_all() -> None:
    x = normal(1000)
    contract.assert_same_bits(fastattn.dropout(x, 0, 1), x)
    assert fastattn.dropout(x, 0.0, 1) is not x
    assert not fastattn.dropout(x, 1, 1).any()
    least = 2.0**-32
    assert np.isfinite(fastattn.dropout(x, 1 - least, 1)).all()
    # One word in 2^32 is kept at 1 - 2^-32: none of these.
    assert not fastattn.dropout(x, 1 - least, 1).any() and not fastattn.dropout(x, math.nextafter(1, 0), 1).any()
    contract.assert_same_bits(fastattn.dropout(x, least / 4, 1), x)


def test_an_offset_goes_on() -> None:
    x = normal(301)
    for seed in (0, 2**63):
        whole = fastattn.dropout(x, 0.4, seed, 10)
        for start in (1, 2, 3, 4, 150):
            contract.assert_same_bits(fastattn.dropout(x[start:], 0.4, seed, 10 + start), whole[start:])


def test_what_is_dropped_is_zero() -> None:
    x = np.full(1000, np.nan, np.float32)
    kept = mask(1000, 0.5, 3)
    found = fastattn.dropout(x, 0.5, 3)
    assert np.isnan(found[kept]).all() and not found[~kept].any()


def test_empty_and_no_axis() -> None:
    for shape in ((), (0,), (3, 0)):
        assert fastattn.dropout(normal(*shape), 0.5, 1).shape == shape


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)]))
def test_contract(rows: int, count: int) -> None:
    contract.any_layout("dropout", {"x": normal(rows, count)}, p=0.3, seed=1)
    contract.bad_dtypes("dropout", {"x": normal(rows, count)}, p=0.3, seed=1)
    contract.bad_dtypes("dropout_backward", {"grad": normal(rows, count)}, p=0.3, seed=1)


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads("dropout", {"x": normal(501, 383)}, p=0.1, seed=5, offset=3)


def test_wrong_arguments() -> None:
    x = normal(3)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"p must be in 0 \.\. 1"):
            fastattn.dropout(x, p, 1)
    with pytest.raises(TypeError, match="p must be a number"):
        fastattn.dropout(x, None, 1)  # type: ignore[arg-type]
    for name, good, most in (("seed", 1, 2**64 - 1), ("offset", 0, 2**62)):
        for value, error in ((-1, ValueError), (most + 1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)):
            with pytest.raises(error, match=f"{name} must be"):
                fastattn.dropout(x, 0.5, **{"seed": 1, name: value})
        fastattn.dropout(x, 0.5, **{"seed": 1, name: np.int64(good)})
