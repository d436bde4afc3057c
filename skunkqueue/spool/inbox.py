"""Which file of in/ to look at next: a listing taken in pieces, oldest first, and those to be looked at again."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.spool.files import is_ignored

CHUNK: Final = 2000
"""Names that are held at a time, so that a folder of any size costs little memory and no long listing."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
ASIDE: Final = 15.0
"""Seconds after which one is tried again that could not be taken."""


class Candidate(NamedTuple):
    """A name in the folder, and how it looked in the listing; a size of -1: look for yourself."""

    changed: float
    name: str
    mode: int = stat.S_IFREG
    size: int = -1


class Later(NamedTuple):
    """A file to be looked at again: when (ticks), and since when it is as it was."""

    at: float
    pause: float
    since: float
    looks: tuple[int, ...]


class Inbox:
    """The names to look at. Folders in it are left alone, and told of once."""

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
        self.news = True

    def begin(self, *, anyway: bool = False) -> None:
        """A claim begins: the folder is listed anew at most once in it, if it is time, or there was news."""
        now = ticks()
        self._may_scan = self.news or anyway or now >= self._scan_at
        if self._later:
            due = [name for name, later in self._later.items() if later.at <= now]
            for name in due:
                self._later[name] = self._later[name]._replace(at=now + LONGEST_PAUSE)
            self._names.extendleft(Candidate(0.0, name) for name in reversed(due))

    def next(self) -> Candidate | None:
        """The next one to look at; None when there is none at the moment."""
        while not self._names:
            if self._entries is None and not self._list():
                return None
            self._refill()
        return self._names.popleft()

    def _list(self) -> bool:
        if not self._may_scan:
            return False
        self._may_scan = self.news = False
        self._began = ticks()
        self._entries = os.scandir(self._folder)
        return True

    def _refill(self) -> None:
        assert self._entries is not None
        chunk = list(islice(self._entries, CHUNK))
        if len(chunk) < CHUNK:
            self._entries = None
            now = ticks()
            # Listing never takes more than a tenth of the time, unless there is news.
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
        """It is a folder."""
        if name not in self._folders:
            if len(self._folders) >= CHUNK:
                self._folders.clear()
            self._folders.add(name)
            self._say(f"in/{name} is a folder: left alone")

    def back(self, name: str) -> None:
        """It is there again."""
        self._names.append(Candidate(0.0, name))

    def forget(self, name: str) -> None:
        """It is gone, or taken."""
        self._later.pop(name, None)

    def postpone(self, name: str, looks: tuple[int, ...]) -> None:
        """Have it looked at again, later each time while it stays as it looks."""
        now = ticks()
        old = self._later.get(name)
        if old is not None and old.looks == looks:
            pause = min(old.pause * 2, LONGEST_PAUSE)
            self._later[name] = Later(now + pause, pause, old.since, looks)
        else:
            self._later[name] = Later(now + FIRST_PAUSE, FIRST_PAUSE, now, looks)

    def set_aside(self, name: str) -> bool:
        """Try it again after a while; says whether that is new."""
        new = name not in self._later
        self._later[name] = Later(ticks() + ASIDE, ASIDE, 0.0, ())
        return new

    def unchanged_for(self, name: str, looks: tuple[int, ...]) -> float:
        """Seconds that it is known to look so."""
        old = self._later.get(name)
        return ticks() - old.since if old is not None and old.looks == looks else 0.0

    def next_look(self) -> float:
        """Seconds until there is something to look at, though nothing tells."""
        at = min((later.at for later in self._later.values()), default=self._began + self._rescan)
        return max(0.0, min(at, max(self._scan_at, self._began + self._rescan)) - ticks())
