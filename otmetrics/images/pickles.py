"""Pickles of plain containers and arrays, read as data: a pickle is a program, and none is run.

What Python's unpickler imports and calls is looked up here by name in a table of a few functions
of this module; a name that is not in it ends the reading. Nothing is imported on a file's word.
"""

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images import limits

_PLAIN_DTYPE = re.compile("[fiuc][1-9][0-9]?|b1")
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Global(NamedTuple):
    """A name that a pickle would import."""

    module: str
    name: str


class Rest:
    """What is left of a file: a pickle asks for as many bytes as it claims to have."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.left = file, size

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        part = self._file.read(max(0, min(size, self.left)))
        self.left -= len(part)
        return part

    def readline(self) -> bytes:
        """Bytes to the end of a line, of limited length."""
        line = self._file.readline(min(limits.MAX_LINE, self.left))
        self.left -= len(line)
        return line


Persistent = Callable[[Any], Any]
Functions = Mapping[Global, Callable[..., Any]]


def unpickled(
    file: Rest, functions: Functions | None = None, persistent: Persistent | None = None
) -> Any:
    """Read one pickle, of protocol 2 or later, as None, numbers, texts, containers and arrays.

    Args:
        file: Stands behind the pickle afterwards.
        functions: What else may be called, by the name that the pickle has for it.
        persistent: Called with what the pickle says of an object that lies outside of it.

    Raises:
        DataError: Something else is in it, or it has too many parts.
        Exception: It is damaged; nearly any other kind.
    """
    if file.left > limits.MAX_PICKLE_BYTES:
        raise DataError(
            f"is a pickle of more than the {limits.MAX_PICKLE_BYTES} bytes that are read: save its "
            "arrays with np.save."
        )
    machine = _Machine({**_FUNCTIONS, **(functions or {})}, persistent)
    operations = pickletools.genops(file)  # type: ignore[arg-type]
    for count, (operation, argument, _) in enumerate(operations):
        # Each byte may be an empty container of 64.
        if count > limits.MAX_PICKLE_STEPS:
            raise DataError(
                f"is a pickle of more than {limits.MAX_PICKLE_STEPS} steps: save its arrays with "
                "np.savez."
            )
        if operation.name == "STOP":
            break
        machine.step(operation.name, argument)
    return machine.pop()


class _Machine:
    """The stack that a pickle works on."""

    def __init__(self, functions: Functions, persistent: Persistent | None) -> None:
        self._functions, self._persistent = functions, persistent
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        # Not a list, which one step of five bytes would make 34 GB long.
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Take the top of the stack."""
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Do what one step of the pickle says."""
        push = self._stack.append
        if name in _VALUES:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            push(self._memo[argument])
        elif name == "MARK":
            self._marked.append(self._stack)
            self._stack = []
        elif name in {"POP", "POP_MARK"}:
            _ = self._items() if name == "POP_MARK" else self.pop()
        elif name in _TUPLES:
            self._stack[-_TUPLES[name] :] = [tuple(self._last(_TUPLES[name]))]
        elif name == "TUPLE":
            items = self._items()
            self._stack.append(tuple(items))
        elif name in {"APPEND", "APPENDS"}:
            items = self._items() if name == "APPENDS" else [self.pop()]
            self._top(list).extend(items)
        elif name in {"SETITEM", "SETITEMS"}:
            items = self._items() if name == "SETITEMS" else [*self._last(2)]
            if name == "SETITEM":
                del self._stack[-2:]
            self._set_items(items)
        elif name in {"GLOBAL", "INST", "STACK_GLOBAL"}:
            self._import(argument)
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self._stack.append(self._call(function, arguments))
        elif name == "BUILD":
            _set_state(state=self.pop(), value=self._stack[-1])
        elif name == "BINPERSID" and self._persistent is not None:
            push(self._persistent(self.pop()))
        elif name not in {"PROTO", "FRAME"}:
            raise DataError(
                f"holds other things than arrays and plain containers (a pickle's {name}): save "
                "its arrays with np.savez."
            )

    def _items(self) -> list[Any]:
        """Take what lies above the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _last(self, count: int) -> list[Any]:
        """The last values, which must be there."""
        if len(self._stack) < count:
            raise ValueError("nothing is left on the stack")
        return self._stack[-count:]

    def _top(self, kind: type) -> Any:
        """The top of the stack, which must be of a kind."""
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"a {type(self._stack[-1]).__name__} instead of a {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        """Fill a dictionary with keys and values in turns."""
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple of tuples of tuples ends the process at some depth.
            if type(key) not in {str, int, bool, float, bytes}:
                raise ValueError(f"a {type(key).__name__} as a key")
            target[key] = value

    def _import(self, argument: str | None) -> None:
        """Push a name, if it is one of the few."""
        if argument is None:
            name, module = self.pop(), self.pop()
        else:
            module, _, name = argument.partition(" ")
        found = Global(module, name)
        # Unhashable, where it is no pair of texts.
        if not (type(module) is type(name) is str and found in self._functions):
            raise DataError(
                f"holds `{f'{module}.{name}'[:80]}`, which is neither an array nor a plain "
                "container and could run code, so that it is not loaded: save the arrays in it "
                "with np.savez, such as np.savez(path, mu=mean, sigma=covariance)."
            )
        self._stack.append(found)

    def _call(self, function: Any, arguments: Any) -> Any:
        """What takes the place of a call."""
        if type(function) is not Global or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        return self._functions[function](*arguments)


# --- what may be called -----------------------------------------------------------------------


def _set_state(value: Any, state: Any) -> None:
    """Fill an array, or tell a dtype its byte order: numpy does so, once all of it is checked."""
    if type(state) is not tuple:
        raise ValueError(f"the state of a {type(value).__name__}")
    if isinstance(value, np.dtype):
        version, order, *rest = state
        if (version, rest) != (3, [None, None, None, -1, -1, 0]) or order not in {*"<>|="}:
            raise ValueError("a dtype of fields")
        value.__setstate__(state)  # type: ignore[attr-defined]
        return

    version, shape, dtype, is_fortran, data = state
    if type(value) is not np.ndarray or version != 1 or type(data) is not bytes:
        raise ValueError("an array of objects")
    _check_size(data, dtype, shape)
    whole: Any = (1, shape, dtype, bool(is_fortran), data)
    value.__setstate__(whole)


def _check_size(data: bytes | bytearray, dtype: Any, shape: Any) -> None:
    """Raise unless bytes are as many as a dtype and shape say."""
    sizes = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, np.dtype) or not sizes:
        raise ValueError("an array without dtype or shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array {dtype} {shape} of {len(data)} bytes")


def _no_call(*_: Any) -> Any:
    raise ValueError("a call of what is no function")


def _empty_array(*_: Any) -> np.ndarray:
    """An array before its state is known."""
    return np.empty(0, np.uint8)


def _filled_array(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """An array of protocol 5."""
    _check_size(data, dtype, shape)
    array = np.frombuffer(data, dtype)
    if order == "K":
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    """A number of numpy's."""
    _check_size(data, dtype, ())
    return np.frombuffer(data, dtype)[0]


def _dtype(code: Any, *_: Any) -> np.dtype:
    """A dtype of plain numbers, a copy of its own, whose byte order can be set."""
    if type(code) is not str or not _PLAIN_DTYPE.fullmatch(code):
        raise DataError(
            f"holds an array of dtype `{str(code)[:20]}`: save it as one of plain numbers."
        )
    return np.dtype(code, False, True)


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, which protocol 2 keeps as a text."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError("a text in another encoding")
    return text.encode("latin1")


_ARRAYS = ("numpy.core", "numpy._core")  # before and since numpy 2
_FUNCTIONS: Functions = {
    **{Global(f"{name}.multiarray", "_reconstruct"): _empty_array for name in _ARRAYS},
    **{Global(f"{name}.multiarray", "scalar"): _scalar for name in _ARRAYS},
    **{Global(f"{name}.numeric", "_frombuffer"): _filled_array for name in _ARRAYS},
    Global("numpy", "ndarray"): _no_call,
    Global("numpy", "dtype"): _dtype,
    Global("_codecs", "encode"): _encoded,
    Global("__builtin__", "bytes"): lambda: b"",  # an array without values, in protocol 2
    Global("collections", "OrderedDict"): lambda: {},
}
