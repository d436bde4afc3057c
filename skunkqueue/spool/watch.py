"""Waiting for something to happen in a folder: by events of the file system, where ``watchfiles`` is there."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

STEP: Final = 3
"""Milliseconds between two looks at what has happened; an event is told after one and a half of them. At its default of
50 a job would wait longer for that than for anything else; at 1 looking costs 3 % of a core."""
DELETED: Final = 3
POLL: Final = 0.05
"""Seconds between two looks at the folder where there are no events."""


class FolderWatcher:
    """Tells when something has happened in a folder. Concurrent threads may wait, though one is enough."""

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
        """Wait for an event, at most so many seconds; says whether there may have been one."""
        end = time.monotonic() + timeout
        with self._turn:
            was = self._notify
            if self._stop.is_set() or not self._events or not self._prepare():
                self._stop.wait(max(0.0, min(end - time.monotonic(), POLL)))
                return False
            if self._notify is not was:
                return True  # what came before it watched must be looked for
            while (left := end - time.monotonic()) > 0:
                changes = self._notify.watch(1, STEP, max(1, int(left * 1000)), self._stop)
                if isinstance(changes, str):
                    return False
                if any(change != DELETED for change, _ in changes):  # what is taken from it is no news
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
        except Exception as error:  # whatever the system lacks: inotify instances, watches, the folder
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
        """End what waits, and what would wait until it is closed. May be called by a signal's handler."""
        self._stop.set()

    def close(self) -> None:
        """End what waits, and let go of the folder. A closed watcher may be used again."""
        self._stop.set()
        with self._turn:
            self._release()
            self._stop.clear()
