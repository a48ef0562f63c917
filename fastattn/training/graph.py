"""Reverse-mode differentiation: each result remembers its inputs and how their gradients follow from its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops.linear import linear

__all__ = ["Parameter", "Tensor", "apply", "constant", "folded"]

Array = NDArray[Any]
Pull = Callable[[Array], Sequence[Array | None]]
Operand: TypeAlias = "Tensor | Array | float"


class Tensor:
    """Array whose gradient may be asked for.

    Parameters
    ----------
    data : array of floats
    inputs : sequence of Tensor
        What `data` was computed from; empty for a leaf.
    pull : callable, optional
        Takes the gradient of `data`, returns that of each input, None where there is none.
    """

    __slots__ = ("data", "grad", "inputs", "pull", "requires_grad")
    # NumPy's arrays leave `array * tensor` to the tensor.
    __array_ufunc__ = None

    def __init__(self, data: Array, inputs: Sequence[Tensor] = (), pull: Pull | None = None) -> None:
        self.data = data
        self.grad: Array | None = None
        self.inputs = tuple(inputs)
        self.pull = pull
        self.requires_grad: bool = any(each.requires_grad for each in inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    @property
    def T(self) -> Tensor:
        """Transposed matrix."""
        return apply(self.data.T, [self], lambda grad: [grad.T])

    def item(self) -> float:
        """Return the only number."""
        return float(self.data.item())

    def __repr__(self) -> str:
        """Shape and dtype."""
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.data.dtype})"

    def detach(self) -> Tensor:
        """Return the data without what it was computed from.

        Returns
        -------
        Tensor
        """
        return Tensor(self.data)

    def reshape(self, *shape: int) -> Tensor:
        """Return the same numbers in another shape.

        Parameters
        ----------
        *shape : int
            Lengths of the axes.

        Returns
        -------
        Tensor
        """
        return apply(self.data.reshape(*shape), [self], lambda grad: [grad.reshape(self.shape)])

    def __getitem__(self, key: Any) -> Tensor:
        """Return a part; elements that are taken several times have the sum of the gradients."""

        def pull(grad: Array) -> list[Array]:
            out = np.zeros_like(self.data)
            if _is_basic(key):
                out[key] = grad
            else:
                np.add.at(out, key, grad)
            return [out]

        return apply(self.data[key], [self], pull)

    def __add__(self, other: Operand) -> Tensor:
        """Sum, with broadcasting."""
        b = constant(other, self)
        return apply(self.data + b.data, [self, b], lambda grad: [folded(grad, self.shape), folded(grad, b.shape)])

    def __sub__(self, other: Operand) -> Tensor:
        """Difference, with broadcasting."""
        b = constant(other, self)
        return apply(self.data - b.data, [self, b], lambda grad: [folded(grad, self.shape), folded(-grad, b.shape)])

    def __mul__(self, other: Operand) -> Tensor:
        """Product of elements, with broadcasting."""
        b = constant(other, self)

        def pull(grad: Array) -> list[Array | None]:
            mine = folded(grad * b.data, self.shape) if self.requires_grad else None
            return [mine, folded(grad * self.data, b.shape) if b.requires_grad else None]

        return apply(self.data * b.data, [self, b], pull)

    def __truediv__(self, other: Operand) -> Tensor:
        """Quotient of elements, with broadcasting."""
        b = constant(other, self)

        def pull(grad: Array) -> list[Array]:
            part = grad / b.data
            return [folded(part, self.shape), folded(-part * self.data / b.data, b.shape)]

        return apply(self.data / b.data, [self, b], pull)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Product of two matrices."""
        a, b = self.data, other.data
        return apply(_product(a, b), [self, other], lambda grad: [_product(grad, b.T), _product(a.T, grad)])

    def __neg__(self) -> Tensor:
        """Negated elements."""
        return apply(-self.data, [self], lambda grad: [-grad])

    def __radd__(self, other: Operand) -> Tensor:
        """Sum."""
        return self + other

    def __rmul__(self, other: Operand) -> Tensor:
        """Product of elements."""
        return self * other

    def __rsub__(self, other: Operand) -> Tensor:
        """Difference."""
        return -self + other

    def backward(self, grad: Array | None = None) -> None:
        """Add the gradient of this tensor to the `grad` of each parameter that it was computed from.

        The graph is taken apart on the way, so its arrays are freed as soon as they are used: it works once.

        Parameters
        ----------
        grad : array of the shape of the data, optional
            Gradient of the result that is minimised; 1 for a tensor with one element.

        Raises
        ------
        ValueError
            The tensor has more than one element and `grad` is missing, or `grad` has another shape.
        """
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"grad must be given for a tensor of shape {self.shape}; without it one element is expected")
            grad = np.ones_like(self.data)
        if grad.shape != self.shape:
            raise ValueError(f"grad must have shape {self.shape}, got {grad.shape}")
        self._add(grad)
        order = _in_order(self)
        while order:
            # Taken off the list, so that its array is freed as soon as nothing else needs it.
            node = order.pop()
            if node.pull is None or node.grad is None:
                continue
            pull, inputs, given = node.pull, node.inputs, node.grad
            # Freed before the inputs' gradients are made: `pull` holds arrays of the forward.
            node.pull, node.inputs, node.grad = None, (), None
            for each, part in zip(inputs, pull(given), strict=True):
                if part is not None and each.requires_grad:
                    each._add(part)

    def _add(self, grad: Array) -> None:
        """Add to the gradient; not in place, for the array may be another tensor's gradient too."""
        self.grad = grad if self.grad is None else self.grad + grad


class Parameter(Tensor):
    """Leaf that an optimiser changes.

    Parameters
    ----------
    data : float32 array
    name : str
        Its name among the parameters of a model.
    """

    __slots__ = ("name",)

    def __init__(self, data: Array, name: str = "") -> None:
        super().__init__(data)
        self.requires_grad = True
        self.name = name


def learning(parameters: Mapping[str, Parameter]) -> Iterator[Parameter]:
    """Yield each parameter that learns, once; several names may share one."""
    yield from {id(each): each for each in parameters.values() if each.requires_grad}.values()


def apply(data: Array, inputs: Sequence[Tensor], pull: Pull) -> Tensor:
    """Return a result; what it was computed from is kept only where a gradient can be asked for."""
    if any(each.requires_grad for each in inputs):
        return Tensor(data, inputs, pull)
    return Tensor(data)


def constant(value: Operand, like: Tensor) -> Tensor:
    """Return a tensor as it is, and numbers as a tensor of the other's dtype."""
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value, like.data.dtype))


def folded(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an operand of this shape was broadcast."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(extra)))
    axes = tuple(i for i, (had, has) in enumerate(zip(shape, grad.shape, strict=True)) if had == 1 != has)
    return np.asarray(grad.sum(axis=axes, keepdims=True)).reshape(shape)


def _product(a: Array, b: Array) -> Array:
    """Product of two matrices whose bits do not depend on the number of threads, as those of a BLAS may."""
    return linear(a, np.ascontiguousarray(b.T))


def _is_basic(key: Any) -> bool:
    """Tell whether an index takes each element at most once: slices and whole numbers do."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | slice | EllipsisType | None) for part in parts)


def _in_order(last: Tensor) -> list[Tensor]:
    """Return the tensors that need a gradient, each behind its inputs."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(last, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            order.append(node)
        elif id(node) not in seen and node.requires_grad:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((each, False) for each in node.inputs)
    return order
