"""Keeps the schedules, pauses and handlers of a pool's queue: looks at its beat, at each tick, and when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Outcome
from skunkqueue.handlers.book import declare as declare_handlers
from skunkqueue.handlers.book import readable
from skunkqueue.handlers.ends import Ends
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Persister, Source
from skunkqueue.persistence.halves import WHOLE
from skunkqueue.schedules.book import declare, forget_undeclared
from skunkqueue.schedules.declared import Announcement, announced_here, unpacked
from skunkqueue.schedules.keeper import Keeper
from skunkqueue.schedules.paused import ROUTE, Paused, paused, pauses_of, standing
from skunkqueue.schedules.registry import registry
from skunkqueue.worker.pool.awaited import Awaited
from skunkqueue.worker.pool.settings import Settings

FOREVER: Final = float("inf")
MOST_AWAITED: Final = 100_000
"""Gates whose runs the pool minds; where there are more it begins anew, and the gates' own looks serve the others."""
PROMOTED: Final = 1000
"""Gates that are promoted in one call."""
ENDS: Final = ("complete", "failed")
"""The outcomes that end a run."""
SOONEST: Final = 0.01
"""Seconds between two looks, at least."""
ACTIVE: Final = 10.0
"""Seconds after a gate was seen for which the pool looks often: more may follow, and nothing announces them."""
OFTEN: Final = 0.1
"""Seconds between two looks then, at most. Sooner after runs have come or ended, as theirs may have been put since."""
LATE: Final = 1.5
"""How many times as long it may be, where something is due by then: one look is enough for both."""
SHARE: Final = 0.1
"""Of the time may be spent on looks that runs have led to."""


class Timekeeper:
    """``_look`` runs on the exchanger's thread, all else on the engine's.

    ``run`` has a function called on the exchanger's thread, ``made`` is called on the engine's when there are new runs.
    A source that is no store has no schedules.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        settings: Settings,
        run: Callable[[Callable[[], None]], None],
        made: Callable[[], None],
        poke: Callable[[], None] = lambda: None,
    ) -> None:
        self.look_at: float = 0.0 if isinstance(source, Persister) else FOREVER
        """Ticks when to look."""
        self._has_looked = not isinstance(source, Persister)
        self._source = source
        self._clock = clock
        self._settings = settings
        self._run = run
        self._made = made
        self._every = settings.lease / 3
        self.paused: frozenset[str] = frozenset()
        """The routes that are paused."""
        self.awaited: dict[str, set[str]] = {}
        """Runs that gates wait for, each with its gates, as far as this pool has met them."""
        self._number_awaited = 0  # gates in all of that
        self.elsewhere: Awaited = Awaited(source, run, poke)
        """Waits for these, as other pools may end them."""
        self.ends: Ends = Ends(settings.queue)
        """The handlers that are called for runs that end."""
        self._ended_meanwhile: set[str] = set()  # runs that ended while a look was under way
        self._under_way = False
        self._told_meanwhile = False
        self._is_active = False  # a gate was seen some time ago, and not long
        self._stirred_at = 0.0  # ticks when runs came or ended, or it was told of gates
        self._rests_until = 0.0  # ticks until which that leads to no look
        self._lock = threading.Lock()  # of what both threads change
        self._due_gates: list[str] = []
        self._heard: list[bytes] = []
        self._is_anew = False
        self._results: list[_Look] = []
        # on the exchanger's thread
        self._keeper: Keeper | None = None
        self._declared: set[str] = set()
        self._modules: set[str] = set()
        self._pauses: Sequence[Paused] = ()
        self._pauses_until = 0.0  # ticks from which they are read again
        self._active_until = 0.0  # ticks until which the pool looks often
        self._failures = 0  # looks in a row that met a store which was away
        self._seen = -1  # the version of this process's registry

    @property
    def has_news(self) -> bool:
        """Whether there is something to collect."""
        return bool(self._results)

    @property
    def has_looked(self) -> bool:
        """Whether it is known which routes are paused."""
        return self._has_looked

    @property
    def is_done(self) -> bool:
        """Whether all ticks up to the start of the pool are made, and what workers have declared is in the store."""
        return self._has_looked and not self._heard and not self._under_way and self.look_at > 0.0

    def until(self) -> float:
        """Ticks when there is something to do."""
        return min(FOREVER if self._under_way else self.look_at, self.elsewhere.until())

    def keep(self) -> None:
        """Start a look, if it is time."""
        if ended := self.elsewhere.keep(self.awaited):
            self._open_soon(ended)
        if not self._under_way and ticks() >= self.look_at:
            self._under_way = True
            self._run(self._look)

    def look_now(self) -> None:
        """Make the next look due now."""
        if self.look_at < FOREVER:
            self.look_at = 0.0
            self._told_meanwhile = self._under_way
            self._pauses_until = 0.0

    def told(self) -> None:
        """Somebody has put a schedule, a pause or a gate: look now, and often for a while, as more gates may follow."""
        self._stirred_at = ticks()
        self._active_until = self._stirred_at + ACTIVE
        self.look_now()

    def stir(self, outcomes: Iterable[tuple[Claim, Outcome]], claims: Collection[Claim]) -> None:
        """Where runs have come or ended, and gates were seen, there may be new ones of these by now, or soon."""
        if claims or any(outcome.kind in ENDS for _, outcome in outcomes):
            self._stirred_at = ticks()  # also where it is not active yet: the look under way may see the first gates
            if self._is_active:
                self.look_at = min(self.look_at, max(self._stirred_at, self._rests_until))

    @property
    def minds_ends(self) -> bool:
        """Whether it wants to know what has ended."""
        return self._under_way or bool(self.awaited)

    def ended(self, outcomes: Iterable[tuple[Claim, Outcome]]) -> None:
        """These were committed: gates that wait for one that has ended are to be looked at now."""
        ids = {claim.id for claim, outcome in outcomes if outcome.kind in ENDS}
        if self._under_way:
            self._ended_meanwhile |= ids
        self._open_soon(ids)

    def _await(self, awaited: Mapping[str, Collection[str]]) -> None:
        """Note for which runs gates wait."""
        if self._number_awaited > MOST_AWAITED:
            self.awaited.clear()
            self._number_awaited = 0
        for id, gates in awaited.items():
            known = self.awaited.setdefault(id, set())
            before = len(known)
            known.update(gates)
            self._number_awaited += len(known) - before
            if not before:
                self.elsewhere.is_new = True

    def _open_soon(self, ids: Collection[str]) -> None:
        """Take out the gates that wait for one of these runs: they are to be looked at now."""
        found = [gate for id in ids for gate in self.awaited.pop(id, ())]
        if found:
            self._number_awaited -= len(found)
            with self._lock:
                self._due_gates += found
            self.look_at = 0.0
            self._told_meanwhile = self._under_way

    def announce(self, data: bytes) -> None:
        """A worker has told what its code declares. Its handlers count from now on, for the runs that it ends."""
        with self._lock:
            self._heard.append(data)
        if handlers := unpacked(data, self._settings.queue).handlers:
            self.ends.hear(handlers)
        self.look_now()

    def begin_anew(self) -> None:
        """New workers take the place of all: what they declare counts, and nothing that the old ones have told."""
        with self._lock:
            self._heard.clear()
            self._is_anew = True
        own = announced_here(self._settings.queue, self._settings.url).handlers if registry.handlers else ()
        self.ends.begin_anew(own)

    def collect(self) -> list[str]:
        """Take in the results of looks; gives sentences for the log."""
        with self._lock:
            results, self._results = self._results, []
        for look in results:
            self._under_way = False
            self._has_looked = self._has_looked or look.is_whole
            self.look_at = 0.0 if self._told_meanwhile else look.again_at
            self._told_meanwhile = False
            self._is_active = look.is_active
            self._rests_until = ticks() + max(SOONEST, look.took / SHARE)
            if look.is_active and self.look_at > 0.0:
                since = ticks() - self._stirred_at
                self.look_at = max(self._rests_until, min(self.look_at, ticks() + since))
            self._await(look.awaited)
            self._open_soon(self._ended_meanwhile)
            self._ended_meanwhile.clear()
            self.paused = look.paused if look.paused is not None else self.paused
            if look.made:
                self._made()
        return [sentence for look in results for sentence in look.troubles]

    # on the exchanger's thread

    def _look(self) -> None:
        troubles: list[str] = []
        self._failures += 1
        look = _Look(ticks() + pause_after(self._failures), 0, troubles, False)
        try:
            look = self._looked(troubles)
            self._failures = 0
        except WHOLE:
            raise
        except Exception as error:
            troubles.append(f"schedules cannot be kept: {type(error).__name__}: {error}"[:500])
            look = _Look(ticks() + self._every, 0, troubles, True)
        finally:
            with self._lock:
                self._results.append(look)

    def _looked(self, troubles: list[str]) -> _Look:
        store, settings = self._source, self._settings
        assert isinstance(store, Persister)
        self._declare(store, troubles)
        if self._keeper is None:
            self._keeper = Keeper(store, settings.queue, settings.routes, settings.name, settings.lease)
        began, now = ticks(), self._clock.now()
        with self._lock:
            due, self._due_gates = self._due_gates, []
        for at in range(0, len(due), PROMOTED):
            store.promote(due[at : at + PROMOTED], now=now)
        if began >= self._pauses_until:
            stands = standing(store, settings.queue, now=now)
            self._pauses, self._pauses_until = pauses_of(stands, now), began + self._every
            self.ends.know(handler for _, handler in readable(stands))
        kept = self._keeper.keep(now, [one for one in self._pauses if one.until is None or one.until > now])
        troubles += kept.troubles
        if kept.gates:
            self._active_until = began + ACTIVE
        is_active = began < self._active_until
        soon = min([FOREVER if at is None else at - now for at in (kept.next, *(one.until for one in kept.pauses))])
        left = (soon if soon < LATE * OFTEN else OFTEN) if is_active else min(soon, self._every)
        stopped = frozenset(paused(kept.pauses, ROUTE))
        look = _Look(began + max(left, SOONEST), kept.made, troubles, True, stopped, kept.awaited)
        look.is_active, look.took = is_active, ticks() - began
        return look

    def _declare(self, store: Persister, troubles: list[str]) -> None:
        """Put into the store what has been declared since the last look."""
        with self._lock:
            heard, self._heard = self._heard, []
            is_anew, self._is_anew = self._is_anew, False
        if is_anew:
            self._declared.clear()
            self._modules.clear()
        told = [unpacked(data, self._settings.queue) for data in heard]
        if registry.version != self._seen:
            self._seen = registry.version
            told.append(announced_here(self._settings.queue, self._settings.url))
        try:
            for announcement in told:
                self._declare_all(store, announcement, troubles)
        except WHOLE:
            with self._lock:
                self._heard, self._seen = heard + self._heard, -1
            raise

    def _declare_all(self, store: Persister, told: Announcement, troubles: list[str]) -> None:
        troubles += told.troubles
        now = self._clock.now()
        for definition in told.definitions:
            if definition.id not in self._declared:
                declare(store, definition, now=now)
                self._declared.add(definition.id)
        new = told.modules - self._modules
        if told.handlers or new:
            self.ends.hear(told.handlers)
            lasting = [handler for handler in told.handlers if not handler.pieces.code]  # a script's end with the pools
            declare_handlers(store, self._settings.queue, lasting, now=now, undeclared=new)
        if new:
            self._forget(store, new, (definition.name for definition in told.definitions), now)
        self._modules |= new

    def _forget(self, store: Persister, modules: Iterable[str], names: Iterable[str], now: float) -> None:
        """End what these modules had declared in an earlier deployment, and do not any more."""
        forget_undeclared(store, self._settings.queue, modules, names, now=now)


class _Look:
    """The result of a look: when to look again (ticks), how many runs were made, sentences for the log, and the routes
    that are paused; None where that is not known.
    """

    def __init__(
        self,
        again_at: float,
        made: int,
        troubles: list[str],
        is_whole: bool,
        paused: frozenset[str] | None = None,
        awaited: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self.again_at = again_at
        self.made = made
        self.troubles = troubles
        self.is_whole = is_whole
        self.paused = paused
        self.awaited = awaited
        self.is_active = False
        """Whether gates were seen some time ago, and not long."""
        self.took = 0.0
