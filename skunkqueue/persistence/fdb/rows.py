"""A run as it is stored, as bytes and back: what is long lies apart, and a checksum tells what was damaged."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from skunkqueue.envelope import DAY, Claim, Envelope, Record, State
from skunkqueue.persistence import BRIEF
from skunkqueue.persistence.fdb.layout import lane_of

_pack: Callable[..., bytes] = msgpack.packb
_unpack: Callable[..., Any] = msgpack.unpackb
_CHECK: Final = Struct(">I")

STATES: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(5)

INLINE: Final = 600
"""A body, value, text or notes of more bytes lies apart, so that a claim neither reads nor writes it."""

PIECE: Final = 90_000
"""Bytes of a piece; a value of FoundationDB has at most 100,000."""

LOST: Final = "?"
"""The queue and route of a run whose record is damaged, where nothing else says it."""


class Long(NamedTuple):
    """Stands for what lies apart; its size in bytes."""

    size: int


class Row:
    """A run. Fields are those of a record and its envelope; ``shard`` is the one it lies on while it is open.

    A long field is ``Long`` until it is loaded. ``more`` are fields of a newer minor version of the layout.
    """

    __slots__ = (
        "body", "damaged", "due", "ended", "error", "expires", "id", "keep", "lapses", "more", "note", "notes",
        "progress", "queue", "ripe", "route", "shard", "state", "token", "unique", "value", "worker",
    )  # fmt: skip

    body: Any
    due: Any
    ended: Any
    error: Any
    expires: Any
    keep: Any
    lapses: Any
    more: list[Any]
    note: Any
    notes: Any
    progress: Any
    queue: Any
    ripe: Any
    route: Any
    shard: Any
    state: Any
    token: Any
    unique: Any
    value: Any
    worker: Any

    def __init__(self, id: str, fields: tuple[Any, ...]) -> None:
        self.id: str = id
        self.damaged: bool = False
        (
            self.state, self.ripe, self.queue, self.route, self.shard, self.due, self.expires, self.unique, self.keep,
            self.body, self.worker, self.token, self.lapses, self.notes, self.value, self.error, self.progress,
            self.note, self.ended, *self.more,
        ) = fields  # fmt: skip

    @property
    def lane(self) -> bytes:
        return lane_of(self.queue, self.route)

    @property
    def open(self) -> bool:
        return bool(self.state <= RUNNING)

    def expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now

    def unleased(self, now: float) -> bool:
        return bool(self.state == QUEUED or self.ripe <= now)

    def pack(self) -> bytes:
        """The row as bytes. No field is longer than ``INLINE``."""
        data = _pack(
            (
                self.state, self.ripe, self.queue, self.route, self.shard, self.due, self.expires, self.unique,
                self.keep, self.body, self.worker, self.token, self.lapses, self.notes, self.value, self.error,
                self.progress, self.note, self.ended, *self.more,
            ),
            unicode_errors="surrogatepass",
        )  # fmt: skip
        return _CHECK.pack(crc32(data)) + data

    def envelope(self) -> Envelope:
        return Envelope(
            self.id, self.queue, self.route, self.due, self.body, self.expires, self.unique, self.keep
        )  # fmt: skip

    def claim(self) -> Claim:
        return Claim(self.envelope(), self.token or "", self.worker or "", self.ripe, self.lapses, self.notes)

    def record(self) -> Record:
        return Record(
            self.envelope(), STATES[self.state], self.ripe, self.token, self.worker, self.lapses, self.notes,
            self.value, self.error, self.progress, self.note, self.ended,
        )  # fmt: skip


BODY: Final = "body"

FIELDS: Final = (BODY, "notes", "value", "error", "note")
"""The fields that may lie apart; their numbers are part of keys."""

TEXTS: Final = frozenset({"error", "note"})


def cuts(name: str, size: int) -> list[tuple[int, int]]:
    """Where the pieces of a long field begin and end. Of a body, the first one is all that a brief record has."""
    first = BRIEF if name == BODY else PIECE
    begins = [0, *range(first, size, PIECE)]
    return list(zip(begins, [*begins[1:], size], strict=True))


def new_row(envelope: Envelope, shard: int) -> Row:
    """A run that has just been put: queued, ripe when due."""
    id, queue, route, due, body, expires, unique, keep = envelope
    return Row(
        id,
        (QUEUED, due, queue, route, shard, due, expires, unique, keep, body, None, None, 0, b"", *(None,) * 5),
    )


def read_row(id: str, data: bytes) -> Row | None:
    """The row of these bytes; None if they are damaged."""
    try:
        if _CHECK.unpack_from(data)[0] != crc32(data[4:]):
            return None
        fields = _unpack(data[4:], use_list=False, unicode_errors="surrogatepass", strict_map_key=False)
        row = Row(id, fields)
        for name in FIELDS:
            value = getattr(row, name)
            if type(value) is tuple:
                setattr(row, name, Long(*value))
    except Exception:
        return None
    return row


def damaged_row(id: str, data: bytes, queue: str = LOST, route: str = LOST, ripe: float = 0.0) -> Row:
    """A row in place of one that cannot be read: queued, with a body that nobody can read."""
    row = new_row(Envelope(id, queue, route, ripe, data[:INLINE], None, None, DAY), 0)
    row.damaged = True
    return row
