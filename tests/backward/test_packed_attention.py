"""Attention of packed sequences for training, against the reference one sequence at a time."""

from typing import Any

import numba
import numpy as np
import pytest

from fastattn import reference
from fastattn.kernels.backward._packed_attention import attention_backward, attention_forward
from fastattn.kernels.ops._attend import NO_BOUND
from tests.support.cases import normal, sizes
from tests.support.contract import assert_same_bits
from tests.support.tolerance import ORDERS, assert_matches_reference

PLAIN: dict[str, Any] = {"scale": 0.4, "softcap": None, "left": NO_BOUND, "right": NO_BOUND, "bias": None}
FORMS = [{}, {"right": 0}, {"left": 30, "right": 9, "softcap": 3.0}, {"bias": True}, {"bias": True, "right": 0, "softcap": 4.0}]


class Packed:
    """Packed sequences, whose queries, keys and values are views of one array, and their gradients."""

    def __init__(self, lengths: list[int], heads: int, groups: int, d: int, **options: Any) -> None:
        self.heads, self.groups, self.d = heads, groups, d
        self.offsets = np.cumsum([0, *lengths]).astype(np.int64)
        n = int(self.offsets[-1])
        qkv = normal(n, (heads + 2 * groups) * d)
        self.q, self.k, self.v = np.split(qkv, [heads * d, (heads + groups) * d], axis=1)
        self.grad = normal(n, heads * d, seed=1)
        self.options = {**PLAIN, **options}
        if self.options["bias"]:
            self.options["bias"] = normal(heads, 2 * (max(lengths, default=0) + 3) - 1)

    def run(self, part: slice = slice(None)) -> tuple[Any, ...]:
        """Return the result, the log-sum-exp and the gradients of some of the sequences."""
        starts = self.offsets[:-1][part]
        stops = self.offsets[1:][part]
        rows = slice(starts[0], stops[-1])
        given = [x[rows] for x in (self.q, self.k, self.v)]
        offsets = np.append(starts, stops[-1]) - starts[0]
        out, lse = attention_forward(*given, offsets, self.heads, self.groups, **self.options)
        grads = attention_backward(self.grad[rows], out, lse, *given, offsets, self.heads, self.groups, **self.options)
        return (out, lse, *grads)

    def definition(self, dtype: Any, order: int = 0) -> list[Any]:
        """Return the result and the gradients by the reference, with sums over the channels of a head in some order."""
        channels = np.random.default_rng(order).permutation(self.d) if order else np.arange(self.d)
        bias = self.options["bias"]
        found = [np.zeros(x.shape, dtype) for x in (self.grad, self.q, self.k, self.v)]
        found.append(None if bias is None else np.zeros(bias.shape, dtype))
        sides = [None if self.options[name] == NO_BOUND else self.options[name] for name in ("left", "right")]
        fixed = {"scale": self.options["scale"], "softcap": self.options["softcap"], "window": tuple(sides), "enable_gqa": True}
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            if start == stop:
                continue

            def heads_of(x: Any, start: int = start, stop: int = stop) -> Any:
                return x[start:stop].astype(dtype).reshape(stop - start, -1, self.d)[..., channels].swapaxes(0, 1)

            places = np.arange(stop - start)
            distances = places - places[:, None] + (0 if bias is None else bias.shape[1] // 2)
            mask = None if bias is None else bias[:, distances].astype(dtype)
            given = [heads_of(x) for x in (self.q, self.k, self.v)]
            out = reference.scaled_dot_product_attention(*given, mask, **fixed)
            *grads, grad_mask = reference.scaled_dot_product_attention_backward(heads_of(self.grad), *given, mask, **fixed)
            for to, x in zip(found, (out, *grads), strict=False):
                to[start:stop] = x[..., np.argsort(channels)].swapaxes(0, 1).reshape(stop - start, -1)
            if bias is not None:
                for to, x in zip(found[4], grad_mask, strict=True):
                    np.add.at(to, distances, x)
        return found

    def check(self) -> tuple[Any, ...]:
        """Compare with the reference."""
        out, lse, *grads = self.run()
        yardsticks = [self.definition(np.float32, order) for order in range(ORDERS)]
        for x, t, *each in zip((out, *grads), self.definition(np.float64), *yardsticks, strict=True):
            if t is None:
                assert x is None
            else:
                assert_matches_reference(x, t, *each)
        return (out, lse, *grads)


def work(*lengths: int) -> float:
    return 80 * sum(n * n for n in lengths)


LENGTHS = [(1,), (2, 1), (3, 0, 5), (7, 1, 9), (63, 64, 65), (127, 128, 129), (17, 300, 31), (0, 513)]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("lengths", [pytest.param(p.values, marks=p.marks, id=p.id) for p in sizes(LENGTHS, work)])
def test_lengths(lengths: tuple[int, ...], options: dict[str, Any]) -> None:
    Packed(list(lengths), 4, 4, 8, **options).check()
    Packed(list(lengths), 4, 2, 5, **options).check()


@pytest.mark.jit
@pytest.mark.parametrize("d", [1, 16, 32, 33, 64])
def test_head_sizes(d: int) -> None:
    Packed([20, 1, 70], 3, 3, d).check()
    Packed([20, 1, 70], 6, 1, d, bias=True).check()


def test_gradients_lie_side_by_side() -> None:
    """The product that made queries, keys and values takes one gradient."""
    packed = Packed([3, 5], 4, 2, 4)
    *_, grad_q, grad_k, grad_v, _ = packed.run()
    joined = grad_q.base
    assert grad_k.base is joined and grad_v.base is joined and joined.flags.c_contiguous
    np.testing.assert_array_equal(joined, np.concatenate([grad_q, grad_k, grad_v], axis=1))


def test_log_sum_exp() -> None:
    packed = Packed([5, 9], 2, 2, 4)
    _, lse, *_ = packed.run()
    q, k = (x[5:, 4:].astype(np.float64) for x in (packed.q, packed.k))
    np.testing.assert_allclose(lse[5:, 1], np.log(np.exp(0.4 * q @ k.T).sum(axis=1)), rtol=1e-6)
    assert lse.dtype == np.float64 and lse.shape == (14, 2)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_tokens(lengths: list[int]) -> None:
    packed = Packed(lengths, 2, 1, 4)
    out, lse = attention_forward(packed.q, packed.k, packed.v, packed.offsets, 2, 1, **PLAIN)
    grads = attention_backward(packed.grad, out, lse, packed.q, packed.k, packed.v, packed.offsets, 2, 1, **PLAIN)
    assert [x.shape for x in (out, lse, *grads[:3])] == [(0, 8), (0, 2), (0, 8), (0, 4), (0, 4)] and grads[3] is None


def test_read_only_and_reversed_arrays() -> None:
    packed = Packed([3, 5], 2, 2, 4)
    expected = packed.run()
    packed.q = packed.q[::-1].copy()[::-1]
    packed.k = np.asfortranarray(packed.k)
    packed.v = packed.v.copy()
    packed.v.flags.writeable = False
    for a, b in zip(packed.run()[:5], expected, strict=False):
        assert_same_bits(a, b)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("lengths", [pytest.param(p.values, marks=p.marks, id=p.id) for p in sizes([(3, 5), (150, 70, 300)], work)])
def test_same_bits_alone_and_in_a_batch(lengths: tuple[int, ...], options: dict[str, Any]) -> None:
    packed = Packed(list(lengths), 4, 2, 8, **options)
    together = packed.run()
    for i in range(len(lengths)):
        rows = slice(packed.offsets[i], packed.offsets[i + 1])
        for a, b in zip(packed.run(slice(i, i + 1))[:5], together, strict=False):
            assert_same_bits(a, b[rows])


@pytest.mark.jit
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_same_bits_for_any_number_of_threads(options: dict[str, Any]) -> None:
    packed = Packed([90, 1, 300, 33, 128, 7, 64], 4, 2, 16, **options)
    count = numba.get_num_threads()
    found = []
    try:
        for threads in sorted({1, min(2, count), count}) * 2:
            numba.set_num_threads(threads)
            found.append(packed.run())
    finally:
        numba.set_num_threads(count)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert a is b is None or (assert_same_bits(a, b) is None)


def test_bias_of_too_few_distances() -> None:
    packed = Packed([3, 5], 2, 2, 4)
    with pytest.raises(ValueError, match="bias must have distances for 5 tokens"):
        attention_forward(packed.q, packed.k, packed.v, packed.offsets, 2, 2, **{**PLAIN, "bias": normal(2, 7)})
