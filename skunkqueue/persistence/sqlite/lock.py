"""Taking turns: processes that want to write wait in the kernel's queue, not by trying again and again.

SQLite has no queue of its own: who waits sleeps, tries, and is overtaken; with four senders one put in a hundred took
100 ms. Here it is a lock on a file beside the database. SQLite's own locks still guard the data: where this file cannot
be used, or is deleted, writers only wait less fairly.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import weakref
from contextlib import suppress


class WriteLock:
    """One process's place among the writers of a file. Used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._door: _Door | None = None

    def take(self, patience: float) -> bool:
        """Wait for the turn to write; False where it did not come within so many seconds."""
        try:
            if self._door is None:
                self._door = _Door(self.path)
                weakref.finalize(self, self._door.close)
            fcntl.flock(self._door.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._door is None or self._queue_up(self._door, patience)
        except OSError:
            pass  # SQLite's own lock must do
        return True

    def _queue_up(self, door: _Door, patience: float) -> bool:
        ticket = door.ticket()
        try:
            return ticket.called.acquire(timeout=patience) or not ticket.settle()
        except BaseException:
            ticket.settle()
            raise

    def give(self) -> None:
        """End the turn; harmless where there was none."""
        if self._door is not None:
            _unlock(self._door.file)

    def close(self) -> None:
        """Leave; the next turn opens the file anew."""
        door, self._door = self._door, None
        if door is not None:
            door.close()

    def forget(self) -> None:
        """After a fork, in the child: whoever stood in line stayed with the parent."""
        door, self._door = self._door, None
        if door is not None:
            door.forget()


class _Door:
    """The file, and a thread that waits before it where one must: the kernel's queue knows no timeout."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._tickets: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._waiting: threading.Thread | None = None
        self._closed = False

    def ticket(self) -> _Ticket:
        if self._waiting is None:
            self._waiting = threading.Thread(
                target=_stand_in_line, args=(self.file, self._tickets), name="skunkqueue-turn", daemon=True
            )
            self._waiting.start()
        ticket = _Ticket()
        self._tickets.put(ticket)
        return ticket

    def close(self) -> None:
        """Whoever stands in line closes the file when it is through."""
        if not self._closed and self._waiting is not None:
            self._tickets.put(None)
        elif not self._closed:
            os.close(self.file)
        self._closed = True

    def forget(self) -> None:
        if not self._closed:
            os.close(self.file)
        self._closed = True


class _Ticket:
    """A wait for one turn. Whoever settles it first decides whether it was called or given up."""

    def __init__(self) -> None:
        self.called = threading.Lock()
        self.called.acquire()
        self._settling = threading.Lock()

    def settle(self) -> bool:
        return self._settling.acquire(blocking=False)


def _stand_in_line(file: int, tickets: queue.SimpleQueue[_Ticket | None]) -> None:
    while (ticket := tickets.get()) is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if ticket.settle():
            ticket.called.release()
        else:  # given up
            _unlock(file)
    os.close(file)


def _unlock(file: int) -> None:
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
