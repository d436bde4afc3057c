"""The roster: what worker processes must know to read files by themselves, in memory that they share with the pool."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgpack

from skunkqueue.codec import default_keys
from skunkqueue.envelope import SIGNATURE
from skunkqueue.errors import BadSignature
from skunkqueue.keys import Keys
from skunkqueue.worker.pool.process import shared_bytes

ROSTER: Final = b"roster"
"""What its signature is for: there are pickled processors in it."""
TRIES: Final = 50
PAUSE: Final = 0.002
"""Seconds between two tries to read it while it is being written."""


class Roster(NamedTuple):
    """``work``: the folder of claimed files; ``leases``: whether leases tell there who writes; ``codes``: the pickled
    processors by type. A ``version`` of 0 says nothing yet."""

    version: int
    work: bytes
    leases: bool
    codes: Mapping[str, bytes]


NOTHING: Final = Roster(0, b"", False, {})


class Board:
    """Where the pool writes its roster, for the processes that inherit ``fd``."""

    def __init__(self, keys: Keys) -> None:
        self.fd = shared_bytes(0)
        self._keys = keys
        weakref.finalize(self, os.close, self.fd)

    def write(self, roster: Roster) -> None:
        packed = msgpack.packb(tuple(roster))
        data = self._keys.sign(ROSTER, packed) + packed
        os.pwrite(self.fd, data, 0)
        os.truncate(self.fd, len(data))


def read(fd: int, version: int) -> Roster:
    """The roster, of this version or a newer one. Raises BadSignature for one that nobody trusted signed."""
    for left in reversed(range(TRIES)):
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        try:
            default_keys().verify(ROSTER, data[SIGNATURE:], data[:SIGNATURE])
            roster = Roster(*msgpack.unpackb(data[SIGNATURE:]))
            if roster.version >= version:
                return roster
        except BadSignature:  # or it is being written at this moment
            if not left:
                raise
        time.sleep(PAUSE)
    raise BadSignature(f"the processors of version {version} are not there")
