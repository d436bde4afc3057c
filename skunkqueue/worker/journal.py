"""The pool's log: a line per thing that happened, gathered and written in batches so that it never sets the speed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from logging import Logger


class Journal:
    """Writes to the logger ``skunkqueue.worker`` where the program has set up logging, else to a stream."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._second = -1
        self._stamp = ""
        self.verbose = verbose
        self._logger = _logger() if stream is None else None

    def stamp(self) -> str:
        """The local time to the millisecond, as every line opens with it."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._stamp}.{int((now - second) * 1000):03d}"

    def say(self, line: str) -> None:
        """Note one line, to be written with the next batch."""
        self._lines.append(f"{self.stamp()} {line}\n")

    def say_all(self, lines: list[str]) -> None:
        """Note many lines that happened together."""
        stamp = self.stamp()
        self._lines.extend([f"{stamp} {line}\n" for line in lines if line])

    def flush(self) -> None:
        """Write what has gathered. A log that cannot be written stops nothing."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._logger is not None:
            for line in lines:
                self._logger.info("%s", line[24:-1])
            return
        stream = self._stream or sys.stderr
        try:
            stream.write("".join(lines))
            stream.flush()
        except (OSError, ValueError):
            pass


def _logger() -> Logger | None:
    """The logger, where the program has set up logging to take what we say; one that has not imported it, has not."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger: Logger = logging.getLogger("skunkqueue.worker")
    return logger if logger.hasHandlers() and logger.isEnabledFor(logging.INFO) else None
