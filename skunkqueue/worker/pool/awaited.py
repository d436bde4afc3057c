"""Learns that runs which gates wait for have ended in other pools: no other pool tells who keeps the gate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.errors import StoreError
from skunkqueue.persistence import Persister, RunKey, Source
from skunkqueue.worker.pool.listener import Listener

MOST: Final = 200
"""Runs that are waited for at a time. Where there are more, it is the turn of the next ones after each wait."""
YOUNG: Final = 0.2
"""Seconds for which something is awaited before there is a wait: gates that are young are looked at often anyway."""
SHORTEST: Final = 1.0
LONGEST: Final = 10.0
"""Seconds of one wait: longer each time that nothing has come. One for some of many is short."""
PAUSE: Final = 0.05
"""Seconds between two questions about the same runs, at least."""
SHARE: Final = 0.1
"""Of the time may be spent on questions."""
ASKED_AGAIN: Final = 3
"""How often in a row the same runs are asked for after a wait that ended early, where there are others too."""
AGAIN: Final = 1.0
"""Seconds for which a run is not waited for that had ended, and is awaited still, as it may not have been put yet."""
FOREVER: Final = float("inf")


class Awaited:
    """Used on the engine's thread; the waits are on one of its own, which starts with the first.

    ``run`` has a function called on the exchanger's thread, ``poke`` wakes the engine.
    """

    def __init__(self, source: Source, run: Callable[[Callable[[], None]], None], poke: Callable[[], None]) -> None:
        self.is_new: bool = False
        """Whether something is awaited that was not when the wait began."""
        self._source = source
        self._run = run
        self._poke = poke
        self._listener: Listener | None = None
        self._since = FOREVER  # ticks since when something is awaited
        self._began_at = 0.0  # ticks when the wait began
        self._length = SHORTEST
        self._next = 0  # which one of all that is awaited the wait begins with
        self._repeats = 0
        self._told: dict[str, float] = {}  # ticks until when these are not waited for
        # set by the listener's thread while it waits, by the engine's while it does not
        self._ids: Sequence[str] = ()
        self._rests_until = 0.0
        self._ended: Sequence[str] = ()
        self._was_early = False

    def until(self) -> float:
        """Ticks when to call ``keep``, if nothing else happens before."""
        if self._ended and not self._is_waiting:
            return 0.0
        if self._since == FOREVER:
            return FOREVER
        if self._is_waiting:
            return self._began_at + SHORTEST if self.is_new else FOREVER
        return max(self._since + YOUNG, self._rests_until)

    @property
    def _is_waiting(self) -> bool:
        return self._listener is not None and self._listener.watching

    def keep(self, awaited: Collection[str]) -> Collection[str]:
        """Wait for some of these, if it is time; gives those that have ended since."""
        if not awaited and self._since == FOREVER:
            return ()
        now = ticks()
        if self._is_waiting:
            if self.is_new and now >= self._began_at + SHORTEST:
                self._began_at = now  # so that it is roused once a second at most
                self._run(self._rouse)
            return ()
        ended, self._ended = self._ended, ()
        self._told.update(dict.fromkeys(ended, now + AGAIN))
        self._since = min(self._since, now) if awaited else FOREVER
        if awaited and not ended and now >= max(self._since + YOUNG, self._rests_until):
            self._wait_for(awaited, now)
        return ended

    def _wait_for(self, awaited: Collection[str], now: float) -> None:
        self._told = {id: until for id, until in self._told.items() if until > now}
        self._advance(len(awaited))
        self._ids = [id for id in islice(awaited, self._next, self._next + MOST) if id not in self._told]
        if not self._ids:
            self._rests_until = min(self._told.values(), default=now + PAUSE)
            return
        if self._listener is None:
            self._listener = Listener(self._wait, self._poke, "skunkqueue-awaited")
        self.is_new, self._began_at = False, now
        self._listener.watch(now + self._length)

    def _advance(self, number: int) -> None:
        """Which of so many it is the turn of, and for how long."""
        self._length = SHORTEST if self.is_new or self._was_early or number > MOST else min(2 * self._length, LONGEST)
        if self._was_early and self._repeats < ASKED_AGAIN:
            self._repeats += 1
        else:
            self._repeats = 0
            self._next += MOST
        if self._next >= number:
            self._next = 0

    def _wait(self, timeout: float) -> None:
        """On the listener's thread: wait until one of them may have ended, unless some have."""
        assert isinstance(self._source, Persister)
        began = ticks()
        still = self._source.open_of(self._ids)
        asked = ticks()
        self._ended = [id for id in self._ids if id not in still]
        self._rests_until = asked + max(PAUSE, (asked - began) / SHARE)
        if not self._ended:
            self._source.wait([RunKey(id) for id in self._ids], timeout)
        self._was_early = bool(self._ended) or ticks() < asked + 0.9 * timeout

    def _rouse(self) -> None:
        """On the exchanger's thread. A failure says nothing that the wait does not find out itself."""
        with suppress(StoreError):
            self.end_wait()

    def end_wait(self) -> bool:
        """On the exchanger's thread: end the wait; returns whether there is one that can be ended."""
        return self._is_waiting and self._source.rouse([RunKey(id) for id in self._ids])

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
