"""Every activation against the reference, and against transformers' table."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn
from fastattn.checkpoint.config_json import TRANSFORMERS_ACTIVATIONS
from fastattn.config import ACTIVATIONS
from tests.support.cases import DTYPES, sizes
from tests.support.tolerance import check

Array = NDArray[Any]
# Not in `TRANSFORMERS_ACTIVATIONS`: they have parameters of their own.
WITH_PARAMETERS = {"prelu", "xielu"}


def applied(x: Array, activation: str) -> Array:
    """Apply an activation to the elements of x by a product with 1."""
    return check("linear", x.reshape(-1, 1), np.ones((1, 1), x.dtype), activation=activation).reshape(x.shape)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("low", range(-12, 12, 2))
def test_every_part_of_the_range(low: int, activation: str) -> None:
    """Intervals are compared one by one: the tolerance scales with the largest value."""
    for dtype in DTYPES:
        applied(np.linspace(low, low + 2, 101, dtype=dtype), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values(activation: str) -> None:
    for value in (0.0, -0.0, 1e-30, -1e-30, 6.0, -3.0, 3.0, 20.0, 88.0, -88.0, 1e4, -1e4, np.inf, -np.inf, np.nan):
        applied(np.array([value], np.float32), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", sizes([1, 15, 16, 17, 33, 65, 129]))
def test_a_row_of_any_length(outputs: int, activation: str) -> None:
    """An element's bits depend neither on its place nor on the row's length; nothing behind the row is written."""
    x, weight = np.array([[0.5], [-3.0]], np.float32), np.linspace(-4, 4, outputs, dtype=np.float32)[:, None]
    row = fastattn.linear(x, weight, activation=activation)
    for j in range(0, outputs, 13):
        np.testing.assert_array_equal(fastattn.linear(x, weight[j : j + 1], activation=activation), row[:, j : j + 1])


# The value at -1 and 2 of each activation, from its formula with numbers of six digits.
VALUES = {
    "gelu": (-0.158655, 1.954500),
    "gelu_tanh": (-0.158808, 1.954598),
    "relu": (0.0, 2.0),
    "silu": (-0.268941, 1.761594),
    "gelu_10": (-0.158655, 1.954500),
    "hardswish": (-0.333333, 1.666667),
    "laplace": (0.0, 0.999998),
    "leaky_relu": (-0.01, 2.0),
    "linear": (-1.0, 2.0),
    "mish": (-0.303401, 1.943959),
    "quick_gelu": (-0.154204, 1.935659),
    "relu2": (0.0, 4.0),
    "relu6": (0.0, 2.0),
    "sigmoid": (0.268941, 0.880797),
    "sqrtsoftplus": (0.559698, 1.458399),
    "tanh": (-0.761594, 0.964028),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(activation: str) -> None:
    np.testing.assert_allclose(applied(np.array([-1.0, 2.0]), activation), VALUES[activation], rtol=0, atol=1.5e-6)
    assert applied(np.array([30.0]), "gelu_10") == 10 and applied(np.array([30.0]), "relu6") == 6


def test_transformers() -> None:
    """In float32, as encoders compute: the constant of gelu_fast has ten digits."""
    torch, table = pytest.importorskip("torch"), pytest.importorskip("transformers.activations")
    x = np.linspace(-15, 15, 1201, dtype=np.float32)
    # A name of another version of transformers may be missing there, none here.
    assert set(table.ACT2FN) - WITH_PARAMETERS <= set(TRANSFORMERS_ACTIVATIONS)
    for name in set(table.ACT2FN) - WITH_PARAMETERS:

        def theirs(x: Array, weight: Array, activation: str, name: str = name) -> Array:
            return np.asarray(table.ACT2FN[name](torch.from_numpy(x)).numpy())

        check("linear", x[:, None], np.ones((1, 1), np.float32), activation=TRANSFORMERS_ACTIVATIONS[name], twin=theirs)
