"""Carries outcomes to the source and claims back on its own thread, so that a source that hangs deafens nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

from skunkqueue.clock import Clock
from skunkqueue.envelope import Asked, Claim, Exchange, Outcome, Want
from skunkqueue.persistence import Source

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

Outcomes = list[tuple[Claim, Outcome]]


class Delivery(NamedTuple):
    """What one exchange carried, with a line to be logged for each outcome, and what came of it."""

    outcomes: Outcomes
    reports: list[str]
    wants: list[Want]
    result: Exchange
    now: float


class Courier:
    """One exchange at a time. While one is under way outcomes gather, and go together with the next.

    ``poke`` is called from the courier's thread when there is something to collect. A source that is away is tried
    again with growing pauses, with the same tokens: repeating a call is harmless.
    """

    def __init__(self, source: Source, clock: Clock, lease: float, poke: Callable[[], None]) -> None:
        self._source = source
        self._clock = clock
        self._lease = lease
        self._poke = poke
        self._state = threading.Condition()
        self._outcomes: Outcomes = []
        self._reports: list[str] = []
        self._wants: list[Want] | None = None
        self._errands: list[Callable[[], None]] = []
        self._deliveries: list[Delivery] = []
        self._under_way: Outcomes = []
        self._standing: list[Want] | None = None
        self._out: list[Want] | None = None  # with the source, which claims them by itself when there is news
        self._lost: list[Want] = []  # were out, and nobody knows what became of them
        self._busy = False
        self._closing = False
        self._dropped = False  # something was never carried
        self._done = threading.Event()
        self.away: Exception | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._thread(self._work, "skunkqueue-courier")

    def _thread(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # the pool's side

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or out, and nothing waits to be carried or collected."""
        with self._state:
            under_way = self._busy or self._out or self._outcomes or self._wants or self._lost or self._errands
            return not (under_way or self._deliveries)

    @property
    def owes(self) -> bool:
        """Whether there are outcomes that the source has not heard of."""
        with self._state:
            return bool(self._outcomes or self._under_way)

    @property
    def free(self) -> bool:
        """Whether the next exchange would start at once, and what came of the last one is known."""
        waits = self._wants is not None or self._standing is not None or self._lost
        return not (self._busy or waits or self._deliveries)

    @property
    def standing(self) -> bool:
        """Whether something stands by to be claimed."""
        return self._standing is not None

    @property
    def out(self) -> bool:
        """Whether the source claims by itself when there is news; what that brings comes back as a delivery."""
        return self._out is not None

    def carry(self, outcomes: Outcomes, reports: Sequence[str], wants: list[Want]) -> None:
        """Have these carried, and give the reports back with them.

        Wants are given only when ``free``, so that nothing is claimed twice over.
        """
        with self._state:
            self._outcomes.extend(outcomes)
            self._reports.extend(reports)
            if wants:
                self._wants = wants
            self._done.clear()
            self._state.notify()

    def stand_by(self, wants: list[Want]) -> None:
        """Have these claimed by ``catch``."""
        with self._state:
            self._standing = wants

    def withdraw(self) -> bool:
        """Forget what stands by; says whether that took: what is ``out`` cannot be called back."""
        with self._state:
            self._standing = None
            return self._out is None

    def catch(self, keys: Sequence[str], timeout: float) -> bool:
        """Wait for news, and claim what stands by, on the calling thread; says whether it did.

        So a run that arrives while all is idle has a hop less to go.
        """
        try:
            caught = self._source.wait_and_claim(keys, timeout, self._hand_over)
        except Exception:
            if self._out is None:
                raise
            with self._state:
                self._lost = [want._replace(repeated=True) for want in self._out]
                self._out = None
                self._state.notify()
            return True
        if caught is None:
            return False
        with self._state:
            self._deliveries.append(Delivery([], [], caught.wants, caught.result, caught.now))
            self._out = None
        self._reached()
        return True

    def _hand_over(self) -> Asked | None:
        with self._state:
            wants, self._standing = self._standing, None
            if wants is None or self._closing:
                return None
            self._out = wants
        now = self._clock.now()
        return Asked(wants, now, now + self._lease)

    def run(self, errand: Callable[[], None]) -> None:
        """Have something else done with the source, before the next exchange. What it raises is let go."""
        with self._state:
            self._errands.append(errand)
            self._state.notify()

    def linger(self, seconds: float) -> None:
        """Wait a moment for what is under way: two threads that take turns are faster than two that compete."""
        self._done.wait(seconds)

    def collect(self) -> list[Delivery]:
        """What has come back since."""
        with self._state:
            deliveries, self._deliveries = self._deliveries, []
            return deliveries

    def close(self, patience: float) -> bool:
        """Stop, after what waits has been carried or ``patience`` seconds; says whether all was."""
        with self._state:
            self._closing = True
            self._state.notify()
        for thread in self._threads:
            thread.join(patience)
        return not self._dropped and not any(thread.is_alive() for thread in self._threads)

    # the courier's side

    def _work(self) -> None:
        while self._load():
            for errand in self._take_errands():
                self._try(errand)
            outcomes, reports, wants = self._take()
            if outcomes or wants:
                self._deliver(outcomes, reports, wants)
            self._rest()

    def _rest(self) -> None:
        with self._state:
            self._busy = False
            if not self._outcomes and self._wants is None and not self._lost:
                self._done.set()
            self._state.notify()
        self._poke()  # only now: an engine that came sooner would find the courier still busy, and go to sleep

    def _load(self) -> bool:
        with self._state:
            while not (self._outcomes or self._wants or self._lost or self._errands):
                if self._closing:
                    return False
                self._state.wait()
            self._busy = True
            return True

    def _take_errands(self) -> list[Callable[[], None]]:
        with self._state:
            errands, self._errands = self._errands, []
            return errands

    def _take(self) -> tuple[Outcomes, list[str], list[Want]]:
        with self._state:
            outcomes, self._outcomes = self._outcomes, []
            reports, self._reports = self._reports, []
            wants, self._wants = self._lost + (self._wants or []), None
            self._lost = []
            return outcomes, reports, wants

    def _try(self, errand: Callable[[], None]) -> None:
        try:
            errand()
            self._reached()
        except Exception as error:
            self._missed(error)

    def _deliver(self, outcomes: Outcomes, reports: list[str], wants: list[Want]) -> None:
        """Exchange, and again until it succeeds; what gathers in the meantime joins in."""
        pause = FIRST_PAUSE
        while True:
            self._under_way = outcomes
            try:
                now = self._clock.now()
                result = self._source.exchange(outcomes, wants, now=now, until=now + self._lease)
                break
            except Exception as error:  # a fault of a driver that nobody foresaw must not end the thread either
                self._missed(error)
                if self._given_up(pause):
                    self._dropped = True
                    return
                more, their_reports, lost = self._take()
                wants = [want._replace(repeated=True) for want in wants] + lost
                outcomes, reports = outcomes + more, reports + their_reports
                pause = min(pause * 2, LONGEST_PAUSE)
        self._reached()
        with self._state:
            self._deliveries.append(Delivery(outcomes, reports, wants, result, now))
            self._under_way = []

    def _given_up(self, pause: float) -> bool:
        """Wait before the next try; a pool that closes does not wait for a source that is away."""
        end = monotonic() + pause
        with self._state:
            while not self._closing and (left := end - monotonic()) > 0:
                self._state.wait(left)
            return self._closing

    def _missed(self, error: Exception) -> None:
        if self.away is None:
            self.away = error
            self._poke()

    def _reached(self) -> None:
        if self.away is not None:
            self.away = None
            self._poke()


class Lookout:
    """Waits for news on its own thread by ``wait``, whenever it is told to, then does ``then``."""

    def __init__(self, wait: Callable[[float], None], then: Callable[[], None], name: str) -> None:
        self._wait = wait
        self._then = then
        self._state = threading.Condition()
        self._timeout: float | None = None
        self._closing = False
        self.watching = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def watch(self, timeout: float) -> None:
        """Look out for at most so many seconds, unless it does so already."""
        with self._state:
            if not self.watching:
                self.watching = True
                self._timeout = timeout
                self._state.notify()

    def close(self) -> None:
        with self._state:
            self._closing = True
            self._state.notify()

    def _work(self) -> None:
        while (timeout := self._next()) is not None:
            try:
                self._wait(timeout)
            except Exception:
                # The courier meets the same trouble and deals with it; here it is enough not to spin.
                self._pause(1.0)
            self.watching = False
            if self._closing:
                return
            self._then()

    def _next(self) -> float | None:
        with self._state:
            while self._timeout is None and not self._closing:
                self._state.wait()
            timeout, self._timeout = self._timeout, None
            return None if self._closing else timeout

    def _pause(self, seconds: float) -> None:
        with self._state:
            if not self._closing:
                self._state.wait(seconds)
