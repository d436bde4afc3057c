"""A thread that waits for wake-ups, so that the engine need not."""

from __future__ import annotations

import threading
from collections.abc import Callable

from skunkqueue.clock import ticks
from skunkqueue.pauses import pause_after


class Listener:
    """Calls ``wait``, whenever ``watch`` is called, and ``then`` after it; both on its own thread."""

    def __init__(self, wait: Callable[[float], None], then: Callable[[], None], name: str) -> None:
        self._wait = wait
        self._then = then
        self._state = threading.Condition()
        self._until: float | None = None  # ticks; seconds would begin anew where the process was stopped meanwhile
        self._closing = False
        self.watching: bool = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def watch(self, until: float) -> None:
        """Start one wait that lasts until then (ticks) at most, unless one is under way."""
        with self._state:
            if not self.watching:
                self.watching = True
                self._until = until
                self._state.notify()

    def close(self) -> None:
        with self._state:
            self._closing = True
            self._state.notify()

    def _work(self) -> None:
        failures = 0
        while (until := self._next()) is not None:
            try:
                self._wait(max(0.0, until - ticks()))
            except Exception:
                # The exchanger meets the same error and handles it; here a pause is enough, so as not to loop.
                failures += 1
                self._pause(pause_after(failures))
            else:
                failures = 0
            self.watching = False
            if self._closing:
                return
            self._then()

    def _next(self) -> float | None:
        with self._state:
            while self._until is None and not self._closing:
                self._state.wait()
            until, self._until = self._until, None
            return None if self._closing else until

    def _pause(self, seconds: float) -> None:
        with self._state:
            if not self._closing:
                self._state.wait(seconds)
