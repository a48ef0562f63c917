"""Optimisers under torch.optim's names, arguments and defaults: one pass of a kernel over each parameter a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastattn.kernels.ops._arrays import absent
from fastattn.kernels.optimizers import adagrad_kernel, adam_kernel, rmsprop_kernel, sgd_kernel
from fastattn.training.optimizer import Array, Optimizer, State, at_least, workers_of

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]


def _flat(*arrays: Array | None, like: Array) -> list[Array]:
    """Return arrays flat, as kernels take them, and empty ones for those that are absent."""
    return [absent(like.dtype) if each is None else each.reshape(-1) for each in arrays]


def _sign(group: dict[str, Any]) -> float:
    return -1.0 if group["maximize"] else 1.0


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's.

    g = grad + weight_decay p;  b = momentum b + (1 - dampening) g, and b = g in the first step;  p -= lr b, or
    p -= lr (g + momentum b) for Nesterov's.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts of them with options of their own, as `Optimizer` takes them.
    lr : float
        Learning rate.
    momentum : float
        Weight of the steps before.
    dampening : float
        What the momentum takes from a new gradient.
    weight_decay : float
        Factor of the parameter that is added to its gradient.
    nesterov : bool
        Take the gradient where the momentum leads to.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    ValueError
        An option is out of range, or `nesterov` is without a momentum or with a dampening.

    References
    ----------
    Sutskever et al. 2013, On the importance of initialization and momentum in deep learning, section 2.  torch.optim.SGD, its
    documentation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: dict[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            at_least(name, group[name])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov must have a momentum and no dampening, got momentum {group['momentum']}, dampening {group['dampening']}"
            )

    def _update(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> None:
        momentum = float(group["momentum"])
        is_first = momentum != 0 and "momentum_buffer" not in state
        if is_first:
            state["momentum_buffer"] = np.empty_like(p)
        buffer = state["momentum_buffer"] if momentum else None
        numbers = (
            _sign(group),
            float(group["weight_decay"]),
            momentum,
            1.0 - float(group["dampening"]),
            float(group["nesterov"]),
            float(group["lr"]),
        )
        traffic = p.nbytes * (5 if momentum else 3)
        sgd_kernel(*_flat(p, g, buffer, like=p), is_first, numbers, workers_of(p.size, traffic))


class RMSprop(Optimizer):
    """Gradient descent by the root of a moving mean of squares.

    g = grad + weight_decay p;  s = alpha s + (1 - alpha) g^2;  p -= lr g / (sqrt(s) + eps).  Centred, the square of the moving mean
    of g is taken from s first.  With a momentum, b = momentum b + g / (sqrt(s) + eps) and p -= lr b.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts of them with options of their own, as `Optimizer` takes them.
    lr : float
        Learning rate.
    alpha : float
        What the moving means keep of themselves in a step.
    eps : float
        Added to the root.
    weight_decay : float
        Factor of the parameter that is added to its gradient.
    momentum : float
        Weight of the steps before.
    centered : bool
        Divide by the root of the variance instead of that of the mean square.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    ValueError
        An option is out of range.

    References
    ----------
    Tieleman and Hinton 2012, lecture 6.5, COURSERA: Neural Networks for Machine Learning; Graves 2013, arXiv:1308.0850, equations
    38 to 45, for the centred form.  torch.optim.RMSprop, its documentation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "momentum", "weight_decay", "alpha"):
            at_least(name, group[name])

    def _update(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> None:
        momentum, alpha = float(group["momentum"]), float(group["alpha"])
        if not state:
            state.update(step=0, square_avg=np.zeros_like(p))
        wanted = [("grad_avg", group["centered"]), ("momentum_buffer", momentum)]
        for name in (name for name, is_used in wanted if is_used and name not in state):
            state[name] = np.zeros_like(p)
        average, buffer = (state[name] if is_used else None for name, is_used in wanted)
        state["step"] += 1
        numbers = (
            _sign(group),
            float(group["weight_decay"]),
            alpha,
            1.0 - alpha,
            float(group["eps"]),
            momentum,
            float(group["lr"]),
        )
        arrays = _flat(p, g, state["square_avg"], average, buffer, like=p)
        rmsprop_kernel(*arrays, numbers, workers_of(p.size, 2 * sum(each.nbytes for each in arrays) - g.nbytes))


class Adagrad(Optimizer):
    """Gradient descent by the root of the sum of all squares.

    g = grad + weight_decay p;  s += g^2;  p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps) in step t.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts of them with options of their own, as `Optimizer` takes them.
    lr : float
        Learning rate.
    lr_decay : float
        How fast the learning rate falls with the steps.
    weight_decay : float
        Factor of the parameter that is added to its gradient.
    initial_accumulator_value : float
        Start of the sums.
    eps : float
        Added to the root.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    ValueError
        An option is out of range.

    References
    ----------
    Duchi, Hazan and Singer 2011, Adaptive subgradient methods for online learning and stochastic optimization, figure 1.
    torch.optim.Adagrad, its documentation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: dict[str, Any]) -> None:
        for name in ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            at_least(name, group[name])

    def _update(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, sum=np.full_like(p, group["initial_accumulator_value"]))
        state["step"] += 1
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        numbers = (_sign(group), float(group["weight_decay"]), float(group["eps"]), float(lr))
        adagrad_kernel(*_flat(p, g, state["sum"], like=p), numbers, workers_of(p.size, 5 * p.nbytes))


class Adam(Optimizer):
    """Gradient descent by moving means of the gradient and of its square, corrected for their start at 0.

    g = grad + weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps) in step t.  AMSGrad takes the greatest v so far.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts of them with options of their own, as `Optimizer` takes them.
    lr : float
        Learning rate.
    betas : tuple of two floats
        What the moving means of the gradient and of its square keep of themselves in a step.
    eps : float
        Added to the root.
    weight_decay : float
        Factor of the parameter that is added to its gradient.
    amsgrad : bool
        Divide by the root of the greatest mean of squares so far.
    maximize : bool
        Go up the gradient.
    decoupled_weight_decay : bool
        Take lr weight_decay p from the parameter instead, as `AdamW`.

    Raises
    ------
    ValueError
        An option is out of range.

    References
    ----------
    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2, for AMSGrad.
    torch.optim.Adam, its documentation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _check_options(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay"):
            at_least(name, group[name])
        betas = group["betas"]
        if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(0 <= at_least("betas", x) < 1 for x in betas)):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas!r}")

    def _update(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(p), exp_avg_sq=np.zeros_like(p))
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = np.zeros_like(p)
        state["step"] += 1
        (beta1, beta2), lr = map(float, group["betas"]), float(group["lr"])
        decay, is_decoupled = float(group["weight_decay"]), group["decoupled_weight_decay"]
        numbers = (
            _sign(group),
            0.0 if is_decoupled else decay,
            1.0 - lr * decay if is_decoupled else 1.0,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            math.sqrt(1.0 - beta2 ** state["step"]),
            float(group["eps"]),
            lr / (1.0 - beta1 ** state["step"]),
        )
        greatest = state["max_exp_avg_sq"] if group["amsgrad"] else None
        arrays = _flat(p, g, state["exp_avg"], state["exp_avg_sq"], greatest, like=p)
        adam_kernel(*arrays, numbers, workers_of(p.size, 2 * sum(each.nbytes for each in arrays) - g.nbytes))


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter: p *= 1 - lr weight_decay, and no part of it is in the moving means.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts of them with options of their own, as `Optimizer` takes them.
    lr : float
        Learning rate.
    betas : tuple of two floats
        What the moving means of the gradient and of its square keep of themselves in a step.
    eps : float
        Added to the root.
    weight_decay : float
        What a step takes from the parameter, in units of `lr`.
    amsgrad : bool
        Divide by the root of the greatest mean of squares so far.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    ValueError
        An option is out of range.

    References
    ----------
    Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.  torch.optim.AdamW, its documentation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)
