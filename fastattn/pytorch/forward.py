"""What stands in the place of the forward of an accelerated module: the kernels where they fit the call, else the original."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import Unfit
from fastattn.pytorch.fallback import Notices
from fastattn.pytorch.watch import Watch

Array = NDArray[Any]

_GRADIENTS = "gradients are recorded: call it under torch.inference_mode() or torch.no_grad()"
_TRAINING = "it is in training mode: call eval() on it first"


class _Made(NamedTuple):
    """The plan for a module as it was, or why there is none."""

    watch: Watch
    plan: Any
    refusal: str


class Forward:
    """Callable in the place of ``module.forward``.

    What it keeps (packed weights) is left out of pickles and copies, and made anew when the module changed.
    """

    def __init__(self, module: Any, notices: Notices | None = None) -> None:
        functools.update_wrapper(self, types.MethodType(type(module).forward, module), updated=())
        self.module = module
        self._notices = notices or Notices()
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        self._takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
        parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        self._names = [p.name for p in parameters]
        self._required = [p.name for p in parameters if p.default is p.empty]
        self._lock = threading.Lock()
        self._made: _Made | None = None

    stands_in = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as a new one for the copied module."""
        return type(self), (self.module,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernels, or the original forward with one warning."""
        original: Callable[..., Any] = self.__wrapped__  # type: ignore[attr-defined]
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        try:
            return self._attempt(args, kwargs)
        except Unfit as unfit:
            reason = unfit
        self._notices.tell(type(self.module).__name__, reason)
        return original(*args, **kwargs)

    def forget(self) -> None:
        """Read the module's weights anew before the next call."""
        self._made = None

    def plan(self) -> Any:
        """Return what `run` needs of the module; raises `Unfit` or `Unsupported`."""
        raise NotImplementedError

    def run(self, plan: Any, given: dict[str, Any]) -> Any:
        """Compute the result from the arguments by name; raises `Unfit` for those that the kernels do not take."""
        raise NotImplementedError

    def _attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        fits = self._takes_more or all(name in self._names for name in kwargs)
        if not fits or len(given) != len(args) + len(kwargs) or any(name not in given for name in self._required):
            raise Unfit("its arguments do not fit its signature")
        _check_modes()
        # Before the weights are packed: in training they change in every step.
        if self.module.training:
            self.forget()
            raise Unfit(_TRAINING)
        made = self._made
        if torch.is_grad_enabled():
            known = self.module.parameters() if made is None else made.watch.parameters
            if any(tensor.requires_grad for tensor in (*_tensors(given), *known)):
                raise Unfit(_GRADIENTS)
        current = self._ready()
        watch = current.watch
        if current is not made and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in watch.parameters):
            raise Unfit(_GRADIENTS)
        if watch.training():
            raise Unfit(_TRAINING)
        for hook in watch.hooks():
            if not _only_captures(hook):
                raise Unfit("a part of it has a forward hook, or all modules have one")
        if current.refusal:
            raise Unfit(current.refusal)
        return self.run(current.plan, given)

    def _ready(self) -> _Made:
        """Return the plan for the module as it is now."""
        made = self._made
        if made is None or not made.watch.unchanged():
            with self._lock:
                made = self._made
                if made is None or not made.watch.unchanged():
                    self._made = made = self._make()
        return made

    def _make(self) -> _Made:
        watch = Watch(self.module)  # first: what changes while the weights are packed is noticed
        try:
            return _Made(watch, self.plan(), "")
        except (Unfit, ValueError) as error:  # a ValueError of EncoderConfig or Encoder
            return _Made(watch, None, str(error))


def _tensors(given: dict[str, Any]) -> list[Any]:
    return [value for value in given.values() if isinstance(value, torch.Tensor)]


def _check_modes() -> None:
    """Raise `Unfit` where torch does something else with a call than to compute it."""
    private = torch._C
    if torch.jit.is_tracing():
        raise Unfit("it is being traced")
    if torch.is_autocast_enabled("cpu"):
        raise Unfit("autocast is enabled: the kernels compute in float32")
    functorch = getattr(getattr(private, "_functorch", None), "peek_interpreter_stack", None)
    if functorch is not None and functorch() is not None:
        raise Unfit("a transform of torch.func is active")
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        raise Unfit("forward-mode gradients are recorded")
    dispatch = getattr(private, "_len_torch_dispatch_stack", None)
    if dispatch is not None and dispatch():
        raise Unfit("a torch dispatch mode is active")


def _only_captures(hook: Any) -> bool:
    """Tell whether a hook is one of those that transformers leaves behind after it was asked for hidden states or attentions.

    They record only while a forward asks for that, and such a call is not for the kernels anyway.
    """
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"
