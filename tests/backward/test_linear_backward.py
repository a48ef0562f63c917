"""linear_backward against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn
from fastattn import reference
from tests.support.cases import DTYPES, EDGES, JIT, SCALES, close, f64, layouts, normal, sizes
from tests.support.contract import BAD_DTYPES, assert_same_bits
from tests.support.linear_gradients import Array, check_linear_backward, each_thread_count, linear_arrays
from tests.support.tolerance import assert_matches_reference

NAMES = ("grad", "x", "weight", "bias")


def test_finite_differences() -> None:
    """The loss sum(grad * out) is linear in each argument alone, so a central difference has no error but rounding."""
    x, weight, bias, grad = f64(2, 3, 5), f64(4, 5, seed=1), f64(4, seed=2), f64(2, 3, 4, seed=3)
    found = reference.linear_backward(grad, x, weight, bias)
    for array, gradient in zip((x, weight, bias), found, strict=True):
        assert gradient is not None
        slopes = np.empty_like(array)
        for at in np.ndindex(array.shape):
            kept, losses = array[at], []
            for step in (0.5, -0.5):
                array[at] = kept + step
                losses.append(np.sum(grad * reference.linear(x, weight, bias)))
            array[at] = kept
            slopes[at] = losses[0] - losses[1]
        close(slopes, gradient, ulps=200)


def test_without_a_bias() -> None:
    arrays = linear_arrays(3, 5, 7)
    expected = fastattn.linear_backward(**arrays)
    for module in (fastattn, reference):
        result = module.linear_backward(arrays["grad"], arrays["x"], arrays["weight"])
        assert result[2] is None
    for one, other in zip(fastattn.linear_backward(arrays["grad"], arrays["x"], arrays["weight"])[:2], expected, strict=False):
        assert_same_bits(one, other)


ROWS = (0, 1, 2, 255, 256, 257, 511, 513, 1000)


@pytest.mark.parametrize("rows", sizes(ROWS, work=lambda m: 120 * m))
def test_rows(rows: int) -> None:
    check_linear_backward(**linear_arrays(rows, 12, 5))
    check_linear_backward(**linear_arrays(rows, 29, 33))


# Around the rows of a task too.
@pytest.mark.parametrize("outputs", sizes((*EDGES, 191, 192, 193, 400), work=lambda n: 80 * n))
def test_outputs(outputs: int) -> None:
    check_linear_backward(**linear_arrays(12, outputs, 5))
    check_linear_backward(**linear_arrays(29, outputs, 17))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inputs", sizes(EDGES, work=lambda k: 80 * k))
def test_inputs(inputs: int, scale: float) -> None:
    check_linear_backward(**linear_arrays(12, 5, inputs, scale=scale))
    check_linear_backward(**linear_arrays(29, 17, inputs, scale=scale))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(600, 384, 384), (300, 1536, 384), (300, 384, 1536)]))
def test_shapes_of_an_encoder(rows: int, outputs: int, inputs: int) -> None:
    check_linear_backward(**linear_arrays(rows, outputs, inputs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", sizes([1, 33, 513], work=lambda m: 120 * m))
def test_dtypes(rows: int, dtype: Any) -> None:
    for scale in (1e-2, 1.0, 10.0):
        for gradient in check_linear_backward(**linear_arrays(rows, 12, 5, scale=scale, dtype=dtype)):
            assert gradient.dtype == dtype


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 4), (2, 0)], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(5, 7), (0, 7), (5, 0), (0, 0)])
def test_leading_axes_and_empty_sums(lead: tuple[int, ...], outputs: int, inputs: int) -> None:
    arrays = {
        "grad": normal(*lead, outputs),
        "x": normal(*lead, inputs, seed=1),
        "weight": normal(outputs, inputs, seed=2),
        "bias": normal(outputs, seed=3),
    }
    results = check_linear_backward(**arrays)
    assert [each.shape for each in results] == [(*lead, inputs), (outputs, inputs), (outputs,)]


def test_nan_and_infinity_stay_in_their_row_and_column() -> None:
    for bad in (np.nan, np.inf):
        arrays = linear_arrays(5, 9, 7)
        arrays["grad"][1, 3] = bad
        grad_x, grad_weight, grad_bias = check_linear_backward(**arrays)
        for result, row in ((grad_x, 1), (grad_weight, 3), (grad_bias, 3)):
            assert not np.isfinite(result[row]).any() and np.isfinite(np.delete(result, row, axis=0)).all()
        arrays = linear_arrays(5, 9, 7)
        arrays["x"][1, 3] = bad
        grad_x, grad_weight, grad_bias = check_linear_backward(**arrays)
        assert not np.isfinite(grad_weight[:, 3]).any() and np.isfinite(np.delete(grad_weight, 3, axis=1)).all()
        assert np.isfinite(grad_x).all() and np.isfinite(grad_bias).all()


@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(3, 5, 7), (300, 65, 33)]))
def test_layouts(rows: int, outputs: int, inputs: int) -> None:
    """Strides, alignment and write protection of an input change no bit; no input is written to."""
    arrays = linear_arrays(rows, outputs, inputs)
    expected = fastattn.linear_backward(**arrays)
    for name in NAMES[:3]:
        for x in layouts(arrays[name]).values():
            before = x.copy()
            for one, other in zip(fastattn.linear_backward(**{**arrays, name: x}), expected, strict=True):
                assert_same_bits(one, other)
            np.testing.assert_array_equal(x, before)


@pytest.mark.jit
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(4096, 384, 384), (700, 130, 400), (4096, 7, 1), (300, 1000, 17)])
def test_threads(rows: int, outputs: int, inputs: int) -> None:
    arrays = linear_arrays(rows, outputs, inputs)
    first, *others = [fastattn.linear_backward(**arrays) for _ in each_thread_count()]
    assert others
    for result in others:
        for one, other in zip(result, first, strict=True):
            assert_same_bits(one, other)


calls = settings(max_examples=200 if JIT else 15, derandomize=True, deadline=None, database=None)
side = st.integers(1, 40 if JIT else 6)


@calls
@given(
    lead=st.lists(st.integers(1, 20 if JIT else 3), max_size=3),
    outputs=side,
    inputs=side,
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(("contiguous", "transposed", "negative")),
)
def test_random_calls(lead: list[int], outputs: int, inputs: int, seed: int, dtype: Any, layout: str) -> None:
    grad, x = normal(*lead, outputs, seed=seed, dtype=dtype), normal(*lead, inputs, seed=seed + 1, dtype=dtype)
    weight = layouts(normal(outputs, inputs, seed=seed + 2, dtype=dtype))[layout]
    if lead:
        grad, x = layouts(grad)[layout], layouts(x)[layout]
    check_linear_backward(grad, x, weight, normal(outputs, seed=seed + 3, dtype=dtype))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(3, 5, 7), (300, 65, 33), (1000, 384, 384)]))
def test_autograd(rows: int, outputs: int, inputs: int) -> None:
    """Autograd in float64 is the truth, in float32 the yardstick."""
    torch = pytest.importorskip("torch")
    arrays = linear_arrays(rows, outputs, inputs)

    def autograd(dtype: Any) -> list[Array]:
        given = {name: torch.from_numpy(array.astype(dtype)).requires_grad_() for name, array in arrays.items()}
        torch.nn.functional.linear(given["x"], given["weight"], given["bias"]).backward(given["grad"].detach())
        return [given[name].grad.numpy() for name in NAMES[1:]]

    found = zip(fastattn.linear_backward(**arrays), autograd(np.float64), autograd(np.float32), strict=True)
    for gradient, truth, yardstick in found:
        assert gradient is not None
        assert_matches_reference(gradient, truth, yardstick)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_that_it_does_not_take(name: str) -> None:
    arrays = linear_arrays(3, 5, 7)
    for dtype in (*BAD_DTYPES, "float64"):
        with pytest.raises(TypeError, match=rf"\b{name}\b" if dtype != "float64" or name != "grad" else "dtype of grad"):
            fastattn.linear_backward(**{**arrays, name: arrays[name].astype(dtype)})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (), "x must"),
        ("x", (3, 6), "x must have C_in = 7"),
        ("x", (4, 7), r"grad must have the shape of x weight\^T, \(4, 5\), got \(3, 5\)"),
        ("grad", (5,), "grad must"),
        ("grad", (3, 7), "grad must"),
        ("grad", (1, 3, 5), "grad must"),
        ("weight", (7,), "weight must have two axes"),
        ("weight", (5, 7, 1), "weight must have two axes"),
        ("bias", (4,), "bias must have shape"),
        ("bias", (1, 5), "bias must have shape"),
        ("bias", (), "bias must have shape"),
    ],
    ids=str,
)
def test_wrong_shapes(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastattn.linear_backward(**{**linear_arrays(3, 5, 7), name: np.zeros(shape, np.float32)})
