"""Reads job files: a dictionary with a ``type``, as pickle, JSON or MessagePack, recognized by content, not by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.spool import pickles
from skunkqueue.spool.files import Unfinished, Unreadable

MOST_TYPE: Final = 200


class Content(NamedTuple):
    """The job in a file: its type, and the whole dictionary."""

    type: str
    data: dict[Any, Any]


def parse(data: bytes) -> Content:
    """Read a job file. Raises Unfinished if it is incomplete, Unreadable if it is no job."""
    if not data:
        raise Unfinished("the file is empty")
    read = _READERS.get(data[0])
    if read is None:
        raise Unfinished(
            f"the file is neither a pickle nor JSON nor MessagePack of a dictionary: it begins with {data[:8]!r}"
        )
    found = read(data)
    if type(found) is not dict:
        raise Unreadable(f"the file holds a {type(found).__name__}; a job is a dictionary with a 'type'")
    kind = found.get("type")
    if not isinstance(kind, str) or not 0 < len(kind) <= MOST_TYPE:
        what = "has no 'type'" if kind is None else f"has {kind!r:.100} for a 'type'"
        raise Unreadable(f"the dictionary {what}; a type is a text of 1 to {MOST_TYPE} characters")
    return Content(kind, found)


def _pickle(data: bytes) -> Any:
    if data[:1] == b"\x80" and data[1:2] > b"\x05":
        raise Unreadable(f"the file is neither a pickle of protocol 0 to 5 nor a dictionary: {data[:8]!r}")
    return pickles.load(data)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise Unreadable("the JSON cannot be read: it is nested too deep") from None
    except ValueError as error:
        # Incomplete JSON cannot be distinguished from invalid JSON.
        raise Unfinished(f"the JSON cannot be read: {error}"[:500]) from error


def _messagepack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, timestamp=3, ext_hook=_no_extension)
    except Unreadable:
        raise
    except msgpack.StackError:
        raise Unreadable("the MessagePack cannot be read: it is nested too deep") from None
    except Exception as error:
        kind = Unfinished if "incomplete" in str(error) else Unreadable
        raise kind(f"the MessagePack cannot be read: {type(error).__name__}: {error}"[:500]) from error


def _no_extension(code: int, data: bytes) -> Any:
    raise Unreadable(f"the MessagePack is refused: extension type {code} is not plain data")


def _readers() -> dict[int, Callable[[bytes], Any]]:
    """By the first byte of a dictionary. In MessagePack 0x80 is an empty one, which is no job."""
    readers: dict[int, Callable[[bytes], Any]] = {}
    readers.update(dict.fromkeys(b"\x80(}", _pickle))  # protocol 2 and later; 0; 1
    readers.update(dict.fromkeys(b"{ \t\r\n\x00\xef\xfe\xff", _json))  # with spaces before it, or in UTF-16 or -32
    readers.update(dict.fromkeys((*range(0x81, 0x90), 0xDE, 0xDF), _messagepack))
    return readers


_READERS: Final = _readers()
