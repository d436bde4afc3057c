"""The store's time, kept with a clock that nobody can set."""

from __future__ import annotations

import time
from collections.abc import Callable

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def ticks() -> float:
    """Seconds on a clock that only runs forward and, where there is one, goes on while the machine sleeps."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Clock:
    """Store time: measured once by ``offset`` (store minus our wall clock), then carried on by ``ticks``.

    The wall clock enters only at a measurement, together with the offset from that same wall clock, so a stepped or
    wrong wall clock cancels out.
    """

    def __init__(self, offset: Callable[[], float | None]) -> None:
        self._offset = offset
        self._base: float | None = None

    def measure(self) -> None:
        """Ask the store. Raises whatever the store raises; the last measurement then stands."""
        offset = self._offset()
        if offset is not None or self._base is None:
            self._base = time.time() + (offset or 0.0) - ticks()

    def now(self) -> float:
        """Store time in seconds since the epoch."""
        if self._base is None:
            self.measure()
        return ticks() + (self._base or 0.0)
