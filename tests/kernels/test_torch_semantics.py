"""500 random calls of each op against the reference and, if torch is installed, against torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastattn.config import ACTIVATIONS
from tests.support.cases import JIT, layouts, normal
from tests.support.tolerance import check

Array = NDArray[Any]


class Call:
    """Arguments of a call; a failure shows their shapes, not their numbers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options

    def __repr__(self) -> str:
        def short(x: Any) -> str:
            return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else repr(x)

        named = [f"{name}={short(x)}" for name, x in self.options.items()]
        return f"({', '.join([*map(short, self.args), *named])})"


random_calls = settings(max_examples=500 if JIT else 25, derandomize=True, deadline=None, database=None)
sides = st.integers(1, 40) if JIT else st.integers(1, 6)
few = st.integers(1, 4) if JIT else st.integers(1, 2)
DTYPE_SCALES = [(np.float32, s) for s in (1e-3, 1.0, 80.0, 1e4)] + [(np.float64, 1.0), (np.float16, 1.0)]
dtype_scales = st.sampled_from(DTYPE_SCALES)
LAYOUTS = ("contiguous", "transposed", "negative")


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """Yield torch on one thread: for small arrays its thread pool only slows calls down."""
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


@st.composite
def arrays(draw: Any, *shape: int, dtype: Any, scale: float, bad: bool = False) -> Array:
    """Draw normal numbers in some layout; with `bad`, sometimes one element is NaN or infinite."""
    x = normal(*shape, seed=draw(st.integers(0, 10**6)), scale=scale, dtype=dtype)
    if bad and draw(st.integers(0, 3)) == 0:
        x[tuple(draw(st.integers(0, n - 1)) for n in shape)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return layouts(x)[draw(st.sampled_from(LAYOUTS))] if len(shape) > 1 else x


@st.composite
def softmax_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    shape = draw(st.lists(sides if JIT else few, min_size=1, max_size=3))
    x = draw(arrays(*shape, dtype=dtype, scale=scale, bad=True))
    return Call(x, draw(st.integers(-x.ndim, x.ndim - 1)))


@st.composite
def layer_norm_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    shape = draw(st.lists(sides if JIT else few, min_size=1, max_size=3))
    axes = draw(st.integers(1, len(shape)))
    x = draw(arrays(*shape, dtype=dtype, scale=scale, bad=True))
    weight, bias = (
        draw(st.none() | arrays(*shape[-axes:], dtype=dtype, scale=1.0)) if draw(st.booleans()) else None for _ in range(2)
    )
    options = {"eps": draw(st.sampled_from([1e-12, 1e-5, 0.1]))}
    if draw(st.booleans()):
        options["residual"] = draw(arrays(*shape, dtype=dtype, scale=scale))
    return Call(x, weight, bias, **options)


@st.composite
def rms_norm_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    shape = draw(st.lists(sides if JIT else few, min_size=1, max_size=3))
    axes = draw(st.integers(1, len(shape)))
    x = draw(arrays(*shape, dtype=dtype, scale=scale, bad=True))
    weight = draw(st.none() | arrays(*shape[-axes:], dtype=dtype, scale=1.0))
    options = {"eps": draw(st.sampled_from([1e-12, 1e-5, 0.1]))}
    if draw(st.booleans()):
        options["residual"] = draw(arrays(*shape, dtype=dtype, scale=scale))
    return Call(x, weight, **options)


@st.composite
def gelu_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    x = draw(arrays(*draw(st.lists(sides, min_size=1, max_size=2)), dtype=dtype, scale=scale, bad=True))
    return Call(x, approximate=draw(st.sampled_from(["none", "tanh"])))


@st.composite
def linear_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    # At least 12 outputs: a sum can be exact by luck, and the yardstick must be typical.
    lead, outputs, inputs = [*draw(st.lists(few, max_size=1)), draw(st.integers(12, 24))], draw(sides), draw(sides)
    x = draw(arrays(*lead, inputs, dtype=dtype, scale=scale, bad=True))
    weight = draw(arrays(outputs, inputs, dtype=dtype, scale=1.0))
    bias = draw(st.none() | arrays(outputs, dtype=dtype, scale=1.0))
    return Call(x, weight, bias, activation=draw(st.sampled_from([None, *ACTIVATIONS])))


@st.composite
def splade_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    # At least 12 words, as in `linear_calls`.
    tokens, words, inputs = draw(sides), draw(st.integers(12, 24)), draw(sides)
    x = draw(arrays(tokens, inputs, dtype=dtype, scale=scale))
    weight = draw(arrays(words, inputs, dtype=dtype, scale=1.0))
    bias = draw(st.none() | arrays(words, dtype=dtype, scale=1.0))
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=4)))
    names = {"pooling_strategy": ["max", "sum"], "activation_function": ["relu", "log1p_relu"]}
    options = {name: draw(st.sampled_from(values)) for name, values in names.items()}
    return Call(x, weight, bias, draw(st.none() | st.just(np.array([0, *cuts, tokens]))), **options)


@st.composite
def attention_calls(draw: Any, ours_only: bool = True) -> Call:
    """Draw calls of attention; `ours_only` adds options that torch lacks: softcap, and NaN in keys masked for all queries."""
    dtype, scale = draw(dtype_scales)
    lead, groups, repeats = draw(st.lists(few, max_size=2)), draw(few), draw(st.sampled_from([1, 1, 2, 3]))
    queries, keys, size, values = draw(sides), draw(sides), draw(sides), draw(sides)
    heads = groups * repeats
    query = draw(arrays(*lead, heads, queries, size, dtype=dtype, scale=scale))
    key = draw(arrays(*lead, groups, keys, size, dtype=dtype, scale=scale))
    value = draw(arrays(*lead, groups, keys, values, dtype=dtype, scale=1.0))
    options: dict[str, Any] = {"enable_gqa": repeats > 1 or draw(st.booleans())}
    options["scale"] = draw(st.sampled_from([None, None, 0.3, 1.0, 0.0, -0.5]))
    if draw(st.booleans()):
        options["window"] = tuple(draw(st.none() | st.integers(0, 9)) for _ in range(2))
    if ours_only and draw(st.integers(0, 3)) == 0:
        options["softcap"] = draw(st.sampled_from([0.7, 20.0]))
    kind = draw(st.sampled_from([None, "causal", "bool", "added", "padding"]))
    shape = (*lead, heads, queries, keys)
    # torch takes a mask beside is_causal only where it is part of the mask, as a window makes it below.
    if kind == "causal" or ((ours_only or "window" in options) and draw(st.integers(0, 3)) == 0):
        options["is_causal"] = True
    if kind == "padding":
        takes_part = np.arange(keys) < draw(st.integers(0, keys))
        options["attn_mask"] = np.broadcast_to(takes_part, (queries, keys)) if draw(st.booleans()) else takes_part[None]
        if ours_only:
            key, value = (np.where(takes_part[:, None], x, dtype(np.nan)) for x in (key, value))
    elif kind is not None:
        mask_shape = [n if draw(st.booleans()) else 1 for n in shape]
        seed = draw(st.integers(0, 10**6))
        takes_part = np.random.default_rng(seed).random(mask_shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))
        added = normal(*mask_shape, seed=seed, dtype=dtype)
        options["attn_mask"] = takes_part if kind == "bool" else np.where(takes_part, added, dtype(-np.inf))
    return Call(query, key, value, **options)


@st.composite
def rotary_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    lead, tokens, pairs = draw(st.lists(few, max_size=2)), draw(sides), draw(sides)
    x = draw(arrays(*lead, tokens, 2 * pairs, dtype=dtype, scale=scale, bad=True))
    return Call(x, *(draw(arrays(tokens, pairs, dtype=dtype, scale=1.0)) for _ in range(2)))


@st.composite
def maxsim_calls(draw: Any) -> Call:
    dtype, scale = draw(dtype_scales)
    # At least 12 query tokens: a sum can be exact by luck, and the yardstick must be typical.
    tokens, d, lengths = draw(st.integers(12, 40)), draw(sides), draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    query = draw(arrays(tokens, d, dtype=dtype, scale=scale))
    documents = draw(arrays(max(1, sum(lengths)), d, dtype=dtype, scale=1.0, bad=True))[: sum(lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = draw(st.none() | st.just(np.array([0, tokens // 2, tokens])))
    return Call(query, documents, offsets, starts, length_normalize=draw(st.booleans()))


@st.composite
def bag_calls(draw: Any, mode: str | None = None) -> Call:
    dtype, scale = draw(dtype_scales)
    rows, size, count, bags = draw(sides), draw(sides), draw(st.integers(0, 40)), draw(few)
    weight = draw(arrays(rows, size, dtype=dtype, scale=scale, bad=True))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    starts = np.concatenate([[0], np.sort(rng.integers(0, count + 1, bags - 1))])
    options: dict[str, Any] = {"mode": mode or draw(st.sampled_from(["mean", "sum"]))}
    if draw(st.booleans()) and options["mode"] == "sum":
        options["per_sample_weights"] = draw(arrays(count, dtype=dtype, scale=1.0))
    return Call(rng.integers(0, rows, count), weight, starts, **options)


@random_calls
@given(softmax_calls())
def test_softmax(call: Call) -> None:
    check("softmax", *call.args, **call.options)


@random_calls
@given(layer_norm_calls())
def test_layer_norm(call: Call) -> None:
    check("layer_norm", *call.args, **call.options)


@random_calls
@given(rms_norm_calls())
def test_rms_norm(call: Call) -> None:
    check("rms_norm", *call.args, **call.options)


@random_calls
@given(gelu_calls())
def test_gelu(call: Call) -> None:
    check("gelu", *call.args, **call.options)


@random_calls
@given(linear_calls())
def test_linear(call: Call) -> None:
    check("linear", *call.args, **call.options)


@random_calls
@given(splade_calls())
def test_splade_pooling(call: Call) -> None:
    check("splade_pooling", *call.args, **call.options)


@random_calls
@given(attention_calls())
def test_scaled_dot_product_attention(call: Call) -> None:
    check("scaled_dot_product_attention", *call.args, **call.options)


@random_calls
@given(attention_calls())
def test_attention_weights(call: Call) -> None:
    query, key, _ = call.args
    check("attention_weights", query, key, **call.options)


@random_calls
@given(rotary_calls())
def test_rotary_embedding(call: Call) -> None:
    check("rotary_embedding", *call.args)


@random_calls
@given(maxsim_calls())
def test_maxsim(call: Call) -> None:
    check("maxsim", *call.args, **call.options)


@given(bag_calls())
def test_embedding_bag(call: Call) -> None:
    check("embedding_bag", *call.args, **call.options)


@random_calls
@given(softmax_calls())
def test_softmax_torch(torch: Any, call: Call) -> None:
    def twin(x: Array, axis: int) -> Array:
        return numpy_of(torch.nn.functional.softmax(tensor(torch, x), dim=axis))

    check("softmax", *call.args, twin=twin)


@random_calls
@given(layer_norm_calls())
def test_layer_norm_torch(torch: Any, call: Call) -> None:
    def twin(x: Array, weight: Any, bias: Any, *, eps: float, residual: Any = None) -> Array:
        z = tensor(torch, x) if residual is None else tensor(torch, x) + tensor(torch, residual)
        first = weight if weight is not None else bias
        shape = x.shape[-1:] if first is None else first.shape
        return numpy_of(torch.nn.functional.layer_norm(z, shape, tensor(torch, weight), tensor(torch, bias), eps=eps))

    check("layer_norm", *call.args, twin=twin, **call.options)


@random_calls
@given(rms_norm_calls())
def test_rms_norm_torch(torch: Any, call: Call) -> None:
    def twin(x: Array, weight: Any, *, eps: float, residual: Any = None) -> Array:
        z = tensor(torch, x) if residual is None else tensor(torch, x) + tensor(torch, residual)
        shape = x.shape[-1:] if weight is None else weight.shape
        return numpy_of(torch.nn.functional.rms_norm(z, shape, tensor(torch, weight), eps=eps))

    check("rms_norm", *call.args, twin=twin, **call.options)


@random_calls
@given(gelu_calls())
def test_gelu_torch(torch: Any, call: Call) -> None:
    def twin(x: Array, *, approximate: str) -> Array:
        return numpy_of(torch.nn.functional.gelu(tensor(torch, x), approximate=approximate))

    check("gelu", *call.args, twin=twin, **call.options)


@random_calls
@given(linear_calls())
def test_linear_torch(torch: Any, call: Call) -> None:
    functional = torch.nn.functional
    activations = {
        None: lambda x: x,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
        "silu": functional.silu,
        "gelu_10": lambda x: functional.gelu(x).clip(-10, 10),
        "hardswish": functional.hardswish,
        "laplace": lambda x: torch.special.ndtr((x - 0.707107) / 0.282095),
        "leaky_relu": functional.leaky_relu,
        "linear": lambda x: x,
        "mish": functional.mish,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "relu2": lambda x: functional.relu(x).square(),
        "relu6": functional.relu6,
        "sigmoid": torch.sigmoid,
        "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
        "tanh": torch.tanh,
    }

    def twin(x: Array, weight: Array, bias: Any, *, activation: str | None) -> Array:
        product = functional.linear(tensor(torch, x), tensor(torch, weight), tensor(torch, bias))
        # Of a product that overflows, activations make NaN in one library and a number in another.
        assume(activation is None or bool(product.abs().max() < torch.finfo(tensor(torch, call.args[0]).dtype).max))
        return numpy_of(activations[activation](product))

    check("linear", *call.args, twin=twin, **call.options)


@random_calls
@given(bag_calls())
def test_embedding_bag_torch(torch: Any, call: Call) -> None:
    def twin(input: Array, weight: Array, offsets: Array, *, mode: str, per_sample_weights: Any = None) -> Array:
        tensors = [tensor(torch, x) for x in (input, weight, offsets)]
        factors = tensor(torch, per_sample_weights)
        return numpy_of(torch.nn.functional.embedding_bag(*tensors, mode=mode, per_sample_weights=factors))

    check("embedding_bag", *call.args, twin=twin, **call.options)


@random_calls
@given(attention_calls(ours_only=False))
def test_scaled_dot_product_attention_torch(torch: Any, call: Call) -> None:
    def twin(query: Array, key: Array, value: Array, *, attn_mask: Any = None, window: Any = None, **options: Any) -> Array:
        # torch has no window, and takes no mask beside is_causal: one mask instead.
        if window is not None or (attn_mask is not None and options.get("is_causal")):
            distance = np.arange(key.shape[-2]) - np.arange(query.shape[-2])[:, None]
            left, right = (None, None) if window is None else window
            band = np.ones(distance.shape, bool) if left is None else distance >= -left
            band = band if right is None else band & (distance <= right)
            if options.pop("is_causal", False):
                band = band & (distance <= 0)
            if attn_mask is None or attn_mask.dtype == np.bool_:
                attn_mask = band if attn_mask is None else band & attn_mask
            else:
                attn_mask = np.where(band, attn_mask, attn_mask.dtype.type(-np.inf))
        tensors = (tensor(torch, x) for x in (query, key, value, attn_mask))
        return numpy_of(torch.nn.functional.scaled_dot_product_attention(*tensors, **options))

    check("scaled_dot_product_attention", *call.args, twin=twin, **call.options)


def tensor(torch: Any, x: Array | None) -> Any:
    """Copy an array to a tensor, since torch takes neither negative strides nor read-only memory."""
    return None if x is None else torch.from_numpy(np.array(x, order="C"))


def numpy_of(x: Any) -> Array:
    return np.asarray(x.numpy())
