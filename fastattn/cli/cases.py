"""Inputs for every op, in the shapes of an encoder: `compare`, `warmup` and trials of all ops run them."""

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

__all__ = ["MINILM", "Case", "Sizes", "cases", "ops"]

# The sizes of all-MiniLM-L6-v2.
MINILM = EncoderConfig(
    num_layers=6, num_heads=12, hidden_dim=384, ff_dim=1536, positions="learned", vocab_size=1000, type_vocab_size=2
)


class Sizes(NamedTuple):
    """Sizes of the inputs; the defaults are those of a batch of MINILM."""

    batch: int = 4
    heads: int = 12
    tokens: int = 128
    head_dim: int = 32
    ff_dim: int = 1536


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


def cases(sizes: Sizes = Sizes()) -> list[Case]:  # noqa: B008  (immutable)
    """Return the cases of every op; NotImplementedError if an op has no case. `heads` is a multiple of 4, `head_dim` of 2."""
    found = _cases(*sizes)
    missing = ops().keys() - {case.op for case in found}
    if missing:
        raise NotImplementedError(f"fastattn/cli/cases.py has no inputs for {', '.join(sorted(missing))}: add a Case")
    return found


def _cases(batch: int, count: int, tokens: int, width: int, ff: int) -> list[Case]:
    from fastattn.reference import rotary_tables

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    rows, hidden = batch * tokens, count * width
    scores, states, wide = normal(count, tokens, tokens) * 3, normal(rows, hidden), normal(rows, ff)
    up, bias = normal(ff, hidden) / 20, normal(ff)
    gain, shift = normal(hidden), normal(hidden)
    heads = [normal(batch, count, tokens, width) for _ in range(3)]
    grouped = [heads[0], heads[1][:, : count // 4].copy(), heads[2][:, : count // 4].copy()]
    mask = rng.random((batch, 1, 1, tokens)) < 0.8
    added = np.where(mask, normal(batch, 1, tokens, tokens), -np.inf).astype(np.float32)
    turned: list[NDArray[Any]] = [heads[0], *rotary_tables(tokens, width)]
    ends = np.append(np.arange(0, rows, 8), rows)
    ids, bag = rng.integers(0, rows, (batch, 2 * tokens)), f"{batch}x{2 * tokens}x{ff}"
    starts = np.arange(batch + 1) * tokens
    attention, shape = "scaled_dot_product_attention", f"{batch}x{count}x{tokens}x{width}"
    return [
        Case("softmax", "softmax", f"{count}x{tokens}x{tokens}", [scores], {}),
        Case("layer_norm", "layer_norm", f"{rows}x{hidden}", [states, gain, shift], {}),
        Case("layer_norm", "layer_norm, residual", f"{rows}x{hidden}", [states, gain, shift], {"residual": states[::-1].copy()}),
        Case("rms_norm", "rms_norm", f"{rows}x{hidden}", [states, gain], {"eps": 1e-6}),
        Case("rms_norm", "rms_norm, residual", f"{rows}x{hidden}", [states, gain], {"residual": states[::-1].copy(), "eps": 1e-6}),
        Case("gelu", "gelu, erf", f"{rows}x{ff}", [wide], {}),
        Case("gelu", "gelu, tanh", f"{rows}x{ff}", [wide], {"approximate": "tanh"}),
        Case("linear", "linear", f"{rows}x{hidden}x{ff}", [states, up, bias], {}),
        Case("linear", "linear, gelu", f"{rows}x{hidden}x{ff}", [states, up, bias], {"activation": "gelu"}),
        Case(attention, "attention", shape, heads, {}),
        Case(attention, "attention, causal", shape, heads, {"is_causal": True}),
        Case(attention, "attention, mask", shape, [*heads, mask], {}),
        Case(attention, "attention, added mask", shape, [*heads, added], {}),
        Case(attention, "attention, window", shape, heads, {"window": (16, 16)}),
        Case(attention, "attention, softcap", shape, heads, {"softcap": 20.0}),
        Case(attention, "attention, grouped", f"{batch}x{count}/{count // 4}x{tokens}x{width}", grouped, {"enable_gqa": True}),
        Case("attention_weights", "attention weights", shape, heads[:2], {}),
        Case("splade_pooling", "SPLADE pooling", f"{rows}x{hidden}x{ff}", [states, up, bias, starts], {}),
        Case(
            "splade_pooling",
            "SPLADE pooling, sum",
            f"{rows}x{hidden}x{ff}",
            [states, up, bias, starts],
            {"pooling_strategy": "sum"},
        ),
        Case("rotary_embedding", "rotary embedding", shape, turned, {}),
        Case("maxsim", "maxsim", f"32x{rows // 8}x8x{hidden}", [states[:32].copy(), states, ends], {}),
        Case("embedding_bag", "embedding_bag", bag, [ids, wide], {}),
        Case("embedding_bag", "embedding_bag, weighted", bag, [ids, wide], {"per_sample_weights": normal(*ids.shape)}),
    ]
