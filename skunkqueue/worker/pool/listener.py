"""A thread that waits for wake-ups, so that the engine need not."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Listener:
    """Calls ``wait``, whenever ``watch`` is called, and ``then`` after it; both on its own thread."""

    def __init__(self, wait: Callable[[float], None], then: Callable[[], None], name: str) -> None:
        self._wait = wait
        self._then = then
        self._state = threading.Condition()
        self._timeout: float | None = None
        self._closing = False
        self.watching = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def watch(self, timeout: float) -> None:
        """Start one wait of at most ``timeout`` seconds, unless one is under way."""
        with self._state:
            if not self.watching:
                self.watching = True
                self._timeout = timeout
                self._state.notify()

    def close(self) -> None:
        with self._state:
            self._closing = True
            self._state.notify()

    def _work(self) -> None:
        while (timeout := self._next()) is not None:
            try:
                self._wait(timeout)
            except Exception:
                # The exchanger meets the same error and handles it; here a pause is enough, so as not to loop.
                self._pause(1.0)
            self.watching = False
            if self._closing:
                return
            self._then()

    def _next(self) -> float | None:
        with self._state:
            while self._timeout is None and not self._closing:
                self._state.wait()
            timeout, self._timeout = self._timeout, None
            return None if self._closing else timeout

    def _pause(self, seconds: float) -> None:
        with self._state:
            if not self._closing:
                self._state.wait(seconds)
