"""splade_pooling against the reference."""

import inspect
import itertools
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import reference
from fastattn.kernels.ops.linear import ROW_BLOCK
from fastattn.kernels.ops.splade_pooling import pooled_product
from fastattn.kernels.products.pack import pack_linear
from tests.support import contract
from tests.support.cases import DTYPES, EDGES, SCALES, normal, sizes
from tests.support.rounded import LOW
from tests.support.tolerance import check

STRATEGIES, FUNCTIONS = ("max", "sum"), ("relu", "log1p_relu")
OPTIONS = [{"pooling_strategy": strategy, "activation_function": function} for strategy in STRATEGIES for function in FUNCTIONS]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))


def parts(tokens: int, words: int, inputs: int, scale: float = 1.0, dtype: Any = np.float32) -> dict[str, Any]:
    return {
        "x": normal(tokens, inputs, scale=scale, dtype=dtype),
        "weight": normal(words, inputs, seed=1, dtype=dtype),
        "bias": normal(words, seed=2, dtype=dtype),
    }


def starts(*lengths: int) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def check_parts(given: dict[str, Any], offsets: Any = None, **options: Any) -> Any:
    return check("splade_pooling", given["x"], given["weight"], given["bias"], offsets, **options)


@each_option
@pytest.mark.parametrize("count", sizes(EDGES, work=lambda n: 60 * n))
def test_sizes(count: int, options: dict[str, str]) -> None:
    check_parts(parts(count, 12, 5), **options)
    check_parts(parts(12, count, 5), starts(3, 0, 9), **options)
    check_parts(parts(12, 5, count), starts(1, 11), **options)


@each_option
@pytest.mark.jit
def test_texts_of_every_length_around_a_block(options: dict[str, str]) -> None:
    """Texts of one block, of several, and several of one block, with empty ones between them."""
    lengths = (1, 0, ROW_BLOCK - 1, ROW_BLOCK, 0, 0, ROW_BLOCK + 1, 3 * ROW_BLOCK + 5, 2, 2, 40, 40, 40, 0)
    check_parts(parts(sum(lengths), 50, 20), starts(*lengths), **options)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type, scale: float) -> None:
    for options in OPTIONS:
        check_parts(parts(9, 20, 7, scale=min(scale, 1e3), dtype=dtype), starts(4, 5), **options)
        check_parts({**parts(9, 20, 7, scale=min(scale, 1e3), dtype=dtype), "bias": None}, **options)


@pytest.mark.jit
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_of_the_logarithm(dtype: Any) -> None:
    """log(1 + x) of every magnitude, one text a number, in units of the last place."""
    bits = np.arange(0, 0x7F800000, 40_009, dtype=np.uint32)
    x = np.concatenate([bits.view(np.float32), np.float32([0, 2**-149, 1, 2, 2**24, 3.4e38])]).astype(dtype)
    for function, bound in (("relu", 1.1), ("log1p_relu", 2.2)):
        one = np.ones((1, 1), dtype)
        found = fastattn.splade_pooling(x[:, None], one, offsets=np.arange(len(x) + 1), activation_function=function)[:, 0]
        truth = np.log1p(x.astype(np.longdouble))
        truth = truth if function == "relu" else np.log1p(truth)
        assert np.max(np.abs(found - truth) / np.spacing(truth.astype(dtype))) < bound


def test_special_values() -> None:
    x = np.array([[-np.inf], [-1.0], [-0.0], [np.inf]], np.float32)
    for options in OPTIONS:
        found = check_parts({"x": x, "weight": np.ones((1, 1), np.float32), "bias": None}, starts(1, 1, 1, 1), **options)
        assert found[:, 0].tolist() == [0, 0, 0, np.inf]


@each_option
def test_nan_and_infinity_stay_in_their_text(options: dict[str, str]) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for token in range(3, 6):
            given = parts(9, 11, 7)
            given["x"][token, 3] = bad
            found = check_parts(given, starts(3, 3, 3), **options)
            assert np.isfinite(found[[0, 2]]).all()
            assert np.isnan(found[1]).all() if np.isnan(bad) else not np.isnan(found[1]).any()


@each_option
@pytest.mark.parametrize(("tokens", "words", "inputs"), sizes([(5, 5, 7), (37, 65, 129)]))
def test_contract(tokens: int, words: int, inputs: int, options: dict[str, str]) -> None:
    arrays, given = parts(tokens, words, inputs), {"offsets": starts(2, tokens - 2), **options}
    contract.any_layout("splade_pooling", arrays, **given)
    contract.any_out("splade_pooling", arrays, **given)
    contract.bad_out("splade_pooling", arrays, **given)
    contract.bad_dtypes("splade_pooling", arrays, **given)
    contract.any_threads("splade_pooling", arrays, **given)


@pytest.mark.jit
@pytest.mark.parametrize("lengths", [(300, 4, 1, 90), (3,), (1, 2, 500)], ids=str)
def test_threads(lengths: tuple[int, ...]) -> None:
    for options in OPTIONS:
        contract.any_threads("splade_pooling", parts(sum(lengths), 3000, 64), offsets=starts(*lengths), **options)


@each_option
@pytest.mark.jit
@pytest.mark.parametrize("precision", ["float32", *LOW])
def test_same_bits_alone_and_in_a_batch(precision: str, options: dict[str, str]) -> None:
    """A text's bits depend on its own tokens alone: not on the batch, its place in it, or the words beside one."""
    lengths = (5, 0, 130, 7, 260, 1, 1, 33)
    offsets, given = starts(*lengths), parts(sum(lengths), 70, 300)
    names = (options["pooling_strategy"], options["activation_function"])

    def run(x: Any, offsets: Any) -> Any:
        packed = pack_linear(given["weight"], given["bias"], np.float32, precision)
        out = np.full((len(offsets) - 1, 70), np.nan, np.float32)
        pooled_product(x, *packed, offsets, out, names, precision)
        return out

    together = run(given["x"], offsets)
    assert (together[1] == 0).all() and np.isfinite(together).all() and (together > 0).any()
    for text, (first, last) in enumerate(itertools.pairwise(offsets)):
        contract.assert_same_bits(run(given["x"][first:last].copy(), starts(last - first))[0], together[text])
    order = np.array([4, 7, 2, 0, 6, 3, 1, 5])
    mixed = np.concatenate([given["x"][offsets[text] : offsets[text + 1]] for text in order])
    contract.assert_same_bits(run(mixed, starts(*(lengths[text] for text in order))), together[order])
    if precision == "float32":
        few = fastattn.splade_pooling(given["x"], given["weight"][2:4], given["bias"][2:4], offsets, **options)  # type: ignore[arg-type]
        contract.assert_same_bits(few, together[:, 2:4])


@pytest.mark.jit
@pytest.mark.parametrize("precision", LOW)
def test_low_precision_is_that_of_the_product(precision: str) -> None:
    given, offsets = parts(150, 40, 70), starts(140, 10)
    out = np.empty((2, 40), np.float32)
    pooled_product(
        given["x"], *pack_linear(given["weight"], given["bias"], np.float32, precision), offsets, out, ("max", "relu"), precision
    )
    product = getattr(reference, f"linear_{precision}")
    logits = product(given["x"], given["weight"], given["bias"])
    expected = [np.log1p(np.maximum(logits[a:b].max(axis=0), 0)) for a, b in ((0, 140), (140, 150))]
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
    ("tokens", "words", "inputs", "lengths"),
    [(0, 5, 7, (0, 0)), (0, 5, 7, ()), (3, 0, 7, (3,)), (3, 5, 0, (1, 2)), (0, 0, 0, (0,))],
    ids=str,
)
def test_empty(tokens: int, words: int, inputs: int, lengths: tuple[int, ...]) -> None:
    found = fastattn.splade_pooling(**parts(tokens, words, inputs), offsets=starts(*lengths))
    expected = reference.splade_pooling(**parts(tokens, words, inputs), offsets=starts(*lengths))
    assert found.shape == (len(lengths), words)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((3, 6), np.float32), r"x must have shape \(N, C\) with C = 7 .* got shape \(3, 6\)"),
        ("x", np.zeros(7, np.float32), r"x must have shape"),
        ("weight", np.zeros(7, np.float32), r"weight must have two axes \(V, C\), got shape \(7,\)"),
        ("bias", np.zeros(4, np.float32), r"bias must have shape \(5,\)"),
        ("offsets", [0, 2], r"offsets must rise from 0 to N = 3, got 0 .. 2"),
        ("offsets", [0, 3, 2, 3], r"offsets must rise from 0 to N = 3"),
        ("offsets", [0.0, 3.0], r"offsets must be whole numbers of shape \(B \+ 1,\), got float64"),
        ("offsets", [], r"offsets must be whole numbers"),
        ("pooling_strategy", "mean", r"pooling_strategy must be one of 'max', 'sum', got 'mean'"),
        ("pooling_strategy", [], r"pooling_strategy must be"),
        ("activation_function", None, r"activation_function must be one of 'relu', 'log1p_relu', got None"),
    ],
)
def test_wrong_arguments(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastattn.splade_pooling(**{**parts(3, 5, 7), name: value})


def test_names_are_those_of_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    assert tuple(SpladePooling.SPLADE_ACTIVATION) == FUNCTIONS and set(SpladePooling.SPLADE_POOLING_MODES) == set(STRATEGIES)
    theirs, ours = inspect.signature(SpladePooling.__init__), inspect.signature(fastattn.splade_pooling)
    for name in ("pooling_strategy", "activation_function"):
        assert theirs.parameters[name].default == ours.parameters[name].default
