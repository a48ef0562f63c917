"""Inputs for every op, in the shapes of a batch of a small encoder: `compare` and `warmup` run them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fastattn.kernels.ops
from fastattn.config import EncoderConfig

__all__ = ["MINILM", "Case", "cases", "ops"]

# The sizes of all-MiniLM-L6-v2.
MINILM = EncoderConfig(
    num_layers=6, num_heads=12, hidden_dim=384, ff_dim=1536, positions="learned", vocab_size=1000, type_vocab_size=2
)


class Case(NamedTuple):
    """An op with the inputs of one call."""

    op: str
    label: str
    shape: str
    arrays: list[NDArray[Any]]
    options: dict[str, Any]

    def bound(self, op: Callable[..., Any], dtype: DTypeLike = np.float32) -> Callable[[], Any]:
        """Bind `op` to the inputs, converted to `dtype`."""

        def cast(x: Any) -> Any:
            return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

        return functools.partial(op, *map(cast, self.arrays), **{key: cast(x) for key, x in self.options.items()})


def ops() -> dict[str, Callable[..., Any]]:
    """Return the public functions of the modules in ``kernels/ops``, by name."""
    found = {}
    for _, stem, _ in pkgutil.iter_modules(fastattn.kernels.ops.__path__):
        if not stem.startswith("_"):
            module = importlib.import_module(f"fastattn.kernels.ops.{stem}")
            found.update({name: getattr(module, name) for name in module.__all__})
    return found


def cases() -> list[Case]:
    """Return the cases of every op; NotImplementedError if an op has no case."""
    found = _cases()
    missing = ops().keys() - {case.op for case in found}
    if missing:
        raise NotImplementedError(f"fastattn/cli/cases.py has no inputs for {', '.join(sorted(missing))}: add a Case")
    return found


def _cases() -> list[Case]:
    from fastattn.reference import rotary_tables

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
    turned: list[NDArray[Any]] = [heads[0], *rotary_tables(128, 32)]
    attention = "scaled_dot_product_attention"
    return [
        Case("softmax", "softmax", "12x128x128", [scores], {}),
        Case("layer_norm", "layer_norm", "512x384", [tokens, gain, shift], {}),
        Case("layer_norm", "layer_norm, residual", "512x384", [tokens, gain, shift], {"residual": tokens[::-1].copy()}),
        Case("rms_norm", "rms_norm", "512x384", [tokens, gain], {"eps": 1e-6}),
        Case("rms_norm", "rms_norm, residual", "512x384", [tokens, gain], {"residual": tokens[::-1].copy(), "eps": 1e-6}),
        Case("gelu", "gelu, erf", "512x1536", [wide], {}),
        Case("gelu", "gelu, tanh", "512x1536", [wide], {"approximate": "tanh"}),
        Case("linear", "linear", "512x384x1536", [tokens, up, bias], {}),
        Case("linear", "linear, gelu", "512x384x1536", [tokens, up, bias], {"activation": "gelu"}),
        Case(attention, "attention", "4x12x128x32", heads, {}),
        Case(attention, "attention, causal", "4x12x128x32", heads, {"is_causal": True}),
        Case(attention, "attention, mask", "4x12x128x32", [*heads, mask], {}),
        Case(attention, "attention, added mask", "4x12x128x32", [*heads, added], {}),
        Case(attention, "attention, window", "4x12x128x32", heads, {"window": (16, 16)}),
        Case(attention, "attention, softcap", "4x12x128x32", heads, {"softcap": 20.0}),
        Case(attention, "attention, grouped", "4x12/3x128x32", grouped, {"enable_gqa": True}),
        Case("attention_weights", "attention weights", "4x12x128x32", heads[:2], {}),
        Case("rotary_embedding", "rotary embedding", "4x12x128x32", turned, {}),
    ]
