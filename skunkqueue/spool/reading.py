"""In a worker process: reads a claimed file and has it processed. Every problem with the file is left to the pool.

The pool hands out such files without reading them, so that reading and processing run in parallel with its renames. The
roster tells worker processes what they need for that; it is in memory that they share with the pool.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.codec import default_keys, encode_value, unpickle_function
from skunkqueue.envelope import SIGNATURE
from skunkqueue.errors import BadSignature
from skunkqueue.job import Carried
from skunkqueue.keys import Keys
from skunkqueue.spool.contents import Content
from skunkqueue.spool.inbox import read_taken
from skunkqueue.spool.work import parse_name
from skunkqueue.worker import ShownResult, shared_bytes, shown

UNREAD: Final = "file"
"""The job name of a run whose file was not read; its type becomes known with its outcome."""
NOT_READ: Final = encode_value([])
"""The result for a file that was not processed: the pool must read it. The result of a processed file is its type."""
LISTINGS: Final = 3
"""How often the folder is listed for a file before it counts as gone: a listing may miss files renamed meanwhile."""
ROSTER: Final = b"roster"
"""The purpose in the roster's signature. It is signed because it holds pickled processors."""
TRIES: Final = 50
PAUSE: Final = 0.002
"""Seconds between two tries to read it while it is being written."""


class Roster(NamedTuple):
    """``work``: the folder of claimed files; ``leases``: whether leases there show that a file is being written;
    ``codes``: the pickled processors by type. ``version`` 0: not written yet."""

    version: int
    work: bytes
    leases: bool
    codes: Mapping[str, bytes]


NOTHING: Final = Roster(0, b"", False, {})


class Board:
    """Shared memory for the pool's roster; worker processes inherit ``fd``."""

    def __init__(self, keys: Keys) -> None:
        self.fd: int = shared_bytes(0)
        self._keys = keys
        weakref.finalize(self, os.close, self.fd)

    def write(self, roster: Roster) -> None:
        packed = msgpack.packb(tuple(roster))
        data = self._keys.sign(ROSTER, packed) + packed
        os.pwrite(self.fd, data, 0)
        os.truncate(self.fd, len(data))


def read_roster(fd: int, version: int) -> Roster:
    """The roster, of this version or a newer one. Raises BadSignature if it is not signed with a trusted key."""
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


def jobs(data: bytes, fds: Sequence[int]) -> Mapping[str, Carried]:
    """The jobs of a worker process, by name; the first descriptor is that of the pool's roster."""
    return {UNREAD: Carried(Reading(fds[0]), UNREAD)}


class Reading:
    """A job that reads a file of work/ and calls the roster's processor for its type."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._roster = NOTHING
        self._folder = ""
        self._processors: dict[bytes, Callable[[Any], Any]] = {}
        self._moved: dict[tuple[str, str], str] = {}

    def __call__(self, file: str | bytes, size: int, quiet: bool, version: int) -> ShownResult:
        """``size`` and ``quiet`` are what the pool knows of it, ``version`` that of the roster it needs at least."""
        found = self._find(file if type(file) is str else os.fsdecode(file), size, quiet, version)
        if found is None:
            return ShownResult([], "")
        processor, content = found
        return ShownResult(content.type, shown(processor(content.data)))

    def _find(self, file: str, size: int, quiet: bool, version: int) -> tuple[Callable[[Any], Any], Content] | None:
        """The processor and the content of a file; None if anything goes wrong."""
        try:
            if self._roster.version < version:
                self._roster = read_roster(self._fd, version)
                self._folder = os.fsdecode(self._roster.work)
            content = self._read(file, size, quiet)
            if content is None:
                return None
            code = self._roster.codes[content.type]
            return self._processors.get(code) or self._unpickle(code), content
        except Exception:
            return None  # the pool meets the same error, and handles it

    def _unpickle(self, code: bytes) -> Callable[[Any], Any]:
        processor: Callable[[Any], Any] = unpickle_function(code)[0].function
        self._processors[code] = processor
        return processor

    def _read(self, file: str, size: int, quiet: bool) -> Content | None:
        leases = self._roster.leases
        try:
            return read_taken(self._folder + file, size, quiet=quiet, leases=leases)
        except FileNotFoundError:
            return read_taken(self._folder + self._find_again(file), size, quiet=quiet, leases=leases)

    def _find_again(self, file: str) -> str:
        """The name that the file has now, if the claim still holds: extending a lease renames it."""
        key = _key(file)
        for _ in range(LISTINGS):
            found = self._moved.get(key)
            if found is not None and os.path.lexists(self._folder + found):
                return found
            self._moved = {_key(each): each for each in os.listdir(self._folder) if parse_name(each)}
        raise FileNotFoundError(f"{file} is gone")


def _key(file: str) -> tuple[str, str]:
    """The parts of its name that do not change during a claim: its id, and the token."""
    id, _, token, _ = file.split(".", 3)
    return id, token
