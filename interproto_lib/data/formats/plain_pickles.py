"""Reading plain pickles (lists, tuples, bytes, texts, numbers, truth values) without unpickling them.

Python's own unpickler calls what a file names, and even one that refuses every import can be made to fill the memory or
to compute without end. Here the few instructions that plain pickles consist of are carried out one by one. Nothing is
imported or called. The few functions that Python and numpy themselves write into such files (`_CALLS`) are known by
name, and what they would do is done here.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from interproto_lib.errors import DatasetError

MAX_INSTRUCTIONS = 2_000_000
"""Most instructions that are carried out: a file of 6,000 pairs has about 50,000."""

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARGUMENT = (
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
_PUSH_PYTHON_2_TEXT = ("BINSTRING", "SHORT_BINSTRING")
_QUOTED = re.compile(rb"(?:[^\\]++|\\(?:[\\'\"abfnrtv]|x[0-9a-fA-F]{2}))*+")
"""What Python 2 writes between the quotes of a text: bytes, and escapes of those that cannot be printed."""

_NUMBERS = {"u1": 1, "b1": 1, "i1": 1, "u2": 2, "i2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8}
"""Types of arrays, each with its bytes."""

_NO_EFFECT = ("PROTO", "FRAME")


class _Mark:
    """Stands on the stack where a MARK instruction was."""


@dataclass(frozen=True)
class _Import:
    """Something that the file names to be imported; it never is."""

    name: str


@dataclass
class _Dtype:
    """The type of an array, a key of `_NUMBERS`, and its byte order."""

    code: str
    is_big_endian: bool = False


@dataclass
class PickledArray:
    """A row of bytes, truth values or whole numbers: its type and its memory; both None until its state is read."""

    dtype: str | None = None
    content: bytes | None = None
    is_big_endian: bool = False


def read_plain_pickle(content: bytes) -> Any:
    """Read a pickle of plain values, of any protocol.

    Texts of Python 2 are returned as bytes; arrays of numpy that are a single row of whole numbers or truth values as
    `PickledArray`. Time grows in proportion to the content, memory to at most about six times its size.

    Args:
        content: The pickle.

    Returns:
        What it holds. Lists and tuples may hold themselves: do not print, hash or compare them unseen.

    Raises:
        DatasetError: It asks for an import, holds something else, or is damaged; the message says what.

    Example:
        >>> import pickle
        >>> read_plain_pickle(pickle.dumps(([b"image", b"image 2"], [True])))
        ([b'image', b'image 2'], [True])
    """
    try:
        return _Machine(limit=len(content)).run(content)
    except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, RecursionError) as error:
        raise DatasetError(
            f"it is damaged or cut short ({type(error).__name__}: {str(error)[:200]}). Get it anew."
        ) from error


def called(value: Any) -> str:
    """Name a value without looking into it: what a file holds may be nested without end."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, _Import):
        return f"the name {value.name}"
    if isinstance(value, PickledArray):
        return f"an array of {value.dtype}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield names and arguments of the instructions of a pickle; nothing is carried out.

    As `pickletools.genops`, but texts of protocol 0 are bytes, where that takes them for ASCII.
    """
    file = io.BytesIO(content)
    while code := file.read(1):
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"there is no instruction {code!r}")
        if opcode.name == "STRING":
            yield opcode.name, _unquoted(file.readline())
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return
    raise ValueError("its end is missing")


def _unquoted(line: bytes) -> bytes:
    """Give the bytes of a text as protocol 0 writes it: a line, in quotes, with escapes."""
    quoted = line.removesuffix(b"\n")
    inner = quoted[1:-1]
    if len(quoted) < 2 or quoted == line or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
        raise ValueError("a text without its quotes")
    if not _QUOTED.fullmatch(inner):
        raise ValueError("a text with an escape that means nothing")
    return codecs.escape_decode(inner)[0]


class _Machine:
    """Carries out the instructions of a pickle that builds lists, tuples, bytes, texts, numbers and truth values.

    Args:
        limit: Bytes that its calls may make in all: those of a real file are never longer than the file.
    """

    def __init__(self, *, limit: int) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._bytes_left = limit

    def run(self, content: bytes) -> Any:
        """Return what the pickle builds."""
        argument: Any
        for number, (name, argument) in enumerate(_instructions(content)):
            if name == "STOP":
                break
            if number >= MAX_INSTRUCTIONS:
                raise DatasetError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")
            if name in _NO_EFFECT:
                continue
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _PUSH_ARGUMENT or name == "STRING":
                self._stack.append(argument)
            elif name in _PUSH_PYTHON_2_TEXT:
                self._stack.append(argument.encode("latin-1"))
            elif name == "BYTEARRAY8":
                self._stack.append(bytes(argument))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name == "GLOBAL":
                self._stack.append(_known_import(*argument.split(" ", 1)))
            elif name in _STEPS:
                _STEPS[name](self)
            else:
                raise DatasetError(
                    f"the pickle holds the instruction {name}, which plain values do not need; it is not carried out"
                )
        if len(self._stack) != 1:
            raise ValueError(f"{len(self._stack)} values are left at its end, expected 1")
        return self._stack[0]

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a value is missing before an instruction")
        return value

    def _pop_to_mark(self) -> list[Any]:
        for depth in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[depth], _Mark):
                values = self._stack[depth + 1 :]
                del self._stack[depth:]
                return values
        raise ValueError("a MARK is missing")

    def _mark(self) -> None:
        self._stack.append(_Mark())

    def _empty_list(self) -> None:
        self._stack.append([])

    def _tuple(self, size: int) -> None:
        self._stack.append(tuple(reversed([self._pop() for _ in range(size)])))

    def _list_to_mark(self) -> None:
        self._stack.append(self._pop_to_mark())

    def _tuple_to_mark(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _append(self) -> None:
        value = self._pop()
        self._top_list().append(value)

    def _appends(self) -> None:
        values = self._pop_to_mark()
        self._top_list().extend(values)

    def _top_list(self) -> list[Any]:
        if not self._stack or not isinstance(self._stack[-1], list):
            raise ValueError("a list is missing before an instruction")
        return self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("an import without a name")
        self._stack.append(_known_import(module, name))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Import) or not isinstance(arguments, tuple):
            raise DatasetError(f"the pickle calls {called(function)}; it is not called")
        call = _CALLS.get(function.name)
        if call is None:
            raise DatasetError(f"the pickle calls {function.name}; it is not called")
        made = call(arguments)
        size = (
            len(made) if isinstance(made, bytes) else len(made.content or b"") if isinstance(made, PickledArray) else 0
        )
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise DatasetError("the pickle builds more bytes than the file has")
        self._stack.append(made)

    def _build(self) -> None:
        state, value = self._pop(), self._pop()
        if isinstance(value, PickledArray):
            _, shape, dtype, _, content = state
            _fill(value, content, dtype, shape)
        elif isinstance(value, _Dtype):  # its byte order, and what only other types have
            value.is_big_endian = state[1] in (">", b">")
        else:
            raise DatasetError(f"the pickle sets the state of {called(value)}; it is not set")
        self._stack.append(value)


_STEPS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine._mark,
    "EMPTY_LIST": _Machine._empty_list,
    "LIST": _Machine._list_to_mark,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "EMPTY_TUPLE": lambda machine: machine._tuple(0),
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "TUPLE": _Machine._tuple_to_mark,
    "MEMOIZE": _Machine._memoize,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}


def _known_import(module: str, name: str) -> _Import:
    """Give the name of an import that real files hold; numpy's modules go by their names of before and since 2.0."""
    full = f"{module}.{name}".replace("numpy.core.", "numpy._core.", 1)
    if full not in _CALLS and full != "numpy.ndarray":
        raise DatasetError(
            f"the pickle asks to import {module[:100]}.{name[:100]}; plain values need no such import, so this may be "
            "an attack. Nothing was imported. Get the file from a place you trust."
        )
    return _Import(full)


def _fill(array: PickledArray, content: Any, dtype: Any, shape: Any) -> None:
    if not isinstance(content, bytes) or not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array without content, type or shape")
    if not all(type(n) is int and 0 <= n <= len(content) for n in shape) or len(shape) > 3:
        raise ValueError("the shape of an array is wrong")
    n_values, n_left = divmod(len(content), _NUMBERS[dtype.code])
    if n_left or math.prod(shape) != n_values or max(shape, default=1) != n_values:
        raise ValueError("an array is not a single row, as encoded images and labels are")
    array.dtype, array.content, array.is_big_endian = dtype.code, content, dtype.is_big_endian


def _encode(arguments: tuple[Any, ...]) -> bytes:
    """Bytes, as Python 3 writes them for readers of Python 2: `_codecs.encode(text, "latin1")`."""
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin-1")


def _empty_array(arguments: tuple[Any, ...]) -> PickledArray:
    """An array whose content comes as its state: `numpy._core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")`."""
    if len(arguments) != 3:
        raise ValueError("an array with other arguments than type, shape and kind")
    return PickledArray()


def _array_from_buffer(arguments: tuple[Any, ...]) -> PickledArray:
    """An array as protocol 5 writes it: `numpy._core.numeric._frombuffer(content, dtype, shape, order)`."""
    content, dtype, shape, *_ = arguments
    array = PickledArray()
    _fill(array, content, dtype, shape)
    return array


def _dtype(arguments: tuple[Any, ...]) -> _Dtype:
    """The type of an array: `numpy.dtype("u1", ...)`; whole numbers and truth values only."""
    code = arguments[0].decode("ascii") if isinstance(arguments[0], bytes) else arguments[0]
    if not isinstance(code, str):
        raise ValueError("an array whose type is no text")
    if code not in _NUMBERS:
        raise DatasetError(f"the pickle holds numbers of type {code[:20]!r}, expected whole numbers or truth values")
    return _Dtype(code)


def _number(arguments: tuple[Any, ...]) -> int:
    """A truth value or whole number of numpy: `numpy._core.multiarray.scalar(dtype, content)`."""
    dtype, content = arguments
    _fill(PickledArray(), content, dtype, (1,))
    value = int.from_bytes(content, "big" if dtype.is_big_endian else "little", signed=dtype.code.startswith("i"))
    if dtype.code != "b1":
        return value
    if value > 1:
        raise ValueError("a truth value of numpy that is neither true nor false")
    return bool(value)


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "_codecs.encode": _encode,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray.scalar": _number,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
    "numpy.dtype": _dtype,
}
"""What real files ask for besides lists, by whole name, and what is done here instead."""
