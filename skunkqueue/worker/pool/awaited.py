"""Learns that runs which gates wait for have ended in other pools: no other pool tells who keeps the gate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.persistence import Persister, RunKey, Source
from skunkqueue.worker.pool.listener import Listener

MOST: Final = 500
"""Runs that are waited for at a time. Where there are more, it is the turn of the next ones after each wait."""
YOUNG: Final = 0.2
"""Seconds for which something is awaited before there is a wait: gates that are young are looked at often anyway."""
LONGEST: Final = 1.0
"""Seconds of one wait, so that what is awaited meanwhile is in the next one."""
PAUSE: Final = 0.05
"""Seconds between two questions about the same runs, at least."""
SHARE: Final = 0.1
"""Of the time may be spent on questions."""
AGAIN: Final = 1.0
"""Seconds for which a run is not waited for that had ended, and is awaited still, as it may not have been put yet."""
FOREVER: Final = float("inf")


class Awaited:
    """Used on the engine's thread; the waits are on one of its own, which starts with the first."""

    def __init__(self, source: Source, poke: Callable[[], None]) -> None:
        self._source = source
        self._poke = poke
        self._listener: Listener | None = None
        self._since = FOREVER  # ticks since when something is awaited
        self._next = 0  # which one of all that is awaited the next wait begins with
        self._told: dict[str, float] = {}  # ticks until when these are not waited for
        # set by the listener's thread while it waits, by the engine's while it does not
        self._ids: Sequence[str] = ()
        self._rests_until = 0.0
        self._ended: Sequence[str] = ()

    def keep(self, awaited: Collection[str]) -> Collection[str]:
        """Wait for some of these, if it is time; gives those that have ended since."""
        if not awaited and self._since == FOREVER:
            return ()
        if self._listener is not None and self._listener.watching:
            return ()
        now = ticks()
        ended, self._ended = self._ended, ()
        self._told.update(dict.fromkeys(ended, now + AGAIN))
        self._since = min(self._since, now) if awaited else FOREVER
        if not ended and now >= max(self._since + YOUNG, self._rests_until):
            self._wait_for(awaited, now)
        return ended

    def _wait_for(self, awaited: Collection[str], now: float) -> None:
        self._told = {id: until for id, until in self._told.items() if until > now}
        self._next = self._next if MOST <= self._next < len(awaited) else 0
        self._ids = [id for id in islice(awaited, self._next, self._next + MOST) if id not in self._told]
        self._next += MOST
        if not self._ids:
            self._rests_until = now + PAUSE
            return
        if self._listener is None:
            self._listener = Listener(self._wait, self._poke, "skunkqueue-awaited")
        self._listener.watch(now + LONGEST)

    def _wait(self, timeout: float) -> None:
        """On the listener's thread: wait until one of them may have ended, unless some have."""
        assert isinstance(self._source, Persister)
        began = ticks()
        still = self._source.open_of(self._ids)
        self._ended = [id for id in self._ids if id not in still]
        self._rests_until = ticks() + max(PAUSE, (ticks() - began) / SHARE)
        if not self._ended:
            self._source.wait([RunKey(id) for id in self._ids], timeout)

    def end_wait(self) -> bool:
        """On the exchanger's thread: end the wait; returns whether there is one that can be ended."""
        if self._listener is None or not self._listener.watching:
            return False
        return self._source.rouse([RunKey(id) for id in self._ids])

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
