"""rotary_embedding_backward against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows, torch_gradients


def given(*lead: int, tokens: int, half: int, dtype: Any = np.float32) -> dict[str, Array]:
    tables = (table.astype(dtype) for table in reference.rotary_tables(tokens, 2 * half))
    return {"grad": normal(*lead, tokens, 2 * half, dtype=dtype), **dict(zip(("cos", "sin"), tables, strict=True))}


def check(arrays: dict[str, Array]) -> Any:
    return check_gradients("rotary_embedding_backward", *arrays.values(), orders=1)


def test_finite_differences() -> None:
    """Tables that are no turn as well: the gradient is the transpose, whatever they hold."""
    x, grad, cos, sin = f64(2, 3, 8), f64(2, 3, 8, seed=1), f64(3, 4, seed=2), f64(3, 4, seed=3)
    gradient = reference.rotary_embedding_backward(grad, cos, sin)
    check_slopes(lambda x: np.sum(grad * reference.rotary_embedding(x, cos, sin)), [x], gradient)


def test_a_turn_and_back() -> None:
    arrays = given(2, tokens=9, half=16, dtype=np.float64)
    cos, sin = arrays["cos"], arrays["sin"]
    turned = fastattn.rotary_embedding(arrays["grad"], cos, sin)
    np.testing.assert_allclose(fastattn.rotary_embedding_backward(turned, cos, sin), arrays["grad"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("half", sizes(EDGES, work=lambda n: 20 * n))
def test_sizes(half: int) -> None:
    check(given(2, tokens=5, half=half))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    check(given(3, 2, tokens=7, half=16, dtype=dtype))


def test_random_calls() -> None:
    for rng, array in random_rows():
        lead, tokens, half = rng.integers(1, 4, rng.integers(0, 3)), int(rng.integers(1, 12)), int(rng.integers(1, 40))
        tables = array(tokens, half, seed=1, scale=1.0), array(tokens, half, seed=2, scale=1.0)
        check_gradients("rotary_embedding_backward", array(*lead, tokens, 2 * half), *tables, orders=1)


def test_nan_stays_in_its_pair() -> None:
    arrays = given(2, tokens=5, half=20)
    arrays["grad"][1, 2, 3] = np.nan
    assert np.argwhere(np.isnan(fastattn.rotary_embedding_backward(**arrays))).tolist() == [[1, 2, 3], [1, 2, 23]]


@pytest.mark.parametrize(("tokens", "half"), sizes([(5, 7), (37, 33)]))
def test_contract(tokens: int, half: int) -> None:
    arrays = given(2, tokens=tokens, half=half)
    contract.any_layout("rotary_embedding_backward", arrays)
    contract.bad_dtypes("rotary_embedding_backward", arrays)


@pytest.mark.jit
def test_threads() -> None:
    contract.any_threads("rotary_embedding_backward", given(12, tokens=300, half=32))


def test_wrong_shapes() -> None:
    arrays = given(2, tokens=5, half=4)
    for name, shape in (("grad", (8,)), ("grad", (5, 7)), ("cos", (5, 3)), ("sin", (4, 4))):
        with pytest.raises(ValueError, match=rf"^{name} must have shape"):
            fastattn.rotary_embedding_backward(**{**arrays, name: np.zeros(shape, np.float32)})


def test_torch() -> None:
    torch = pytest.importorskip("torch")

    def twin(grad: Array, cos: Array, sin: Array) -> Any:
        def forward(x: Any) -> Any:
            a, b = x.chunk(2, -1)
            wide_cos, wide_sin = (torch.cat([torch.from_numpy(table)] * 2, -1) for table in (cos, sin))
            return x * wide_cos + torch.cat([-b, a], -1) * wide_sin

        return torch_gradients(torch, forward, grad, np.zeros_like(grad))[0]

    check_gradients("rotary_embedding_backward", *given(3, tokens=9, half=16).values(), twin=twin, orders=1)
