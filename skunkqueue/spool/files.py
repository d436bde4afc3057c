"""The folders of a spool, and how to inspect a file in one without disturbing its writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from typing import Final

from skunkqueue.errors import SkunkError, StoreAway, StoreFull, WrongCall
from skunkqueue.ids import new_id

IN: Final = "in"
ERR: Final = "err"
WORK: Final = "work"

IGNORED: Final = (".tmp", ".part")

PROBES: Final = 50
"""How often a refused probe for leases is repeated."""
PROBE_PAUSE: Final = 0.01
"""Seconds between them."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV})


class Unreadable(SkunkError):
    """The file can never be read as a job."""


class Unfinished(Unreadable):
    """The file is incomplete: its writer may not have finished."""


def is_ignored(name: str) -> bool:
    """Whether the name marks a file as incomplete."""
    return name.startswith(".") or name.endswith(IGNORED)


@contextlib.contextmanager
def on(folder: str) -> Iterator[None]:
    """Turn an error of the file system into one of ours."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _FULL else StoreAway
        raise kind(f"the spool folder {folder} cannot be used: {error}") from error


def make_folders(path: str) -> list[str]:
    """Make the missing folders of a spool; returns those made. Raises WrongCall if that is impossible."""
    made = []
    try:
        for folder in (path, *(os.path.join(path, name) for name in (IN, ERR, WORK))):
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                made.append(folder)
        devices = {os.stat(os.path.join(path, name)).st_dev for name in (IN, ERR, WORK)}
    except OSError as error:
        raise WrongCall(f"{path} cannot be a spool folder: {error.strerror} ({error.filename})") from error
    if len(devices) > 1:
        raise WrongCall(f"in, err and work of {path} lie on several file systems; a claim is a rename, which needs one")
    return made


# -- inspecting a file -------------------------------------------------------------------------------------------------

OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_SETSIG: Final = getattr(fcntl, "F_SETSIG", None)
_SETLEASE: Final = getattr(fcntl, "F_SETLEASE", None)
_GETLEASE: Final = getattr(fcntl, "F_GETLEASE", None)
CAN_LEASE: Final = None not in (_SETSIG, _SETLEASE, _GETLEASE)


def lease(fd: int) -> bool | None:
    """Take a read lease: a process that opens the file for writing has to wait until ``fd`` is closed.

    True if it was granted, False if the file is open for writing, None if the system has no leases.
    """
    try:
        # The kernel's signal when a writer comes is SIGIO by default, which kills; SIGURG is ignored.
        fcntl.fcntl(fd, _SETSIG, signal.SIGURG)  # type: ignore[arg-type]
        fcntl.fcntl(fd, _SETLEASE, fcntl.F_RDLCK)  # type: ignore[arg-type]
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else None
    except TypeError:  # there are no leases here
        return None
    return True


def is_awaited(fd: int) -> bool:
    """Whether a writer waits for our lease to end."""
    return fcntl.fcntl(fd, _GETLEASE) != fcntl.F_RDLCK  # type: ignore[arg-type]


def can_lease(folder: str) -> bool:
    """Whether leases work on this file system: some network file systems refuse them all."""
    path = os.path.join(folder, f".probe.{new_id(time.time())}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.close(fd)
        fd = os.open(path, OPEN)
        return _can_be_leased(fd)
    finally:
        os.close(fd)
        os.unlink(path)


def _can_be_leased(fd: int) -> bool:
    """Try several times: a process that was just forked also has the file open for writing, until it calls exec."""
    for _ in range(PROBES):
        free = lease(fd)
        if free is not False:
            break
        time.sleep(PROBE_PAUSE)
    return bool(free)


def file_time(folder: str) -> float:
    """The file system's time, which is the same for all hosts that share it."""
    path = os.path.join(folder, f".clock.{new_id(time.time())}")
    try:
        with open(path, "xb") as file:
            file.write(b"\n")  # a network file system sets its own time when the file is closed
        return os.stat(path).st_mtime
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def is_passing(error: Exception) -> bool:
    """Whether the error is one of the file system, not of the file."""
    return isinstance(error, OSError) and error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)


def no_file(mode: int) -> Unreadable:
    """The error for something that is not a plain file."""
    return Unreadable(f"it is a {kind_of(mode)}; a job is a plain file")


def kind_of(mode: int) -> str:
    """The name of a kind of file that is not plain."""
    for test, name in _KINDS:
        if test(mode):
            return name
    return "special file"


_KINDS: Final = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)
