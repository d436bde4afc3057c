"""The store's clock: the versions that the cluster counts, about a million a second, from a time that is written down.

A recovery of the cluster makes versions jump ahead, by a hundred seconds' worth. Processes that were there before see
that by their own ticks, and write down the time anew: so the clock goes on as if nothing had happened. Who comes first
after a recovery can only guess, by its own wall clock; that is written down as a guess, and those who know better put
it right.
"""

from __future__ import annotations

import threading
import time
from struct import Struct
from typing import Any, Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.persistence.fdb.connect import Link
from skunkqueue.persistence.fdb.step import Step

A_SECOND: Final = 1_000_000
"""Versions."""

JUMP: Final = 1.0
"""Seconds by which versions and ticks may differ between two measurements; more is a recovery."""

RENEWED: Final = 20.0
"""Seconds after which the time is written down anew, so that a jump shows to those who come later as well."""

OLD: Final = 90.0
"""Seconds. Where the time was written down before, no process was there for long, or there was a recovery: then a
process that has not measured before takes its own wall clock."""

QUICK: Final = 0.05
"""A measurement that took longer than so many seconds is not used, but for the first."""

_ANCHOR: Final = Struct("<qd?")


class Anchor(NamedTuple):
    """A version, and the store's time when it was current. ``is_guess``: by a wall clock, and nothing before it."""

    version: int
    time: float
    is_guess: bool = False

    def at(self, version: int) -> float:
        return self.time + (version - self.version) / A_SECOND


class Measured(NamedTuple):
    """A version, with ticks and wall clock of this process when it was current, and how exactly that is known."""

    version: int
    ticks: float
    wall: float
    took: float
    anchor: Anchor | None


class Known(NamedTuple):
    """The last measurement of this process: what was written down, ticks, the store's time, how far that may be off."""

    anchor: Anchor
    ticks: float
    time: float
    off: float


class StoreClock:
    """Measures the store's clock for one process."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._last: Known | None = None

    def offset(self) -> float | None:
        """The store's clock minus the wall clock of this process; None if the answer took too long to be exact."""
        with self._lock:
            while True:
                found = self._measure()
                if self._last is not None and found.took > QUICK:
                    return None
                now, anchor = self._reckoned(found)
                if anchor == found.anchor or self._write(found.anchor, anchor):
                    self._last = Known(anchor, found.ticks, now, found.took / 2)
                    return now - found.wall

    def _reckoned(self, found: Measured) -> tuple[float, Anchor]:
        """The store's time of a measurement, and what is to be written down."""
        anchor, version, last = found.anchor, found.version, self._last
        if anchor is None:
            return found.wall, Anchor(version, found.wall, is_guess=True)
        now = anchor.at(version)
        if last is not None and (anchor == last.anchor or anchor.is_guess):
            expected = last.time + found.ticks - last.ticks
            if abs(now - expected) > JUMP + last.off:
                return expected, Anchor(version, expected)
        age = now - anchor.time
        if last is None and not 0 <= age <= OLD:
            return found.wall, Anchor(version, found.wall, is_guess=True)
        return now, anchor if 0 <= age <= RENEWED else Anchor(version, now)

    def _measure(self) -> Measured:
        """The version of a commit that writes next to nothing: a read version may be seconds old in an idle cluster."""
        version = 0

        def ask(step: Step) -> Any:
            found = step.tr.snapshot[step.space.prefix + b"k"]
            step.tr[step.space.prefix + b"k\1"] = b""
            return found.value

        def committed(tr: Any) -> None:
            nonlocal version
            version = tr.get_committed_version()

        self._link.database  # noqa: B018 - opened before it is measured
        wall, began = time.time(), ticks()
        data = self._link.run(ask, then=committed)
        took = ticks() - began
        anchor = Anchor(*_ANCHOR.unpack(data)) if data is not None and len(data) == _ANCHOR.size else None
        return Measured(version, began + took / 2, wall + took / 2, took, anchor)

    def _write(self, before: Anchor | None, anchor: Anchor) -> bool:
        """Write down a time, unless another process was faster."""

        def write(step: Step) -> bool:
            key = step.space.prefix + b"k"
            there = step.tr[key].value
            if there != (None if before is None else _ANCHOR.pack(*before)) and before is not None:
                return False
            if before is None and there is not None and len(there) == _ANCHOR.size:
                return False
            step.tr[key] = _ANCHOR.pack(*anchor)
            return True

        return self._link.run(write)
