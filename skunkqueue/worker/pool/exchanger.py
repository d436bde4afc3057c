"""Carries outcomes to the source and claims back, so that a source that hangs deafens nobody.

Where the source has a line, on that and on the engine's own thread; else, and whenever the line fails, on a thread of
its own, which waits and tries again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Asked, Claim, Exchange, Outcome, Want
from skunkqueue.persistence import Channel, Source
from skunkqueue.worker.pool.isolate import exchange, fits

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
PATIENCE: Final = 5.0
"""Seconds after which an answer is late that was to come at once: then the thread asks."""
FOREVER: Final = float("inf")

Outcomes = list[tuple[Claim, Outcome]]


class Load(NamedTuple):
    """What goes with one exchange."""

    outcomes: Outcomes
    reports: list[str]
    wants: list[Want]

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.wants)


class Delivery(NamedTuple):
    """What one exchange carried, with a line to be logged for each outcome, and what came of it.

    ``woken`` is the route whose wake-up it followed, where that is known.
    """

    outcomes: Outcomes
    reports: list[str]
    wants: list[Want]
    result: Exchange
    now: float
    woken: str | None = None


class Exchanger:
    """One exchange at a time. While one is under way outcomes gather, and go together with the next.

    ``poke`` is called from the exchanger's thread when there is something to collect. A source that is away is tried
    again with growing pauses, with the same tokens: repeating a call is harmless.
    """

    def __init__(self, source: Source, clock: Clock, queue: str, lease: float, poke: Callable[[], None]) -> None:
        self.line: Channel | None = None
        """What the engine listens to; where this changes, the old one is its to close."""
        self.away: Exception | None = None
        self._source = source
        self._clock = clock
        self._queue = queue
        self._lease = lease
        self._poke = poke
        self._state = threading.Condition()
        self._outcomes: Outcomes = []
        self._reports: list[str] = []
        self._wants: list[Want] | None = None
        self._errands: list[Callable[[], None]] = []
        self._deliveries: list[Delivery] = []
        self._under_way: Outcomes = []
        self._asked: Load | None = None  # on the line
        self._asked_at = 0.0
        self._overdue_at = FOREVER  # ticks
        self._stands: list[Want] | None = None  # on the line, which claims them by itself when there is news
        self._back_by = FOREVER
        self._standing: list[Want] | None = None
        self._out: list[Want] | None = None  # with the listener, which is claiming them
        self._lost: list[Want] = []  # were asked for, and nobody knows what became of them
        self._busy = False
        self._exchanging = False  # on the thread
        self._closing = False
        self._dropped = False  # something was never carried
        self._has_line = True  # or may have
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="skunkqueue-exchanger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # the pool's side

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or out, and nothing waits to be carried or collected."""
        with self._state:
            under_way = self._busy or self._asked or self.out or self._outcomes or self._wants or self._lost
            return not (under_way or self._errands or self._deliveries)

    @property
    def owes(self) -> bool:
        """Whether there are outcomes that the source has not heard of."""
        with self._state:
            return bool(self._outcomes or self._under_way)

    @property
    def free(self) -> bool:
        """Whether the next exchange would start at once, and what came of the last one is known."""
        is_held_up = self._exchanging or self._asked is not None or (self._busy and self.line is None)
        waits = self._wants is not None or self._standing is not None or self._lost
        return not (is_held_up or waits or self._deliveries)

    @property
    def asking(self) -> bool:
        """Whether the line is to answer before it can be asked again."""
        return self._asked is not None

    @property
    def standing(self) -> bool:
        """Whether something stands by to be claimed."""
        return self._standing is not None

    @property
    def out(self) -> bool:
        """Whether claims may come that nobody can call back; they come as a delivery, if there are any."""
        return self._out is not None or self._stands is not None

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
        if self.line is None or not self._ask(self.line):
            with self._state:
                self._state.notify()

    def stand_by(self, wants: list[Want]) -> None:
        """Have these claimed by ``catch``."""
        with self._state:
            self._standing = wants

    def withdraw(self) -> bool:
        """Forget what stands by; says whether that took: what is ``out`` cannot be called back."""
        with self._state:
            self._standing = None
            return not self.out

    def catch(self, keys: Sequence[str], timeout: float) -> bool:
        """Wait for news, and claim what stands by, on the calling thread; says whether it did.

        So a run that arrives while all is idle has a hop less to go.
        """
        self._source.wait(keys, timeout)
        asked = self._hand_over()
        if asked is None:
            return False
        try:
            result = self._source.exchange((), asked.wants, now=asked.now, until=asked.until)
        except Exception:
            with self._state:
                self._lose(asked.wants)
                self._out = None
            return True
        with self._state:
            self._deliveries.append(Delivery([], [], asked.wants, result, asked.now))
            self._out = None
        self._reached()
        return True

    def _hand_over(self) -> Asked | None:
        with self._state:
            wants, self._standing = self._standing, None
            if wants is None or self._closing:
                return None
            self._out = wants
        return self._from_now(wants)

    def _from_now(self, wants: list[Want]) -> Asked:
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
        self._thread.join(patience)
        return not self._dropped and not self._thread.is_alive()

    # the line, on the engine's thread

    def _ask(self, line: Channel) -> bool:
        """Send what waits; False where that is for the thread to do."""
        with self._state:
            if self._exchanging or self._lost or self._asked is not None:
                return False
            if not fits(self._outcomes, self._source.limits):
                return False
            load = self._take()
            if not load:  # the thread was faster
                return True
            self._asked, self._under_way = load, load.outcomes
            self._asked_at, self._overdue_at = self._clock.now(), ticks() + PATIENCE
        try:
            now = self._asked_at
            if line.ask(load.outcomes, load.wants, now=now, until=now + self._lease):
                return True
        except Exception:
            self.hang_up()
            return True
        with self._state:
            self._asked = None
            self._put_back(load)
            self._wants = load.wants or None
        return False

    def hear(self) -> None:
        """There may be an answer on the line."""
        if self.line is None:
            return
        try:
            result = self.line.answer()
            if result is not None:
                self._answered(result)
        except Exception:
            self.hang_up()

    def _answered(self, result: Exchange) -> None:
        if self._asked is None:
            raise ValueError("an answer to nothing")
        with self._state:
            self._deliveries.append(Delivery(*self._asked, result, self._asked_at))
            self._asked, self._under_way = None, []

    def stand(self, keys: Sequence[str], wants: list[Want], timeout: float) -> bool:
        """Have these claimed as soon as there is news; False where there is no line to do so."""
        line = self.line
        if line is None:
            return False
        with self._state:
            self._stands, self._back_by = wants, ticks() + timeout + PATIENCE
        try:
            line.stand(keys, timeout, self._from_now(wants))
        except Exception:
            self.hang_up()
        return True

    def hear_news(self) -> None:
        """There may be news on the line."""
        if self.line is None:
            return
        try:
            caught = self.line.caught()
        except Exception:
            self.hang_up()
            return
        if caught is not None:
            with self._state:
                self._deliveries.append(Delivery([], [], *caught))
                self._stands = None

    def later(self) -> list[tuple[str, float]]:
        """The routes on which runs were put for later, and when they are due, as far as the line told."""
        if self.line is None:
            return []
        try:
            return self.line.later()
        except Exception:
            self.hang_up()
            return []

    @property
    def late_at(self) -> float:
        """Ticks from when on the line is of no use, if it says nothing."""
        late_at = self._overdue_at if self._asked is not None else FOREVER
        return late_at if self._stands is None else min(late_at, self._back_by)

    def hang_up(self) -> None:
        """The line is of no use any more: the thread asks again what was asked on it."""
        with self._state:
            self.line = None
            load, self._asked = self._asked, None
            wants, self._stands = self._stands, None
            if load is not None:
                self._put_back(load)
                self._lose(load.wants)
            self._lose(wants or [])

    def _put_back(self, load: Load) -> None:
        self._outcomes[:0] = load.outcomes
        self._reports[:0] = load.reports
        self._under_way = []

    def _lose(self, wants: list[Want]) -> None:
        """Have the thread ask whether they were claimed."""
        self._lost += [want._replace(repeated=True) for want in wants]
        self._done.clear()
        self._state.notify()

    # the exchanger's side

    def _work(self) -> None:
        self._open_line()
        while self._load():
            for errand in self._take_errands():
                self._try(errand)
            if load := self._next():
                self._deliver(load)
            self._rest()

    def _open_line(self) -> None:
        """Where there was one, or may be one."""
        if self._closing or self.line is not None or not self._has_line:
            return
        try:
            line = self._source.line(self._queue)
        except Exception:
            return  # the next exchange tells what is wrong; after it we try again
        self._has_line = line is not None
        self.line = line

    def _rest(self) -> None:
        with self._state:
            self._busy = self._exchanging = False
            if not self._outcomes and self._wants is None and not self._lost:
                self._done.set()
            self._state.notify()
        self._poke()  # only now: an engine that came sooner would find the exchanger still busy, and go to sleep

    def _load(self) -> bool:
        """Wait for something to do; False when there is to be no more."""
        with self._state:
            while not (self._errands or self._is_called()):
                if self._closing:
                    return False
                self._state.wait()
            self._busy = True
            return True

    def _is_called(self) -> bool:
        return bool(self._outcomes or self._wants or self._lost) and self._asked is None

    def _take_errands(self) -> list[Callable[[], None]]:
        with self._state:
            errands, self._errands = self._errands, []
            return errands

    def _next(self) -> Load | None:
        with self._state:
            if not self._is_called():
                return None
            self._exchanging = True
            return self._take()

    def _take(self) -> Load:
        """All that waits to be carried; the lock is held."""
        load = Load(self._outcomes, self._reports, self._lost + (self._wants or []))
        self._outcomes, self._reports, self._lost, self._wants = [], [], [], None
        return load

    def _try(self, errand: Callable[[], None]) -> None:
        try:
            errand()
            self._reached()
        except Exception as error:
            self._missed(error)

    def _deliver(self, load: Load) -> None:
        """Exchange, and again until it succeeds; what gathers in the meantime joins in."""
        pause = FIRST_PAUSE
        while True:
            self._under_way = load.outcomes
            try:
                now = self._clock.now()
                result = exchange(self._source, load.outcomes, load.wants, now=now, until=now + self._lease)
                break
            except Exception as error:  # a fault of a driver that nobody foresaw must not end the thread either
                self._missed(error)
                if self._given_up(pause):
                    self._dropped = True
                    return
                load = self._with_more(load)
                pause = min(pause * 2, LONGEST_PAUSE)
        self._reached()
        self._open_line()
        with self._state:
            self._deliveries.append(Delivery(*load, result, now))
            self._under_way = []

    def _with_more(self, load: Load) -> Load:
        with self._state:
            more = self._take()
        wants = [want._replace(repeated=True) for want in load.wants] + more.wants
        return Load(load.outcomes + more.outcomes, load.reports + more.reports, wants)

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
