"""Reading a stranger's pickle: only plain data comes out of it, and no code runs."""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Final

from skunkqueue.spool.files import Unfinished, Unreadable

MOST_DEPTH: Final = 500
"""How deep tuples may be nested: hashing them is recursive, and has no limit of its own."""


def load(data: bytes) -> Any:
    """The value of a pickle, of any protocol, also one by Python 2 (each str read as UTF-8, else as Latin-1).

    Admitted are plain data, datetime, Decimal and UUID. Raises Unfinished where it breaks off, Unreadable for the rest.
    """
    make = _Restricted if _survey(data) <= MOST_DEPTH else _Careful
    try:
        return make(io.BytesIO(data), encoding=PYTHON_2).load()
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"the pickle cannot be read: {type(error).__name__}: {error}"[:500]) from error


PYTHON_2: Final = "skunkqueue_python_2"
"""The encoding of a str of Python 2, which says nothing of it: each by itself is UTF-8, or else taken for Latin-1."""


def _python_2(name: str) -> codecs.CodecInfo | None:
    return codecs.CodecInfo(codecs.utf_8_encode, _decode, name=PYTHON_2) if name == PYTHON_2 else None


def _decode(data: Any, errors: str = "strict") -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(data, "strict", True)
    except UnicodeDecodeError:
        return codecs.latin_1_decode(data)


codecs.register(_python_2)


def _bytes_of(state: Any, size: int) -> Any:
    """The bytes, so many, that a date or time of Python 2 was written as, where they have been read as text."""
    if not isinstance(state, str):
        return state
    return state.encode("latin-1" if len(state) == size else "utf-8")


# For REDUCE and for NEWOBJ alike, what makes these is a class.


class _Datetime(datetime):
    def __new__(cls, state: Any, *rest: Any) -> datetime:  # type: ignore[misc]
        return datetime(_bytes_of(state, 10), *rest)


class _Date(date):
    def __new__(cls, state: Any, *rest: Any) -> date:  # type: ignore[misc]
        return date(_bytes_of(state, 4), *rest)


class _Time(time):
    def __new__(cls, state: Any = 0, *rest: Any) -> time:  # type: ignore[misc]
        return time(_bytes_of(state, 6), *rest)


# -- what of it is looked at before anything is read -------------------------------------------------------------------

_FIXED: Final = {
    1: b"(.012NRabd}elsot)]u\x81\x88\x89\x8f\x90\x91\x92\x93\x94",
    2: b"Khq\x80",
    3: b"M",
    5: b"Jj",
    9: b"G\x95",
}
_SHORT: Final = b"UC\x8a\x8c"  # a length of one byte, then so many
_LONG: Final = b"TXB\x8b"  # of four
_HUGE: Final = b"\x8d\x8e\x96"  # of eight
_LINE: Final = b"FILSVg"
_LINES: Final = b"ci"  # two lines: a module and a name
_TUPLES: Final = b"t\x85\x86\x87"


def _steps() -> list[int]:
    """What to go on by for each opcode: its size, or 0 where that takes a closer look."""
    steps = [0] * 256
    for size, opcodes in _FIXED.items():
        for opcode in opcodes:
            steps[opcode] = size
    for opcode in (*b".", *_TUPLES):
        steps[opcode] = 0
    return steps


_STEPS: Final = _steps()


def _survey(data: bytes) -> int:
    """Walk through the opcodes; gives how many tuples are made.

    Refuses what has no place in plain data, and memo indexes that would have the unpickler allocate without end. Raises
    Unfinished where the end comes before the last opcode.
    """
    at = tuples = 0
    try:
        while True:
            opcode = data[at]
            step = _STEPS[opcode]
            if step:
                at += step
            elif opcode in _SHORT:
                at += 2 + data[at + 1]
            elif opcode == 0x58:  # BINUNICODE, the one that is frequent
                at += 5 + int.from_bytes(data[at + 1 : at + 5], "little")
            elif opcode in _TUPLES:
                tuples += 1
                at += 1
            elif opcode == 0x2E:  # STOP
                break
            else:
                at = _CLOSER.get(opcode, _refuse)(data, at)
    except IndexError:
        raise Unfinished("the pickle breaks off") from None
    if data[at + 1 :].strip():
        raise Unreadable(f"{len(data) - at - 1} bytes follow the end of the pickle; a file holds one job")
    return tuples


def _sized(width: int) -> Callable[[bytes, int], int]:
    def step(data: bytes, at: int) -> int:
        data[at + width]  # raises IndexError where it breaks off
        return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")

    return step


def _line(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    if end < 0:
        raise IndexError
    return end + 1


def _lines(data: bytes, at: int) -> int:
    return _line(data, _line(data, at))


def _put(data: bytes, at: int) -> int:
    end = _line(data, at)
    try:
        index = int(data[at + 1 : end])
    except ValueError:
        raise Unreadable("the pickle cannot be read: a memo index that is no number") from None
    return _remember(data, index, end)


def _long_put(data: bytes, at: int) -> int:
    data[at + 4]
    return _remember(data, int.from_bytes(data[at + 1 : at + 5], "little"), at + 5)


def _remember(data: bytes, index: int, end: int) -> int:
    if not 0 <= index <= len(data):
        raise Unreadable(f"the pickle is refused: it would remember value number {index} of {len(data)} bytes")
    return end


def _refuse(data: bytes, at: int) -> int:
    raise Unreadable(f"the pickle is refused: opcode {data[at : at + 1]!r} has no place in plain data")


_CLOSER: Final[dict[int, Callable[[bytes, int], int]]] = {
    **dict.fromkeys(_LONG, _sized(4)),
    **dict.fromkeys(_HUGE, _sized(8)),
    **dict.fromkeys(_LINE, _line),
    **dict.fromkeys(_LINES, _lines),
    0x70: _put,
    0x72: _long_put,
}


# -- what it may mention -----------------------------------------------------------------------------------------------


class _Latin1:
    """Stands for ``_codecs.encode``, by which old protocols write bytes."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            return text.encode("latin-1")
        raise Unreadable("the pickle is refused: it encodes with something else than latin1")


class _NoBytes:
    """Stands for ``bytes``, by which old protocols write that there are none."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Anything:
    """Stands for ``object``, which old protocols mention beside a UUID."""

    __slots__ = ()


class _Rebuild:
    """Stands for ``copyreg._reconstructor``, by which old protocols write a UUID."""

    __slots__ = ()

    def __call__(self, kind: object, base: object, state: object) -> Any:
        if kind is _uuid() and base is _ANYTHING and state is None:
            return object.__new__(_uuid())
        raise Unreadable("the pickle is refused: it rebuilds something else than a UUID")


def _uuid() -> Any:
    from uuid import UUID

    return UUID


def _decimal() -> Any:
    from decimal import Decimal

    return Decimal


_ANYTHING: Final = _Anything()
_ADMITTED: Final[dict[tuple[str, str], Callable[[], Any]]] = {
    ("datetime", "datetime"): lambda: _Datetime,
    ("datetime", "date"): lambda: _Date,
    ("datetime", "time"): lambda: _Time,
    ("datetime", "timedelta"): lambda: timedelta,
    ("datetime", "timezone"): lambda: timezone,
    ("decimal", "Decimal"): _decimal,
    ("uuid", "UUID"): _uuid,
    ("_codecs", "encode"): _Latin1,
}
for _module in ("builtins", "__builtin__"):  # of Python 3, and of 2
    _ADMITTED[_module, "set"] = lambda: set
    _ADMITTED[_module, "frozenset"] = lambda: frozenset
    _ADMITTED[_module, "bytes"] = _NoBytes
    _ADMITTED[_module, "object"] = lambda: _ANYTHING
for _module in ("copyreg", "copy_reg"):
    _ADMITTED[_module, "_reconstructor"] = _Rebuild


def _admitted(module: str, name: str) -> Any:
    found = _ADMITTED.get((module, name))
    if found is None:
        raise Unreadable(
            f"the pickle is refused: it mentions {module}.{name}, and only plain data, datetime, Decimal and UUID are "
            f"read from a file; nothing of it was executed"
        )
    return found()


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _admitted(module, name)


class _Careful(pickle._Unpickler):
    """The same in Python, slower: it watches how deep tuples are nested."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return _admitted(module, name)

    def load(self) -> Any:
        self._depths: dict[int, tuple[int, Any]] = {}  # by id; the tuple is kept, so that the id stays its own
        return super().load()

    def watch(self) -> None:
        """A tuple has been made: it lies on top of the stack."""
        made = self.stack[-1]  # type: ignore[attr-defined]
        depth = 1 + max((self._depths[id(item)][0] for item in made if id(item) in self._depths), default=0)
        if depth > MOST_DEPTH:
            raise Unreadable(f"the pickle is refused: tuples in it are nested more than {MOST_DEPTH} deep")
        self._depths[id(made)] = (depth, made)


def _watched(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def load(self: Any) -> None:
        original(self)
        self.watch()

    return load


for _opcode in _TUPLES:
    _Careful.dispatch[_opcode] = _watched(_Careful.dispatch[_opcode])
