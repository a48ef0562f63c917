"""activation_backward and gelu_backward against the reference, and the reference against finite differences."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.config import ACTIVATIONS
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, Array, f64, normal, sizes
from tests.support.gradients import check_gradients, check_slopes, random_rows, torch_gradients

FORMS = {"none": "gelu", "tanh": "gelu_tanh"}
KINKS = {"relu": [0.0], "leaky_relu": [0.0], "relu6": [0.0, 6.0], "hardswish": [-3.0, 3.0], "relu2": [0.0], "gelu_10": [10.0]}


def given(*shape: int, scale: float = 1.0, dtype: Any = np.float32) -> dict[str, Array]:
    return {"grad": normal(*shape, seed=1, dtype=dtype), "x": normal(*shape, scale=scale, dtype=dtype)}


def of(x: Array, activation: str) -> Array:
    """Return the derivative, checked."""
    found: Array = check_gradients("activation_backward", np.ones_like(x), x, activation, orders=1)
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_finite_differences(activation: str) -> None:
    x, grad = np.linspace(-11.3, 11.3, 114), f64(114)
    gradient = reference.activation_backward(grad, x, activation)
    check_slopes(lambda x: np.sum(grad * reference.linear(x[:, None], np.ones((1, 1)), activation=activation)[:, 0]), [x], gradient)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("low", range(-12, 12, 2))
def test_every_part_of_the_range(low: int, activation: str) -> None:
    """Intervals are compared one by one: the tolerance scales with the largest value."""
    for dtype in DTYPES:
        of(np.linspace(low, low + 2, 101, dtype=dtype), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values(activation: str) -> None:
    values = (0.0, -0.0, 1e-30, -1e-30, 6.0, -3.0, 3.0, 10.0, 20.0, 88.0, -88.0, -110.0, 1e4, -1e4, np.inf, -np.inf, np.nan)
    for value in values:
        for dtype in (np.float32, np.float64):
            found = of(np.array([value], dtype), activation)
            assert np.isfinite(found).all() or not np.isfinite(value)
    assert np.isnan(of(np.array([np.nan], np.float32), activation)).all() or activation == "linear"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("count", sizes(EDGES))
def test_lengths(count: int, activation: str) -> None:
    """An element's bits do not depend on its place; the value next to the row is not written."""
    arrays = given(count, scale=3)
    whole = fastattn.activation_backward(**arrays, activation=activation)
    for j in range(0, count, 13):
        one = fastattn.activation_backward(arrays["grad"][j : j + 1], arrays["x"][j : j + 1], activation)
        contract.assert_same_bits(one, whole[j : j + 1])


@pytest.mark.parametrize("approximate", FORMS)
def test_gelu(approximate: Any) -> None:
    arrays = given(5, 33, scale=2)
    found = check_gradients("gelu_backward", *arrays.values(), approximate=approximate, orders=1)
    contract.assert_same_bits(found, fastattn.activation_backward(**arrays, activation=FORMS[approximate]))


def test_random_calls() -> None:
    for rng, array in random_rows():
        shape = rng.integers(1, 30, rng.integers(1, 3))
        grad, x = array(*shape), array(*shape, seed=1)
        check_gradients("activation_backward", grad, x, str(rng.choice(ACTIVATIONS)), orders=1)
        check_gradients("gelu_backward", grad, x, approximate=str(rng.choice(list(FORMS))), orders=1)


def test_nan_stays_in_its_place() -> None:
    for name in ("grad", "x"):
        for activation in set(ACTIVATIONS) - {"linear"}:
            arrays = given(5, 33)
            arrays[name][1, 30] = np.nan
            assert np.argwhere(np.isnan(fastattn.activation_backward(**arrays, activation=activation))).tolist() == [[1, 30]]


def test_empty_and_no_axis() -> None:
    for shape in ((), (0,), (3, 0)):
        for activation in ("gelu", "mish", "linear"):
            assert fastattn.activation_backward(**given(*shape), activation=activation).shape == shape


@pytest.mark.parametrize(("rows", "count"), sizes([(5, 7), (37, 129)], work=lambda m, n: 20 * m * n))
def test_contract(rows: int, count: int) -> None:
    for op, options in (("activation_backward", {"activation": "mish"}), ("gelu_backward", {"approximate": "tanh"})):
        contract.any_layout(op, given(rows, count), **options)
        contract.bad_dtypes(op, given(rows, count), **options)


@pytest.mark.jit
def test_threads() -> None:
    for activation in ("gelu", "mish"):
        contract.any_threads("activation_backward", given(501, 383), activation=activation)


def test_wrong_arguments() -> None:
    arrays = given(3, 4)
    for op in (fastattn, reference):
        with pytest.raises(ValueError, match=r"activation must be one of gelu, .*, got 'swish'"):
            op.activation_backward(**arrays, activation="swish")
        with pytest.raises(ValueError, match="approximate"):
            op.gelu_backward(**arrays, approximate="erf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grad must have the shape of x, \(3, 4\), got \(4,\)"):
        fastattn.gelu_backward(normal(4), arrays["x"])


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    forwards = {
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
        "silu": functional.silu,
        "gelu_10": lambda x: functional.gelu(x).clip(-10, 10),
        "hardswish": functional.hardswish,
        "laplace": lambda x: torch.special.ndtr((x - 0.707107) / 0.282095),
        "leaky_relu": functional.leaky_relu,
        "linear": lambda x: x * 1,
        "mish": functional.mish,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "relu2": lambda x: functional.relu(x).square(),
        "relu6": functional.relu6,
        "sigmoid": torch.sigmoid,
        "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
        "tanh": torch.tanh,
    }
    assert set(forwards) == set(ACTIVATIONS)
    for name, forward in forwards.items():

        def twin(grad: Array, x: Array, activation: str, forward: Any = forward) -> Any:
            return torch_gradients(torch, forward, grad, x)[0]

        for low in range(-12, 12, 3):
            x = np.append(np.linspace(low, low + 3, 101, dtype=np.float32)[1:-1], np.array(KINKS.get(name, []), np.float32))
            check_gradients("activation_backward", normal(*x.shape), x, name, twin=twin, orders=1)
