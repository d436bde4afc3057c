"""The clock of a store on this machine. It follows the wall clock when that is set, and ends no lease by that.

The time is ``base + ticks()``. The base is how far the wall clock is ahead of the ticks. When the wall clock is set,
the base changes by the same amount. The store then moves leases and heartbeats too, so that they last as long as
before.
"""

from __future__ import annotations

import time
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Envelope

STEP: Final = 0.05
"""Seconds by which the wall clock may differ before the store follows it."""

AGE: Final = 60.0
"""Seconds. If the times of a call are this close to a base, the call used that base."""

KNOWN: Final = 8
"""How many earlier bases are remembered."""

SAME: Final = 0.01
"""Seconds. A run whose due time is this close to the time in its id was to run as soon as possible."""


def measured() -> float:
    """How far the wall clock is ahead of the ticks: the quickest of a few readings, as threads may be held up."""
    best, least = 0.0, 9e9
    for _ in range(5):
        began = ticks()
        wall = time.time()
        took = ticks() - began
        if took < least:
            best, least = wall - began - took / 2, took
    return best


class Steps:
    """The base that this process knows, and earlier ones that callers may still use."""

    def __init__(self) -> None:
        self.base: float | None = None
        self.since: float = 0.0
        """Ticks when this base was taken."""
        self._earlier: list[float] = []

    @property
    def has_stepped(self) -> bool:
        """Whether callers may still use an earlier base."""
        return bool(self._earlier)

    def is_behind(self) -> bool:
        """Whether the wall clock was set, as far as one reading can tell. Called in every transaction."""
        return self.base is not None and abs(time.time() - ticks() - self.base) > STEP

    def take(self, base: float) -> None:
        """Use this base from now on."""
        if self.base is not None and self.base != base:
            self._earlier = [self.base, *self._earlier][:KNOWN]
        self.base, self.since = base, ticks()

    def late(self, now: float) -> float:
        """What to add to the times of a call whose ``now`` was read before the last step; 0 if it was read after it."""
        if not self._earlier or self.base is None:
            return 0.0
        used = now - ticks()
        nearest = min([self.base, *self._earlier], key=lambda base: abs(used - base))
        return self.base - nearest if abs(used - nearest) < AGE else 0.0

    def corrected(self, envelope: Envelope) -> Envelope:
        """The envelope. If it was sealed before the last step, to run as soon as possible, its times are moved."""
        late = self.late(envelope.due) if is_at_once(envelope.id, envelope.due) else 0.0
        return moved(envelope, late) if late else envelope


def is_at_once(id: str, due: float) -> bool:
    """Whether a run was to run as soon as possible: it was due at the time in its id."""
    try:
        return abs(due - int(id[:12], 16) / 1000) < SAME
    except ValueError:
        return False


def moved(envelope: Envelope, by: float) -> Envelope:
    expires = None if envelope.expires is None else envelope.expires + by
    return envelope._replace(due=envelope.due + by, expires=expires)


def is_of_wrong_clock(envelope: Envelope, step: float, now: float, since: float) -> bool:
    """Whether a wrong clock fired this run to run as soon as possible, so that a step of the clock would harm it.

    After a step back, the run has an id of the future. After a step forward, it would expire by the step. ``since`` is
    when the clock became wrong, as shown by that clock; ``now`` is the time after the step.
    """
    if not is_at_once(envelope.id, envelope.due):
        return False
    if step < 0:
        return envelope.id >= first_id_at(now)
    was = now - step
    expires = envelope.expires is not None and was < envelope.expires <= now
    return expires and first_id_at(since) <= envelope.id < first_id_at(was + 1)


def first_id_at(time: float) -> str:
    """A lower bound of the ids that are made from this time on."""
    return f"{max(0, int(time * 1000)):012x}"
