"""Standard input, output and error of a worker process. What one job does to them does not affect later jobs.

What a job prints is not part of its result. If it cannot be written, it is dropped, and the job does not fail.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Any, Final, TextIO


class _Raw(io.FileIO):
    """A descriptor. What cannot be written to it is dropped, and no error is raised."""

    kept: Descriptors

    def write(self, data: Any, /) -> int:
        for retry in (True, False):
            try:
                if (written := super().write(data)) is not None:
                    return written
                self._await_room()  # somebody who shares it has made it non-blocking
            except OSError:  # closed by a job; or nobody reads it any more
                if retry:
                    self.kept.restore()
        return memoryview(data).nbytes

    def _await_room(self) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        poll.poll(1000)

    def close(self) -> None:
        pass


class _Buffer(io.BufferedWriter):
    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.raw


class _Stream(io.TextIOWrapper):
    """A text stream that cannot be closed or detached: a job that tries only flushes it."""

    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.buffer


class Descriptors:
    """Copies of the descriptors 0, 1 and 2, to restore them from."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[int, tuple[int, int]]] = {}
        for fd in (0, 1, 2):
            with contextlib.suppress(OSError):
                self._copies[fd] = os.dup(fd), _file_of(fd)

    def restore(self) -> None:
        """Restore the descriptors that were closed or replaced."""
        for fd, (copy, file) in self._copies.items():
            try:
                is_changed = _file_of(fd) != file
            except OSError:
                is_changed = True
            if is_changed:
                with contextlib.suppress(OSError):  # a job has closed the copies too
                    os.dup2(copy, fd)


def _file_of(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Stdio:
    """The standard streams of this process; without ``install`` they are left alone."""

    def __init__(self) -> None:
        self.installed: bool = False
        self._descriptors: Descriptors | None = None
        self._usual: dict[str, TextIO] = {}
        self._streams: dict[str, TextIO] = {}

    def install(self) -> None:
        """Take over stdout and stderr. They are written line by line, as all workers of a pool share them."""
        self._descriptors = Descriptors()
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if type(stream) is io.TextIOWrapper:
                raw = _Raw(stream.fileno(), "w", closefd=False)
                raw.kept = self._descriptors
                taken = _Stream(_Buffer(raw), stream.encoding, stream.errors, line_buffering=True)
                self._streams[name] = taken
                setattr(sys, name, taken)
                setattr(sys, f"__{name}__", taken)
        self.installed = True
        self.note_usual()

    def note_usual(self) -> None:
        """Note the streams as they are before any job. Called after the imports, which may have replaced them."""
        self._usual = {name: getattr(sys, name) for name in self._streams}

    def restore(self) -> None:
        """Between two runs: undo what the jobs did."""
        if self._descriptors is None:
            return
        self._descriptors.restore()
        for name, ours in self._streams.items():
            if not _is_usable(getattr(sys, name, None)):
                setattr(sys, name, ours)

    def restore_all(self) -> None:
        """As ``restore``, and put the usual streams back. Not while a job runs, which may have redirected them."""
        self.restore()
        for name, usual in self._usual.items():
            if getattr(sys, name, None) is not usual and _is_usable(usual):
                setattr(sys, name, usual)


stdio: Final = Stdio()
"""The streams of this process. If the workers are threads, the streams are the program's own, and left alone."""


def _is_usable(stream: Any) -> bool:
    try:
        return not stream.closed
    except Exception:  # something else, or detached from its buffer
        return False
