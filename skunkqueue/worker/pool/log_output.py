"""Where the lines of a log go: a logger, a text stream, or the pipe or terminal behind one, which may be stuck."""

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
"""Lines that are put together at a time: one call, and what is known of how far the writing has come."""
STAMPED: Final = 24
"""Characters of a line before what it says."""
BREATH: Final = 0.005


class ToLogger:
    """To a logger, entry by entry, with its level and its fields. A handler that raises costs that line."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, batches: Sequence[Batch], moved: Callable[[], None]) -> None:
        """``moved`` is called whenever some have been taken."""
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
    """To a text stream, and past its buffer where it leads to a pipe or a terminal.

    A thread that hangs in the stream's own buffer holds that buffer's lock, over which Python aborts at its exit; one
    that hangs in a call of the system is in nobody's way. Pipes are given no more at once than they take whole, so
    that a line is written or is not, also where others write there too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._turn = threading.Lock()  # several pools may share it, and one's line must not split another's
        self._encoder: codecs.IncrementalEncoder | None = None

    def write(self, lines: Sequence[str], moved: Callable[[], None]) -> None:
        """``moved`` is called whenever some have been taken. Raises whatever comes in the way."""
        with self._turn, _way_past(self._stream) as way:
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
            self._stream.flush()  # what others have left in the buffer was said before
        for piece in _pieces(data, _most(fd)):
            if self._stream.closed:
                return
            _put(fd, piece)
            moved()


class _Streams:
    """Streams that are written to, by id: each outlet holds its stream, so that ids last as long as they do."""

    def __init__(self) -> None:
        self.outlets: WeakValueDictionary[int, ToStream] = WeakValueDictionary()
        self.turn = threading.Lock()


_streams = _Streams()


def to_stream(stream: TextIO) -> ToStream:
    """The one outlet to this stream."""
    with _streams.turn:
        return _streams.outlets.setdefault(id(stream), ToStream(stream))


def forget_streams() -> None:
    """After a fork: whoever was writing is not here, and may have left a turn that never ends."""
    _streams.__init__()  # type: ignore[misc]


@contextlib.contextmanager
def _way_past(stream: TextIO) -> Iterator[int | None]:
    """A descriptor of our own to what the stream leads to; None where writing to it must go through the stream.

    Our own, or the number could by now be that of something else, which the program opened after closing the stream.
    """
    if not _is_plain(stream):
        yield None
        return
    fd = os.dup(stream.fileno())
    try:
        stream.fileno()  # raises where it was closed meanwhile: then we may have got hold of anything
        yield None if stat.S_ISREG(os.fstat(fd).st_mode) else fd
    finally:
        os.close(fd)


def _is_plain(stream: TextIO) -> bool:
    """Whether what is written to it reaches the descriptor as it is (not compressed, say)."""
    if type(stream) is not io.TextIOWrapper:
        return False
    buffer = stream.buffer
    return type(buffer) is io.FileIO or (type(buffer) is io.BufferedWriter and type(buffer.raw) is io.FileIO)


def _most(fd: int) -> int:
    """Bytes to be written at once: what a pipe takes whole or not at all, a disk or /dev/null any."""
    mode = os.fstat(fd).st_mode
    return 1 << 20 if stat.S_ISCHR(mode) and not os.isatty(fd) else select.PIPE_BUF


def _pieces(data: bytes, most: int) -> Iterator[memoryview]:
    """Whole lines, as many as fit; one that is longer goes alone."""
    view = memoryview(data)
    at = 0
    while at < len(data):
        end = len(data)
        if end - at > most:
            end = data.rfind(b"\n", at, at + most) + 1 or data.find(b"\n", at + most) + 1 or end
        yield view[at:end]
        at = end


def _put(fd: int, piece: memoryview) -> None:
    """All of it, however long that takes."""
    while piece:
        try:
            piece = piece[os.write(fd, piece) :]
        except BlockingIOError:  # somebody has made it so, for himself: it is shared
            while not _is_ready(fd, 60_000):
                pass
            time.sleep(BREATH)  # ready, it may still not have room for this much


def _is_ready(fd: int, milliseconds: int = 0) -> bool:
    """Whether it takes something, or fails, at once or within so long."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(milliseconds))
