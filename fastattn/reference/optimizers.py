"""Definitions of the optimisers in NumPy: a parameter after one step for each gradient of a sequence."""

from collections.abc import Sequence

import numpy as np

from fastattn.reference.ops import Array


def _descended(parameter: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    """Return the gradient of what is minimised."""
    return np.asarray((-grad if maximize else grad) + parameter.dtype.type(weight_decay) * parameter)


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def sgd(
    parameter: Array,
    gradients: Sequence[Array],
    lr: float = 1e-3,
    momentum: float = 0,
    dampening: float = 0,
    weight_decay: float = 0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> Array:
    """Stochastic gradient descent, ``b = momentum b + (1 - dampening) g`` and ``p = p - lr b``.

    The first b is g; Nesterov's step is ``lr (g + momentum b)``.

    Parameters
    ----------
    parameter : ndarray of float32 or float64
        The parameter before.
    gradients : sequence of ndarray
        Its gradient in each step.
    lr, momentum, dampening, weight_decay : float
        Learning rate, weight of the steps before, what it takes from a gradient, part of p in g.
    nesterov, maximize : bool
        Nesterov's momentum; ascent.

    Returns
    -------
    ndarray
        The parameter after all steps.

    References
    ----------
    Sutskever et al. 2013, On the importance of initialization and momentum in deep learning, section 2.
    """
    p, cast = parameter, parameter.dtype.type
    buffer: Array | None = None
    for grad in gradients:
        g = _descended(p, grad, weight_decay, maximize)
        if momentum:
            buffer = g if buffer is None else cast(momentum) * buffer + cast(1 - dampening) * g
            g = g + cast(momentum) * buffer if nesterov else buffer
        p = p - cast(lr) * g
    return p


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def rmsprop(
    parameter: Array,
    gradients: Sequence[Array],
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum: float = 0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> Array:
    """Descent by a moving mean of squares, ``s = alpha s + (1 - alpha) g^2`` and ``p = p - lr g / (sqrt(s) + eps)``.

    Parameters
    ----------
    parameter : ndarray of float32 or float64
        The parameter before.
    gradients : sequence of ndarray
        Its gradient in each step.
    lr, alpha, eps, weight_decay, momentum : float
        Learning rate, what the mean keeps of itself, summand of the root, part of p in g, weight of the steps before.
    centered, maximize : bool
        Take the square of the moving mean of g from s; ascent.

    Returns
    -------
    ndarray
        The parameter after all steps.

    References
    ----------
    Tieleman and Hinton 2012, lecture 6.5, COURSERA: Neural Networks for Machine Learning; Graves 2013, arXiv:1308.0850, equations
    38 to 45.
    """
    p, cast = parameter, parameter.dtype.type
    square, mean, buffer = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for grad in gradients:
        g = _descended(p, grad, weight_decay, maximize)
        square = cast(alpha) * square + cast(1 - alpha) * g * g
        mean = cast(alpha) * mean + cast(1 - alpha) * g
        root = np.sqrt(square - mean * mean if centered else square) + cast(eps)
        buffer = cast(momentum) * buffer + g / root
        p = p - cast(lr) * buffer
    return p


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def adagrad(
    parameter: Array,
    gradients: Sequence[Array],
    lr: float = 1e-2,
    lr_decay: float = 0,
    weight_decay: float = 0,
    initial_accumulator_value: float = 0,
    eps: float = 1e-10,
    *,
    maximize: bool = False,
) -> Array:
    """Descent by the sum of all squares, ``s = s + g^2`` and ``p = p - lr_t g / (sqrt(s) + eps)``.

    The rate of step t, from 1 on, is ``lr / (1 + (t - 1) lr_decay)``.

    Parameters
    ----------
    parameter : ndarray of float32 or float64
        The parameter before.
    gradients : sequence of ndarray
        Its gradient in each step.
    lr, lr_decay, weight_decay, initial_accumulator_value, eps : float
        Learning rate and its decay, part of p in g, start of s, summand of the root.
    maximize : bool
        Ascent.

    Returns
    -------
    ndarray
        The parameter after all steps.

    References
    ----------
    Duchi, Hazan and Singer 2011, Adaptive subgradient methods for online learning and stochastic optimization, figure 1.
    """
    p, cast = parameter, parameter.dtype.type
    total = np.full_like(p, initial_accumulator_value)
    for step, grad in enumerate(gradients):
        g = _descended(p, grad, weight_decay, maximize)
        total = total + g * g
        p = p - cast(lr / (1 + step * lr_decay)) * g / (np.sqrt(total) + cast(eps))
    return p


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def adam(
    parameter: Array,
    gradients: Sequence[Array],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> Array:
    """Descent by moving means, ``m = beta1 m + (1 - beta1) g`` and ``v = beta2 v + (1 - beta2) g^2``.

    Step t, from 1 on, is ``lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)``.

    Parameters
    ----------
    parameter : ndarray of float32 or float64
        The parameter before.
    gradients : sequence of ndarray
        Its gradient in each step.
    lr : float
        Learning rate.
    betas : tuple of two floats
        What m and v keep of themselves.
    eps, weight_decay : float
        Summand of the root, part of p in g.
    amsgrad, maximize : bool
        Take the greatest v so far; ascent.
    decoupled_weight_decay : bool
        AdamW: multiply p by ``1 - lr weight_decay`` instead.

    Returns
    -------
    ndarray
        The parameter after all steps.

    References
    ----------
    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2; Loshchilov and
    Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    p, cast = parameter, parameter.dtype.type
    beta1, beta2 = betas
    mean, square, greatest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for step, grad in enumerate(gradients, 1):
        g = _descended(p, grad, 0 if decoupled_weight_decay else weight_decay, maximize)
        p = p * cast(1 - lr * weight_decay) if decoupled_weight_decay else p
        mean = cast(beta1) * mean + cast(1 - beta1) * g
        square = cast(beta2) * square + cast(1 - beta2) * g * g
        greatest = np.maximum(greatest, square)
        root = np.sqrt((greatest if amsgrad else square) / cast(1 - beta2**step)) + cast(eps)
        p = p - cast(lr / (1 - beta1**step)) * mean / root
    return p
