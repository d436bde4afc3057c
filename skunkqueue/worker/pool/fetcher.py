"""Decides when to claim, for which slots and how much; in an idle pool, waits for work and claims it at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Want
from skunkqueue.errors import StoreError
from skunkqueue.persistence import Source, WorkKey
from skunkqueue.routes import base_route
from skunkqueue.worker.pool.exchanger import Delivery, Exchanger
from skunkqueue.worker.pool.listener import Listener
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Slot

LOOK_ANYWAY: Final = 10.0
"""Seconds after which an idle pool looks for work without a wake-up, as wake-ups may be lost."""
LATE: Final = 0.05
"""Seconds after which the engine looks in place of the listener, which may hang in its wait."""
ROUSE_AGAIN: Final = 0.03
"""Seconds after which the listener is roused once more: the first time it may not have begun to wait."""
SOONEST: Final = 0.005
FOREVER: Final = float("inf")


class Fetcher:
    """Used by one engine on its thread, except for ``_catch`` and ``end_wait``.

    ``looked`` says whether the last look asked for all workers and found nothing left.

    If a store wakes only one waiter (``wakes_one``), that waiter must be able to claim the work, or nobody does. So the
    wait is for the routes of the slots that it claims for, and is ended when a slot on another route becomes idle.
    Addresses of all slots are always waited on: no other pool serves them.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        settings: Settings,
        slots: Sequence[Slot],
        exchanger: Exchanger,
        poke: Callable[[], None],
    ) -> None:
        self.looked: bool = False
        self.further: Callable[[], Mapping[Want, Slot]] = dict
        """Gives what else to claim with an exchange, beside the work for all slots that have room."""
        self._further: Collection[str] = ()  # the tokens of that
        self._source = source
        self._clock = clock
        self._max_runs = settings.max_runs
        self._slots = slots
        self._exchanger = exchanger
        self._called = False  # ``call`` came since the last look began
        self._missed = False  # ``call_all`` came while a watch may have been looking
        self._wanted: dict[str, Slot] = {}  # by token: the slots that the last exchange claims for
        self._watched_for: dict[str, Slot] = {}  # by token: the slots that the watch claims for
        self._rouse_at = 0.0
        self._back_at = FOREVER  # ticks when the watch on the channel is to end
        self._announced: dict[str, float] = {}  # by route: ticks when the first announced run ripens
        self._longest = min(LOOK_ANYWAY, settings.lease / 2)  # nothing announces the end of a lease
        self._queue = settings.queue
        self._addresses = [slot.routes[0] for slot in slots]
        self._served: Collection[str] = ()  # the routes that the watch waits on
        self._keys = self._wait_on = self._keys_of(settings.routes)
        self._listener = Listener(self._catch, poke, "skunkqueue-listener")

    def slot_of(self, token: str) -> Slot:
        """The slot that a token claimed for."""
        return self._wanted.get(token) or self._watched_for[token]

    def pause_routes(self, paused: Collection[str]) -> list[Slot]:
        """Claim nothing for the slots on these routes, and again for those that were paused; gives those new to it."""
        new = [slot for slot in self._slots if slot.route in paused and not slot.paused]
        for slot in self._slots:
            if slot.paused and slot.route not in paused:
                slot.look_at = 0.0
                self.call()
            slot.paused = slot.route in paused
        if new:  # a watch may be waiting to claim for them
            self._exchanger.withdraw()
            self.rouse()
        return new

    def call(self) -> None:
        """Note that there may be something to claim."""
        self._called = True

    def call_all(self) -> None:
        """The same, also for those slots that a watch claims for."""
        self._called = True
        self._back_at = 0.0
        self._missed = self._missed or self._exchanger.watching  # which may have looked before there was something

    @property
    def called(self) -> bool:
        return self._called

    def tell(self, later: Iterable[tuple[str, float]]) -> None:
        """Note when runs on these routes ripen, by the source's clock: look at that time, or sooner."""
        for name, due in later:
            route = base_route(name)
            serving = [slot for slot in self._slots if slot.route == route]
            if serving or route in self._addresses:
                yields = min((slot.yields for slot in serving), default=0.0)
                at = ticks() + due - self._clock.now() + yields
                self._announced[route] = min(at, self._announced.get(route, FOREVER))

    def _announced_at(self) -> float:
        return min(self._announced.values(), default=FOREVER)

    def _look_for_announced(self) -> None:
        """Look now if an announced run has ripened. That look also learns what ripens next."""
        now = ticks()
        if self._announced_at() <= now:
            self._announced = {route: at for route, at in self._announced.items() if at > now}
            self.call_all()

    # claiming with the next exchange

    def until(self) -> float:
        """Ticks when to claim, if no watch does it before."""
        at = min(self._look_at(), self._announced_at())
        if self._exchanger.free:
            at = 0.0 if self._called and at < FOREVER else at
            return min(at, max(self._back_at, self._rouse_at)) if self._exchanger.watching else at
        return at + LATE if self._exchanger.standing else FOREVER  # the listener does it, and pokes the engine

    def wants(self, anyway: bool) -> list[Want]:
        """The wants to claim now; empty before it is time, unless ``anyway`` (an exchange is sent in any case).

        Slots that a watch is claiming for are left out.
        """
        self._look_for_announced()
        if not (anyway or self._called) and ticks() < self._look_at():
            return []
        self._exchanger.withdraw()
        # Not free: the exchange under way may not ask for all slots that want now, so look again after it.
        self._called = not self._exchanger.free
        if self._called:
            return []
        further = self.further()
        idle_first = sorted(self._asking(), key=lambda slot: len(slot.held))
        found = {want: slot for slot in idle_first if (want := slot.want(self.most(slot))) is not None}
        self.looked = self.looked or all(slot.paused for slot in self._slots)
        self._further = {want.token for want in further}
        found.update(further)
        self._wanted = {want.token: slot for want, slot in found.items()}
        return list(found)

    def pause(self) -> None:
        """Claim nothing for now."""
        self._exchanger.withdraw()

    def learn(self, delivery: Delivery, burst: bool) -> None:
        """Decide when to look again: at once if a want was filled and more is left, else when the next run ripens."""
        now = ticks()  # before the source's clock is read: the process may be stopped between the two
        wants, result = [want for want in delivery.wants if want.token not in self._further], delivery.result
        if not wants:
            return
        got: dict[str, int] = {}
        for claim in result.claims:
            got[claim.token] = got.get(claim.token, 0) + 1
        filled = [want for want in wants if got.get(want.token, 0) >= want.limit]
        ripe = result.next_ripe
        # A repeated want gets what it had claimed before, which says nothing about what is there now.
        more = bool(filled) and ((ripe is not None and ripe <= delivery.now) or any(slot.repeated for slot in filled))
        left = self._longest if ripe is None else min(max(ripe - self._clock.now(), SOONEST), self._longest)
        for want in wants:
            slot = self.slot_of(want.token)
            slot.is_filled = got.get(want.token, 0) >= want.limit
            slot.look_at = 0.0 if more else now + left + slot.yields
        by_watch = wants[0].token in self._watched_for
        # Before a burst may end, one look must ask for all slots. And a wake-up on a route that the watch did not serve
        # reached no other pool, so look.
        passed_by = delivery.woken is not None and not self._is_served(delivery.woken, wants)
        if by_watch:
            missed, self._missed = self._missed, False
        if (by_watch and (burst or missed)) or passed_by:
            self.call()
        whole = len(wants) == sum(not slot.paused for slot in self._slots) and not by_watch
        self.looked = whole and not more and (ripe is None or ripe > delivery.now)

    def _look_at(self) -> float:
        return min((slot.look_at for slot in self._asking() if slot.room(self.most(slot)) > 0), default=FOREVER)

    def _asking(self) -> Sequence[Slot]:
        """All slots, except those that a watch is claiming for."""
        if not self._exchanger.watching:
            return self._slots
        by_watch = self._watched_for.values()
        return [slot for slot in self._slots if slot not in by_watch]

    def most(self, slot: Slot) -> int | None:
        """How many more runs its worker may start before it is replaced; None if it is not."""
        return None if self._max_runs is None else max(0, self._max_runs - slot.runs)

    # the watch

    def look_out(self) -> None:
        """There is nothing to claim now: start a watch that waits for work and claims it at once, for the idle slots.

        It claims only as much as they can start at once: by then, other pools may be waiting too.
        """
        if self._exchanger.watching or self._listener.watching:
            if ticks() >= self._back_at or self._leaves_out_a_slot():
                self.rouse()
            return
        if not self._exchanger.free:
            return
        found = {want: slot for slot in self._slots if (want := slot.want(self.most(slot), slot.free)) is not None}
        now = ticks()
        until = min([self._announced_at(), now + self._longest, *(slot.look_at for slot in found.values())])
        if found and until > now:
            self._wait_for(found, until)

    def _wait_for(self, found: dict[Want, Slot], until: float) -> None:
        self._watched_for = {want.token: slot for want, slot in found.items()}
        self._served = {slot.route for slot in found.values()}
        self._rouse_at = 0.0
        keys = self._keys_of(self._served) if self._source.wakes_one else self._keys
        if self._exchanger.watch(keys, list(found), until - ticks()):
            self._back_at = until
            return
        self._back_at = FOREVER
        self._exchanger.stand_by(list(found))
        self._wait_on = keys
        self._listener.watch(until)

    def _keys_of(self, routes: Iterable[str]) -> list[WorkKey]:
        return [WorkKey(self._queue, route) for route in (*dict.fromkeys(routes), *self._addresses)]

    def _leaves_out_a_slot(self) -> bool:
        """Whether there is an idle slot on a route that the watch does not wait on."""
        if not self._source.wakes_one:
            return False
        idle = (slot for slot in self._slots if slot.route not in self._served and slot.look_at > ticks())
        return any(min(slot.room(self.most(slot)), slot.free) > 0 for slot in idle)

    def _is_served(self, route: str, wants: Sequence[Want]) -> bool:
        return any(route in want.routes for want in wants)

    def _catch(self, timeout: float) -> None:
        """On the listener's thread: wait for work."""
        caught = False
        try:
            caught = self._exchanger.catch(self._wait_on, timeout)
        finally:
            if not caught:  # never cleared on this thread: the engine's may set it at the same moment
                self._called = True

    def rouse(self) -> float:
        """End the watch, if there is one; returns the ticks when to do so once more."""
        if not (self._exchanger.watching or (self._listener.watching and self._source.wakes_one)):
            return FOREVER
        if ticks() >= self._rouse_at:
            self._rouse_at = ticks() + ROUSE_AGAIN
            self._exchanger.run(self._end_wait)
        return self._rouse_at

    def _end_wait(self) -> None:
        """A failure says nothing that the watch itself does not find out, and is tried again."""
        with suppress(StoreError):
            self.end_wait()

    def end_wait(self) -> bool:
        """On the exchanger's thread: end the wait for work; returns whether there is one that can be ended."""
        return (self._listener.watching or self._exchanger.watching) and self._source.rouse(self._keys)

    def close(self) -> None:
        self._listener.close()
