"""The names of claimed and waiting files: all that is known of a run stands in its file's name.

::

    work/ID.RIPE.TOKEN.LAPSES.SLIP.NAME     a file, claimed by TOKEN until RIPE, or with no token waiting until then
    work/.ID.SLIP                           what does not fit into its name: its notes, and a long NAME

A rename of exactly that name is how a claim is taken, kept or given up: of several who try, one succeeds. RIPE is in
microseconds, on the clock of the file system.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import msgpack

from skunkqueue.envelope import new_token

MOST_NAME: Final = 150
"""Bytes of a file's own name that stand in the name of its ticket; longer ones go into its slip."""
LONGEST: Final = 255
"""Bytes of a name that a file system takes."""
ID_DIGITS: Final = 28


class Ticket(NamedTuple):
    """The name of a file in ``work/``, taken apart. Of a long ``name`` it holds the beginning."""

    id: str
    ripe: float
    token: str
    lapses: int
    slip: str
    name: str

    def __str__(self) -> str:
        id, ripe, token, lapses, slip, name = self
        return f"{id}{between(ripe, token, lapses, slip)}{name}"

    @property
    def slip_file(self) -> str:
        return f".{self.id}.{self.slip}"


def between(ripe: float, token: str, lapses: int = 0, slip: str = "") -> str:
    """What stands between the id and the name."""
    return f".{int(ripe * 1000000):x}.{token}.{lapses:x}.{slip}."


def parse(file: str) -> Ticket | None:
    """The ticket of that name; None where it is none."""
    fields = file.split(".", 5)
    if len(fields) != 6 or len(fields[0]) != ID_DIGITS:
        return None
    id, ripe, token, lapses, slip, name = fields
    try:
        return Ticket(id, int(ripe, 16) / 1000000, token, int(lapses, 16), slip, name)
    except ValueError:
        return None


class Slip(NamedTuple):
    """What does not fit into a name."""

    name: str
    notes: bytes

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb((os.fsencode(self.name), self.notes))
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Slip:
        """Raises ValueError for what is no slip."""
        try:
            name, notes = msgpack.unpackb(data, use_list=False)
            return cls(os.fsdecode(name), bytes(notes))
        except Exception as error:
            raise ValueError(f"not a slip: {error}") from error


def new_slip() -> str:
    """What tells one slip of a run from another."""
    return new_token()[:8]


def size_of(name: str) -> int:
    """Bytes of a name on disk."""
    return len(name) if name.isascii() else len(os.fsencode(name))


def cut(name: str, most: int) -> str:
    """The beginning of a name, so many bytes at most, never half a character."""
    if size_of(name) <= most:
        return name
    kept = name[:most]
    while size_of(kept) > most:
        kept = kept[:-1]
    return kept
