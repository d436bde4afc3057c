"""The write lock: processes that want to write wait for a kernel lock (flock), which wakes them in order.

SQLite itself has no queue of writers. A waiting writer sleeps, retries, and may be overtaken by others: with four
senders, one put in a hundred took 100 ms. The lock here is on a file beside the database. SQLite's own locks still
guard the data: where the lock file cannot be used, or is deleted, writers only wait less fairly.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import weakref
from contextlib import suppress


class WriteLock:
    """The write lock of one file, as one process holds it. Used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock_file: _LockFile | None = None

    def take(self, patience: float) -> bool:
        """Acquire the lock; False if that was not possible within ``patience`` seconds."""
        try:
            if self._lock_file is None:
                self._lock_file = _LockFile(self.path)
                weakref.finalize(self, self._lock_file.close)
            fcntl.flock(self._lock_file.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._lock_file is None or self._wait(self._lock_file, patience)
        except OSError:
            pass  # SQLite's own lock must do
        return True

    def _wait(self, lock_file: _LockFile, patience: float) -> bool:
        request = lock_file.request()
        try:
            return request.granted.acquire(timeout=patience) or not request.settle()
        except BaseException:
            request.settle()
            raise

    def give(self) -> None:
        """Release the lock. Does nothing if it is not held."""
        if self._lock_file is not None:
            _unlock(self._lock_file.file)

    def close(self) -> None:
        """Close the lock file. The next ``take`` opens it again."""
        lock_file, self._lock_file = self._lock_file, None
        if lock_file is not None:
            lock_file.close()

    def forget(self) -> None:
        """After a fork, in the child: close the copy of the file. The waiting thread exists in the parent only."""
        lock_file, self._lock_file = self._lock_file, None
        if lock_file is not None:
            lock_file.forget()


class _LockFile:
    """The lock file, and a thread that waits for its lock when it is not free: flock has no timeout."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting: threading.Thread | None = None
        self._closed = False

    def request(self) -> _Request:
        if self._waiting is None:
            self._waiting = threading.Thread(
                target=_wait_for_lock, args=(self.file, self._requests), name="skunkqueue-write-lock", daemon=True
            )
            self._waiting.start()
        request = _Request()
        self._requests.put(request)
        return request

    def close(self) -> None:
        """Close the file. If the waiting thread was started, it does so, after the requests that it still has."""
        if not self._closed and self._waiting is not None:
            self._requests.put(None)
        elif not self._closed:
            os.close(self.file)
        self._closed = True

    def forget(self) -> None:
        if not self._closed:
            os.close(self.file)
        self._closed = True


class _Request:
    """A request for the lock. The first to settle it decides: the waiting thread (granted) or the caller (given up)."""

    def __init__(self) -> None:
        self.granted = threading.Lock()
        self.granted.acquire()
        self._settling = threading.Lock()

    def settle(self) -> bool:
        return self._settling.acquire(blocking=False)


def _wait_for_lock(file: int, requests: queue.SimpleQueue[_Request | None]) -> None:
    while (request := requests.get()) is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if request.settle():
            request.granted.release()
        else:  # given up
            _unlock(file)
    os.close(file)


def _unlock(file: int) -> None:
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
