"""Outputs of a log: a logger, a text stream, or the pipe or terminal behind a stream, which may block."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TextIO
from weakref import WeakValueDictionary

from skunkqueue.worker.pool.log_entry import Batch, LogEntry

if TYPE_CHECKING:
    from logging import Logger, LogRecord

GROUP: Final = 2000
"""Lines that are joined for one write; after each, progress is reported."""
STAMPED: Final = 24
"""Characters of a line before its text: the time."""
BREATH: Final = 0.005


class ToLogger:
    """Writes to a logger, entry by entry, with level and fields. If a handler raises, that entry is lost."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, batches: Sequence[Batch], moved: Callable[[], None]) -> None:
        """Write the entries; ``moved`` is called after each."""
        for when, entry in ((when, entry) for when, entries in batches for entry in entries):
            with contextlib.suppress(Exception, SystemExit):
                if self._logger.isEnabledFor(entry.level):
                    self._logger.handle(self._record(when, entry))
            moved()

    def _record(self, when: float, entry: LogEntry) -> LogRecord:
        args = (entry.message + entry.trace,)
        record = self._logger.makeRecord(self._logger.name, entry.level, __file__, 0, "%s", args, None)
        record.created, record.msecs = when, int(when % 1 * 1000)
        for name, value in entry.fields().items():
            record.__dict__.setdefault(name, value)  # the program's own record factory may know the name too
        return record


class ToStream:
    """Writes to a text stream; to the descriptor, past the stream's buffer, where that is a pipe or a terminal.

    A thread blocked in the stream's own buffer holds that buffer's lock, and Python aborts over it at exit. A thread
    blocked in a system call disturbs nothing. Pipes get at most what they take atomically (PIPE_BUF), so that lines
    stay whole even if other processes write to the same pipe.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # several pools may share it, and must not split each other's lines
        self._encoder: codecs.IncrementalEncoder | None = None

    def write(self, lines: Sequence[str], moved: Callable[[], None]) -> None:
        """Write the lines; ``moved`` is called whenever some are written. Raises any error of the stream."""
        with self._lock, _descriptor_past(self._stream) as way:
            for start in range(0, len(lines), GROUP):
                text = "".join(lines[start : start + GROUP])
                if way is None:
                    self._write(text)
                else:
                    self._write_past(way, self._encoded(text), moved)
                moved()

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:  # one odd name must not cost the lines around it
            self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        self._stream.flush()

    def _encoded(self, text: str) -> bytes:
        if self._encoder is None:
            errors = self._stream.errors or "strict"
            make = codecs.getincrementalencoder(self._stream.encoding)
            self._encoder = make("backslashreplace" if errors == "strict" else errors)
        return self._encoder.encode(text)

    def _write_past(self, fd: int, data: bytes, moved: Callable[[], None]) -> None:
        if _is_ready(fd):
            self._stream.flush()  # what is in the buffer was written before
        for piece in _pieces(data, _most(fd)):
            if self._stream.closed:
                return
            _put(fd, piece)
            moved()


class _Streams:
    """The outlets, by the id of their stream. Each keeps its stream alive, so that the id stays unique."""

    def __init__(self) -> None:
        self.outlets: WeakValueDictionary[int, ToStream] = WeakValueDictionary()
        self.lock = threading.Lock()


_streams = _Streams()


def to_stream(stream: TextIO) -> ToStream:
    """The one outlet to this stream."""
    with _streams.lock:
        return _streams.outlets.setdefault(id(stream), ToStream(stream))


def forget_streams() -> None:
    """After a fork: the thread that was writing does not exist here, and may have held a lock."""
    _streams.__init__()  # type: ignore[misc]


@contextlib.contextmanager
def _descriptor_past(stream: TextIO) -> Iterator[int | None]:
    """A duplicate of the stream's descriptor; None if writing must go through the stream.

    A duplicate, because the program may close the stream meanwhile and open something else with the same number.
    """
    if not _is_plain(stream):
        yield None
        return
    fd = os.dup(stream.fileno())
    try:
        stream.fileno()  # raises if it was closed meanwhile: the duplicate may then be of anything
        yield None if stat.S_ISREG(os.fstat(fd).st_mode) else fd
    finally:
        os.close(fd)


def _is_plain(stream: TextIO) -> bool:
    """Whether text written to it reaches the descriptor unchanged (not compressed, for example)."""
    if type(stream) is not io.TextIOWrapper:
        return False
    buffer = stream.buffer
    return type(buffer) is io.FileIO or (type(buffer) is io.BufferedWriter and type(buffer.raw) is io.FileIO)


def _most(fd: int) -> int:
    """Most bytes of one write: for a pipe or terminal, what is written atomically; for other devices, more."""
    mode = os.fstat(fd).st_mode
    return 1 << 20 if stat.S_ISCHR(mode) and not os.isatty(fd) else select.PIPE_BUF


def _pieces(data: bytes, most: int) -> Iterator[memoryview]:
    """Pieces of whole lines, as many as fit; a longer line is a piece of its own."""
    view = memoryview(data)
    at = 0
    while at < len(data):
        end = len(data)
        if end - at > most:
            end = data.rfind(b"\n", at, at + most) + 1 or data.find(b"\n", at + most) + 1 or end
        yield view[at:end]
        at = end


def _put(fd: int, piece: memoryview) -> None:
    """Write all of it, however long that takes."""
    while piece:
        try:
            piece = piece[os.write(fd, piece) :]
        except BlockingIOError:  # another process that shares it has made it non-blocking
            while not _is_ready(fd, 60_000):
                pass
            time.sleep(BREATH)  # a ready pipe may still be too full for this piece


def _is_ready(fd: int, milliseconds: int = 0) -> bool:
    """Whether a write would proceed or fail without blocking, now or within ``milliseconds``."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(milliseconds))
