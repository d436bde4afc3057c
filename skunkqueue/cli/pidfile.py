"""The file that holds the process ID of ``skunq work``, locked for as long as it works."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

from skunkqueue.errors import SkunkError

TRIES: Final = 20
PAUSE: Final = 0.01
"""Seconds between two tries to read the ID of a process that has just locked the file."""


@contextlib.contextmanager
def holding(path: str | None) -> Iterator[None]:
    """Hold this process's ID in a file. Raises SkunkError if another pool has the file, or it cannot be made.

    The process that has locked the file holds it. The kernel releases the lock when the process ends, however it ends.
    So a file that was left behind is taken over, whatever ID it contains and whichever process has that ID now.
    """
    if path is None:
        yield
        return
    try:
        fd = _lock(path)
    except OSError as error:
        raise SkunkError(f"the pid file {path} cannot be made ({error.strerror})") from error
    try:
        yield
    finally:
        if _is_at(fd, path):
            os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    """A descriptor of the locked file, with our ID in it. No process that is started inherits it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _take(fd, path)
            if _is_at(fd, path):
                _write(fd, path)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder ended and removed it, after we had opened it


def _take(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = _holder(fd)
        who = f"process {pid} has" if pid else "another process has"
        raise SkunkError(f"{who} the pid file {path}: stop it first, or name another file") from error


def _holder(fd: int) -> int | None:
    """The process ID in the file; its holder may be about to write it."""
    for _ in range(TRIES):
        with contextlib.suppress(ValueError):
            return int(os.pread(fd, 100, 0))
        time.sleep(PAUSE)
    return None


def _write(fd: int, path: str) -> None:
    found = os.pread(fd, 100, 0).strip()
    if found and not found.isdigit():
        raise SkunkError(f"{path} is not a pid file: name another one, or delete it")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _is_at(fd: int, path: str) -> bool:
    """Whether this is the file of that name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
