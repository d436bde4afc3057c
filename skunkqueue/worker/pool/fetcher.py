"""When to claim, for whom and how much; while all is quiet, a listener that claims as soon as something comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Want, base_route
from skunkqueue.persistence import Source, WorkKey
from skunkqueue.worker.pool.exchanger import Delivery, Exchanger
from skunkqueue.worker.pool.listener import Listener
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Slot

LOOK_ANYWAY: Final = 10.0
"""Seconds after which an idle pool looks although nobody told it to: a wait is only a hint."""
LATE: Final = 1.0
"""Seconds after which the engine looks where the listener ought to have: it may hang in its wait."""
ROUSE_AGAIN: Final = 0.03
"""Seconds after which the listener is roused once more: it may just have been about to wait."""
SOONEST: Final = 0.005
FOREVER: Final = float("inf")


class Fetcher:
    """Belongs to an engine and is used on its thread, but for the listener's part.

    ``looked`` says whether the last look asked for all workers and found nothing left.

    Where a wake-up reaches one pool only, whoever takes it must be able to claim what it is about, or nobody does: so
    the listener waits on the routes of those it claims for, and is called back when somebody else has nothing to do.
    Addresses are waited on for all: no other pool serves them.
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
        self.looked = False
        self._source = source
        self._clock = clock
        self._max_runs = settings.max_runs
        self._slots = slots
        self._exchanger = exchanger
        self._called = False  # to look, since the last look began
        self._wanted: dict[str, Slot] = {}  # by token: whom the last exchange claims for
        self._stood: dict[str, Slot] = {}  # by token: whom the listener claims for
        self._rouse_at = 0.0
        self._back_at = FOREVER  # ticks when the channel is to come back with what it has
        self._told: dict[str, float] = {}  # by route: ticks when the first run ripens that the channel told of
        self._longest = min(LOOK_ANYWAY, settings.lease / 2)  # leases end without a word
        self._queue = settings.queue
        self._addresses = [slot.routes[0] for slot in slots]
        self._served: Collection[str] = ()  # the routes that the listener waits on
        self._keys = self._wait_on = self._keys_of(settings.routes)
        self._listener = Listener(self._catch, poke, "skunkqueue-listener")

    def slot_of(self, token: str) -> Slot:
        """For whom something was claimed."""
        return self._wanted.get(token) or self._stood[token]

    def call(self) -> None:
        """There may be something to claim."""
        self._called = True

    @property
    def called(self) -> bool:
        return self._called

    def tell(self, later: Iterable[tuple[str, float]]) -> None:
        """Runs on these routes ripen then, by the source's clock: look at that time, unless something is sooner."""
        for name, due in later:
            route = base_route(name)
            if route in self._addresses or any(slot.route == route for slot in self._slots):
                at = ticks() + due - self._clock.now()
                self._told[route] = min(at, self._told.get(route, FOREVER))

    def _told_at(self) -> float:
        return min(self._told.values(), default=FOREVER)

    def _hear_told(self) -> None:
        """Whatever has ripened by now is to be looked for; what ripens behind it is learnt by that look."""
        now = ticks()
        if self._told_at() <= now:
            self._told = {route: at for route, at in self._told.items() if at > now}
            self.call()
            self._back_at = 0.0

    # claiming with the next exchange

    def until(self) -> float:
        """Ticks when to claim, as far as nobody else sees to it."""
        at = min(self._look_at(), self._told_at())
        if self._exchanger.free:
            at = 0.0 if self._called and at < FOREVER else at
            return min(at, max(self._back_at, self._rouse_at)) if self._exchanger.watching else at
        return at + LATE if self._exchanger.standing else FOREVER  # the listener is on it; a exchanger pokes

    def wants(self, anyway: bool) -> list[Want]:
        """What to claim now, for whom: nothing, unless it is time or it is done ``anyway``.

        Those for whom the listener is claiming are left to it.
        """
        self._hear_told()
        if not (anyway or self._called) and ticks() < self._look_at():
            return []
        self._exchanger.withdraw()
        # Not free: what is under way may not ask for all who want by now, so this look is owed, whatever it brings.
        self._called = not self._exchanger.free
        if self._called:
            return []
        idle_first = sorted(self._asking(), key=lambda slot: len(slot.held))
        found = {want: slot for slot in idle_first if (want := slot.want(self._most(slot))) is not None}
        self._wanted = {want.token: slot for want, slot in found.items()}
        return list(found)

    def pause(self) -> None:
        """Claim nothing for now."""
        self._exchanger.withdraw()

    def learn(self, delivery: Delivery, burst: bool) -> None:
        """When to look again: at once where a want was filled and more is left, else when the next run ripens."""
        wants, result = delivery.wants, delivery.result
        got: dict[str, int] = {}
        for claim in result.claims:
            got[claim.token] = got.get(claim.token, 0) + 1
        filled = [want for want in wants if got.get(want.token, 0) >= want.limit]
        ripe = result.next_ripe
        # What a repeated want gets was claimed before, which tells nothing of what is there now.
        more = bool(filled) and ((ripe is not None and ripe <= delivery.now) or any(slot.repeated for slot in filled))
        left = self._longest if ripe is None else min(max(ripe - self._clock.now(), SOONEST), self._longest)
        for want in wants:
            self.slot_of(want.token).look_at = 0.0 if more else ticks() + left
        stood = wants[0].token in self._stood
        # Before a burst may end, one look has to ask for all; and nobody else looks for what the listener did not.
        passed_by = delivery.woken is not None and not self._is_served(delivery.woken, wants)
        self._called = self._called or (stood and burst) or passed_by
        whole = len(wants) == len(self._slots) and not stood
        self.looked = whole and not more and (ripe is None or ripe > delivery.now)

    def _look_at(self) -> float:
        return min((slot.look_at for slot in self._asking() if slot.room(self._most(slot)) > 0), default=FOREVER)

    def _asking(self) -> Sequence[Slot]:
        """All but those for whom the listener is claiming."""
        if not self._exchanger.watching:
            return self._slots
        stood = self._stood.values()
        return [slot for slot in self._slots if slot not in stood]

    def _most(self, slot: Slot) -> int | None:
        return None if self._max_runs is None else max(0, self._max_runs - slot.runs)

    # claiming as soon as something comes

    def look_out(self) -> None:
        """Nothing to claim now: have somebody wait for it, and claim it at once when it comes, for those who idle.

        Only as much as they can begin at once, for others may have begun to wait by then.
        """
        if self._exchanger.watching or self._listener.watching:
            if ticks() >= self._back_at or self._leaves_out_somebody():
                self.rouse()
            return
        if not self._exchanger.free:
            return
        found = {want: slot for slot in self._slots if (want := slot.want(self._most(slot), slot.free)) is not None}
        left = min([self._told_at(), *(slot.look_at for slot in found.values())]) - ticks() if found else 0.0
        if left > 0:
            self._wait_for(found, min(left, self._longest))

    def _wait_for(self, found: dict[Want, Slot], left: float) -> None:
        self._stood = {want.token: slot for want, slot in found.items()}
        self._served = {slot.route for slot in found.values()}
        self._rouse_at = 0.0
        keys = self._keys_of(self._served) if self._source.wakes_one else self._keys
        if self._exchanger.watch(keys, list(found), left):
            self._back_at = ticks() + left
            return
        self._back_at = FOREVER
        self._exchanger.stand_by(list(found))
        self._wait_on = keys
        self._listener.watch(left)

    def _keys_of(self, routes: Iterable[str]) -> list[WorkKey]:
        return [WorkKey(self._queue, route) for route in (*dict.fromkeys(routes), *self._addresses)]

    def _leaves_out_somebody(self) -> bool:
        """Whether somebody has nothing to do on whose route nobody here waits."""
        if not self._source.wakes_one:
            return False
        idle = (slot for slot in self._slots if slot.route not in self._served and slot.look_at > ticks())
        return any(min(slot.room(self._most(slot)), slot.free) > 0 for slot in idle)

    def _is_served(self, route: str, wants: Sequence[Want]) -> bool:
        return any(route in want.routes for want in wants)

    def _catch(self, timeout: float) -> None:
        """On the listener's thread: wait for work."""
        caught = False
        try:
            caught = self._exchanger.catch(self._wait_on, timeout)
        finally:
            if not caught:  # only ever set here: the engine's thread may do so at the same moment
                self._called = True

    def rouse(self) -> float:
        """Have who waits for work come back, if somebody does; gives the ticks when to do so once more."""
        if not (self._exchanger.watching or (self._listener.watching and self._source.wakes_one)):
            return FOREVER
        if ticks() >= self._rouse_at:
            self._rouse_at = ticks() + ROUSE_AGAIN
            self._exchanger.run(self._end_wait)
        return self._rouse_at

    def _end_wait(self) -> None:
        self.end_wait()

    def end_wait(self) -> bool:
        """On the exchanger's thread: end the wait for work; says whether there is one, and that can be done."""
        return (self._listener.watching or self._exchanger.watching) and self._source.rouse(self._keys)

    def close(self) -> None:
        self._listener.close()
