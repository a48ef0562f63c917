"""Gradients against float64 truth, and the definitions of gradients against finite differences."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import reference
from tests.support.cases import JIT, normal
from tests.support.tolerance import ORDERS, assert_matches_reference, truth_and_yardsticks

Array = NDArray[Any]
CASES = 500 if JIT else 25


def check_gradients(op: str, *args: Any, twin: Callable[..., Any] | None = None, orders: int = ORDERS, **options: Any) -> Any:
    """Compare each gradient of ``fastattn.<op>`` with `twin`, the reference by default, and return ours.

    Sums over any axis may be exact by luck in one order: the yardstick takes them in several, each axis of the first argument, and
    with it the trailing axes of the other arrays, in another order.
    """
    ours = getattr(fastattn, op)(*args, **options)
    definition = twin or getattr(reference, op)
    wanted = [k for k, gradient in enumerate(parts(ours)) if gradient is not None]
    assert wanted == [k for k, gradient in enumerate(parts(definition(*args, **options))) if gradient is not None]
    found = [truth_and_yardsticks(in_order(definition, order, args[0].shape), args, options) for order in range(orders)]
    at = 0
    for k in wanted:
        gradient = parts(ours)[k]
        assert gradient is not None
        place, at = slice(at, at + gradient.size), at + gradient.size
        truth, *yardsticks = (each[place].reshape(gradient.shape) for each in (found[0][0], *(y for _, [y] in found)))
        assert_matches_reference(gradient, truth, *yardsticks)
    assert at == found[0][0].size
    return ours


def parts(found: Any) -> tuple[Array | None, ...]:
    return found if isinstance(found, tuple) else (found,)


def in_order(definition: Callable[..., Any], order: int, shape: tuple[int, ...]) -> Callable[..., Array]:
    """Return all gradients end to end, as a function that puts each axis of its arrays in an order, and of its results back."""
    rng = np.random.default_rng(order)
    forward = [rng.permutation(n) if order else np.arange(n) for n in shape]
    back = [np.argsort(each) for each in forward]

    def ordered(x: Any, orders: list[Array]) -> Any:
        if not order or not isinstance(x, np.ndarray) or not x.ndim or x.shape != shape[-x.ndim :]:
            return x
        return x[np.ix_(*orders[-x.ndim :])]

    def gradients(*args: Any, **options: Any) -> Array:
        given = {name: ordered(x, forward) for name, x in options.items()}
        found = definition(*(ordered(x, forward) for x in args), **given)
        return np.concatenate([ordered(x, back).reshape(-1) for x in parts(found) if x is not None])

    return gradients


def check_slopes(loss: Callable[..., Any], arrays: list[Array], gradients: Any) -> None:
    """Compare gradients of ``loss(*arrays)`` in float64 with central differences, element by element.

    With a step h the error is about h^2 of the third derivative and eps / h of the loss: both near eps^(2/3) for h = eps^(1/3).
    """
    eps = float(np.finfo(np.float64).eps)
    h, bound = eps ** (1 / 3), 100 * eps ** (2 / 3)
    for array, gradient in zip(arrays, parts(gradients), strict=True):
        assert gradient is not None and gradient.shape == array.shape
        slopes = np.empty_like(array)
        for at in np.ndindex(array.shape):
            kept, losses = array[at], []
            for step in (h, -h):
                array[at] = kept + step
                losses.append(float(loss(*arrays)))
            array[at] = kept
            slopes[at] = (losses[0] - losses[1]) / (2 * h)
        np.testing.assert_allclose(gradient, slopes, rtol=0, atol=bound * max(1.0, float(np.abs(slopes).max())))


def random_rows() -> Iterator[tuple[np.random.Generator, Callable[..., Array]]]:
    """Yield, `CASES` times, a source of random choices and one of normal arrays, all of one dtype and scale."""
    for case in range(CASES):
        rng = np.random.default_rng(case)
        dtype, scale = [(np.float32, 1.0), (np.float32, 1e-3), (np.float32, 80.0), (np.float64, 1.0), (np.float16, 1.0)][case % 5]

        def array(*shape: int, seed: int = 0, scale: float = scale, dtype: Any = dtype, case: int = case) -> Array:
            return normal(*shape, seed=10 * case + seed, scale=scale, dtype=dtype)

        yield rng, array


def torch_gradients(torch: Any, forward: Callable[..., Any], grad: Array, *arrays: Array | None) -> tuple[Array | None, ...]:
    """Return what torch's autograd computes for the arrays, given the gradient of the result."""
    tensors = [None if x is None else torch.from_numpy(np.array(x)).requires_grad_() for x in arrays]
    forward(*tensors).backward(torch.from_numpy(np.array(grad)))
    return tuple(None if x is None else x.grad.numpy() for x in tensors)
