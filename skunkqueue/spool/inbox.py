"""in/: when files have come, which to look at next, and whether it is complete, without disturbing its writer."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.spool.contents import Content, parse
from skunkqueue.spool.files import (
    CAN_LEASE,
    OPEN,
    Unfinished,
    Unreadable,
    can_lease,
    is_awaited,
    is_ignored,
    lease,
    no_file,
)

CHUNK: Final = 2000
"""Most names that are read at a time, so that a folder of any size needs little memory and no long listing."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
ASIDE: Final = 15.0
"""Seconds after which a file is tried again that could not be taken."""
MOMENT: Final = 1.0
"""Seconds that a file must stay unchanged if it is incomplete, or if writers cannot be detected."""
AGED: Final = 0.25
"""A file whose last change is this many seconds ago is taken first and read then, which is quicker."""
MOST_SIZE: Final = 16 << 20
STEP: Final = 3
"""Milliseconds between two polls of watchfiles; an event is reported after one and a half of them. With its default
of 50 this would be the longest delay of a job; with 1, polling takes 3 % of a core."""
DELETED: Final = 3
POLL: Final = 0.05
"""Seconds between two listings of the folder if there are no events."""


# -- which one is next -------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A name in the folder, and its status in the listing. A size of -1: not known from a listing."""

    changed: float
    name: str
    mode: int = stat.S_IFREG
    size: int = -1


class Later(NamedTuple):
    """A file to be looked at again: when (ticks), and since when it is unchanged."""

    at: float
    pause: float
    since: float
    looks: tuple[int, ...]


class Inbox:
    """The names to look at. Folders are left alone, and logged once."""

    def __init__(self, folder: str, *, rescan: float, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._rescan = rescan
        self._say = say
        self._names: deque[Candidate] = deque()
        self._entries: Iterator[os.DirEntry[str]] | None = None
        self._later: dict[str, Later] = {}
        self._folders: set[str] = set()
        self._scan_at = 0.0
        self._began = 0.0
        self._may_scan = False
        self._is_doubtful = False
        self._is_withheld = False
        self.news: bool = True

    def begin(self, *, anyway: bool = False) -> None:
        """Begin a claim. In it the folder is listed at most once: if it is time, or if there was an event."""
        now = ticks()
        self._may_scan = self.news or anyway or now >= self._scan_at
        self._is_withheld = False
        if self._later:
            due = [name for name, later in self._later.items() if later.at <= now]
            for name in due:
                self._later[name] = self._later[name]._replace(at=now + LONGEST_PAUSE)
            self._names.extendleft(Candidate(0.0, name) for name in reversed(due))

    def next(self) -> Candidate | None:
        """The next file to look at; None if there is none at the moment."""
        while not self._names:
            if self._entries is None and not self._list():
                return None
            self._refill()
        return self._names.popleft()

    def _list(self) -> bool:
        if not self._may_scan:
            self._is_withheld = self._is_doubtful
            return False
        self._may_scan = self.news = self._is_doubtful = False
        self._began = ticks()
        self._entries = os.scandir(self._folder)
        return True

    def _refill(self) -> None:
        assert self._entries is not None
        chunk = list(islice(self._entries, CHUNK))
        if len(chunk) < CHUNK:
            self._entries = None
            now = ticks()
            # Listing takes at most a tenth of the time, unless there are events.
            self._scan_at = now + min(self._rescan, 10 * (now - self._began))
        self._names.extend(sorted(self._seen(chunk)))

    def _seen(self, chunk: list[os.DirEntry[str]]) -> Iterator[Candidate]:
        for entry in chunk:
            name = entry.name
            if is_ignored(name) or name in self._later:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                self.leave(name)
            else:
                yield Candidate(status.st_mtime, name, status.st_mode, status.st_size)

    def leave(self, name: str) -> None:
        """Leave a folder alone, and log it once."""
        if name not in self._folders:
            if len(self._folders) >= CHUNK:
                self._folders.clear()
            self._folders.add(name)
            self._say(f"in/{name} is a folder: left alone")

    def back(self, name: str) -> None:
        """Note that a file was put back into the folder."""
        self._names.append(Candidate(0.0, name))

    def forget(self, name: str) -> None:
        """Forget a file that is gone or taken."""
        self._later.pop(name, None)

    def postpone(self, name: str, looks: tuple[int, ...]) -> None:
        """Have it looked at again, with growing pauses while it does not change."""
        now = ticks()
        old = self._later.get(name)
        if old is not None and old.looks == looks:
            pause = min(old.pause * 2, LONGEST_PAUSE)
            self._later[name] = Later(now + pause, pause, old.since, looks)
        else:
            self._later[name] = Later(now + FIRST_PAUSE, FIRST_PAUSE, now, looks)

    def set_aside(self, name: str) -> bool:
        """Try it again after ``ASIDE`` seconds; returns whether it was not postponed before."""
        new = name not in self._later
        self._later[name] = Later(ticks() + ASIDE, ASIDE, 0.0, ())
        return new

    def unchanged_for(self, name: str, looks: tuple[int, ...]) -> float:
        """For how many seconds it is known to be unchanged."""
        old = self._later.get(name)
        return ticks() - old.since if old is not None and old.looks == looks else 0.0

    def doubt(self) -> None:
        """A job has ended, which may have dropped others: the folder is empty only if it is so in a new listing."""
        self._is_doubtful = True

    def next_look(self) -> float:
        """Seconds until there is something to look at, though nothing tells.

        None where the last claim ran out of names in doubt, but it was too early to list the folder: a pool that stops
        when nothing is left must not stop yet.
        """
        if self._is_withheld:
            return 0.0
        at = min((later.at for later in self._later.values()), default=self._began + self._rescan)
        return max(0.0, min(at, max(self._scan_at, self._began + self._rescan)) - ticks())


# -- whether it is done ------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A file that is a job. ``leased``: nobody can open it for writing while the descriptor is open."""

    content: Content
    size: int
    leased: bool
    links: int


class Looker:
    """Reads open files; those that are incomplete are postponed in the inbox."""

    def __init__(self, inbox: Inbox, work: str, *, max_size: int, moment: float) -> None:
        self._inbox = inbox
        self._max_size = max_size
        self._moment = moment
        self._aged = min(AGED, moment)
        self.can_lease: bool = CAN_LEASE and can_lease(work)

    def look(self, fd: int, name: str, now: float) -> Seen | None:
        """The content of a file; None if it was postponed. Raises Unreadable if it can never be a job."""
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
        """Whether it may be taken before it is read: by the listing, it was complete long ago."""
        age = now - candidate.changed
        return 0 <= candidate.size <= self._max_size and age >= (self._aged if self.can_lease else self._moment)

    def look_at_taken(self, path: str, candidate: Candidate, now: float) -> Content | None:
        """The content of a file that has been taken; None if it is incomplete after all, and must go back."""
        return read_taken(path, candidate.size, quiet=self.was_quiet(candidate, now), leases=self.can_lease)

    def was_quiet(self, candidate: Candidate, now: float) -> bool:
        """Whether it had been unchanged for a ``moment`` when it was listed."""
        return now - candidate.changed >= self._moment

    def read(self, fd: int, status: os.stat_result) -> bytes | None:
        """All of a file; None if it is changing right now."""
        if not stat.S_ISREG(status.st_mode):
            raise no_file(status.st_mode)
        size = status.st_size
        if size > self._max_size:
            raise Unreadable(f"it has {size:,} bytes where at most {self._max_size:,} are read (max_size)")
        data = os.read(fd, size + 1)
        return data if len(data) == size else None

    def is_quiet(self, name: str, status: os.stat_result, now: float) -> bool:
        """Whether it has been unchanged for a ``moment``."""
        if now - status.st_mtime >= self._moment:
            return True
        return self._inbox.unchanged_for(name, looks_of(status)) >= self._moment

    def was_replaced(self, fd: int, seen: Seen, path: str) -> bool:
        """After a rename to ``path``: whether that is another file than the one that was read, or is being written."""
        status = os.fstat(fd)
        if status.st_nlink == 0 or (status.st_nlink > 1 and os.stat(path).st_ino != status.st_ino):
            return True
        return seen.leased and is_awaited(fd)


def read_taken(path: str, size: int, *, quiet: bool, leases: bool) -> Content | None:
    """The content of a file of that size that has been taken; None if it is incomplete after all, and must go back.

    No writer can open it by its old name any more, so no check is needed afterwards.
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
    """The values that differ if a file has changed."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


# -- whether there is news ---------------------------------------------------------------------------------------------


class FolderEvents:
    """Waits for events in a folder. Several threads may wait at a time."""

    def __init__(self, folder: str, *, events: bool = True, say: Callable[[str], None] = lambda line: None) -> None:
        self._folder = folder
        self._say = say
        self._events = events
        self._notify: Any = None
        self._inode = 0
        self._turn = threading.Lock()
        self._stop = threading.Event()

    @property
    def has_events(self) -> bool:
        """Whether events are used; without them ``wait`` only waits."""
        return self._events

    def wait(self, timeout: float) -> bool:
        """Wait for an event, at most ``timeout`` seconds; returns whether there may have been one."""
        end = time.monotonic() + timeout
        with self._turn:
            was = self._notify
            if self._stop.is_set() or not self._events or not self._prepare():
                self._stop.wait(max(0.0, min(end - time.monotonic(), POLL)))
                return False
            if self._notify is not was:
                return True  # files that came before the watch began must be looked for
            while (left := end - time.monotonic()) > 0:
                changes = self._notify.watch(1, STEP, max(1, int(left * 1000)), self._stop)
                if isinstance(changes, str):
                    return False
                if any(change != DELETED for change, _ in changes):  # deletions are no news
                    return True
            return False

    def _prepare(self) -> bool:
        """Watch the folder that is there now: another may have taken its place."""
        try:
            inode = os.stat(self._folder).st_ino
            if self._notify is None or inode != self._inode:
                from watchfiles._rust_notify import RustNotify

                self._release()
                self._notify = RustNotify([self._folder], False, False, 1000, False, True)
                self._inode = inode
        except ImportError:
            self._events = False
            self._say("watchfiles is not installed: new files are found by looking, not at once")
        except Exception as error:  # no inotify instances or watches left, or no folder
            self._release()
            if os.path.isdir(self._folder):
                self._events = False
                self._say(f"no file-system events here ({error}): new files are found by looking, not at once")
        return self._notify is not None

    def _release(self) -> None:
        notify, self._notify = self._notify, None
        if notify is not None:
            with contextlib.suppress(Exception):
                notify.close()

    def wake(self) -> None:
        """End the waits, and all later ones until ``close``. May be called by a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """End the waits, and stop watching the folder. A closed watcher may be used again."""
        self._stop.set()
        with self._turn:
            self._release()
            self._stop.clear()
