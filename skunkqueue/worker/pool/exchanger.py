"""Sends outcomes to the source and fetches claims, without ever blocking the engine on a source that hangs.

Two calls may be under way at a time. Each is in one named state, which only this class changes.

The exchange: outcomes, and claims for the slots that can take more. ::

    NOTHING -- carry --> CHANNEL -- answer ----------> NOTHING    the engine's own thread sends and reads
       |                    | fails: the thread asks again
       +----- carry --> THREAD --- it has succeeded --> NOTHING    a thread waits, and tries again until it succeeds

The watch: claims for the slots that have nothing to do, made as soon as there is work. ::

    NOTHING -- watch ----> CHANNEL -- caught ----------------------> NOTHING    the source waits, then claims
       +------ stand_by -> STANDBY -- the listener was woken -> LISTENER -- its exchange --> NOTHING
                              | withdraw: NOTHING

A watch on the channel or with the listener cannot be withdrawn. If a call fails, it is not known what it claimed: the
thread then repeats the same wants, marked as repeated, and so gets the runs that they hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import Enum, auto
from time import monotonic
from typing import Final, NamedTuple

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Asked, Claim, Envelope, Exchange, Outcome, Want
from skunkqueue.errors import StoreFull, StoreRefused
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Channel, Key, Persister, Source
from skunkqueue.persistence.put import put
from skunkqueue.worker.pool.isolate import exchange_isolated, fits
from skunkqueue.worker.pool.log_entry import LogEntry

PATIENCE: Final = 5.0
"""Seconds after which an answer on the channel counts as late: then the thread asks instead."""
SHORT: Final = 1.0
"""Seconds within which a channel that is given up has failed at once."""
FOREVER: Final = float("inf")

Outcomes = list[tuple[Claim, Outcome]]


class Exchanging(Enum):
    """The states of the exchange."""

    NOTHING = auto()
    CHANNEL = auto()
    THREAD = auto()


class Watching(Enum):
    """The states of the watch."""

    NOTHING = auto()
    STANDBY = auto()
    LISTENER = auto()
    CHANNEL = auto()


class Load(NamedTuple):
    """What one exchange sends, after it has put ``runs``."""

    outcomes: Outcomes
    reports: list[LogEntry | None]
    wants: list[Want]
    runs: Sequence[Envelope] = ()

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.wants or self.runs)


class Delivery(NamedTuple):
    """What one exchange sent, with an entry to log for each outcome, and its result.

    ``woken`` is the route whose wake-up it followed, if that is known.
    """

    outcomes: Outcomes
    reports: list[LogEntry | None]
    wants: list[Want]
    result: Exchange
    now: float
    woken: str | None = None


NO_LOAD: Final = Load([], [], [])


class Exchanger:
    """One exchange at a time. Outcomes that come while one is under way are sent together with the next.

    ``poke`` is called from another thread when there is something to collect. While the source is away, calls are
    repeated with growing pauses and the same tokens, which is harmless.
    """

    def __init__(self, source: Source, clock: Clock, queue: str, lease: float, poke: Callable[[], None]) -> None:
        self.channel: Channel | None = None
        """The channel that the engine reads."""
        self.dropped: list[Channel] = []
        """Channels that were given up, for the engine to close, which may listen to them."""
        self.away: Exception | None = None
        self.has_reached: bool = False
        """Whether the source has ever done what it was asked."""
        self.troubles: list[str] = []
        """What the source cannot do while it does the rest; each is told once, and taken out by the engine."""
        self._source = source
        self._clock = clock
        self._queue = queue
        self._lease = lease
        self._poke = poke
        self._state = threading.Condition()
        # what waits to be sent, and what came back
        self._outcomes: Outcomes = []
        self._reports: list[LogEntry | None] = []
        self._wants: list[Want] = []
        self._runs: list[Envelope] = []  # to be put before
        self._doubtful: list[Want] = []  # were asked for, with unknown result
        self._errands: list[Callable[[], None]] = []
        self._deliveries: list[Delivery] = []
        # the exchange
        self._exchange = Exchanging.NOTHING
        self._load = NO_LOAD  # what it sends, or has failed to send
        self._asked_at = 0.0
        self._overdue_at = FOREVER  # ticks
        # the watch
        self._watch = Watching.NOTHING
        self._watched: list[Want] = []
        self._watch_overdue_at = FOREVER  # ticks
        # the thread
        self._busy = False  # with an exchange or an errand
        self._closing = False
        self._dropped = False  # something was never carried
        self._is_ending = False  # no channel is opened any more
        self._last_trouble = ""
        self._may_have_channel = True
        self._opened_at = 0.0  # ticks
        self._open_from = 0.0  # ticks from which a channel may be opened
        self._short = 0  # how many channels in a row have failed at once
        self._unopened = 0  # how many could not be opened, in a row
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="skunkqueue-exchanger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # used by the engine

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing waits to be sent or collected."""
        with self._state:
            under_way = self._busy or self._exchange is not Exchanging.NOTHING or self.watching
            return not (under_way or self._has_load() or self._errands or self._deliveries)

    @property
    def owes(self) -> bool:
        """Whether there are outcomes that the source does not have yet."""
        with self._state:
            return bool(self._outcomes or self._load.outcomes)

    @property
    def free(self) -> bool:
        """Whether the next exchange would start at once, and the result of the last one has been collected."""
        if self._exchange is not Exchanging.NOTHING or (self._busy and self.channel is None):
            return False
        return not (self._wants or self._doubtful or self._deliveries or self.standing)

    @property
    def asking(self) -> bool:
        """Whether an answer on the channel is awaited; until then it cannot be asked again."""
        return self._exchange is Exchanging.CHANNEL

    @property
    def standing(self) -> bool:
        """Whether wants are ready to be claimed when the listener is woken."""
        return self._watch is Watching.STANDBY

    @property
    def watching(self) -> bool:
        """Whether a watch is under way that cannot be withdrawn; its claims, if any, come as a delivery."""
        return self._watch in (Watching.LISTENER, Watching.CHANNEL)

    @property
    def late_at(self) -> float:
        """Ticks from which the channel is given up, if no answer has come."""
        late_at = self._overdue_at if self._exchange is Exchanging.CHANNEL else FOREVER
        return min(late_at, self._watch_overdue_at) if self._watch is Watching.CHANNEL else late_at

    def carry(
        self,
        outcomes: Outcomes,
        reports: Sequence[LogEntry | None],
        wants: list[Want],
        runs: Sequence[Envelope] = (),
    ) -> None:
        """Send these, and put ``runs`` before; the delivery has the reports again.

        Pass wants only when ``free``, so that nothing is claimed twice over.
        """
        with self._state:
            self._outcomes.extend(outcomes)
            self._reports.extend(reports)
            self._wants += wants
            self._runs += runs
            self._done.clear()
        if self.channel is None or not self._ask(self.channel):
            with self._state:
                self._state.notify()

    def run(self, errand: Callable[[], None]) -> None:
        """Have an errand done on the thread before the next exchange. Its errors count as the source being away."""
        with self._state:
            self._errands.append(errand)
            self._state.notify()

    def linger(self, seconds: float) -> None:
        """Wait up to ``seconds`` for what is under way: two threads that alternate are faster than two that compete."""
        self._done.wait(seconds)

    def collect(self) -> list[Delivery]:
        """The deliveries since the last call."""
        with self._state:
            deliveries, self._deliveries = self._deliveries, []
            return deliveries

    @property
    def works(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def close(self, patience: float) -> bool:
        """Stop when all that waits is sent, or after ``patience`` seconds; returns whether all was sent."""
        with self._state:
            self._closing = True
            self._state.notify()
        self._thread.join(patience)
        return not self._dropped and not self._thread.is_alive()

    # the exchange on the channel, on the engine's thread

    def _ask(self, channel: Channel) -> bool:
        """Send what waits; False if the thread has to do it."""
        with self._state:
            if self._exchange is not Exchanging.NOTHING or self._doubtful or self._runs:
                return False
            if not fits(self._outcomes, self._source.limits):
                return False
            load = self._take()
            if not load:  # the thread was faster
                return True
            self._exchange, self._load = Exchanging.CHANNEL, load
            self._asked_at, self._overdue_at = self._clock.now(), ticks() + PATIENCE
        try:
            now = self._asked_at
            if channel.ask(load.outcomes, load.wants, now=now, until=now + self._lease):
                return True
        except Exception:
            self.drop_channel()
            return True
        with self._state:  # the channel cannot do this exchange
            self._exchange = Exchanging.NOTHING
            self._put_back(load)
            self._wants[:0] = load.wants
        return False

    def read_answer(self) -> None:
        """Read the channel's answer, if it has come."""
        try:
            result = None if self.channel is None else self.channel.answer()
            if result is None:
                return
            if self._exchange is not Exchanging.CHANNEL:
                raise ValueError("an answer without a question")
        except Exception:
            self.drop_channel()
            return
        with self._state:
            self._deliveries.append(Delivery(*self._load[:3], result, self._asked_at))
            self._exchange, self._load = Exchanging.NOTHING, NO_LOAD
        self._reached()

    def read_later(self) -> list[tuple[str, float]]:
        """Routes on which runs were put for later, and when they are due, as announced on the channel."""
        try:
            return [] if self.channel is None else self.channel.later()
        except Exception:
            self.drop_channel()
            return []

    def drop_channel(self) -> None:
        """Give up the channel: the thread repeats what was asked on it."""
        with self._state:
            channel, self.channel = self.channel, None
            if channel is not None:
                channel.cut()
                self.dropped.append(channel)
                self._put_off_channel()
            if self._exchange is Exchanging.CHANNEL:
                load, self._exchange = self._load, Exchanging.NOTHING
                self._put_back(load)
                self._ask_again(load.wants)
            if self._watch is Watching.CHANNEL:
                self._watch = Watching.NOTHING
                self._ask_again(self._watched)
            self._state.notify()

    def end_channel(self) -> None:
        """Give up the channel, and open no other."""
        with self._state:
            self._is_ending = True
        self.drop_channel()

    def _put_off_channel(self) -> None:
        """Open the next one after a pause that grows with each that fails at once: the thread does its work as well."""
        is_short = ticks() - self._opened_at < SHORT
        self._short = self._short + 1 if is_short else 0
        self._open_from = ticks() + pause_after(self._short) if self._short else 0.0

    def _put_back(self, load: Load) -> None:
        self._outcomes[:0] = load.outcomes
        self._reports[:0] = load.reports
        self._load = NO_LOAD

    def _ask_again(self, wants: Sequence[Want]) -> None:
        """Have the thread repeat these wants, to learn what they claimed."""
        self._doubtful += [want._replace(repeated=True) for want in wants]
        self._done.clear()
        self._state.notify()

    # the watch on the channel, on the engine's thread

    def watch(self, keys: Sequence[Key], wants: list[Want], timeout: float) -> bool:
        """Have these claimed as soon as there is work; False if there is no channel."""
        channel = self.channel
        if channel is None:
            return False
        with self._state:
            self._watch, self._watched = Watching.CHANNEL, wants
            self._watch_overdue_at = ticks() + timeout + PATIENCE
        try:
            channel.watch(keys, timeout, self._from_now(wants))
        except Exception:
            self.drop_channel()
        return True

    def read_caught(self) -> None:
        """Read the claims of the watch, if they have come."""
        try:
            caught = None if self.channel is None else self.channel.caught()
        except Exception:
            self.drop_channel()
            return
        if caught is not None:
            with self._state:
                self._deliveries.append(Delivery([], [], *caught))
                self._watch = Watching.NOTHING
            self._reached()

    def _from_now(self, wants: list[Want]) -> Asked:
        now = self._clock.now()
        return Asked(wants, now, now + self._lease)

    # the watch with the listener: stand_by and withdraw on the engine's thread, catch on the listener's

    def stand_by(self, wants: list[Want]) -> None:
        """Make these wants ready to be claimed by ``catch``."""
        with self._state:
            self._watch, self._watched = Watching.STANDBY, wants

    def withdraw(self) -> None:
        """Drop the wants that are ready to be claimed by ``catch``."""
        with self._state:
            if self._watch is Watching.STANDBY:
                self._watch = Watching.NOTHING

    def catch(self, keys: Sequence[Key], timeout: float) -> bool:
        """Wait for work, then claim the wants of ``stand_by`` on the calling thread; returns whether it did.

        This saves one hand-over between threads for a run that arrives while the pool is idle.
        """
        self._source.wait(keys, timeout)
        with self._state:
            if self._watch is not Watching.STANDBY or self._closing:
                return False
            self._watch = Watching.LISTENER
        asked = self._from_now(self._watched)
        try:
            result = self._source.exchange((), asked.wants, now=asked.now, until=asked.until)
        except Exception:
            with self._state:
                self._ask_again(asked.wants)
                self._watch = Watching.NOTHING
            return True
        with self._state:
            self._deliveries.append(Delivery([], [], asked.wants, result, asked.now))
            self._watch = Watching.NOTHING
        self._reached()
        return True

    # the thread: errands, and the exchanges that the channel does not do

    def _work(self) -> None:
        self._open_channel()
        while self._await_work():
            if self._opens_in() == 0.0:
                self._open_channel()
            for errand in self._take_errands():
                self._try(errand)
            if load := self._next():
                self._deliver(load)
            self._rest()

    def _open_channel(self) -> None:
        """Open a channel, unless the source has none."""
        is_wanted = not (self._closing or self._is_ending) and self.channel is None and self._may_have_channel
        if not is_wanted or ticks() < self._open_from:
            return
        try:
            channel = self._source.channel(self._queue)
        except Exception:  # the next exchange reports the error
            self._unopened += 1
            self._open_from = ticks() + pause_after(self._unopened)
            return
        self._unopened = 0
        self._may_have_channel = channel is not None
        self._opened_at = ticks()
        with self._state:
            late, self.channel = (channel, None) if self._is_ending else (None, channel)
        if late is not None:  # the engine attends to none any more
            late.close()

    def _opens_in(self) -> float | None:
        """Seconds until the next try to open a channel; None where there is one, or can be none.

        Without one, nobody hears here of what is put for later.
        """
        is_there = self.channel is not None or not self._may_have_channel
        return None if is_there or self._closing or self._is_ending else max(0.0, self._open_from - ticks())

    def _rest(self) -> None:
        with self._state:
            self._busy = False
            if self._exchange is Exchanging.THREAD:
                self._exchange = Exchanging.NOTHING
            if not self._has_load():
                self._done.set()
            self._state.notify()
        self._poke()  # only now: poked sooner, the engine would find this thread busy, and go to sleep

    def _has_load(self) -> bool:
        return bool(self._outcomes or self._wants or self._doubtful or self._runs)

    def _await_work(self) -> bool:
        """Wait for something to do; False when closing."""
        with self._state:
            while not (self._errands or self._is_called()):
                if self._closing:
                    return False
                if (left := self._opens_in()) == 0.0:
                    break
                self._state.wait(left)
            self._busy = True
            return True

    def _is_called(self) -> bool:
        return self._has_load() and self._exchange is not Exchanging.CHANNEL

    def _take_errands(self) -> list[Callable[[], None]]:
        with self._state:
            errands, self._errands = self._errands, []
            return errands

    def _next(self) -> Load | None:
        with self._state:
            if not self._is_called():
                return None
            self._exchange = Exchanging.THREAD
            return self._take()

    def _take(self) -> Load:
        """Take all that waits to be sent; the caller holds the lock."""
        load = Load(self._outcomes, self._reports, self._doubtful + self._wants, self._runs)
        self._outcomes, self._reports, self._doubtful, self._wants, self._runs = [], [], [], [], []
        return load

    def _try(self, errand: Callable[[], None]) -> None:
        try:
            errand()
            self._reached()
        except Exception as error:
            self._missed(error)

    def _deliver(self, load: Load) -> None:
        """Exchange until it succeeds. What comes in the meantime is added."""
        failures = 0
        while True:
            self._load = load
            try:
                now = self._clock.now()
                if load.runs:
                    self._put(load.runs)
                result = exchange_isolated(
                    self._source, load.outcomes, load.wants, now=now, until=now + self._lease, trouble=self._trouble
                )
                break
            except Exception as error:  # an unforeseen fault of a driver must not end the thread either
                self._missed(error)
                failures += 1
                if self._given_up(pause_after(failures)):
                    self._dropped = True
                    return
                load = self._with_more(load)
        self._reached()
        self._open_channel()
        with self._state:
            self._deliveries.append(Delivery(*load[:3], result, now))
            self._load = NO_LOAD

    def _put(self, runs: Sequence[Envelope]) -> None:
        """Put these, however often; one that the store refuses by itself is told, and holds up nothing."""
        assert isinstance(self._source, Persister)
        try:
            put(self._source, runs)
        except StoreFull:
            raise
        except StoreRefused as error:
            self._trouble(str(error))

    def _with_more(self, load: Load) -> Load:
        with self._state:
            more = self._take()
        wants = [want._replace(repeated=True) for want in load.wants] + more.wants
        return Load(load.outcomes + more.outcomes, load.reports + more.reports, wants, [*load.runs, *more.runs])

    def _given_up(self, pause: float) -> bool:
        """Wait before the next try; returns whether the pool closes, which ends the wait."""
        end = monotonic() + pause
        with self._state:
            while not self._closing and (left := end - monotonic()) > 0:
                self._state.wait(left)
            return self._closing

    def _trouble(self, text: str) -> None:
        if text != self._last_trouble:
            self._last_trouble = text
            self.troubles.append(text)

    def _missed(self, error: Exception) -> None:
        if self.away is None:
            self.away = error
            self._poke()

    def _reached(self) -> None:
        self.has_reached = True
        if self.away is not None:
            self.away = None
            self._poke()
