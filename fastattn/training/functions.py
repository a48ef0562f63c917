"""Differentiable functions whose work the kernels do: packed rows (N, C), float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward import _products_bfloat16 as low
from fastattn.kernels.backward._packed_attention import attention_backward, attention_forward
from fastattn.kernels.backward._products import bias_gradient, pack_backward, pack_forward, product, weight_gradient
from fastattn.kernels.backward.activation_backward import activation_rows_backward
from fastattn.kernels.backward.dropout import dropout as drop
from fastattn.kernels.backward.dropout import dropout_backward
from fastattn.kernels.backward.embedding_backward import embedding_backward
from fastattn.kernels.backward.layer_norm_backward import layer_norm_backward
from fastattn.kernels.backward.linear_cross_entropy import linear_cross_entropy as fused_cross_entropy
from fastattn.kernels.backward.linear_cross_entropy import loss_and_gradients
from fastattn.kernels.backward.rms_norm_backward import rms_norm_backward
from fastattn.kernels.ops._arrays import workers_for
from fastattn.kernels.ops.gelu import gelu_kernel
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.rms_norm import rms_norm
from fastattn.kernels.ops.rotary_embedding import rotary_embedding
from fastattn.kernels.products.pack import panel_words
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.runtime.buffers import Buffers
from fastattn.training.graph import Tensor, apply

__all__ = [
    "Dropout",
    "HeadNorms",
    "Linear",
    "Scoring",
    "activation",
    "attention",
    "embedding",
    "heads",
    "linear_cross_entropy",
    "norm",
    "release",
]

Array = NDArray[Any]

_buffers = Buffers()
# Give back the memory that is kept for the next step.
release = _buffers.clear


class Linear:
    """Affine map with weights (C_out, C_in) that are stacked along their rows, packed once after each change.

    Parameters
    ----------
    weights : sequence of Tensor
    biases : sequence of Tensor or None
        One for each weight.
    precision : {"float32", "bfloat16"}
        To which the operands of the product and of those of its gradients are rounded; the sums are float32.

    References
    ----------
    Definition: fastattn.reference.linear_bfloat16, fastattn.reference.linear_bfloat16_backward.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], precision: str = "float32") -> None:
        self._weights, self._biases, self._precision = tuple(weights), tuple(biases), precision
        self._sizes = [len(weight.data) for weight in weights]
        self._ends = np.cumsum(self._sizes)[:-1]
        self._forward: Array | None = None
        self._backward: Array | None = None
        self._is_stale = [True, True]

    def refresh(self, *, learned: bool = False) -> None:
        """Pack the weights again before the next product: they have changed; with `learned`, those that learn."""
        if not learned or any(weight.requires_grad for weight in self._weights):
            self._is_stale = [True, True]

    def set_precision(self, precision: str) -> None:
        """Compute in another precision from the next product on."""
        if precision != self._precision:
            self._precision, self._forward, self._backward = precision, None, None

    def _stacked(self) -> Array:
        arrays = [weight.data for weight in self._weights]
        return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)

    def _panels(self, is_backward: bool) -> Array:
        """Return the weights as the forward product, or that of the backward pass, takes them."""
        if self._precision == "bfloat16":
            pack = low.pack_columns if is_backward else low.pack_rows
        else:
            pack = pack_backward if is_backward else pack_forward
        kept = self._backward if is_backward else self._forward
        if kept is None or self._is_stale[is_backward]:
            kept = pack(self._stacked(), kept)
            self._is_stale[is_backward] = False
            if is_backward:
                self._backward = kept
            else:
                self._forward = kept
        return kept

    def _bias(self) -> Array | None:
        if all(bias is None for bias in self._biases):
            return None
        pairs = zip(self._biases, self._sizes, strict=True)
        return np.concatenate([np.zeros(n, np.float32) if bias is None else bias.data for bias, n in pairs])

    def __call__(self, x: Tensor) -> Tensor:
        """Return x weight^T + bias."""
        n = sum(self._sizes)
        out = _rows(len(x.data), n)
        product(x.data, self._panels(False), self._bias(), out, precision=self._precision)
        given = [bias for bias in self._biases if bias is not None]
        learns = any(weight.requires_grad for weight in self._weights)

        def pull(grad: Array) -> list[Array | None]:
            grad = np.ascontiguousarray(grad)
            found: list[Array | None] = [None] * (1 + len(self._weights) + len(given))
            if x.requires_grad:
                of_x = _rows(len(grad), x.shape[1])
                product(grad, self._panels(True), None, of_x, precision=self._precision)
                found[0] = of_x
            if learns:
                weights = _rows(n, x.shape[1])
                self._weight_gradient(grad, x.data, weights)
                found[1 : 1 + len(self._weights)] = np.split(weights, self._ends)
            if any(bias.requires_grad for bias in given):
                biases = np.empty(n, np.float32)
                bias_gradient(grad, biases, False)
                parts = zip(self._biases, np.split(biases, self._ends), strict=True)
                found[1 + len(self._weights) :] = [part for bias, part in parts if bias is not None]
            return found

        return apply(out, [x, *self._weights, *given], pull)

    def _weight_gradient(self, grad: Array, x: Array, out: Array) -> None:
        """Write grad^T x."""
        if self._precision == "bfloat16":
            room = _rows(panel_words(x.shape[1], len(x), "bfloat16")).view(np.uint16)
            low.weight_gradient(grad, low.pack_columns(x, room), out, False)
        else:
            weight_gradient(grad, x, out, False)


def _rows(*shape: int) -> Array:
    return _buffers.empty(*shape)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, is_rms: bool, residual: Tensor | None = None) -> Tensor:
    """`layer_norm` or `rms_norm` of x + residual."""
    added = None if residual is None else residual.data
    given = [x, weight, *([bias] if bias is not None else []), *([residual] if residual is not None else [])]
    out = _normed(x.data, weight, bias, eps, is_rms, added)

    def pull(grad: Array) -> list[Array | None]:
        of_x, *others = _norm_gradients(grad, x.data, weight, bias, eps, is_rms, added)
        return [of_x, *others, *([of_x] if residual is not None else [])]

    return apply(out, given, pull)


def _normed(x: Array, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool, residual: Array | None = None) -> Array:
    """Return the rows of x + residual normed."""
    out = _rows(*x.shape)
    if is_rms:
        return rms_norm(x, weight.data, residual=residual, eps=eps, out=out)
    return layer_norm(x, weight.data, None if bias is None else bias.data, residual=residual, eps=eps, out=out)


def _norm_gradients(
    grad: Array, x: Array, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool, residual: Array | None = None
) -> list[Array]:
    """Return the gradients of x, of the weight and, if there is one, of the bias."""
    found: Sequence[Array | None]
    if is_rms:
        found = rms_norm_backward(grad, x, weight.data, residual=residual, eps=eps)
    else:
        b = None if bias is None else bias.data
        found = layer_norm_backward(grad, x, weight.data, b, residual=residual, eps=eps)
    return [each for each in found if each is not None]


def activation(x: Tensor, name: str) -> Tensor:
    """Activation of a name of `EncoderConfig`."""
    out = _rows(*x.shape)
    workers = workers_for(out.size * 5e-4, max(1, out.size // 1024))
    gelu_kernel(x.data.reshape(-1), out.reshape(-1), ACTIVATION_KINDS[name], workers)

    def pull(grad: Array) -> list[Array]:
        of_x = _rows(*x.shape)
        activation_rows_backward(np.ascontiguousarray(grad), x.data, name, of_x)
        return [of_x]

    return apply(out, [x], pull)


def embedding(table: Tensor, ids: NDArray[np.integer]) -> Tensor:
    """Rows of a table (V, C)."""
    return apply(table.data[ids], [table], lambda grad: [embedding_backward(grad, ids, len(table.data))])


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: NDArray[np.integer], precision: str = "float32"
) -> Tensor:
    """Mean cross-entropy of x weight^T + bias against classes (N,); the gradients are made with the loss, from the same scores.

    precision: to which the operands of the three products are rounded, where there is a gradient.
    """
    given = [x, weight, *([] if bias is None else [bias])]
    arrays = (x.data, weight.data, target)
    b = None if bias is None else bias.data
    if not any(each.requires_grad for each in given):
        return Tensor(fused_cross_entropy(*arrays, linear_bias=b))
    loss, gradients = loss_and_gradients(*arrays, linear_bias=b, precision=precision)
    return apply(loss, given, lambda grad: [grad * each for each in gradients if each is not None])


class Dropout:
    """Dropout of one forward: the masks follow from the key and the order of the calls alone.

    Parameters
    ----------
    p : float
        Probability of dropping an element.
    key : sequence of int
        Seed, step and what else tells one forward from another; without one nothing is dropped.
    """

    def __init__(self, p: float = 0.0, key: Sequence[int] = ()) -> None:
        self.p = p if len(key) else 0.0
        self._is_on = len(key) > 0
        self._seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]) if self._is_on else 0
        self._offset = 0

    def __call__(self, x: Tensor, p: float | None = None) -> Tensor:
        """Drop elements with probability p, by default the forward's, and divide the others by 1 - p."""
        p = self.p if p is None else p
        if not p or not self._is_on:
            return x
        seed, offset = self._seed, self._offset
        self._offset += x.data.size
        return apply(drop(x.data, p, seed, offset), [x], lambda grad: [dropout_backward(grad, p, seed, offset)])


class HeadNorms(NamedTuple):
    """Norms of queries and keys, over each head or the whole width."""

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    eps: float
    is_rms: bool
    of_heads: bool


def heads(qkv: Tensor, widths: tuple[int, int, int], norms: HeadNorms | None, rotary: tuple[Array, Array] | None) -> Tensor:
    """Return rows of queries, keys and values with normed and turned queries and keys.

    widths: of all queries, of all keys, and of a head.  rotary: cosines and sines of each row, (N, R / 2).
    """
    query, key, d = widths
    spans = (slice(0, query), slice(query, query + key))
    out = qkv.data.copy()
    tensors = [] if norms is None else [each for pair in (norms.query, norms.key) for each in pair if each is not None]
    for i, span in enumerate(spans):
        part = qkv.data[:, span]
        if norms is not None:
            rows = part.reshape(-1, d) if norms.of_heads else np.ascontiguousarray(part)
            part = _normed(rows, *(norms.query, norms.key)[i], norms.eps, norms.is_rms).reshape(part.shape)
        out[:, span] = part if rotary is None else _turned(part, d, *rotary)

    def pull(grad: Array) -> list[Array | None]:
        found, of_norms = grad.copy(), []
        for i, span in enumerate(spans):
            part = grad[:, span]
            if rotary is not None:
                # Turned back by the negative angle.
                part = _turned(part, d, rotary[0], -rotary[1])
            if norms is not None:
                given = qkv.data[:, span]
                shape = (-1, d) if norms.of_heads else given.shape
                rows, above = np.ascontiguousarray(given).reshape(shape), np.ascontiguousarray(part).reshape(shape)
                of_rows, *others = _norm_gradients(above, rows, *(norms.query, norms.key)[i], norms.eps, norms.is_rms)
                of_norms += others
                part = of_rows.reshape(given.shape)
            found[:, span] = part
        return [found, *of_norms]

    return apply(out, [qkv, *tensors], pull)


def _turned(rows: Array, d: int, cos: Array, sin: Array) -> Array:
    """Return rows (N, H D) whose heads are turned in the first R channels, by cosines and sines (N, R / 2)."""
    n, width = len(rows), 2 * cos.shape[1]
    split = rows.reshape(n, -1, d)
    turned = rotary_embedding(split[..., :width].transpose(1, 0, 2), cos, sin).transpose(1, 0, 2)
    out = np.empty_like(split) if width < d else turned
    if width < d:
        out[..., :width], out[..., width:] = turned, split[..., width:]
    return out.reshape(n, -1)


class Scoring(NamedTuple):
    """How the scores of a layer are made: heads of queries and of keys, size of a head, scale, cap, window."""

    heads: int
    groups: int
    head: int
    scale: float
    softcap: float
    left: int
    right: int


def attention(qkv: Tensor, offsets: NDArray[np.int64], scoring: Scoring, bias: Tensor | None = None) -> Tensor:
    """Context (N, H D) of rows of queries, keys and values; `bias`: for each head and distance, (H, 2 T - 1)."""
    h, g, d = scoring.heads, scoring.groups, scoring.head
    given: dict[str, Any] = {**scoring._asdict(), "bias": None if bias is None else bias.data}
    del given["heads"], given["groups"], given["head"]

    def parts() -> tuple[Array, Array, Array]:
        rows = qkv.data
        return rows[:, : h * d], rows[:, h * d : (h + g) * d], rows[:, (h + g) * d :]

    out, lse = attention_forward(*parts(), offsets, h, g, **given)

    def pull(grad: Array) -> list[Array | None]:
        of_query, *_, of_bias = attention_backward(np.ascontiguousarray(grad), out, lse, *parts(), offsets, h, g, **given)
        # Views of the gradient of the rows.
        rows: Any = of_query.base
        return [rows.reshape(qkv.shape), *([] if bias is None else [of_bias])]

    return apply(out, [qkv, *([] if bias is None else [bias])], pull)
