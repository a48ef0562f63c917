"""What the optimisers share: groups of parameters, their state, and the clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops._arrays import number, workers_for, working
from fastattn.kernels.optimizers import BLOCK, scale_kernel, square_sums_kernel

__all__ = ["Optimizer", "clip_grad_norm_"]

Array = NDArray[Any]
State = dict[str, Any]


def workers_of(size: int, traffic: int) -> int:
    """Return the threads for a pass over so many elements, which reads and writes `traffic` bytes."""
    return workers_for(traffic / 1e4, -(-size // BLOCK))


def at_least(name: str, value: Any, least: float = 0.0) -> float:
    """Return a number, a ValueError where it is below `least` or NaN."""
    found = number(name, value)
    if not found >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value!r}")
    return found


class Optimizer:
    """What every optimiser does with its parameters but the step itself.

    Parameters
    ----------
    params : iterable
        Parameters, or dicts with a list of them under "params" and options that differ from the optimiser's.  A parameter has
        `data`, a C-contiguous float32 or float64 array that is changed in place, and `grad`, an array of its shape or None.
    defaults : dict
        The options of a group that names none.

    Attributes
    ----------
    param_groups : list of dict
        Each has "params" and the options, which may be changed between steps.
    state : dict
        By parameter, what its steps have left: arrays and numbers.
    defaults : dict
        As given.

    Raises
    ------
    TypeError
        `params` is no iterable of parameters, or their data are no float arrays.
    ValueError
        There are no parameters, one is there twice, or its data cannot be changed in place.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Any, State] = {}
        if hasattr(params, "data") or isinstance(params, Mapping):
            raise TypeError(f"params must be an iterable of parameters or of dicts, got one {type(params).__name__}")
        given = list(params)
        if not given:
            raise ValueError("params must have a parameter, got an empty list")
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    def __repr__(self) -> str:
        """Options of each group, and how many parameters it has."""
        shown = []
        for group in self.param_groups:
            options = ", ".join(f"{name}={value!r}" for name, value in group.items() if name != "params")
            shown.append(f"{len(group['params'])} parameters: {options}")
        return f"{type(self).__name__}({'; '.join(shown)})"

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own.

        Parameters
        ----------
        param_group : dict
            "params", a parameter or a list of them, and any of the optimiser's options.

        Raises
        ------
        TypeError
            "params" is missing or has no parameters in it, or their data are no float arrays.
        ValueError
            An option is unknown or out of range, or a parameter is there twice.
        """
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f'param_group must be a dict with "params", got {type(param_group).__name__}')
        params = param_group["params"]
        params = [params] if hasattr(params, "data") and hasattr(params, "grad") else list(params)
        group = {**self.defaults, **param_group, "params": params}
        if unknown := sorted(set(group) - {"params", "initial_lr", *self.defaults}):
            raise ValueError(f"param_group has options that {type(self).__name__} does not know: {', '.join(unknown)}")
        self._check_options(group)
        known = {id(each) for other in self.param_groups for each in other["params"]}
        for place, each in enumerate(params):
            _check_parameter(each, place)
            if id(each) in known:
                raise ValueError(f"params must have each parameter once, got {_name(each, place)} twice")
            known.add(id(each))
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients.

        Parameters
        ----------
        set_to_none : bool
            False: fill them with 0.
        """
        for group in self.param_groups:
            for each in group["params"]:
                each.grad = None if set_to_none or each.grad is None else np.zeros_like(each.grad)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change each parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Called first: computes the loss and the gradients.

        Returns
        -------
        object
            What `closure` returned.

        Raises
        ------
        TypeError
            A gradient has another dtype than its parameter.
        ValueError
            A gradient has another shape than its parameter.
        """
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for place, each in enumerate(group["params"]):
                grad = each.grad
                if grad is None:
                    continue
                _check_parameter(each, place)
                if grad.shape != each.data.shape:
                    raise ValueError(f"the gradient of {_name(each, place)} must have shape {each.data.shape}, got {grad.shape}")
                if grad.dtype.type is not each.data.dtype.type:
                    raise TypeError(f"the gradient of {_name(each, place)} must be {each.data.dtype}, got {grad.dtype}")
                if grad.size:
                    state = self.state.setdefault(each, {})
                    self._update(each.data, working(grad), state, group)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: the state by a parameter's number, and the options of the groups.

        Returns
        -------
        dict
            "state": for each parameter that was changed, by its number over all groups, arrays of its shape and numbers.
            "param_groups": for each group its options, and under "params" the numbers.  Arrays are not copied.
        """
        numbers = {id(each): i for i, each in enumerate(self._parameters())}
        groups = [{**group, "params": [numbers[id(each)] for each in group["params"]]} for group in self.param_groups]
        return {
            "state": {numbers[id(each)]: {**values} for each, values in self.state.items() if values},
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned for the same parameters.

        Parameters
        ----------
        state_dict : dict
            Of an optimiser with as many groups, each of as many parameters.

        Raises
        ------
        ValueError
            The groups, or the shapes of the arrays, are not those of this optimiser.
        """
        if missing := {"state", "param_groups"} - set(state_dict):
            raise ValueError(f"state_dict must be one of an optimiser, got one without {', '.join(sorted(missing))}")
        groups, state = state_dict["param_groups"], state_dict["state"]
        sizes, ours = ([len(group["params"]) for group in each] for each in (groups, self.param_groups))
        if sizes != ours:
            raise ValueError(f"state_dict must have groups of {ours} parameters, got {sizes}")
        loaded = {}
        numbers = [i for group in groups for i in group["params"]]
        for i, each in zip(numbers, self._parameters(), strict=True):
            if i in state:
                loaded[each] = {key: _restored(key, value, each, i) for key, value in state[i].items()}
        self.state = loaded
        for group, given in zip(self.param_groups, groups, strict=True):
            group.update({key: value for key, value in given.items() if key != "params"})

    def _parameters(self) -> list[Any]:
        return [each for group in self.param_groups for each in group["params"]]

    def _check_options(self, group: dict[str, Any]) -> None:
        """Raise a ValueError for an option that is out of range."""
        raise NotImplementedError

    def _update(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> None:
        """Change the parameter `p` and its state by the gradient `g`; all are C-contiguous."""
        raise NotImplementedError


def _name(parameter: Any, place: int) -> str:
    return getattr(parameter, "name", "") or f"parameter {place}"


def _check_parameter(parameter: Any, place: int) -> None:
    data = getattr(parameter, "data", None)
    if not isinstance(data, np.ndarray) or not hasattr(parameter, "grad"):
        raise TypeError(f"params must have parameters with `data`, an array, and `grad`, got {type(parameter).__name__}")
    if data.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"the data of {_name(parameter, place)} must be float32 or float64, got {data.dtype}")
    if not data.flags.carray or not data.dtype.isnative:
        raise ValueError(f"the data of {_name(parameter, place)} must be C-contiguous, aligned and writable")


def _restored(key: str, value: Any, parameter: Any, i: int) -> Any:
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value if isinstance(value, int | float) else value.item()
    if value.size != parameter.data.size:
        raise ValueError(f"state_dict has {key} of shape {value.shape} for parameter {i}, whose shape is {parameter.data.shape}")
    return np.array(value, parameter.data.dtype, order="C", copy=True).reshape(parameter.data.shape)


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients so that their common norm is at most `max_norm`: grad *= min(1, max_norm / (norm + 1e-6)).

    Parameters
    ----------
    parameters : iterable of parameters, or one
        Those whose `grad` is None are passed over.
    max_norm : float
        Greatest norm of the vector of all gradients.
    norm_type : float
        p of the p-norm; inf for the greatest magnitude.
    error_if_nonfinite : bool
        Raise where the norm is NaN or infinite; otherwise the gradients are scaled by max_norm over that.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    ValueError
        `norm_type` is not positive.
    RuntimeError
        The norm is not finite, and `error_if_nonfinite` was set.

    Notes
    -----
    Sums are in float64 over blocks of a fixed length: the bits do not depend on the number of threads.

    References
    ----------
    Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, section 3.2.  torch.nn.utils.clip_grad_norm_, its documentation.
    """
    max_norm, p = number("max_norm", max_norm), number("norm_type", norm_type)
    if not p > 0:
        raise ValueError(f"norm_type must be positive, got {norm_type!r}")
    given = [parameters] if hasattr(parameters, "grad") else list(parameters)
    with_grad = [each for each in given if each.grad is not None]
    norm = _norm([working(each.grad).reshape(-1) for each in with_grad], p)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"the norm of the gradients is {norm}, so they cannot be clipped: error_if_nonfinite=False does so anyway"
        )
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        # Parameters may share a gradient: an array is scaled once.
        scaled: dict[tuple[int, ...], Array] = {}
        for each in with_grad:
            grad = each.grad
            key = (grad.__array_interface__["data"][0], *grad.shape, *grad.strides)
            if key not in scaled:
                scaled[key] = _scaled(grad, factor)
            each.grad = scaled[key]
    return norm


def _scaled(grad: Array, factor: float) -> Array:
    """Return the gradient times `factor`, in place where a kernel may write to it."""
    work = working(grad)
    if work.size:
        scale_kernel(work.reshape(-1), factor, workers_of(work.size, 2 * work.nbytes))
    return work


def _norm(grads: list[Array], p: float) -> float:
    """Return the p-norm of all elements."""
    grads = [grad for grad in grads if grad.size]
    if p == math.inf:
        with np.errstate(invalid="ignore"):
            return float(np.max([np.max(np.abs(grad)) for grad in grads], initial=0.0))
    sums = []
    for grad in grads:
        if p == 2:
            parts = np.empty(-(-grad.size // BLOCK), np.float64)
            square_sums_kernel(grad, parts, workers_of(grad.size, grad.nbytes))
            sums.append(float(np.sum(parts)))
        else:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                sums.append(float(np.sum(np.abs(grad.astype(np.float64)) ** p)))
    total = math.fsum(sums) if all(map(math.isfinite, sums)) else float(np.sum(sums))
    return math.sqrt(total) if p == 2 else total ** (1 / p)
