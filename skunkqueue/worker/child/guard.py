"""Ends the worker where it would execute a guarded run beyond its lease: somebody else may execute it from then on.

The pool extends leases long before they end. Where it could not, since it is suspended or has lost its store, it cannot
interrupt the run in time either.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.worker import frames

MARGIN: Final = 0.1
"""Seconds before the end of the leases at which the worker ends."""
LONGEST: Final = 0.25
SHORTEST: Final = 0.01
"""Seconds between two looks."""
IDLE: Final = 5.0
"""Seconds without a guarded run after which it does not look any more until there is one."""


class LeaseGuard:
    """``horizon`` gives the ticks until which leases are known to hold, ``executing`` the numbers of current runs."""

    def __init__(self, horizon: Callable[[], float]) -> None:
        self.executing: Callable[[], Collection[int]] = tuple
        self._horizon = horizon
        self._numbers: set[int] = set()
        self._last = 0
        self._woken = threading.Event()
        self._is_started = False

    def over(self, number: int) -> None:
        """This run is about to start."""
        self._last = number
        self._numbers.add(number)
        self._woken.set()
        if not self._is_started:
            self._is_started = True
            threading.Thread(target=self._watch, name="skunkqueue-guard", daemon=True).start()

    def _watch(self) -> None:
        seen_at = ticks()
        while True:
            executing = set(self.executing())
            left = self._horizon() - MARGIN - ticks()
            if self._numbers & executing:
                seen_at = ticks()
                if left <= 0:
                    os._exit(frames.LEASE_ENDED)
            elif ticks() - seen_at > IDLE:
                self._woken.clear()
                self._woken.wait()
                seen_at = ticks()
            self._numbers = {n for n in list(self._numbers) if n in executing or n >= self._last}
            threading.Event().wait(min(max(left, SHORTEST), LONGEST))
