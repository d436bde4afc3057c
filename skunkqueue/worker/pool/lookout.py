"""Goes to the store for a pool's permits: looks at keys, lets permits go, puts more of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from math import inf
from typing import Final, NamedTuple

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim
from skunkqueue.limits.limit import Terms
from skunkqueue.limits.looking import HeldTurn, let_go, look_at, put_looks, put_more, sweep
from skunkqueue.limits.turns import LimitKey
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Persister, Source
from skunkqueue.persistence.halves import WHOLE
from skunkqueue.worker.pool.settings import Settings

SWEEP: Final = 60.0
"""Seconds between two sweeps, at most."""


class Todo:
    """What is to be done with the next errand."""

    def __init__(self) -> None:
        self.looks: list[HeldTurn] = []
        self.permits: list[HeldTurn] = []
        self.more: dict[LimitKey, Terms] = {}
        self.again: dict[tuple[LimitKey, float], Terms] = {}
        self.sweeps = False

    def __bool__(self) -> bool:
        return bool(self.looks or self.permits or self.more or self.again or self.sweeps)


class Done(NamedTuple):
    """What was done: permits that are gone, keys that have all the permits they may have, sentences for the log.

    ``is_whole``: whether the store was there; else it is to be done again.
    """

    gone: list[Claim]
    full: Mapping[LimitKey, Terms]
    troubles: list[str]
    is_whole: bool = True


class Lookout:
    """``_work`` runs on the exchanger's thread, all else on the engine's. A source that is no store has no limits."""

    def __init__(
        self, source: Source, clock: Clock, settings: Settings, run: Callable[[Callable[[], None]], None]
    ) -> None:
        self._source = source
        self._clock = clock
        self._settings = settings
        self._run = run
        self._todo = Todo()
        self._under_way: Todo | None = None
        self._results: list[tuple[Todo, Done]] = []
        self._lock = threading.Lock()
        self._failures = 0
        self._again_at = 0.0
        self._sweep_at = ticks() + _spread(SWEEP) if isinstance(source, Persister) else inf
        self._seen: dict[str, int] = {}

    @property
    def is_at_rest(self) -> bool:
        return not self._todo and self._under_way is None

    def until(self) -> float:
        """Ticks when there is something to do."""
        if self._under_way is not None:
            return 0.0 if self._results else inf
        return self._again_at if self._todo else self._sweep_at

    def look_at(self, look: HeldTurn) -> None:
        self._todo.looks.append(look)

    def let_go(self, permit: HeldTurn) -> None:
        self._todo.permits.append(permit)

    def have_more(self, key: LimitKey, terms: Terms) -> None:
        """A permit of this key got all that it asked for: others may be able to have some more."""
        self._todo.more[key] = terms

    def look_again(self, key: LimitKey, terms: Terms, due: float) -> None:
        """A run of this key has been put back, to be ripe then."""
        self._todo.again[key, due] = terms

    def tend(self) -> Done | None:
        """Start what is to be done; gives what has been done."""
        with self._lock:
            results, self._results = self._results, []
        for todo, done in results:
            self._under_way = None
            self._failures = 0 if done.is_whole else self._failures + 1
            if not done.is_whole:
                self._again_at = ticks() + pause_after(self._failures)
                self._todo.looks += todo.looks
                self._todo.permits += todo.permits
                self._todo.more = {**todo.more, **self._todo.more}
                self._todo.again = {**todo.again, **self._todo.again}
        if ticks() >= self._sweep_at:
            self._sweep_at = ticks() + _spread(SWEEP)
            self._todo.sweeps = True
        if self._todo and self._under_way is None and ticks() >= self._again_at:
            self._under_way, self._todo = self._todo, Todo()
            self._run(self._work)
        if not results:
            return None
        ((_, done),) = results  # one errand at a time
        return done

    # on the exchanger's thread

    def _work(self) -> None:
        todo, store = self._under_way, self._source
        assert todo is not None
        assert isinstance(store, Persister)
        troubles: list[str] = []
        full: dict[LimitKey, Terms] = {}
        is_whole = True
        gone = [held.claim for held in todo.permits]
        try:
            now = self._clock.now()
            if todo.permits:
                let_go(store, todo.permits, now)
            if todo.looks:
                look_at(store, todo.looks, now)
            if todo.more:
                full = {key: todo.more[key] for key in put_more(store, todo.more, now)}
            if todo.again:
                put_looks(store, todo.again, now)
            if todo.sweeps:
                settings = self._settings
                self._seen = sweep(store, settings.queue, dict.fromkeys(settings.routes), self._seen, now)
        except WHOLE:
            gone, is_whole = [], False
            raise
        except Exception as error:  # what is held here ripens again when its lease ends
            troubles.append(f"limits cannot be kept: {type(error).__name__}: {error}"[:500])
        finally:
            with self._lock:
                self._results.append((todo, Done(gone, full, troubles, is_whole)))


def _spread(every: float) -> float:
    """A time from half of that up to all of it, so that pools do not sweep at the same moment."""
    return random.uniform(every / 2, every)  # noqa: S311 - no secret
