"""Reads a pickle of tensors as data: of its opcodes those for dicts, lists, tuples, numbers, strings and tensors.

Nothing that a pickle names is imported or called.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STORAGES", "NotTensors", "PickledTensor", "Storage", "unpickle"]

# Storage classes of torch: their dtype as safetensors name it, and as NumPy does; bfloat16 as 16 bits.
STORAGES = {
    "DoubleStorage": ("F64", "f8"),
    "FloatStorage": ("F32", "f4"),
    "HalfStorage": ("F16", "f2"),
    "BFloat16Storage": ("BF16", "u2"),
    "LongStorage": ("I64", "i8"),
    "IntStorage": ("I32", "i4"),
    "ShortStorage": ("I16", "i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "u1"),
}
_ORDERED_DICT = ("collections", "OrderedDict")
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *(("torch", name) for name in STORAGES)}
# Opcodes whose argument is the value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME"}


class NotTensors(ValueError):
    """A pickle that holds more than tensors; the message is what was found."""


@dataclass(frozen=True)
class Storage:
    """Elements of one dtype, in which tensors lie; `key` is its name in the file."""

    key: str
    kind: str
    numel: int


@dataclass(eq=False)
class PickledTensor:
    """A tensor: a part of a storage; strides and offset count elements.

    `array` is set when the storages are found: a private view of the mapped file; bfloat16 as 16 bits.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    array: NDArray[Any] = field(default_factory=lambda: np.empty(0))

    @property
    def dtype(self) -> str:
        """The dtype as safetensors name it."""
        return STORAGES[self.storage.kind][0]


@dataclass(frozen=True)
class _Name:
    """A class or function of Python that a pickle names."""

    module: str
    name: str


def unpickle(file: Any, tensors: list[PickledTensor]) -> Any:
    """Return the value of the pickle at the position of a file or a map, which is then behind it; its tensors join a list.

    NotTensors for anything but tensors in containers; ValueError, TypeError, KeyError or IndexError for a damaged pickle.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(count: int | None = None) -> list[Any]:
        start = marks.pop() if count is None else len(stack) - count
        # A mark or a start before it belongs to another container.
        if start < (marks[-1] if marks else 0):
            raise IndexError("its stack is empty")
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]  # type: ignore[arg-type]
        elif name in _GETS:
            stack.append(memo[int(argument)])  # type: ignore[arg-type]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES or name == "TUPLE":
            stack.append(tuple(popped(_TUPLES.get(name))))
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append(popped() if name == "LIST" else [])
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append(_filled({}, popped() if name == "DICT" else []))
        elif name in ("APPEND", "APPENDS"):
            items = popped(1 if name == "APPEND" else None)
            _top(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = popped(2 if name == "SETITEM" else None)
            _filled(_top(stack, dict), items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = str(argument).split(" ", 1) if name == "GLOBAL" else popped(2)
            stack.append(_named(*parts))
        elif name == "BINPERSID":
            stack.append(_storage(*popped(1)))
        elif name == "REDUCE":
            made = _made(*popped(2))
            stack.append(made)
            if isinstance(made, PickledTensor):
                tensors.append(made)
        elif name == "BUILD":
            # A state_dict's attribute `_metadata`: the versions of modules.
            popped(1)
            _top(stack, dict)
        elif name == "STOP":
            return popped(1)[0]
        elif name not in _IGNORED:
            raise NotTensors(f"the opcode {name}")
    raise ValueError("its end is missing")


def _top(stack: list[Any], kind: type) -> Any:
    """Return the container on top of the stack."""
    if type(stack[-1]) is not kind:
        raise NotTensors(f"a {_kind(stack[-1])} that is changed as if it were a {kind.__name__}")
    return stack[-1]


def _kind(value: Any) -> str:
    return f"{value.module}.{value.name}" if isinstance(value, _Name) else type(value).__name__


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Put keys and values in turns into a dict."""
    if len(items) % 2:
        raise ValueError("a dict has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of other keys, such as a tuple of tuples, may take forever.
        if not (type(key) is str or (type(key) is int and -(2**63) <= key < 2**63)):
            raise NotTensors(f"a dict with a {_kind(key)} as a key")
        target[key] = value
    return target


def _named(module: Any, name: Any) -> _Name:
    if (module, name) not in _NAMES:
        raise NotTensors(f"{module!s:.100}.{name!s:.100}")
    return _Name(module, name)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a size or an offset is {value!r:.50}")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple:
        raise ValueError(f"sizes are a {_kind(values)}")
    return tuple(map(_size, values))


def _storage(found: Any) -> Storage:
    """Return the storage that a tuple names: "storage", class, key, device, elements, and None in files of old versions."""
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise NotTensors("a persistent id that is no storage")
    _, kind, key, _, numel, *view = found
    if not isinstance(kind, _Name) or kind.module != "torch":
        raise NotTensors(f"a storage of class {_kind(kind)}")
    if type(key) is not str or any(part is not None for part in view):
        raise ValueError("a storage has no key, or is a part of another one")
    return Storage(key, kind.name, _size(numel))


def _made(function: Any, arguments: Any) -> Any:
    """Return what a call of one of `_NAMES` would make."""
    if not isinstance(function, _Name) or type(arguments) is not tuple:
        raise NotTensors(f"a call of a {_kind(function)}")
    called = (function.module, function.name)
    if called == _ORDERED_DICT:
        pairs = [part for pair in (arguments[0] if arguments else ()) for part in _pair(pair)]
        return _filled({}, pairs)
    if called == _PARAMETER and arguments and isinstance(arguments[0], PickledTensor):
        return arguments[0]
    if called == _TENSOR and len(arguments) >= 4 and isinstance(arguments[0], Storage):
        tensor = PickledTensor(arguments[0], _size(arguments[1]), _sizes(arguments[2]), _sizes(arguments[3]))
        _check(tensor)
        return tensor
    raise NotTensors(f"a call of {_kind(function)} with {', '.join(map(_kind, arguments[:4])) or 'nothing'}")


def _pair(pair: Any) -> Any:
    if type(pair) not in (list, tuple) or len(pair) != 2:
        raise ValueError("a dict is made of something else than pairs")
    return pair


def _check(tensor: PickledTensor) -> None:
    """Raise ValueError unless a tensor lies inside its storage."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of shape {shape!r:.100} has strides {strides!r:.100}")
    count, last = 1, tensor.offset
    for size, stride in zip(shape, strides, strict=True):
        count, last = count * size, last + (size - 1) * stride
    # More elements than the storage has, by strides of 0, could be more than any memory.
    if count and (last >= tensor.storage.numel or count > tensor.storage.numel):
        raise ValueError(
            f"a tensor of shape {shape!r:.100}, strides {strides!r:.100} and offset {tensor.offset} is not inside its storage of "
            f"{tensor.storage.numel} elements"
        )
