"""Waits for news on a thread of its own, for those who have something else to do."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Listener:
    """Waits for news on its own thread by ``wait``, whenever it is told to, then does ``then``."""

    def __init__(self, wait: Callable[[float], None], then: Callable[[], None], name: str) -> None:
        self._wait = wait
        self._then = then
        self._state = threading.Condition()
        self._timeout: float | None = None
        self._closing = False
        self.watching = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def watch(self, timeout: float) -> None:
        """Look out for at most so many seconds, unless it does so already."""
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
                # The exchanger meets the same trouble and deals with it; here it is enough not to spin.
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
