"""The pool's log: one entry per event, written in batches by a thread, so that a blocked stream blocks only the thread.

``say`` only appends to a list. The thread writes the list as one batch, then pauses: a busy pool wakes it 50 times a
second, an idle one not at all. If the output is blocked for long, entries are dropped and counted, so that the pool
neither waits nor grows without bound.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TextIO
from weakref import WeakSet

from skunkqueue.errors import WrongCall
from skunkqueue.worker.pool.log_entry import FORMATS, INFO, WARNING, Batch, LogEntry
from skunkqueue.worker.pool.log_output import STAMPED, ToLogger, ToStream, forget_streams, to_stream

if TYPE_CHECKING:
    from logging import Logger

MOST_LINES = 100_000
MOST_SIZE = 16_000_000
"""Most lines, and characters, that wait while the output is blocked; as many more may be in the batch being written."""
PACE: Final = 0.02
"""Seconds between two batches, while entries come."""
YIELD: Final = 0.02
"""Seconds for which the pool sleeps, so that logging which is far behind, but progresses, can catch up."""
SLICE: Final = 0.002
PATIENCE: Final = 500
"""How many slices (of ``SLICE`` seconds) ``close`` waits for an output that takes nothing."""
LONGEST: Final = 5000
"""How many slices it waits for an output that takes a little now and then."""


_TEXT: Final = itemgetter(LogEntry._fields.index("text"))
_TRACE: Final = itemgetter(LogEntry._fields.index("traceback"))


class Log:
    """Writes to the logger ``skunkqueue.worker`` where the program has set up logging, else to a stream.

    ``format`` is ``text``, or ``json`` for one document a line, which always goes to a stream. ``rewrite`` gets each
    entry before it is noted, and returns the entry to note instead, or None. Any thread may call ``say``. Only
    ``close`` waits for the output. Raises WrongCall for an unknown format.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        verbose: bool = False,
        format: str = "text",
        rewrite: Callable[[LogEntry], LogEntry | None] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise WrongCall(f"the format of a log is {' or '.join(FORMATS)}, got {format!r}")
        self._stream = stream
        self._format = FORMATS[format]()
        self._rewrite = rewrite
        self.verbose = verbose
        self._see: Callable[[LogEntry], None] | None = None
        logger = _logger() if stream is None and format == "text" else None
        self._logger = None if logger is None else ToLogger(logger)
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """Set the state of a new log: no entries, no thread."""
        self._said: list[Batch] = []
        self._count = self._size = 0  # of its lines and characters; approximate, as several threads may add at once
        self._dropped = 0
        self._moved = self._seen = 0  # how often the output took something
        self._outlet: ToStream | None = None
        self._writing = threading.Lock()  # held by the thread that writes; never waited for: signal handlers log
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._pace = threading.Lock()  # released to end a short rest; a queue's own timeout may never end where SIGSTOP
        self._pace.acquire()  # and SIGCONT come in it: Python 3.11 goes on to wait with the negative rest of it
        self._awake = False  # whether the thread will look again by itself
        self._leaving = False  # the thread ends after the next batch
        self._ended = 0  # how often the thread has ended

    # saying

    def say(
        self, text: str, *, what: str = "", worker: str = "", level: int = INFO, error: str = "", traceback: str = ""
    ) -> None:
        """Note one sentence, to be written with the next batch."""
        self.say_all([LogEntry(what, worker, text=text, error=error, traceback=traceback, level=level)])

    def say_all(self, entries: Sequence[LogEntry | None]) -> None:
        """Note many entries of one moment; None among them is skipped."""
        rewrite = self._rewrite
        found = [entry for entry in entries if entry is not None]
        if rewrite is not None:
            found = [new for entry in found if (new := rewrite(entry)) is not None]
        if self._see is not None:
            for entry in found:
                self._see(entry)
        self._gather(found)

    def observe(self, see: Callable[[LogEntry], None]) -> None:
        """Show each entry to ``see`` too, when it is noted, whatever becomes of the output. It must not raise."""
        self._see = see

    def _gather(self, entries: list[LogEntry]) -> None:
        if self._count >= MOST_LINES or self._size >= MOST_SIZE:
            self._dropped += len(entries)
        elif entries:
            self._count += len(entries)
            self._size += (
                STAMPED * len(entries) + sum(map(len, map(_TEXT, entries))) + sum(map(len, map(_TRACE, entries)))
            )
            self._said.append((time.time(), entries))

    @property
    def waits(self) -> bool:
        """Whether there are entries that are not written before ``flush`` is called."""
        return bool(self._said) and not self._awake

    def flush(self) -> None:
        """Have the entries written: at once if the thread sleeps, else with its next batch."""
        if self._said and not self._awake:
            self._awake = True
            self._rouse()
        elif self._logger is not None and self._count > MOST_LINES // 2:
            self._let_logging_catch_up()

    def _let_logging_catch_up(self) -> None:
        """Sleep, so that the logging thread gets the interpreter, unless a handler hangs."""
        moved, self._seen = self._seen, self._moved
        if moved != self._moved:
            time.sleep(YIELD)

    def close(self) -> None:
        """Wait until all entries are written and the thread has ended; only for a moment if the output is blocked.

        A later entry starts another thread.
        """
        ended, moved, still = self._ended, self._moved, 0
        self._leaving = True
        self._rouse()
        for _ in range(LONGEST):
            if ended != self._ended or still == PATIENCE:
                break
            time.sleep(SLICE)
            still = still + 1 if moved == self._moved else 0
            moved = self._moved

    @property
    def given_up(self) -> bool:
        """Whether ``close`` was called and the thread has not ended."""
        return self._leaving and self._writing.locked()

    # the thread

    def _rouse(self) -> None:
        """Wake the thread; if there is none, start it if there are entries."""
        if not self._writing.acquire(blocking=False):
            self._wake.put(None)
            with contextlib.suppress(RuntimeError):  # it is released already
                self._pace.release()
        elif self._said:
            self._start()
        else:
            self._finish()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._serve, name="skunkqueue-log", daemon=True).start()
        except RuntimeError:  # no more threads can be started: the caller writes
            self._write()
            self._finish()

    def _serve(self) -> None:
        while not self._leaving:
            self._awake = True
            self._write()
            self._rest(PACE)
            if not self._said:
                self._awake = False
                if not self._said:  # an entry of that moment has woken nobody
                    self._rest(None)
        self._write()
        self._finish()
        if self._said:  # an entry of that moment has started no thread
            self._rouse()

    def _finish(self) -> None:
        """Release the writer's lock: the next entry starts another thread."""
        self._awake = self._leaving = False
        self._ended += 1
        self._writing.release()

    def _rest(self, seconds: float | None) -> None:
        if self._leaving:
            return
        if seconds is None:
            self._wake.get()
        else:
            self._pace.acquire(timeout=seconds)

    def _write(self) -> None:
        """Write the entries. An output that cannot be written to stops nothing."""
        if not self._said:
            return
        count = len(self._said)
        batches = self._said[:count]
        del self._said[:count]
        self._count = self._size = 0
        dropped, self._dropped = self._dropped, 0
        if dropped:
            what = "1 line was" if dropped == 1 else f"{dropped} lines were"
            sentence = f"{what} dropped here: the log could not be written for too long"
            batches.append((time.time(), [LogEntry(text=sentence, level=WARNING)]))
        with contextlib.suppress(Exception):  # stderr may have been replaced by anything
            self._write_all(batches)

    def _write_all(self, batches: Sequence[Batch]) -> None:
        if self._logger is not None:
            self._logger.write(batches, self._has_moved)
            return
        # The program may have put something else in the place of stderr.
        stream = sys.stderr if self._stream is None else self._stream
        self._outlet = None if stream is None else to_stream(stream)
        if self._outlet is not None:
            self._outlet.write(self._format(batches), self._has_moved)

    def _has_moved(self) -> None:
        self._moved += 1


def _logger() -> Logger | None:
    """The logger, if the program has set up logging for it. Without ``logging`` imported, it has not."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger: Logger = logging.getLogger("skunkqueue.worker")
    return logger if logger.hasHandlers() and logger.isEnabledFor(logging.INFO) else None


_logs: WeakSet[Log] = WeakSet()


@atexit.register
def _close_all() -> None:
    """At exit, write the last lines: they may tell why the program ends. A log that was given up is skipped."""
    for log in list(_logs):
        if not log.given_up:
            log.close()


def _after_fork() -> None:
    """In a forked child there is no thread, and the parent writes the entries that waited."""
    forget_streams()
    for log in list(_logs):
        log._begin()


os.register_at_fork(after_in_child=_after_fork)
