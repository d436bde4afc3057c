"""Frames between a pool and its worker: length-prefixed bytes, which the pool never unpickles.

::

    every frame       length u32 (of all that follows) | kind u8 | number u32 (of the run, given by the pool)
    to the worker
      RUN             attempt u16, its highest bit: guarded | id length u8 | id | body
    to the pool
      READY           nothing                                  it has imported what it was told to
      BROKEN          text                                     it could not
      STARTED         ticks f64                                only where a worker runs several at a time
      DONE            ticks f64 | took f64 | text length u16 | text | value
      RAISED          ticks f64 | took f64 | MessagePack of policy.Raised
      IMPORTING       one byte                                 1: it begins to import a job, 0: that is over
      UNKNOWN         ticks f64 | took f64 | MessagePack of policy.Unknown
      INTERRUPTED     ticks f64 | took f64
      PROGRESS        fraction f64 | note
      SCHEDULES       MessagePack of schedules.declared.Announcement

``ticks`` is clock.ticks() when it happened, ``took`` seconds. Beside the frames go tickets, the bare number of a run as
u32: a worker takes a ticket before it starts a run, and the pool recalls runs by taking their tickets itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct
from typing import Final

RUN: Final = 1
READY: Final = 10
BROKEN: Final = 11
STARTED: Final = 12
DONE: Final = 13
RAISED: Final = 14
UNKNOWN: Final = 15
INTERRUPTED: Final = 16
PROGRESS: Final = 17
IMPORTING: Final = 18
SCHEDULES: Final = 19

HEAD: Final = Struct("<IBI")
RUN_HEAD: Final = Struct("<IBIHB")
DONE_HEAD: Final = Struct("<IBIddH")
TIMED_HEAD: Final = Struct("<IBIdd")
ONE_HEAD: Final = Struct("<IBId")
TWO: Final = Struct("<dd")
ONE: Final = Struct("<d")
RUN_REST: Final = Struct("<HB")
TICKET: Final = Struct("=I")
LENGTH: Final = Struct("<I")

MOST_ATTEMPTS: Final = 0x7FFF
GUARDED: Final = 0x8000
"""Set in the attempt of a run that must not go on when its lease has ended."""

LEASE_ENDED: Final = 213
"""The exit code of a worker that ended because it would have executed a guarded run beyond its lease."""

PREFIX: Final = HEAD.size
"""Bytes of a frame before its payload."""


def plain(kind: int, number: int, rest: bytes = b"") -> bytes:
    """A frame of kind, number and payload."""
    return HEAD.pack(5 + len(rest), kind, number) + rest


def run(number: int, attempt: int, id: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    """The pieces of a RUN frame, for the hot path to join many at once. ``attempt`` is up to MOST_ATTEMPTS, or that and
    GUARDED.
    """
    size = len(id)
    return RUN_HEAD.pack(8 + size + len(body), RUN, number, attempt, size), id, body


def tickets(first: int, last: int) -> bytes:
    """The tickets of these numbers."""
    return array("I", range(first, last + 1)).tobytes()


def done(number: int, ticks: float, took: float, text: bytes, value: bytes) -> bytes:
    return DONE_HEAD.pack(23 + len(text) + len(value), DONE, number, ticks, took, len(text)) + text + value


def timed(kind: int, number: int, ticks: float, took: float, rest: bytes = b"") -> bytes:
    return TIMED_HEAD.pack(21 + len(rest), kind, number, ticks, took) + rest


def one(kind: int, number: int, value: float, rest: bytes = b"") -> bytes:
    return ONE_HEAD.pack(13 + len(rest), kind, number, value) + rest


MOST: Final = 1 << 30
"""Most bytes of a frame; a longer length is an error."""


class Splitter:
    """Assembles frames from the pieces that a pipe delivers."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []  # joined once, when the frame is whole: joining each time takes quadratic time
        self._size = 0
        self._wanted = 0

    def join(self, data: bytes) -> tuple[bytes, list[int]]:
        """Add data; returns it, and where whole frames in it start. An incomplete frame is kept for the next call."""
        if self._kept:
            self._kept.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return b"", []
            data = b"".join(self._kept)
        position, size = 0, len(data)
        starts = []
        self._wanted = PREFIX
        while size - position >= PREFIX:
            end = position + 4 + LENGTH.unpack_from(data, position)[0]
            if end > size:
                if end - position > MOST:
                    raise ValueError(f"a frame of {end - position:,} bytes")
                self._wanted = end - position
                break
            starts.append(position)
            position = end
        self._size = size - position
        self._kept = [data[position:]] if self._size else []
        return data, starts

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Add data; yields the (kind, number, rest) of each whole frame."""
        data, starts = self.join(data)
        for start in starts:
            length, kind, number = HEAD.unpack_from(data, start)
            yield kind, number, data[start + PREFIX : start + 4 + length]
