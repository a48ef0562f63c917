"""A large kernel called by its address, so that it is compiled once.

Numba compiles a callee again inside every caller, and a ``prange`` loop becomes four functions.  Calling `run_step` through its
address compiles it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastattn.kernels.compile.jit import JIT, compile_cached
from fastattn.runtime.interrupt import interruptible


class AddressedKernel:
    """A serial kernel; a kernel calls it with ``call(address, (arguments))``, the address handed to it.

    `arguments`: the types, one of them None, which is that of the address.
    """

    def __init__(self, fn: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.py_func = fn
        self.arguments = arguments
        self._addresses: dict[Any, Any] = {}
        self.call: Any = _caller(arguments) if JIT else lambda address, values: address(*values)
        if JIT:
            self.dispatcher: Any = compile_cached(fn, _nrt=False)

    def address(self, kind: Any) -> Any:
        """Return the address of the kernel for this type of the open argument, in this process; with the JIT off, the function."""
        if not JIT:
            return self.py_func
        if kind not in self._addresses:
            interruptible(lambda: self._load(kind), None)
        return self._addresses[kind]

    def _load(self, kind: Any) -> None:
        arguments = tuple(kind if argument is None else argument for argument in self.arguments)
        with global_compiler_lock:
            self.dispatcher.compile(types.none(*arguments))
            compiled = self.dispatcher.overloads[arguments]
            name = compiled.fndesc.llvm_func_name
            self._addresses[kind] = compiled.library.get_pointer_to_function(name)


def _open(expected: Any, given: Any) -> Any:
    return given if expected is None else expected


def _caller(expected: tuple[Any, ...]) -> Any:
    @intrinsic
    def call(typingctx, address, values):  # type: ignore[no-untyped-def]
        given = tuple(values)
        wanted = tuple(map(_open, expected, given))
        if len(given) != len(expected) or any(typingctx.can_convert(a, b) is None for a, b in zip(given, wanted, strict=True)):
            raise TypingError(f"expected arguments {wanted}, got {given}")

        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            convention = context.call_conv
            function = builder.inttoptr(args[0], convention.get_function_type(types.none, wanted).as_pointer())
            parts = [context.cast(builder, builder.extract_value(args[1], i), given[i], kind) for i, kind in enumerate(wanted)]
            result, error = (cgutils.alloca_once(builder, t.pointee) for t in function.function_type.args[:2])
            builder.call(function, [result, error, *convention._get_arg_packer(wanted).as_arguments(builder, parts)])
            return context.get_dummy_value()

        return types.void(types.int64, values), codegen

    return call
