"""Values to bytes and back: MessagePack wherever that is exact, else cloudpickle, which is signed; and the keys."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any, Final

import msgpack

from skunkqueue import culprit
from skunkqueue.envelope import SIGNATURE
from skunkqueue.errors import Corrupt, NotPlain, PayloadError, UnknownJob
from skunkqueue.keys import CALL as CALL
from skunkqueue.keys import VALUE, Keyring
from skunkqueue.keys import Keys as Keys
from skunkqueue.keys import default_keys as default_keys
from skunkqueue.pickling import pickle_function as pickle_function
from skunkqueue.pickling import pickle_value, unpickle
from skunkqueue.pickling import pickled_size as pickled_size
from skunkqueue.pickling import unpickle_function as unpickle_function

_pack: Callable[..., bytes] = msgpack.packb
_unpack: Callable[..., Any] = msgpack.unpackb
_Ext = msgpack.ExtType

PLAIN: Final = b"m"
PICKLED: Final = b"p"
FOREIGN: Final = b"j"
"""What a program in another language sent: JSON where it can be read as that, else bytes as they are."""
HEADED: Final = b"h"
"""A call before which its headers stand: their size, and MessagePack of them."""
_SIZE: Final = struct.Struct("<cI")
TIMED: Final = b"t"
"""A result that a pool wrote: when its run began and how long it took stand before it."""
_TIMES: Final = struct.Struct("<cdd")
NOTHING: Final = PLAIN + b"\xc0"  # None

SERIALIZERS: Final = ("auto", "plain")

# -- calls and results -----------------------------------------------------------------------------------------------


def is_pickled(data: bytes) -> bool:
    """Whether reading it means unpickling, so that somebody must have signed it."""
    return bare(data)[:1] == PICKLED


def with_headers(headers: Mapping[str, str], call: bytes) -> bytes:
    """An encoded call with headers, which travel with the run and are no arguments."""
    packed = _pack(dict(headers))
    return _SIZE.pack(HEADED, len(packed)) + packed + call


def headers_of(call: bytes) -> dict[str, str]:
    """The headers of an encoded call. Raises Corrupt."""
    if call[:1] != HEADED:
        return {}
    try:
        found = _unpack(call[_SIZE.size : _SIZE.size + _SIZE.unpack_from(call)[1]])
        return {str(name): str(value) for name, value in found.items()}
    except Exception as error:
        raise Corrupt(f"the headers cannot be read ({type(error).__name__}: {error})"[:300]) from error


def bare(data: bytes) -> bytes:
    """An encoded call or result without what may stand before it: headers, or times."""
    if data[:1] == HEADED and len(data) >= _SIZE.size:
        return data[_SIZE.size + _SIZE.unpack_from(data)[1] :]
    return untimed(data)


def timed(value: bytes, started: float, took: float) -> bytes:
    """An encoded result with the times of its run: when it began (since the epoch) and how long it took, in seconds."""
    return _TIMES.pack(TIMED, started, took) + value


def untimed(data: bytes) -> bytes:
    """An encoded result without the times that may stand before it."""
    return data[_TIMES.size :] if data[:1] == TIMED else data


def times_of(data: bytes) -> tuple[float, float] | None:
    """When the run of an encoded result began, and how long it took; None if it does not say."""
    if data[:1] != TIMED or len(data) < _TIMES.size:
        return None
    _, started, took = _TIMES.unpack_from(data)
    return started, took


def scalar_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | None:
    """As ``encode_call``, the quickest way: for arguments that are numbers, texts and the like; None for others."""
    if _scalars(map(type, args)) and (not kwargs or _scalars(map(type, kwargs.values()))):
        try:
            return PLAIN + _pack((args, kwargs))
        except (OverflowError, UnicodeEncodeError):
            return None  # beyond 64 bits, or a lone surrogate
    return None


def encode_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], serializer: str = "auto") -> bytes:
    """Write the arguments of a call. Whoever sends the pickled kind must sign it.

    Raises NotPlain where ``serializer="plain"`` and an argument is not plain, PayloadError where it cannot travel.
    """
    call = scalar_call(args, kwargs)
    if call is not None:
        return call
    try:
        return PLAIN + _pack_exactly([list(args), dict(kwargs)])
    except _Unfit as unfit:
        if serializer == "plain":
            raise _not_plain(args, kwargs, unfit) from None
    return PICKLED + pickle_value((args, kwargs), "the arguments", lambda: culprit.of_call(args, kwargs))


def decode_call(data: bytes) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of a call; the signature of a pickled one must have been verified. Raises Corrupt."""
    if data[:1] == HEADED:
        data = bare(data)
    if data[:1] == PLAIN:
        call = _unpack_exactly(data[1:])
    elif data[:1] == PICKLED:
        call = unpickle(data[1:])
    elif data[:1] == FOREIGN:
        return _foreign_call(data[1:])
    else:
        raise Corrupt(f"the arguments cannot be read: they begin with {data[:1]!r}, not {PLAIN!r} or {PICKLED!r}")
    try:
        args, kwargs = call
    except (TypeError, ValueError):
        raise Corrupt("the arguments cannot be read: they are not a list and a dictionary") from None
    if type(args) not in (list, tuple) or type(kwargs) is not dict or not _named_by_str(kwargs):
        raise Corrupt("the arguments cannot be read: they are not a list and a dictionary by name")
    return args, kwargs


def _foreign_call(data: bytes) -> tuple[list[Any], dict[str, Any]]:
    """A JSON object is arguments by keyword, an array arguments by position, and anything else one argument: bytes."""
    value = read_foreign(data)
    if type(value) is dict:
        return [], value
    if type(value) is list:
        return value, {}
    return [data] if data else [], {}


def read_foreign(data: bytes) -> Any:
    """The value of JSON; anything else stays bytes."""
    import json  # late: only what comes from another language is JSON

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def _named_by_str(kwargs: dict[Any, Any]) -> bool:
    return not kwargs or all(isinstance(name, str) for name in kwargs)


def encode_value(value: Any, keys: Keyring | None = None, serializer: str = "auto") -> bytes:
    """Write a result; a pickled one is signed. Raises NotPlain or PayloadError.

    ``keys`` is a callable, so that plain values never touch the key file.
    """
    if value is None:
        return NOTHING
    try:
        return PLAIN + _pack_value(value)
    except _Unfit as unfit:
        return _encode_pickled(value, keys, serializer, unfit)


def _pack_value(value: Any) -> bytes:
    if type(value) in _SCALARS:
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # beyond 64 bits, or a lone surrogate
    return _pack_exactly(value)


def _encode_pickled(value: Any, keys: Keyring | None, serializer: str, unfit: _Unfit) -> bytes:
    if serializer == "plain":
        raise NotPlain(f"the result is not plain: it {unfit}; {_WANTED}")
    pickled = pickle_value(value, "the result", lambda: culprit.of_value(value))
    return PICKLED + (keys or default_keys)().sign(VALUE, pickled) + pickled


def decode_value(data: bytes, keys: Keyring | None = None) -> Any:
    """Read a result. Raises BadSignature before it would unpickle what nobody trusted signed, else a PayloadError."""
    data = untimed(data)
    if data[:1] == PLAIN:
        return _unpack_exactly(data[1:])
    if data[:1] == FOREIGN:
        return read_foreign(data[1:])
    if data[:1] != PICKLED:
        raise Corrupt(f"the result cannot be read: it begins with {data[:1]!r}, not {PLAIN!r} or {PICKLED!r}")
    signature, pickled = data[1 : 1 + SIGNATURE], data[1 + SIGNATURE :]
    (keys or default_keys)().verify(VALUE, pickled, signature)
    try:
        return unpickle(pickled)
    except UnknownJob as error:
        raise PayloadError(f"the result cannot be read here: {error}") from error


# -- MessagePack, exactly --------------------------------------------------------------------------------------------


class _Unfit(Exception):
    """A value that MessagePack cannot carry exactly; says what it holds."""


_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_scalars = _SCALARS.issuperset
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})

_MOST_CONTAINERS: Final = 200_000
"""More than that is left to pickle, which shares what is shared: a few lines make 2**100 lists out of 100."""

_WANTED: Final = (
    'serializer="plain" takes None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date, '
    'timedelta, Decimal and UUID, and no subclasses of them; serializer="auto" takes nearly anything'
)


def _pack_exactly(value: Any) -> bytes:
    """MessagePack that gives back the same value of the same type, or _Unfit."""
    _check_exact(value)
    try:
        return _pack(value, strict_types=True, default=_write_rich)
    except UnicodeEncodeError as error:
        raise _Unfit("holds a str with a lone surrogate") from error
    except (ValueError, RecursionError) as error:
        raise _Unfit("is nested too deep, or holds itself") from error


def _check_exact(value: Any) -> None:
    """Every type inside is exactly one that we write; MessagePack itself would let a bytearray pass for bytes."""
    seen = 0
    waiting: list[Iterable[Any]] = [(value,)]
    while waiting:
        for item in _expand(waiting.pop()):
            kind = type(item)
            if kind in _CONTAINERS:
                waiting.append(item)
                seen += 1
            elif kind not in _SCALARS and kind not in _WRITE:
                _learn(kind)
        if seen > _MOST_CONTAINERS:
            raise _Unfit(f"holds more than {_MOST_CONTAINERS} containers, or itself")


def _expand(container: Iterable[Any]) -> Iterable[Any]:
    """What has to be looked at one by one: nothing, where all of it are scalars."""
    if type(container) is dict:
        values = container.values()
        if _scalars(map(type, values)):
            return () if _scalars(map(type, container)) else container
        return [*container, *values]
    return () if _scalars(map(type, container)) else container


# A tuple is written as an array that begins with a mark, so that depth is MessagePack's own affair on both sides.
_MARKS: Final[dict[int, type]] = {1: tuple, 2: set, 3: frozenset}


def _write_rich(value: Any) -> Any:
    """What MessagePack has no type for, as something it has."""
    return _WRITE[type(value)](value)


def _write_datetime(value: datetime) -> Any:
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold)
    return _Ext(5, struct.pack(">HBBBBBIB", *fields) + _write_zone(value.tzinfo))


def _write_zone(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return b"f" + _pack((offset.days, offset.seconds, offset.microseconds, *name))
    if type(zone) is getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None):
        key: str | None = zone.key  # type: ignore[attr-defined]
        if key is not None:  # it was read from a file of no name
            return b"z" + key.encode()
    raise _Unfit(f"holds a datetime in the time zone {zone!r}")


def _write_uuid(value: Any) -> Any:
    safety = {None: b"", 0: b"s", -1: b"u"}[value.is_safe.value]
    return _Ext(9, value.bytes + safety)


_WRITE: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: lambda value: [_Ext(1, b""), *value],
    set: lambda value: [_Ext(2, b""), *value],
    frozenset: lambda value: [_Ext(3, b""), *value],
    int: lambda value: _Ext(4, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    datetime: _write_datetime,
    date: lambda value: _Ext(6, struct.pack(">HBB", value.year, value.month, value.day)),
    timedelta: lambda value: _Ext(7, struct.pack(">iii", value.days, value.seconds, value.microseconds)),
}

# Found by name when met first, so that nobody pays for importing what nobody sends.
_LATE: Final[dict[tuple[str, str], Callable[[Any], Any]]] = {
    ("decimal", "Decimal"): lambda value: _Ext(8, str(value).encode()),
    ("uuid", "UUID"): _write_uuid,
}


def _learn(kind: type) -> None:
    """Take up Decimal or UUID; raise _Unfit for any other."""
    name = (kind.__module__, kind.__qualname__)
    if name not in _LATE or getattr(sys.modules.get(name[0]), name[1], None) is not kind:
        raise _Unfit(f"holds a {name[1]}" if name[0] == "builtins" else f"holds a {name[0]}.{name[1]}")
    _WRITE[kind] = _LATE[name]


class _Rich(Exception):
    """Met while reading: something that MessagePack has no type for."""


def _meet(code: int, data: bytes) -> Any:
    raise _Rich


def _unpack_exactly(data: bytes) -> Any:
    """Read what ``_pack_exactly`` wrote. Raises Corrupt for anything that cannot be read."""
    try:
        try:
            return _unpack(data, strict_map_key=False, ext_hook=_meet, timestamp=3)
        except _Rich:  # rare, so that the rest need no hook for each list
            return _Reader().read(data)
    except Corrupt:
        raise
    except Exception as error:
        raise Corrupt(f"a value cannot be read ({type(error).__name__}: {error})"[:300]) from error


class _Reader:
    """Reads one value with marks in it; each mark made must be used."""

    def __init__(self) -> None:
        self.marks = 0

    def read(self, data: bytes) -> Any:
        value = _unpack(data, strict_map_key=False, ext_hook=self.extended, list_hook=self.listed, timestamp=3)
        if self.marks:
            raise Corrupt("a value cannot be read: a mark stands where none may stand")
        return value

    def extended(self, code: int, data: bytes) -> Any:
        if code in _MARKS:
            self.marks += 1
            return _MARKS[code]
        return _READ[code](data)

    def listed(self, items: list[Any]) -> Any:
        if items and type(items[0]) is type:
            self.marks -= 1
            return items[0](items[1:])
        return items


def _read_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold = struct.unpack(">HBBBBBIB", data[:12])
    return datetime(year, month, day, hour, minute, second, microsecond, _read_zone(data[12:]), fold=fold)


def _read_zone(data: bytes) -> tzinfo | None:
    if not data:
        return None
    if data[:1] == b"f":
        days, seconds, microseconds, *name = _unpack(data[1:])
        return timezone(timedelta(days, seconds, microseconds), *name)
    if data[:1] != b"z":
        raise Corrupt("a time zone cannot be read")
    from zoneinfo import ZoneInfo

    return ZoneInfo(data[1:].decode())


def _read_decimal(data: bytes) -> Any:
    from decimal import Decimal

    return Decimal(data.decode())


def _read_uuid(data: bytes) -> Any:
    from uuid import UUID, SafeUUID

    return UUID(bytes=data[:16], is_safe=SafeUUID({b"": None, b"s": 0, b"u": -1}[data[16:]]))


_READ: Final[dict[int, Callable[[bytes], Any]]] = {
    4: lambda data: int.from_bytes(data, "big", signed=True),
    5: _read_datetime,
    6: lambda data: date(*struct.unpack(">HBB", data)),
    7: lambda data: timedelta(*struct.unpack(">iii", data)),
    8: _read_decimal,
    9: _read_uuid,
}


def _not_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any], unfit: _Unfit) -> NotPlain:
    """Name the argument that stands in the way."""
    for name, value in culprit.of_call(args, kwargs):
        try:
            _pack_exactly(value)
        except _Unfit as found:
            return NotPlain(f"{name} is not plain: it {found}; {_WANTED}")
    return NotPlain(f"the arguments are not plain: together they {unfit}; {_WANTED}")
