"""The pool's log: a line per thing that happened, gathered, and written by a thread that alone waits where it is stuck.

Whoever says something only adds to a list. The thread takes what is there in one go, then rests a moment: a busy pool
wakes it 50 times a second, an idle one not at all. Where nothing is taken for long, lines are dropped and counted, so
that neither the pool nor its memory depends on who reads the log.
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
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, TextIO
from weakref import WeakSet

from skunkqueue.errors import WrongCall
from skunkqueue.worker.pool.log_entry import FORMATS, INFO, WARNING, Batch, LogEntry
from skunkqueue.worker.pool.log_output import STAMPED, ToLogger, ToStream, forget_streams, to_stream

if TYPE_CHECKING:
    from logging import Logger

MOST_LINES = 100_000
MOST_SIZE = 16_000_000
"""Lines, and characters, that gather where the log is stuck; as much may be under way to it."""
PACE: Final = 0.02
"""Seconds between two batches, while there is something to say."""
YIELD: Final = 0.02
"""Seconds that a pool leaves the interpreter to logging which is far behind but gets on."""
SLICE: Final = 0.002
PATIENCE: Final = 500
"""Slices (of so many seconds) that an end waits for a log that takes nothing."""
LONGEST: Final = 5000
"""Slices that it waits for one that takes a little now and then."""


_TEXT: Final = itemgetter(LogEntry._fields.index("text"))
_TRACE: Final = itemgetter(LogEntry._fields.index("traceback"))


class Log:
    """Writes to the logger ``skunkqueue.worker`` where the program has set up logging, else to a stream.

    ``format`` is ``text``, or ``json`` for a document a line, which always goes to a stream. ``rewrite`` is given each
    entry before it is noted, and gives what is to be noted in its place, if anything. Any thread may say something.
    Nobody but ``close`` waits for what a log is written to. Raises WrongCall for a format that there is not.
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
        logger = _logger() if stream is None and format == "text" else None
        self._logger = None if logger is None else ToLogger(logger)
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """Nothing said, nobody writing."""
        self._said: list[Batch] = []
        self._count = self._size = 0  # of it; near enough, where several say something at once
        self._dropped = 0
        self._moved = self._seen = 0  # how often something was taken
        self._outlet: ToStream | None = None
        self._pen = threading.Lock()  # held by the thread that writes: never waited for, as signals may come between
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._awake = False  # whether the thread is sure to look again by itself
        self._leaving = False  # with the next batch
        self._ended = 0  # how often it has left

    # saying

    def say(
        self, text: str, *, what: str = "", worker: str = "", level: int = INFO, error: str = "", traceback: str = ""
    ) -> None:
        """Note one sentence, to be written with the next batch."""
        self.say_all([LogEntry(what, worker, text=text, error=error, traceback=traceback, level=level)])

    def say_all(self, entries: Sequence[LogEntry | None]) -> None:
        """Note many entries that happened together; of None nothing is said."""
        rewrite = self._rewrite
        found = [entry for entry in entries if entry is not None]
        if rewrite is not None:
            found = [new for entry in found if (new := rewrite(entry)) is not None]
        self._gather(found)

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
        """Whether something was said that nobody writes before ``flush``."""
        return bool(self._said) and not self._awake

    def flush(self) -> None:
        """Have what has gathered written: at once where nothing was for a while, else with the next batch."""
        if self._said and not self._awake:
            self._awake = True
            self._rouse()
        elif self._logger is not None and self._count > MOST_LINES // 2:
            self._let_logging_catch_up()

    def _let_logging_catch_up(self) -> None:
        """Logging takes as much of the interpreter as the pool does: leave it some, unless a handler hangs."""
        moved, self._seen = self._seen, self._moved
        if moved != self._moved:
            time.sleep(YIELD)

    def close(self) -> None:
        """Wait until what was said is written and the thread has ended, or for a moment where the log is stuck.

        What is said later starts another.
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
        """Whether an end has waited in vain."""
        return self._leaving and self._pen.locked()

    # the thread

    def _rouse(self) -> None:
        """Wake the thread, or start it where there is none and something to write."""
        if not self._pen.acquire(blocking=False):
            self._bell.put(None)
        elif self._said:
            self._start()
        else:
            self._put_down()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._serve, name="skunkqueue-log", daemon=True).start()
        except RuntimeError:  # there are to be no more threads: then whoever came must wait
            self._write()
            self._put_down()

    def _serve(self) -> None:
        while not self._leaving:
            self._awake = True
            self._write()
            self._rest(PACE)
            if not self._said:
                self._awake = False
                if not self._said:  # what was said until then has roused nobody
                    self._rest(None)
        self._write()
        self._put_down()
        if self._said:  # what was said until then has started nobody
            self._rouse()

    def _put_down(self) -> None:
        """Put the pen down: the next who says something starts another thread."""
        self._awake = self._leaving = False
        self._ended += 1
        self._pen.release()

    def _rest(self, seconds: float | None) -> None:
        if not self._leaving:
            with contextlib.suppress(Empty):
                self._bell.get(timeout=seconds)

    def _write(self) -> None:
        """Write what has gathered. A log that cannot be written stops nothing."""
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
        with contextlib.suppress(Exception):  # whatever others have put in the place of stderr
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
    """The logger, where the program has set up logging to take what we say; one that has not imported it, has not."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger: Logger = logging.getLogger("skunkqueue.worker")
    return logger if logger.hasHandlers() and logger.isEnabledFor(logging.INFO) else None


_logs: WeakSet[Log] = WeakSet()


@atexit.register
def _close_all() -> None:
    """The program ends, whatever its pools do: the last lines tell why. One that was given up is given up."""
    for journal in list(_logs):
        if not journal.given_up:
            journal.close()


def _after_fork() -> None:
    """The thread is not here, and what had gathered is the parent's to write."""
    forget_streams()
    for journal in list(_logs):
        journal._begin()


os.register_at_fork(after_in_child=_after_fork)
