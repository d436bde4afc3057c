"""The store's time, kept with a clock that nobody can set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def ticks() -> float:
    """Seconds on a clock that only runs forward and, where there is one, goes on while the machine sleeps."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


SET: Final = 0.05
"""Seconds by which the wall clock must have moved against the ticks to count as set by somebody."""


class Clock:
    """Store time: measured once by ``offset`` (store minus our wall clock), then carried on by ``ticks``.

    The wall clock enters only at a measurement, together with the offset from that same wall clock, so a stepped or
    wrong wall clock cancels out.
    """

    def __init__(self, offset: Callable[[], float | None]) -> None:
        self._offset = offset
        self._base: float | None = None
        self._wall = 0.0  # what the wall clock was ahead of the ticks at the last measurement

    def measure(self) -> None:
        """Ask the store. Raises whatever the store raises; the last measurement then stands."""
        wall = time.time() - ticks()
        offset = self._offset()
        self._wall = wall  # only now: if the store is away, the next to ask measures
        if offset is not None or self._base is None:
            self._base = time.time() + (offset or 0.0) - ticks()

    def now(self) -> float:
        """Store time in seconds since the epoch."""
        if self._base is None:
            self.measure()
        return ticks() + (self._base or 0.0)

    def now_at_last(self) -> float:
        """Store time, measured anew if the wall clock was set since: then the store's may have been set as well."""
        if self._base is not None and abs(time.time() - ticks() - self._wall) > SET:
            self.measure()
        return self.now()
