"""The gradients of a product in bfloat16, computed by hand and from those of the product of rounded operands."""

import numpy as np
import pytest

from fastattn import reference
from tests.support.cases import normal


def test_only_the_operands_are_rounded() -> None:
    """The operands are off a bfloat16 by less than half its step; the gradient of the bias shows it."""
    grad, x = np.float32([[1 + 2.0**-9, 2]]), np.float32([[3, 1 - 2.0**-10, 2.0**-20]])
    weight, bias = np.float32([[1, 2, 4], [8, 16 + 2.0**-6, 32]]), np.zeros(2, np.float32)
    of_x, of_weight, of_bias = reference.linear_bfloat16_backward(grad, x, weight, bias)
    np.testing.assert_array_equal(of_x, np.float32([[1 + 16, 2 + 32, 4 + 64]]), strict=True)
    np.testing.assert_array_equal(of_weight, np.float32([[3, 1, 2.0**-20], [6, 2, 2.0**-19]]), strict=True)
    np.testing.assert_array_equal(of_bias, grad[0], strict=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_are_kept(dtype: type) -> None:
    shapes = ((2, 3, 5), (2, 3, 4), (5, 4), (5,))
    grad, x, weight, bias = (normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes))
    found = reference.linear_bfloat16_backward(grad, x, weight, bias)
    rounded = [reference.round_bfloat16(each).astype(np.float64) for each in (grad, x, weight)]
    of_x, of_weight, _ = reference.linear_backward(*rounded)
    plain = reference.linear_backward(grad, x, weight, bias)
    for ours, exact in zip(found, (of_x, of_weight, grad.astype(np.float64).sum(axis=(0, 1))), strict=True):
        assert ours is not None and ours.dtype == dtype
        np.testing.assert_allclose(ours, exact, rtol=0, atol=40 * np.finfo(dtype).eps * np.abs(exact).max())
    assert dtype == np.float16 or all((a != b).any() for a, b in zip(found[:2], plain[:2], strict=True))
    assert reference.linear_bfloat16_backward(grad, x, weight)[2] is None
