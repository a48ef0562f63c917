"""Hostile array arguments: valid and invalid strides, byte orders, shapes and types."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.config import ACTIVATIONS
from soak._hostile_case import Case

Array = NDArray[Any]

# Exceptions named in the docstrings of the ops and of the encoder.
DOCUMENTED = (TypeError, ValueError, MemoryError)
SIZES = (0, 1, 2, 3, 5, 16, 17, 33)
NORMS = ("layer_norm", "rms_norm")
OPS = (
    *("softmax", *NORMS, "gelu", "linear", "splade_pooling", "scaled_dot_product_attention", "attention_weights"),
    *("rotary_embedding", "maxsim", "embedding_bag"),
)
DTYPES = ("f4", "f4", "f4", "f4", "f8", "f2", ">f4", ">f8", "i4", "?", "O", "c8", "U3", "M8[s]", "V4", "g")
# Axis lengths that no memory can hold; a shorter axis would be allocated and computed.
HUGE = (2**36, 2**40, 2**62)


def values(rng: random.Random, shape: tuple[int, ...], dtype: str = "f4") -> Array:
    """Return a sine of one of seven frequencies; sometimes one element is NaN, infinite, huge or denormal."""
    x = np.resize(np.sin(np.arange(97) * (1 + rng.randrange(7))), shape)
    if rng.random() < 0.1 and x.size:
        x.reshape(-1)[rng.randrange(x.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e30, 1e-42))
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype)


def laid_out(rng: random.Random, x: Array) -> Array:
    """Return the numbers of `x` in another memory layout."""
    kind = rng.randrange(9)
    if kind == 0 and x.ndim:
        return np.asfortranarray(x)
    if kind == 1 and x.ndim:
        spaced = np.zeros([2 * n + 1 for n in x.shape], x.dtype)
        spaced[tuple(slice(1, None, 2) for _ in x.shape)] = x
        return spaced[tuple(slice(1, None, 2) for _ in x.shape)]
    if kind == 2 and x.ndim:
        back = (slice(None, None, -1),) * x.ndim
        return np.ascontiguousarray(x[back])[back]
    if kind == 3 and x.dtype.kind == "f":
        return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)
    if kind == 4:
        x = x.copy()
        x.flags.writeable = False
        return x
    if kind == 5 and x.dtype.kind == "f" and x.dtype.itemsize > 1:
        return x.astype(x.dtype.newbyteorder())
    if kind == 6 and x.ndim > 1:
        return np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1)
    return x


def repeated(rng: random.Random, shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array with strides of 0, one number everywhere; an axis may be longer than any memory could hold."""
    shape = tuple(rng.choice(HUGE) if rng.random() < 0.3 else n for n in shape)
    try:
        return np.broadcast_to(np.asarray(0.5, dtype), shape)
    except (ValueError, TypeError):
        return np.zeros(0, "f4")


def hostile(rng: random.Random, x: Any) -> Any:
    """Return a value of another shape, dtype, layout or type in place of the right argument `x`."""
    kind = rng.randrange(10)
    shape = x.shape if isinstance(x, np.ndarray) else (3,)
    if kind == 0:
        return values(rng, tuple(rng.choice(SIZES) for _ in range(rng.randrange(5))))
    if kind == 1:
        return repeated(rng, shape, rng.choice(("f4", "f8", "f2")))
    if kind == 2:
        dtype = rng.choice(DTYPES)
        return np.zeros(shape, dtype) if dtype in ("M8[s]", "V4") else np.asarray(x).astype(dtype)
    if kind == 3:
        return np.asarray(x).tolist()
    if kind == 4:
        return rng.choice((None, 1.0, 3, "text", b"bytes", [], [[1.0], [1.0, 2.0]], {}, object(), np.float32(2), range(3), 1j))
    if kind == 5:
        # Overlapping strides over a small buffer.
        return as_strided(np.arange(128, dtype="f4"), shape, tuple(4 * rng.randrange(3) for _ in shape)) if x.size < 64 else x[:0]
    if kind == 6:
        return np.empty((*shape[:-1], 0), "f4")
    if kind == 7:
        # Zero elements, yet one axis of extreme length.
        return np.empty((rng.choice(HUGE[:2]), *shape[1:-1], 0) if len(shape) > 1 else (0,), "f4")
    if kind == 8:
        return np.ma.masked_array(x, mask=False) if isinstance(x, np.ndarray) else x
    return x[None] if isinstance(x, np.ndarray) else x


def number(rng: random.Random) -> Any:
    """Return a number, or a value of another type."""
    return rng.choice((0, 1, -1, 2, 0.5, math.nan, math.inf, -math.inf, 10**400, 2**70, -(2**63), "1", None, 1j, [], True, 1e-300))


def op_arguments(rng: random.Random) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return an op, right arrays for it, and right options."""
    op = rng.choice(OPS)
    dtype = rng.choice(("f4", "f4", "f4", "f8", "f2"))
    lead = tuple(rng.choice(SIZES[:5]) for _ in range(rng.randrange(3)))
    m, n, k = (rng.choice(SIZES) for _ in range(3))
    if op in ("softmax", "gelu"):
        x = values(rng, (*lead, n), dtype)
        option = {"axis": rng.randrange(-x.ndim, x.ndim)} if op == "softmax" else {"approximate": rng.choice(("none", "tanh"))}
        return op, {"x": x}, option if rng.random() < 0.5 else {}
    if op in NORMS:
        arrays = {"x": values(rng, (*lead, n), dtype)}
        if rng.random() < 0.7:
            names = ("weight", "bias") if op == "layer_norm" else ("weight",)
            arrays |= {name: values(rng, (n,), dtype) for name in names}
        if rng.random() < 0.5:
            arrays["residual"] = values(rng, (*lead, n), dtype)
        return op, arrays, {"eps": 0.1} if rng.random() < 0.5 else {}
    if op == "linear":
        arrays = {"x": values(rng, (*lead, k), dtype), "weight": values(rng, (n, k), dtype)}
        if rng.random() < 0.5:
            arrays["bias"] = values(rng, (n,), dtype)
        return op, arrays, {"activation": rng.choice((None, *ACTIVATIONS))}
    if op == "splade_pooling":
        cuts = sorted(rng.randrange(m + 1) for _ in range(rng.randrange(3)))
        arrays = {"x": values(rng, (m, k), dtype), "weight": values(rng, (n, k), dtype), "offsets": np.array([0, *cuts, m])}
        return op, arrays, {"pooling_strategy": rng.choice(("max", "sum"))}
    if op == "rotary_embedding":
        return op, {
            "x": values(rng, (*lead, m, 2 * k), dtype),
            "cos": values(rng, (m, k), dtype),
            "sin": values(rng, (m, k), dtype),
        }, {}  # fmt: skip
    if op == "maxsim":
        arrays = {"query": values(rng, (m, k), dtype), "documents": values(rng, (n, k), dtype), "offsets": np.array([0, n // 2, n])}
        if rng.random() < 0.5:
            arrays["query_offsets"] = np.array([0, m // 3, m])
        return op, arrays, {"length_normalize": True} if rng.random() < 0.5 else {}
    if op == "embedding_bag":
        # Three bags or none; a table without rows has none.
        rows = max(1, n)
        ids = np.arange(3 * m) * 7 % rows
        arrays = {"input": ids, "weight": values(rng, (rows, k), dtype), "offsets": np.array([0, m, 2 * m] if m else [0])}
        if rng.random() < 0.5:
            arrays["per_sample_weights"] = values(rng, (3 * m,), dtype)
        return op, arrays, {"mode": rng.choice(("mean", "sum"))} if rng.random() < 0.5 else {}
    heads = (*lead, 2) if lead else ()
    arrays = {"query": values(rng, (*heads, m, k), dtype), "key": values(rng, (*heads, n, k), dtype)}
    if op == "scaled_dot_product_attention":
        arrays["value"] = values(rng, (*heads, n, rng.choice(SIZES)), dtype)
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["is_causal"] = True
    elif rng.random() < 0.4:
        mask = values(rng, rng.choice(((m, n), (1, n), (n,))), dtype)
        arrays["attn_mask"] = mask > 0 if rng.random() < 0.5 else mask
    if rng.random() < 0.3:
        options["window"] = (rng.choice((None, 0, 3, 2**70)), rng.choice((None, 0, 3)))
    if rng.random() < 0.3:
        options["softcap"] = 2.0
    return op, arrays, options


def out_for(rng: random.Random, expected: Array, arrays: dict[str, Any]) -> Any:
    """Return an `out`: right, overlapping an input, or wrong."""
    kind = rng.randrange(8)
    shape, dtype = expected.shape, expected.dtype
    if kind == 0:
        return np.full((*shape[:-1], 2 * shape[-1]) if shape else shape, np.nan, dtype)[..., ::2] if shape else np.zeros((), dtype)
    if kind == 1:
        return np.full(shape, np.nan, dtype.newbyteorder())
    if kind == 2:
        # Overlap: the input moves into a buffer in which `out` starts up to two elements later.
        name = rng.choice(list(arrays))
        x, shift = np.asarray(arrays[name]), rng.randrange(3)
        if x.dtype == dtype:
            buffer = np.zeros(max(x.size, expected.size) + shift, dtype)
            inside = buffer[: x.size].reshape(x.shape)
            inside[...] = x
            arrays[name] = inside
            return buffer[shift : shift + expected.size].reshape(shape)
    if kind == 3:
        out = np.zeros(shape, dtype)
        out.flags.writeable = False
        return out
    if kind == 4:
        return hostile(rng, np.zeros(shape, dtype))
    if kind == 5 and expected.size:
        return as_strided(np.zeros(4 * expected.size, dtype), shape, tuple(4 * rng.randrange(2) for _ in shape))
    if kind == 6 and shape:
        return np.full(shape[::-1], np.nan, dtype).T
    return np.full(shape, np.nan, dtype)


def same_bits(a: Array, b: Array) -> bool:
    """Tell whether two results have the same numbers; any two NaN are equal."""
    native = a.dtype.newbyteorder("=")
    return a.shape == b.shape and native == b.dtype and bool(np.array_equal(a.astype(native), b, equal_nan=True))


def bytes_of(*arrays: Any) -> int:
    """Return the bytes of the arrays; arrays with more bytes than any memory (stride 0) count nothing."""
    return sum(x.nbytes for x in arrays if isinstance(x, np.ndarray) and x.nbytes < 2**34)


def op_case(rng: random.Random) -> Case:
    """Case of an op: right arguments in a hostile layout, which must give the same bits, or wrong arguments."""
    op, arrays, options = op_arguments(rng)
    call: Callable[..., Array] = getattr(fastattn, op)
    expected = call(**arrays, **options)
    given: dict[str, Any] = {name: laid_out(rng, x) for name, x in arrays.items()}
    right = True
    if rng.random() < 0.5:
        out = out_for(rng, expected, given)
        right = isinstance(out, np.ndarray) and out.dtype.type is expected.dtype.type and out.shape == expected.shape
        right = right and out.flags.writeable and not _repeats(out)
        options["out"] = out
    if rng.random() < 0.4:
        right = False
        name = rng.choice(list(given))
        given[name] = hostile(rng, given[name])
    if rng.random() < 0.15:
        right = False
        options[
            rng.choice(
                (
                    "axis",
                    "eps",
                    "scale",
                    "softcap",
                    "window",
                    "is_causal",
                    "activation",
                    "approximate",
                    "enable_gqa",
                    "pooling_strategy",
                )
            )
        ] = number(rng)
        names = {"softmax": ("axis",), "linear": ("activation",), "gelu": ("approximate",), **dict.fromkeys(NORMS, ("eps",))}
        names["splade_pooling"] = ("pooling_strategy",)
        known = names.get(op, ("scale", "softcap", "window", "is_causal", "enable_gqa") if "attention" in op else ())
        options = {key: value for key, value in options.items() if key in (*known, "out")}

    def check(result: Any) -> None:
        if right and not same_bits(result, expected):
            raise AssertionError("right arguments gave a wrong result")

    about = ", ".join(f"{key}={_about(value)}" for key, value in {**given, **options}.items())
    size = bytes_of(*given.values(), options.get("out"))
    return Case(f"{op}({about})", lambda: call(**given, **options), check, DOCUMENTED, size, must_answer=right)


def _repeats(x: Array) -> bool:
    """Tell whether two elements share memory."""
    if x.size > 10**4:
        return True
    places = np.zeros(x.shape, np.int64)
    for axis, step in enumerate(x.strides):
        places += np.expand_dims(np.arange(x.shape[axis]) * step, tuple(i for i in range(x.ndim) if i != axis))
    return bool(np.any(np.diff(np.sort(places, axis=None)) < x.itemsize))


def _about(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f"<{type(x).__name__} {x.dtype.str} {x.shape} strides {x.strides}>"
    return repr(x)[:60]


_ENCODERS: dict[int, Encoder] = {}


def encoder(number: int) -> Encoder:
    """Return small encoder 0, 1 or 2, made on first use."""
    if number not in _ENCODERS:
        options: dict[str, Any] = (
            {"positions": "learned", "max_positions": 20, "type_vocab_size": 2},
            {"positions": "rotary", "gated": True, "window": 2, "global_every": 2, "norm_first": True},
            {"positions": "sinusoidal", "relative_buckets": 8, "embedding_dim": 5},
        )[number]
        _ENCODERS[number] = Encoder(EncoderConfig(2, 2, 12, 20, vocab_size=9, **options))
    return _ENCODERS[number]


def encoder_case(rng: random.Random) -> Case:
    """Case of an encoder: ids, masks, types and offsets, right or wrong."""
    model = encoder(rng.randrange(3))
    b, t = rng.choice((0, 1, 2, 5)), rng.choice((0, 1, 3, 19))
    lengths = [rng.choice((0, 1, 4, 19)) for _ in range(b)]
    packed = rng.random() < 0.5
    shape: tuple[int, ...] = (sum(lengths),) if packed else (b, t)
    ids: Any = (np.arange(math.prod(shape)) % 9).reshape(shape).astype(rng.choice(("i4", "i8", "u1", ">i4", "u8")))
    if rng.random() < 0.3:
        ids = values(rng, (*shape, model.config.input_dim), rng.choice(("f4", "f8", "f2")))
    expected = None
    types: Any = np.zeros(shape, "i4") if rng.random() < 0.3 else None
    mask: Any = np.ones(shape, rng.choice(("?", "i8", "f4"))) if rng.random() < 0.3 and not packed else None
    offsets: Any = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    options: dict[str, Any] = {"token_type_ids": types}
    if packed:
        options |= {"pooling": rng.choice((None, "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"))}
        expected = model.forward_packed(ids.copy(), offsets, **options)
    else:
        expected = model(ids.copy(), mask)
    ids = laid_out(rng, ids)
    right = True
    if rng.random() < 0.6:
        right = False
        which = rng.randrange(5)
        if which == 0:
            ids = hostile(rng, ids)
        elif which == 1:
            ids = np.array(ids)
            if ids.size:
                ids.reshape(-1)[rng.randrange(ids.size)] = 9 if ids.dtype.kind == "u" else rng.choice((-1, 9, 100))
        elif which == 2:
            options["token_type_ids"] = hostile(rng, np.full(shape, rng.choice((-1, 0, 2, 100)), "i4"))
        elif which == 3 and packed:
            offsets = rng.choice(
                (
                    hostile(rng, offsets),
                    offsets[::-1],
                    offsets + 1,
                    -offsets,
                    offsets.astype("f4"),
                    offsets.astype(">i8"),
                    offsets * 2**40,
                )
            )
        elif packed:
            options["out"] = out_for(rng, expected, {"ids": ids})
        else:
            mask = hostile(rng, np.full(shape, rng.choice((0, 1, 2, -1)), rng.choice(("i4", "f4", "?"))))
    elif packed and rng.random() < 0.3:
        options["out"] = np.full(expected.shape, np.nan, "f4")

    def run() -> Any:
        return model.forward_packed(ids, offsets, **options) if packed else model(ids, mask, **options)

    def check(result: Any) -> None:
        if right and not same_bits(result, expected):
            raise AssertionError("right arguments gave a wrong result")

    about = ", ".join(f"{key}={_about(x)}" for key, x in {"ids": ids, "offsets": offsets, "mask": mask, **options}.items())
    return Case(f"encoder({about})", run, check, DOCUMENTED, bytes_of(ids, offsets, mask, *options.values()), must_answer=right)
