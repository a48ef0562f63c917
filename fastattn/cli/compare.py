"""Every op and the whole encoder against the reference: error and speed.  The same cases compile everything."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastattn.cli.terminal import error_in_eps
from fastattn.encoder.encoder import Encoder, EncoderConfig
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.kernels.ops.gelu import gelu
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.softmax import softmax

__all__ = ["Comparison", "compare"]

_RUNS = 5
# The shapes of all-MiniLM-L6-v2.
_MINILM = EncoderConfig(
    num_layers=6, num_heads=12, hidden_dim=384, ff_dim=1536, positions="learned", vocab_size=1000, type_vocab_size=2
)
_PUBLIC = (softmax, layer_norm, gelu, linear, scaled_dot_product_attention, attention_weights)
_OPS: dict[str, Callable[..., Any]] = {op.__name__: op for op in _PUBLIC}


class _Case(NamedTuple):
    """One op with its inputs."""

    op: str
    label: str
    shape: str
    arrays: list[NDArray[Any]]
    options: dict[str, Any]

    def bound(self, op: Callable[..., Any], dtype: DTypeLike = np.float32) -> Callable[[], Any]:
        """The op with its inputs, in this dtype."""

        def cast(x: Any) -> Any:
            return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

        return functools.partial(op, *map(cast, self.arrays), **{key: cast(x) for key, x in self.options.items()})


class Comparison(NamedTuple):
    """One op in one form, against the reference.

    Parameters
    ----------
    label : str
        The op and its form.
    shape : str
        The shape of the inputs.
    error : float
        Worst error, in units of float32 eps, relative to the largest true value.
    reference_error : float
        The same of the reference in float32.
    seconds : float
        Median time.
    reference_seconds : float
        Median time of the reference in float32.
    """

    label: str
    shape: str
    error: float
    reference_error: float
    seconds: float
    reference_seconds: float


def _cases() -> list[_Case]:
    """Each op in each of its forms, in the shapes of a batch of a small encoder."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    scores, tokens, wide = normal(12, 128, 128) * 3, normal(512, 384), normal(512, 1536)
    up, bias = normal(1536, 384) / 20, normal(1536)
    gain, shift = normal(384), normal(384)
    heads = [normal(4, 12, 128, 32) for _ in range(3)]
    grouped = [heads[0], heads[1][:, :3].copy(), heads[2][:, :3].copy()]
    mask = rng.random((4, 1, 1, 128)) < 0.8
    added = np.where(mask, normal(4, 1, 128, 128), -np.inf).astype(np.float32)
    attention = "scaled_dot_product_attention"
    return [
        _Case("softmax", "softmax", "12x128x128", [scores], {}),
        _Case("layer_norm", "layer_norm", "512x384", [tokens, gain, shift], {}),
        _Case("layer_norm", "layer_norm, residual", "512x384", [tokens, gain, shift], {"residual": tokens[::-1].copy()}),
        _Case("gelu", "gelu, erf", "512x1536", [wide], {}),
        _Case("gelu", "gelu, tanh", "512x1536", [wide], {"approximate": "tanh"}),
        _Case("linear", "linear", "512x384x1536", [tokens, up, bias], {}),
        _Case("linear", "linear, gelu", "512x384x1536", [tokens, up, bias], {"activation": "gelu"}),
        _Case(attention, "attention", "4x12x128x32", heads, {}),
        _Case(attention, "attention, causal", "4x12x128x32", heads, {"is_causal": True}),
        _Case(attention, "attention, mask", "4x12x128x32", [*heads, mask], {}),
        _Case(attention, "attention, added mask", "4x12x128x32", [*heads, added], {}),
        _Case(attention, "attention, window", "4x12x128x32", heads, {"window": (16, 16)}),
        _Case(attention, "attention, softcap", "4x12x128x32", heads, {"softcap": 20.0}),
        _Case(attention, "attention, grouped", "4x12/3x128x32", grouped, {"enable_gqa": True}),
        _Case("attention_weights", "attention weights", "4x12x128x32", heads[:2], {}),
    ]


def compare() -> Iterator[Comparison]:
    """Compare every op, then the encoder, with the reference.

    Truth is the reference in float64; the reference in float32 is what the speed is measured against, in turns.

    Yields
    ------
    Comparison
        One op in one form.
    """
    from fastattn import reference

    for case in _cases():
        definition = getattr(reference, case.op)
        truth = case.bound(definition, np.float64)()
        runs = case.bound(_OPS[case.op]), case.bound(definition)
        yield Comparison(case.label, case.shape, *_measure(*runs, truth))
    yield _compare_encoder()


def _compare_encoder() -> Comparison:
    """A six-layer encoder with random weights on four sequences of unlike length."""
    from fastattn import reference
    from fastattn.parameters import random_parameters

    parameters = random_parameters(_MINILM, 0)
    encoder = Encoder(_MINILM, parameters=parameters)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (4, 128))
    mask = np.arange(128) < np.array([128, 100, 64, 17])[:, None]
    options: dict[str, Any] = {
        "num_layers": _MINILM.num_layers,
        "num_heads": _MINILM.num_heads,
        "activation": _MINILM.activation,
        "norm_first": _MINILM.norm_first,
        "layer_norm_eps": _MINILM.layer_norm_eps,
        "positions": _MINILM.positions,
        "is_causal": _MINILM.is_causal,
    }

    def theirs(dtype: DTypeLike = np.float32) -> Any:
        return reference.encoder({k: v.astype(dtype) for k, v in parameters.items()}, ids, mask, **options)

    truth = theirs(np.float64)
    return Comparison("encoder, 6 layers", "4x(17..128)x384", *_measure(lambda: encoder(ids, mask), theirs, truth))


def _measure(ours: Callable[[], Any], theirs: Callable[[], Any], truth: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return both errors, then the median times of runs in turns."""
    errors = [error_in_eps(run(), truth) for run in (ours, theirs)]
    times: list[list[float]] = [[], []]
    for _ in range(_RUNS):
        for run, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return errors[0], errors[1], statistics.median(times[0]), statistics.median(times[1])
