"""The log file of a command. It is opened again when it was renamed or removed, or on SIGUSR1."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from skunkqueue.errors import SkunkError


class LogFile(io.TextIOBase):
    """Appends text to the file that has this name now, so that log rotation only has to rename it."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._file = self._opened()
        self._is_asked = False

    def _opened(self) -> TextIO:
        return open(self._path, "a", encoding="utf-8", errors="backslashreplace")

    def ask(self, *_: Any) -> None:
        """Open it again before the next write; a signal handler."""
        self._is_asked = True

    def write(self, text: str, /) -> int:
        if self._is_asked or not self._is_in_place():
            self._open_again()
        return self._file.write(text)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except OSError:
            return False

    def _open_again(self) -> None:
        self._is_asked = False
        with contextlib.suppress(OSError):  # the folder is gone too: keep the file that is open
            self._file, old = self._opened(), self._file
            old.close()

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        if hasattr(self, "_file"):  # Python closes also what could not be opened
            self._file.close()
            super().close()


@contextlib.contextmanager
def appending(path: str | None) -> Iterator[TextIO | None]:
    """The log file, or None if no path is given. SIGUSR1 opens it again; without a file, SIGUSR1 has no effect."""
    if path is None:
        with _answering(lambda *_: None):
            yield None
        return
    try:
        log = LogFile(path)
    except OSError as error:
        raise SkunkError(f"the log file {path} cannot be written ({error.strerror})") from error
    with contextlib.closing(log), _answering(log.ask):
        yield log  # type: ignore[misc] # a log needs only what TextIOBase has


@contextlib.contextmanager
def _answering(handler: Any) -> Iterator[None]:
    """Handle SIGUSR1, if this is the main thread; without a handler, it would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
