"""Errors of float32 functions, in ulp of the true value, over every float32.

The truth is the C library's function in float64, whose own error is below 1e-7 ulp of float32. The sweep goes through chunks of
bit patterns, and each contender computes every chunk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastattn import gelu
from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.vector.activations import sigmoid_times
from fastattn.kernels.vector.elementary import LOG2_E, exp2, normal_tail, tanh
from fastattn.kernels.vector.simd import fill, lanes, load, store

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
CHUNK = 1 << 20
PATTERNS = 1 << 32


class Band(NamedTuple):
    """Range of arguments, and each contender's worst error there, in ulp of the truth."""

    function: str
    low: float
    high: float
    ulp: dict[str, float]


def _loop(apply: Any) -> Any:
    body = kernel(apply)

    @numba.njit(nogil=True, error_model="numpy")
    def run(x, out):  # type: ignore[no-untyped-def]
        for i in range(0, x.size, lanes(x)):
            store(out, i, body(x, i))

    return run


# Our functions, on whole vectors: the size of x is a multiple of every vector width.
_exp = _loop(lambda x, i: exp2(load(x, i), LOG2_E))
_tail = _loop(lambda x, i: normal_tail(load(x, i)))
_tanh = _loop(lambda x, i: tanh(load(x, i)))
_silu = _loop(lambda x, i: sigmoid_times(load(x, i), load(x, i)))
_sigmoid = _loop(lambda x, i: sigmoid_times(fill(x, 1.0), load(x, i)))


def _truth(function: Any) -> Any:
    scalar = numba.njit(function, nogil=True, error_model="numpy")

    @numba.njit(nogil=True, error_model="numpy")
    def run(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = scalar(np.float64(x[i]))

    return run


_true_exp = _truth(lambda x: math.exp(x))
_true_tail = _truth(lambda x: 0.5 * math.erfc(x * 0.7071067811865476))
_true_tanh = _truth(lambda x: math.tanh(x))
_true_gelu = _truth(lambda x: x * (0.5 * math.erfc(x * -0.7071067811865476)))
_true_gelu_tanh = _truth(lambda x: x / (1.0 + math.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))))
_true_sigmoid = _truth(lambda x: 1.0 / (1.0 + math.exp(-x)))
_true_silu = _truth(lambda x: x / (1.0 + math.exp(-x)))


@numba.njit(nogil=True, error_model="numpy")
def _compare(x, y, truth, bits, edges, worst, rest):  # type: ignore[no-untyped-def]
    """Merge the errors in ulp into worst[band] where the truth is a normal number.

    rest: [worst error at a denormal truth, in units of the smallest float32; largest absolute error outside all bands; number of
    results that are NaN where the truth is not, or the reverse].
    """
    for i in range(x.size):
        t, v = truth[i], np.float64(y[i])
        if t != t or v != v:
            rest[2] += (t != t) != (v != v)
            continue
        # Overflow: infinity counts as 2**128, the next power of two above the largest float32.
        t, v = min(max(t, -(2.0**128)), 2.0**128), min(max(v, -(2.0**128)), 2.0**128)
        exponent = ((bits[i] >> 52) & 0x7FF) - 1023
        error = math.ldexp(abs(v - t), 23 - min(max(exponent, -126), 127))
        band = 0
        while band < edges.size and x[i] >= edges[band]:
            band += 1
        if band == 0 or (band == edges.size and x[i] != edges[-1]):
            rest[1] = max(rest[1], abs(v - t))
        elif exponent < -126:
            rest[0] = max(rest[0], error)
        else:
            band = min(band, edges.size - 1) - 1
            worst[band] = max(worst[band], error)


def _erf(x: F32) -> F32:
    """Error function of the reference, the C library's rounded to float32: NumPy has none."""
    out = np.empty(x.size)
    _library_erf(x, out)
    return out.astype(np.float32)


_library_erf = _truth(lambda x: math.erf(x))
_ROOT_HALF, _HALF = np.float32(math.sqrt(0.5)), np.float32(0.5)


class Function(NamedTuple):
    """Function, the range of bit patterns that the kernels pass to it, and its contenders."""

    name: str
    first: int
    last: int
    edges: tuple[float, ...]  # of the bands; outside the bands the truth is nearly 0
    truth: Any
    ours: Callable[[F32, F32], Any]
    numpy: Callable[[F32], F32]
    torch: Callable[[Any, Any], Any]


def _bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def _gelu(form: str) -> Callable[[F32, F32], Any]:
    return lambda x, out: gelu(x, approximate=form, out=out)


def _numpy_gelu_tanh(x: F32) -> F32:
    return _HALF * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))


FUNCTIONS = (
    Function(
        "exp, x <= 0", _bits(-0.0), _bits(-np.inf), (-87.3, -10, -1, 0), _true_exp, _exp, np.exp, lambda torch, x: torch.exp(x)
    ),
    Function(
        "normal tail, 0 <= x <= 13",
        0,
        _bits(13.0),
        (0, 1, 3, 5, 9, 13),
        _true_tail,
        _tail,
        lambda x: _HALF * (1 - _erf(x * _ROOT_HALF)),
        lambda torch, x: torch.special.ndtr(-x),
    ),
    Function("tanh", 0, PATTERNS - 1, (-np.inf, np.inf), _true_tanh, _tanh, np.tanh, lambda torch, x: torch.tanh(x)),
    Function(
        "sigmoid",
        0,
        PATTERNS - 1,
        (-87.3, np.inf),
        _true_sigmoid,
        _sigmoid,
        lambda x: 1 / (1 + np.exp(-x)),
        lambda torch, x: torch.sigmoid(x),
    ),
    Function(
        "silu",
        0,
        PATTERNS - 1,
        (-87.3, np.inf),
        _true_silu,
        _silu,
        lambda x: x / (1 + np.exp(-x)),
        lambda torch, x: torch.nn.functional.silu(x),
    ),
    Function(
        "gelu",
        0,
        PATTERNS - 1,
        (-13, -5, -3, -1, 0, np.inf),
        _true_gelu,
        _gelu("none"),
        lambda x: _HALF * x * (1 + _erf(x * _ROOT_HALF)),
        lambda torch, x: torch.nn.functional.gelu(x),
    ),
    Function(
        "gelu, tanh form",
        0,
        PATTERNS - 1,
        (-10, -5, -3, -1, 0, np.inf),
        _true_gelu_tanh,
        _gelu("tanh"),
        _numpy_gelu_tanh,
        lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
    ),
)


def torch_if_there() -> Any:
    """Return the torch module, or None."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


class Swept(NamedTuple):
    """Result of a function's sweep."""

    tried: int
    bands: list[Band]
    small: dict[str, float]  # worst error of denormal results, in units of the smallest float32
    outside: dict[str, float]  # worst error outside the bands
    misplaced: dict[str, int]  # number of results that are NaN where the truth is not, or the reverse


def sweep(function: Function, share: float = 1.0, *, peers: bool = True) -> Swept:
    """Try every n-th float32 of the function's range, n = 1 / share."""
    step = max(1, round(1 / share))
    count = (function.last - function.first) // step + 1
    torch = torch_if_there() if peers else None
    contenders: dict[str, Callable[[F32], Any]] = {"fastattn": lambda x: function.ours(x, out)}
    if peers:
        contenders["NumPy"] = function.numpy
    if torch is not None:
        contenders["torch"] = lambda x: function.torch(torch, torch.from_numpy(x)).numpy()
    edges = np.array(function.edges, np.float64)
    worst = {name: np.zeros(len(edges) - 1) for name in contenders}
    rest = {name: np.zeros(3) for name in contenders}
    out, truth = np.empty(CHUNK, np.float32), np.empty(CHUNK)
    for start in range(0, count, CHUNK):
        # The last chunk is filled by repeating the last argument.
        n = np.minimum(np.arange(start, start + CHUNK, dtype=np.int64), count - 1)
        x = (function.first + step * n).astype(np.uint32).view(np.float32)
        function.truth(x, truth)
        for name, contender in contenders.items():
            with np.errstate(all="ignore"):
                y = contender(x)
            _compare(x, out if y is None else y, truth, truth.view(np.int64), edges, worst[name], rest[name])
    bands = [
        Band(function.name, low, high, {name: float(found[i]) for name, found in worst.items()})
        for i, (low, high) in enumerate(itertools.pairwise(function.edges))
    ]
    small, outside, misplaced = ({name: float(found[i]) for name, found in rest.items()} for i in range(3))
    return Swept(count, bands, small, outside, {name: int(n) for name, n in misplaced.items()})
