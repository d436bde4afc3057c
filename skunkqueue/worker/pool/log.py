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
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, TextIO
from weakref import WeakSet

from skunkqueue.worker.pool.log_output import Outlet, ToLogger, forget_streams, to_stream

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


class Log:
    """Writes to the logger ``skunkqueue.worker`` where the program has set up logging, else to a stream.

    Any thread may say something. Nobody but ``close`` waits for what a log is written to.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream
        self._stamped = (-1, "")
        self.verbose = verbose
        logger = _logger() if stream is None else None
        self._logger = None if logger is None else ToLogger(logger)
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """Nothing said, nobody writing."""
        self._lines: list[str] = []
        self._size = 0  # of the lines; near enough, where several say something at once
        self._dropped = 0
        self._moved = self._seen = 0  # how often something was taken
        self._outlet: Outlet | None = None
        self._pen = threading.Lock()  # held by the thread that writes: never waited for, as signals may come between
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._awake = False  # whether the thread is sure to look again by itself
        self._leaving = False  # with the next batch
        self._ended = 0  # how often it has left

    # saying

    def stamp(self) -> str:
        """The local time to the millisecond, as every line opens with it."""
        now = time.time()
        second, text = self._stamped
        if int(now) != second:
            second = int(now)
            text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._stamped = second, text
        return f"{text}.{int((now - second) * 1000):03d}"

    def say(self, line: str) -> None:
        """Note one line, to be written with the next batch."""
        self._gather([f"{self.stamp()} {line}\n"])

    def say_all(self, lines: list[str]) -> None:
        """Note many lines that happened together."""
        stamp = self.stamp()
        self._gather([f"{stamp} {line}\n" for line in lines if line])

    def _gather(self, lines: list[str]) -> None:
        if len(self._lines) >= MOST_LINES or self._size >= MOST_SIZE:
            self._dropped += len(lines)
            return
        self._size += sum(map(len, lines))
        self._lines.extend(lines)

    @property
    def waits(self) -> bool:
        """Whether something was said that nobody writes before ``flush``."""
        return bool(self._lines) and not self._awake

    def flush(self) -> None:
        """Have what has gathered written: at once where nothing was for a while, else with the next batch."""
        if self._lines and not self._awake:
            self._awake = True
            self._rouse()
        elif self._logger is not None and len(self._lines) > MOST_LINES // 2:
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
        elif self._lines:
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
            if not self._lines:
                self._awake = False
                if not self._lines:  # what was said until then has roused nobody
                    self._rest(None)
        self._write()
        self._put_down()
        if self._lines:  # what was said until then has started nobody
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
        if not self._lines:
            return
        count = len(self._lines)
        lines = self._lines[:count]
        del self._lines[:count]
        self._size = 0
        dropped, self._dropped = self._dropped, 0
        if dropped:
            what = "1 line was" if dropped == 1 else f"{dropped} lines were"
            lines.append(f"{self.stamp()} {what} dropped here: the log could not be written for too long\n")
        try:
            outlet = self._find_outlet()
            if outlet is not None:
                outlet.write(lines, self._has_moved)
        except Exception:  # whatever others have put in the place of stderr
            return

    def _find_outlet(self) -> Outlet | None:
        """Where it goes now: the program may have put something else in the place of stderr."""
        if self._logger is not None:
            return self._logger
        stream = sys.stderr if self._stream is None else self._stream
        self._outlet = None if stream is None else to_stream(stream)
        return self._outlet

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
