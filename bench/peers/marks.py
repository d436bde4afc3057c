"""What the measured jobs do besides nothing: count themselves, and say when they started.

Imported by every queue's jobs in that queue's own environment, so it needs nothing but Python. The folder of the marks
is BENCH_MARKS. A run counts itself in shared memory (about 0.2 microseconds), so that rates are seen while workers
work, whatever threads or processes they are made of.
"""

import asyncio
import mmap
import os
import threading
import time
from struct import Struct

NAP = 0.01
"""Seconds that a job sleeps which is to sleep."""

_NUMBER = Struct("=Q")
_NAPS = os.environ.get("BENCH_JOB") == "anap"
_folder = os.environ.get("BENCH_MARKS", ".")
_lock = threading.Lock()
_slot = None


def counts_file(folder: str) -> str:
    """Eight bytes for each process that counted."""
    return os.path.join(folder, "counts")


def starts_file(folder: str) -> str:
    """A named pipe that takes the time of each start."""
    return os.path.join(folder, "starts")


def count() -> None:
    """One more run of this process."""
    with _lock:
        slot = _slot if _slot is not None else _open_slot()
        slot[0] += 1


async def nap() -> None:
    """Sleep where BENCH_JOB says so: what async jobs do that are measured waiting."""
    if _NAPS:
        await asyncio.sleep(NAP)


def started(now: int) -> None:
    """Tell who waits that a run started at this ``time.monotonic_ns()``."""
    pipe = os.open(starts_file(_folder), os.O_WRONLY)
    os.write(pipe, _NUMBER.pack(now))
    os.close(pipe)


def _open_slot() -> memoryview:
    global _slot
    file = os.open(counts_file(_folder), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(file, _NUMBER.pack(0))
    # With O_APPEND the position after writing is the end of what this process wrote, whoever else writes.
    at = os.lseek(file, 0, os.SEEK_CUR) - _NUMBER.size
    page = at // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    shared = mmap.mmap(file, at + _NUMBER.size - page, offset=page)
    os.close(file)
    _slot = memoryview(shared)[at - page :].cast("Q")
    return _slot


def _forked() -> None:
    global _slot, _lock
    _slot, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)


# -- the side that reads ---------------------------------------------------------------------------------------------


def reset(folder: str) -> None:
    """Start from nothing; nobody may be counting."""
    for file in (counts_file(folder), starts_file(folder)):
        if os.path.exists(file):
            os.unlink(file)
    os.close(os.open(counts_file(folder), os.O_WRONLY | os.O_CREAT))
    os.mkfifo(starts_file(folder))


def counted(folder: str) -> int:
    """How many runs there have been, in all processes together."""
    with open(counts_file(folder), "rb") as file:
        return sum(number for (number,) in _NUMBER.iter_unpack(file.read()))


class Starts:
    """Hears the starts of runs. Raises TimeoutError when none comes."""

    def __init__(self, folder: str) -> None:
        # Also for writing, or it would wait here for a writer, and end when one closes.
        self._pipe = os.open(starts_file(folder), os.O_RDWR | os.O_NONBLOCK)

    def next(self, limit: float = 60.0) -> int:
        """The ``time.monotonic_ns()`` at which the next run started."""
        import select

        readable, _, _ = select.select([self._pipe], [], [], limit)
        if not readable:
            raise TimeoutError(f"no run started within {limit:g} s")
        return int(_NUMBER.unpack(os.read(self._pipe, _NUMBER.size))[0])

    def close(self) -> None:
        """Stop hearing."""
        os.close(self._pipe)


def now() -> int:
    """The clock that all processes of this machine share."""
    return time.monotonic_ns()
