"""The Gearman protocol 1.x as bytes, without I/O: packets are encoded, and decoded as they arrive, split anywhere.

A packet is 12 bytes of header (magic, type, size of the body; big-endian) and a body of arguments with a NUL between
them; only the last argument of some types may hold NULs itself. A connection to a server also carries lines of text,
the admin protocol (``skunkqueue.gearman.text``), between packets: what does not begin with a NUL is a line.

The layouts are those of gearmand 1.1.20 as measured. It differs from its document: SUBMIT_REDUCE_JOB has
an argument ``aggregate`` (empty) between reducer and data; SUBMIT_JOB_SCHED is refused; WORK_EXCEPTION ends the job, so
that a WORK_FAIL behind it is answered JOB_NOT_FOUND, and reaches as WORK_FAIL a client that did not ask for exceptions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import LyingHeader, MalformedPacket, PacketTooLarge, ProtocolError
from skunkqueue.gearman.layouts import LAYOUTS as LAYOUTS
from skunkqueue.gearman.layouts import Magic as Magic
from skunkqueue.gearman.layouts import PacketType as PacketType

DEFAULT_PORT: Final = 4730

MAX_PACKET: Final = 64 << 20
"""Bytes of a body up to which a decoder reads it, unless told otherwise."""

MAX_LINE: Final = 8 << 10
"""Bytes of a line of text, its end included, up to which a decoder reads it, unless told otherwise."""

MAX_HANDLE: Final = 63
"""Bytes of a job's handle, without the NUL behind it: all that the protocol allows."""

MAX_UNIQUE: Final = 63
"""Bytes of a unique key that every server takes. gearmand 1.1.20 refuses 64 and more."""

MAX_FUNCTION: Final = 512
"""Bytes of a function's name that libgearman takes."""

MAX_FIELD: Final = 64 << 10
"""Bytes of any argument but opaque data."""


LONGEST_READ: Final = 1 << 20
READ: Final = 64 << 10
"""Bytes of a read. For 128 KiB and more the memory of each is mapped and unmapped, which costs more than the read."""

_HEADER: Final = struct.Struct("!4sII")
_MAGICS: Final = {magic.value: magic for magic in Magic}
_KINDS: Final = {
    expected: {
        magic.value + type.to_bytes(4, "big"): (type, len(row.fields), row.opaque)
        for type, row in LAYOUTS.items()
        for magic in row.magics & {expected}
    }
    for expected in Magic
}
"""By the first eight bytes of a packet."""
_PLACES: Final = {type: {name: number for number, name in enumerate(row.fields)} for type, row in LAYOUTS.items()}

Argument: TypeAlias = bytes | str | int
"""Text becomes UTF-8, a number its decimal digits."""


class Packet(NamedTuple):
    """One packet. ``args`` are its arguments in the order of its type's layout, which has their names."""

    magic: Magic
    type: PacketType
    args: tuple[bytes, ...]

    @classmethod
    def request(cls, type: PacketType, *args: Argument) -> Packet:
        """A packet for a server. Raises WrongCall where the arguments are not those of its type."""
        return cls._checked(Magic.REQUEST, type, args)

    @classmethod
    def response(cls, type: PacketType, *args: Argument) -> Packet:
        """A packet from a server. Raises WrongCall where the arguments are not those of its type."""
        return cls._checked(Magic.RESPONSE, type, args)

    @classmethod
    def _checked(cls, magic: Magic, type: PacketType, args: tuple[Argument, ...]) -> Packet:
        fields, opaque, magics = LAYOUTS[type]
        if magic not in magics:
            raise WrongCall(f"{type.name} is never a {magic.name.lower()}")
        if len(args) != len(fields):
            raise WrongCall(f"{type.name} takes {_told(fields)}; got {len(args)} arguments")
        found = tuple([arg if isinstance(arg, bytes) else str(arg).encode() for arg in args])
        for name, arg in zip(fields[: len(fields) - opaque], found, strict=False):
            if b"\0" in arg:
                raise WrongCall(f"{name} of {type.name} must not contain a NUL byte; got {arg[:80]!r}")
            if len(arg) > MAX_FIELD:
                raise WrongCall(f"{name} of {type.name} may have {MAX_FIELD} bytes; got {len(arg)}")
        return cls(magic, type, found)

    def encode(self) -> bytes:
        """The packet as bytes. Its arguments are not checked again."""
        return _encoded(self.magic._value_, self.type, self.args)

    def field(self, name: str) -> bytes:
        """The argument of that name. Raises KeyError where packets of this type have none."""
        try:
            return self.args[_PLACES[self.type][name]]
        except KeyError:
            raise KeyError(f"{self.type.name} has {_told(LAYOUTS[self.type].fields)}, not {name}") from None

    @property
    def handle(self) -> bytes:
        """The job's handle. Raises KeyError where packets of this type have none, as the next three do."""
        return self.field("handle")

    @property
    def function(self) -> bytes:
        """The function's name."""
        return self.field("function")

    @property
    def unique(self) -> bytes:
        """The job's unique key; empty where it has none."""
        return self.field("unique")

    @property
    def data(self) -> bytes:
        """The opaque data."""
        return self.field("data")


def request(type: PacketType, *args: bytes) -> bytes:
    """A packet for a server as bytes. Its arguments are not checked: they came in packets, or are made by us."""
    return _encoded(b"\0REQ", type, args)


def response(type: PacketType, *args: bytes) -> bytes:
    """A packet from a server as bytes, likewise."""
    return _encoded(b"\0RES", type, args)


def _encoded(magic: bytes, type: PacketType, args: Sequence[bytes]) -> bytes:
    body = b"\0".join(args)
    return _HEADER.pack(magic, type, len(body)) + body


def check_function(name: str) -> str:
    """A function's name as servers take it. Raises WrongCall."""
    if not isinstance(name, str) or not _is_function(name):
        raise WrongCall(f"the name of a function is 1 to {MAX_FUNCTION} bytes of text without spaces; got {name!r}")
    return name


@lru_cache(maxsize=1000)
def _is_function(name: str) -> bool:
    is_text = name.isprintable() and not any(char.isspace() for char in name)
    return is_text and 0 < len(name.encode()) <= MAX_FUNCTION


def _told(fields: tuple[str, ...]) -> str:
    return ", ".join(fields) or "no arguments"


class Line(NamedTuple):
    """One line of the admin protocol, without its end. Bytes that are not UTF-8 are surrogate escapes."""

    text: str

    def encode(self) -> bytes:
        """The line as bytes with its end."""
        return self.text.encode("utf-8", "surrogateescape") + b"\n"


class Decoder:
    """Makes packets and lines of bytes as they arrive, for one connection.

    ``expect`` is who the peer is: REQUEST decodes what clients and workers send to a server, RESPONSE what a server
    sends. A packet of another magic, an unknown type, or a body of more than ``max_packet`` bytes is an error as soon
    as its header is there; nothing of its body is kept. So a decoder holds at most ``max_packet`` bytes and a read.
    """

    def __init__(self, expect: Magic, *, max_packet: int = MAX_PACKET, max_line: int = MAX_LINE) -> None:
        self._expect = expect
        self._kinds = _KINDS[expect]
        self._max_packet = max_packet
        self._short = min(max_packet, MAX_FIELD)  # no argument in such a body can be too long
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._size = 0  # of the parts together
        self._wanted = 1  # bytes that must be there before there is anything to decode
        self._error: ProtocolError | None = None

    @property
    def pending(self) -> int:
        """Bytes of an unfinished packet or line."""
        return self._size

    @property
    def room(self) -> int:
        """Bytes to read at a time: more than READ where a long packet has begun."""
        return max(READ, min(self._wanted - self._size, LONGEST_READ))

    def feed(self, data: bytes) -> list[Packet | Line]:
        """Decode what these bytes complete.

        Raises a ProtocolError at the first that cannot be right; ``before`` of it has what came ahead of that. From
        then on every call raises it, for where the next packet begins cannot be known.
        """
        if self._error is not None:
            raise self._error
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return []
            data = b"".join(self._parts)
        found: list[Packet | Line] = []
        try:
            self._decode(data, found)
        except ProtocolError as error:
            error.before = tuple(found)
            self._error = error
            self._parts, self._size = [], 0
            raise
        return found

    def _decode(self, data: bytes, found: list[Packet | Line]) -> None:
        """Put what is complete into ``found``, keep the rest."""
        at, size = 0, len(data)
        self._wanted = 1
        while at < size:
            kind = self._kinds.get(data[at : at + 8])
            body, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "big")
            if kind is not None and body + length <= size and length <= self._short:
                type, count, opaque = kind
                args = tuple(data[body : body + length].split(b"\0", count - 1 if opaque else -1)) if length else ()
                if len(args) == count:  # else it may still be right
                    found.append(Packet(self._expect, type, args))
                    at = body + length
                    continue
            end = self._decode_line(data, at, found) if data[at] else self._decode_packet(data, at, found)
            if not end:
                break
            at = end
        rest = data[at:]
        self._parts = [rest] if rest else []
        self._size = len(rest)

    def _decode_packet(self, data: bytes, at: int, found: list[Packet | Line]) -> int:
        """Where the packet at ``at`` ends; 0 where that has not come yet."""
        if len(data) - at < 12:
            if not any(magic.startswith(data[at : at + 4]) for magic in _MAGICS):
                raise LyingHeader(f"a packet begins with \\0REQ or \\0RES; this one with {data[at : at + 4]!r}")
            self._wanted = 12
            return 0
        head, number, size = _HEADER.unpack_from(data, at)
        kind = self._kinds.get(data[at : at + 8])
        if kind is None:
            raise self._lie(head, number)
        type, count, opaque = kind
        if size > self._max_packet:
            raise PacketTooLarge(f"{type.name} says that it has {size} bytes; the limit is {self._max_packet}")
        if size < count - 1 or (not opaque and size > count * (MAX_FIELD + 1)):
            raise LyingHeader(f"{type.name} has {_told(LAYOUTS[type].fields)}, but says that it has {size} bytes")
        end: int = at + 12 + size
        if end > len(data):
            self._wanted = 12 + size
            return 0
        found.append(Packet(self._expect, type, _arguments(data[at + 12 : end], type, count, opaque) if count else ()))
        return end

    def _lie(self, head: bytes, number: int) -> LyingHeader:
        magic = _MAGICS.get(head)
        if magic is None:
            return LyingHeader(f"a packet begins with \\0REQ or \\0RES; this one with {head!r}")
        if magic is not self._expect:
            return LyingHeader(f"expected a {self._expect.name.lower()}; this peer sent a {magic.name.lower()}")
        known = any(number == type for type in PacketType)
        what = f"{PacketType(number).name} is never a {magic.name.lower()}" if known else f"there is no type {number}"
        return LyingHeader(f"the header of a packet cannot be true: {what}")

    def _decode_line(self, data: bytes, at: int, found: list[Packet | Line]) -> int:
        """Where the line at ``at`` ends; 0 where that has not come yet."""
        end = data.find(b"\n", at, at + self._max_line)
        if end < 0:
            if len(data) - at >= self._max_line:
                raise PacketTooLarge(f"a line of text has no end within {self._max_line} bytes")
            self._wanted = len(data) - at + 1
            return 0
        found.append(Line(data[at:end].removesuffix(b"\r").decode("utf-8", "surrogateescape")))
        return end + 1


def _arguments(body: bytes, type: PacketType, count: int, opaque: bool) -> tuple[bytes, ...]:
    """The arguments in a body. Raises MalformedPacket."""
    args = body.split(b"\0", count - 1 if opaque else -1)
    if not opaque and len(args) == count + 1 and not args[-1]:
        args.pop()  # some peers send a NUL behind the last argument too
    if len(args) != count:
        raise MalformedPacket(f"{type.name} has {_told(LAYOUTS[type].fields)}; this one has {len(args)} arguments")
    for arg in args[:-1] if opaque else args:
        if len(arg) > MAX_FIELD:
            raise MalformedPacket(f"an argument of {type.name} may have {MAX_FIELD} bytes; this one has {len(arg)}")
    return tuple(args)
