"""The forward of an accelerated module: runs the kernels if they take the call, else the original forward."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import NotAccelerated
from fastattn.config import Precision
from fastattn.pytorch.fallback import FallbackNotices
from fastattn.pytorch.snapshot import Snapshot

Array = NDArray[Any]

_GRADIENTS = (
    "gradients are recorded: call it under torch.inference_mode() or torch.no_grad(), or freeze it with requires_grad_(False)"
)
_TRAINING = "it is in training mode: call eval() on it first"


class _Made(NamedTuple):
    """The plan for a module in the state of a snapshot, or the reason why the kernels do not support it."""

    snapshot: Snapshot
    plan: Any
    refusal: str


class Forward:
    """Callable in the place of ``module.forward``.

    Pickles and copies leave out the packed weights; the weights are packed again when the module has changed.
    """

    def __init__(self, module: Any, notices: FallbackNotices | None = None, precision: Precision = "float32") -> None:
        functools.update_wrapper(self, types.MethodType(type(module).forward, module), updated=())
        self.module, self.precision = module, precision
        self._notices = notices or FallbackNotices()
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        self._takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
        parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        self._names = [p.name for p in parameters]
        self._required = [p.name for p in parameters if p.default is p.empty]
        self._lock = threading.Lock()
        self._made: _Made | None = None
        # Calls by the kernels, and by the original for each reason.
        self.kernel_calls = 0
        self.fallbacks: Counter[str] = Counter()

    stands_in = True

    def __getattr__(self, name: str) -> Any:
        """Return what a method has, such as `__self__` and `__code__`, from the original."""
        if name.startswith("__") and "__wrapped__" in self.__dict__:
            return getattr(self.__dict__["__wrapped__"], name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a new forward of the copied module."""
        return type(self), (self.module, None, self.precision)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernels, or the original forward with one warning."""
        original: Callable[..., Any] = self.__wrapped__
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        try:
            found = self._attempt(args, kwargs)
        except NotAccelerated as error:
            reason = error
        else:
            with self._lock:
                self.kernel_calls += 1
            return found
        with self._lock:
            self.fallbacks[str(reason)] += 1
        self._notices.warn(type(self.module).__name__, reason)
        return original(*args, **kwargs)

    def forget(self) -> None:
        """Drop the packed weights; the next call packs them again."""
        self._made = None

    def plan(self) -> Any:
        """Return the packed weights and settings that `run` takes; raises `NotAccelerated` or `Unsupported`."""
        raise NotImplementedError

    def run(self, plan: Any, arguments: dict[str, Any]) -> Any:
        """Compute the result from the arguments by name; raises `NotAccelerated` for those that the kernels do not take."""
        raise NotImplementedError

    def _attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        fits = self._takes_more or all(name in self._names for name in kwargs)
        if not fits or len(arguments) != len(args) + len(kwargs) or any(name not in arguments for name in self._required):
            raise NotAccelerated("its arguments do not fit its signature")
        _check_modes()
        # Training changes the weights in every step, so they are not packed.
        if self.module.training:
            self.forget()
            raise NotAccelerated(_TRAINING)
        made = self._made
        if torch.is_grad_enabled():
            known = self.module.parameters() if made is None else made.snapshot.parameters
            if any(tensor.requires_grad for tensor in (*_tensors(arguments), *known)):
                raise NotAccelerated(_GRADIENTS)
        current = self._ready()
        snapshot = current.snapshot
        if current is not made and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in snapshot.parameters):
            raise NotAccelerated(_GRADIENTS)
        if snapshot.training():
            raise NotAccelerated(_TRAINING)
        for hook in snapshot.hooks():
            if not _only_captures(hook):
                raise NotAccelerated("one of its submodules has a forward hook, or torch has a global forward hook")
        if current.refusal:
            raise NotAccelerated(current.refusal)
        return self.run(current.plan, arguments)

    def _ready(self) -> _Made:
        """Return the plan for the module as it is now."""
        made = self._made
        if made is None or not made.snapshot.unchanged():
            with self._lock:
                made = self._made
                if made is None or not made.snapshot.unchanged():
                    self._made = made = self._make()
        return made

    def _make(self) -> _Made:
        # The snapshot comes before the packing, so that a change during the packing is noticed.
        snapshot = Snapshot(self.module)
        try:
            return _Made(snapshot, self.plan(), "")
        except (NotAccelerated, ValueError) as error:  # EncoderConfig and Encoder raise a ValueError
            return _Made(snapshot, None, str(error))


def _tensors(arguments: dict[str, Any]) -> list[Any]:
    return [value for value in arguments.values() if isinstance(value, torch.Tensor)]


def _check_modes() -> None:
    """Raise `NotAccelerated` in a mode of torch that records, transforms or traces operations."""
    private = torch._C
    if torch.jit.is_tracing():
        raise NotAccelerated("it is being traced")
    if torch.is_autocast_enabled("cpu"):
        raise NotAccelerated("autocast is enabled: the kernels take and return float32")
    functorch = getattr(getattr(private, "_functorch", None), "peek_interpreter_stack", None)
    if functorch is not None and functorch() is not None:
        raise NotAccelerated("a transform of torch.func is active")
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        raise NotAccelerated("forward-mode gradients are recorded")
    dispatch = getattr(private, "_len_torch_dispatch_stack", None)
    if dispatch is not None and dispatch():
        raise NotAccelerated("a torch dispatch mode is active")


def _only_captures(hook: Any) -> bool:
    """Tell whether a hook is transformers' own for hidden states or attentions, which it leaves on the module.

    It records only while the original forward runs.
    """
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"
