"""In a worker process: reading a claimed file, and having it processed; whatever is odd about it is left to the pool.

The pool hands out such a file without looking into it, so that reading and processing go on beside its renames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from skunkqueue.codec import encode_value, unpickle
from skunkqueue.job import Carried
from skunkqueue.spool import roster, ticket
from skunkqueue.spool.contents import Content
from skunkqueue.spool.look import read_taken
from skunkqueue.worker.child.execute import Told, shown

UNREAD: Final = "file"
"""What a run is called whose file nobody has looked into; its type becomes known with its outcome."""
NOT_READ: Final = encode_value([])
"""The result that says: not processed, look for yourself. The result of one that was processed is its type."""
LISTINGS: Final = 3
"""How often the folder is listed for a file before it is gone: a listing may miss what is renamed meanwhile."""


def jobs(fds: Sequence[int]) -> Mapping[str, Carried]:
    """What a worker process knows by name; the pool's roster is behind the first descriptor."""
    return {UNREAD: Carried(Reading(fds[0]), UNREAD)}


class Reading:
    """Called with a file of work/, has it processed by what the roster has for its type."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._roster = roster.NOTHING
        self._folder = ""
        self._processors: dict[bytes, Callable[[Any], Any]] = {}
        self._moved: dict[tuple[str, str], str] = {}

    def __call__(self, file: str | bytes, size: int, quiet: bool, version: int) -> Told:
        """``size`` and ``quiet`` are what the pool knows of it, ``version`` that of the roster it needs at least."""
        found = self._find(file if type(file) is str else os.fsdecode(file), size, quiet, version)
        if found is None:
            return Told([], b"")
        processor, content = found
        return Told(content.type, shown(processor(content.data)))

    def _find(self, file: str, size: int, quiet: bool, version: int) -> tuple[Callable[[Any], Any], Content] | None:
        """The processor of a file, and what is in it; None for all that does not go well."""
        try:
            if self._roster.version < version:
                self._roster = roster.read(self._fd, version)
                self._folder = os.fsdecode(self._roster.work)
            content = self._read(file, size, quiet)
            if content is None:
                return None
            code = self._roster.codes[content.type]
            return self._processors.get(code) or self._unpickle(code), content
        except Exception:
            return None  # the pool meets the same trouble, and knows what to do about it

    def _unpickle(self, code: bytes) -> Callable[[Any], Any]:
        processor: Callable[[Any], Any] = unpickle(code).function
        self._processors[code] = processor
        return processor

    def _read(self, file: str, size: int, quiet: bool) -> Content | None:
        leases = self._roster.leases
        try:
            return read_taken(self._folder + file, size, quiet=quiet, leases=leases)
        except FileNotFoundError:
            return read_taken(self._folder + self._find_again(file), size, quiet=quiet, leases=leases)

    def _find_again(self, file: str) -> str:
        """The name it has by now, if our claim still holds: a lease that is extended stands in it."""
        key = _key(file)
        for _ in range(LISTINGS):
            found = self._moved.get(key)
            if found is not None and os.path.lexists(self._folder + found):
                return found
            self._moved = {_key(each): each for each in os.listdir(self._folder) if ticket.parse(each)}
        raise FileNotFoundError(f"{file} is gone")


def _key(file: str) -> tuple[str, str]:
    """What stays in its name while it is ours: its id, and the token of the claim."""
    id, _, token, _ = file.split(".", 3)
    return id, token
