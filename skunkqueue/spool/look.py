"""Looking at a file of in/: whether it is done, small enough and a job; its writer never notices."""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from skunkqueue.spool.contents import Content, parse
from skunkqueue.spool.errors import Unfinished, Unreadable
from skunkqueue.spool.files import CAN_LEASE, OPEN, can_lease, is_awaited, kind_of, lease
from skunkqueue.spool.inbox import Candidate, Inbox

MOMENT: Final = 1.0
"""Seconds that a file must stay as it is where it breaks off, or where nobody can tell whether it is being written."""
AGED: Final = 0.25
"""Seconds after its last change from which a file is taken first and looked at then, which is quicker."""
MOST_SIZE: Final = 16 << 20


class Seen(NamedTuple):
    """A file that is a job. ``leased``: nobody can open it for writing while the descriptor is open."""

    content: Content
    size: int
    leased: bool
    links: int


class Looker:
    """Looks at open files; what is not done is postponed in the inbox."""

    def __init__(self, inbox: Inbox, work: str, *, max_size: int, moment: float) -> None:
        self._inbox = inbox
        self._max_size = max_size
        self._moment = moment
        self._aged = min(AGED, moment)
        self.can_lease = CAN_LEASE and can_lease(work)

    def look(self, fd: int, name: str, now: float) -> Seen | None:
        """What is in it; None where it is to be looked at again. Raises Unreadable where it never will be a job."""
        free = lease(fd) if self.can_lease else None
        status = os.fstat(fd)
        data = None
        if free or (free is None and self.is_quiet(name, status, now)):
            data = self.read(fd, status)
        if data is None:
            self._inbox.postpone(name, looks_of(status))
            return None
        try:
            return Seen(parse(data), len(data), bool(free), status.st_nlink)
        except Unfinished:
            if self.is_quiet(name, status, now):
                raise
        self._inbox.postpone(name, looks_of(status))
        return None

    def is_aged(self, candidate: Candidate, now: float) -> bool:
        """Whether it may be taken before it is looked at: it was done long ago, as far as the listing tells."""
        age = now - candidate.changed
        return 0 <= candidate.size <= self._max_size and age >= (self._aged if self.can_lease else self._moment)

    def look_at_taken(self, path: str, candidate: Candidate, now: float) -> Content | None:
        """What is in a file that has been taken; None where it is not done after all, and must go back."""
        return read_taken(path, candidate.size, quiet=self.was_quiet(candidate, now), leases=self.can_lease)

    def was_quiet(self, candidate: Candidate, now: float) -> bool:
        """Whether it had stayed as it was for a moment when it was listed."""
        return now - candidate.changed >= self._moment

    def read(self, fd: int, status: os.stat_result) -> bytes | None:
        """All of a file; None where it changes at this moment."""
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"it is a {kind_of(status.st_mode)}; a job is a plain file")
        size = status.st_size
        if size > self._max_size:
            raise Unreadable(f"it has {size:,} bytes where at most {self._max_size:,} are read (max_size)")
        data = os.read(fd, size + 1)
        return data if len(data) == size else None

    def is_quiet(self, name: str, status: os.stat_result, now: float) -> bool:
        """Whether it has stayed as it is for a moment."""
        if now - status.st_mtime >= self._moment:
            return True
        return self._inbox.unchanged_for(name, looks_of(status)) >= self._moment

    def was_replaced(self, fd: int, seen: Seen, path: str) -> bool:
        """After a rename to ``path``: whether that is another file than the one looked at, or one being written."""
        status = os.fstat(fd)
        if status.st_nlink == 0 or (status.st_nlink > 1 and os.stat(path).st_ino != status.st_ino):
            return True
        return seen.leased and is_awaited(fd)


def read_taken(path: str, size: int, *, quiet: bool, leases: bool) -> Content | None:
    """What is in a file of that size that has been taken; None where it is not done after all, and must go back.

    Nobody finds it by its old name any more, so there is nothing to be found out afterwards.
    """
    fd = os.open(path, OPEN)
    try:
        free = lease(fd) if leases else None
        if free is False or (free is None and not quiet):
            return None
        data = os.read(fd, size + 1)
    finally:
        os.close(fd)
    if len(data) != size:
        return None
    try:
        return parse(data)
    except Unfinished:
        if quiet:
            raise
        return None


def looks_of(status: os.stat_result) -> tuple[int, ...]:
    """By what one sees that a file has changed."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode
