"""The engine of a pool: one thread that claims, hands out, reads, judges and commits.

The life of a run in a pool, in order, each step with its one place::

    arrives      Exchanger: a claim comes from an exchange, or from a watch while the pool is idle
    is admitted  Engine._deliver, Completer.admit: its past may end it; else it becomes a Held of one slot
    is handed    Leases.hand_out, Slot.hand: its frame and its ticket are written to the worker
    runs         worker/child: the worker takes the ticket, executes, and writes a frame of what happened
    is read      Supervisor, Reader.take_in: the frame is read; a death, a timeout or an interrupt counts as one
    is judged    Completer.judge: policy makes an Outcome of what happened; it waits with its log entry
    is committed Engine._exchange, Exchanger.carry: outcomes go to the source, and wants for new claims with them
    is reported  Engine._deliver: the entry is logged, once the source has taken the outcome
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable
from time import sleep
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Exchange, Outcome
from skunkqueue.errors import StoreError, StoreVersion, WrongStore
from skunkqueue.limits.turns import is_turn
from skunkqueue.persistence import Channel, Persister, Source, WorkerKey
from skunkqueue.worker.pool.completer import Completer, not_kept, refused, taken
from skunkqueue.worker.pool.exchanger import Delivery, Exchanger
from skunkqueue.worker.pool.fetcher import Fetcher
from skunkqueue.worker.pool.heartbeat import Beaten, Heartbeat
from skunkqueue.worker.pool.leases import Leases
from skunkqueue.worker.pool.listener import Listener
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import ERROR, WARNING
from skunkqueue.worker.pool.permits import Permits
from skunkqueue.worker.pool.settings import Settings, describe, make_slots
from skunkqueue.worker.pool.slot import Held, Slot
from skunkqueue.worker.pool.supervisor import GENTLE, KILL, ROUGH, Supervisor, named
from skunkqueue.worker.pool.timekeeper import Timekeeper

__all__ = ["GENTLE", "KILL", "ROUGH", "Engine"]

LINGER: Final = 0.02
"""Seconds that the engine waits for an exchange with a store in this process, before it goes on."""
BREATH: Final = 0.002
"""Seconds without events before the log is written, so that it does not delay the end of a run."""
QUICK: Final = 1.0
"""Seconds that a pool told to kill waits for a store that does not answer."""
SLICE: Final = 0.1
"""Seconds after which a pool that waits for its end looks whether it is told to hurry."""
UNREACHED: Final = 10.0
"""Seconds after which a burst gives up on a store that it has never reached. Other pools go on trying."""
ORDERS_WAIT: Final = 30.0
"""Seconds of one wait for orders."""
LONGEST: Final = 3600.0
"""Seconds of one wait. The kernel refuses to wait for a month, and a run may be due in the year 9999."""
FOREVER: Final = float("inf")

_ORDERS: Final = {"gentle": GENTLE, "rough": ROUGH, "kill": KILL}


class Engine:
    """Runs on one thread from start to end. All methods are called on it, except those for other threads."""

    def __init__(self, source: Source, clock: Clock, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.burst: bool = False  # to end when nothing is left
        self._is_burst_asked = False
        self._is_open = False
        self._source = source
        self._clock = clock
        self._log = log
        self._slots = make_slots(settings)
        self._level = 0  # how it is to stop
        self._further = ""
        self._obeyed = 0
        self._rough_at = FOREVER
        self._give_up_at = FOREVER
        self._rouse_at = FOREVER
        self._was_away = False
        self._channel: Channel | None = None
        self._unreached_at = FOREVER  # ticks when a burst gives up on a store that has not answered yet
        self._write_at = FOREVER  # ticks when the log is to be written
        self._wake, self._poke_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._poke_end, False)

    # from other threads

    def poke(self) -> None:
        """Wake the engine."""
        with contextlib.suppress(OSError):  # a full pipe wakes it as well
            os.write(self._poke_end, b"!")

    def reload(self, why: str) -> None:
        """Have new workers take the place of the old ones, which finish what they run."""
        if self._is_open:  # else there are no workers yet
            self._supervisor.reload(why)
        self.poke()

    def stop(self, level: int, further: str = "") -> None:
        """Stop: GENTLE, ROUGH or KILL. The level never goes down. ``further``: what the log says of the next signal."""
        self._further = self._further or further
        self._level = max(self._level, level)
        self.poke()

    def end_when_idle(self) -> None:
        """Work until nothing is ripe and nothing runs, then stop. What is there now is looked for first."""
        self._is_burst_asked = True
        self.poke()

    def _await_orders(self, timeout: float) -> None:
        self._source.wait(self._order_keys, timeout)

    def _beat_now(self) -> None:
        """On the orders listener's thread: there may be orders, which come with a beat."""
        self._leases.beat_now()
        self.poke()

    # the main loop

    def run(self) -> None:
        """Work until told to stop, or until idle after ``end_when_idle``."""
        self._open()
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._close()

    @property
    def failure(self) -> str | None:
        """Why the pool can never work."""
        return self._supervisor.failure

    def _open(self) -> None:
        settings, source, slots = self.settings, self._source, self._slots
        routes = ", ".join(settings.routes)
        sentence = f"pool {settings.name} of queue {settings.queue} on {source.url} serves {routes}"
        self._log.say(sentence, what="started")
        self._unreached_at = ticks() + UNREACHED
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._exchanger = Exchanger(source, self._clock, settings.queue, settings.lease, self.poke)
        self._exchanger.start()
        self._fetcher = Fetcher(source, self._clock, settings, slots, self._exchanger, self.poke)
        about = {slot.name: self._about(slot) for slot in slots}
        self._heartbeat = Heartbeat(source, self._clock, settings.lease, about, self._exchanger.run)
        is_store = isinstance(source, Persister)
        self._completer = Completer(self._clock, self._log, settings.patience, settings.in_process, is_timed=is_store)
        look = self._fetcher.call
        hand_back = self._completer.hand_back
        self._leases = Leases(slots, settings, self._heartbeat, self._log, self._exchanger.run, look, hand_back)
        self._open_permits(look)
        self._timekeeper = Timekeeper(source, self._clock, settings, self._exchanger.run, look, self.poke)
        self._supervisor = Supervisor(
            slots, settings, self._selector, self._completer, self._leases, self._log, look, self._timekeeper
        )
        self._order_keys = [WorkerKey(slot.name) for slot in slots]
        self._orders = Listener(self._await_orders, self._beat_now, "skunkqueue-orders")
        self._is_open = True
        self._log.flush()

    def _open_permits(self, look: Callable[[], None]) -> None:
        """What has to do with limited runs, which only a store has."""
        most, run = self._fetcher.most, self._exchanger.run
        self._permits = permits = Permits(
            self._source, self._clock, self.settings, self._slots, self._completer, run, look, most
        )
        self._fetcher.further = permits.wants
        self._leases.others, self._leases.others_lost, self._leases.gone = permits.claims, permits.lost, permits.gone
        self._completer.gone, permits.hand = permits.gone, self._hand
        if isinstance(self._source, Persister):
            for slot in self._slots:
                slot.take_turns()

    def _turn(self) -> None:
        self._attend()
        self._listen()
        self._obey()
        self._leases.keep()
        self._timekeeper.keep()
        for warning in self._permits.tend(stops=self._claims_nothing()):
            self._warn(warning)
        self._await_more_orders()
        self._leases.check()
        self._permits.pass_on(self._completer.outcomes)
        self._supervisor.enforce()
        self._supervisor.tend()
        self._exchange()
        self._write_log()

    # 1. read what happened

    def _attend(self) -> None:
        """If the channel has changed, listen to the new one. Close those given up, also where they were never heard."""
        channel = self._exchanger.channel
        if channel is not self._channel:
            self._listen_to(channel)
        while self._exchanger.dropped:
            self._exchanger.dropped.pop().close()

    def _listen_to(self, channel: Channel | None) -> None:
        if self._channel is not None:
            for fd, _ in self._readers(self._channel):
                self._selector.unregister(fd)
        self._channel = channel
        if channel is not None:
            for fd, read in self._readers(channel):
                self._selector.register(fd, selectors.EVENT_READ, read)
            self._fetcher.call_all()  # what was put for later since the last look may have been announced to others

    def _readers(self, channel: Channel) -> list[tuple[int, Callable[[], None]]]:
        """The descriptors of a channel, each with the method that reads it."""
        readers = [(channel.answer_fd, self._read_answer), (channel.caught_fd, self._read_caught)]
        return [*readers, (channel.later_fd, self._read_later)] if channel.later_fd >= 0 else readers

    def _read_answer(self) -> None:
        self._exchanger.read_answer()
        self._collect()

    def _read_caught(self) -> None:
        self._exchanger.read_caught()
        self._collect()

    def _read_later(self) -> None:
        self._fetcher.tell(self._exchanger.read_later())

    def _listen(self) -> None:
        timeout = min(max(0.0, self._until() - ticks()), LONGEST)
        for key, _ in self._selector.select(timeout):
            key.data()

    def _until(self) -> float:
        """Ticks of the next thing to do, if no event comes before."""
        if (self._completer.outcomes and not self._exchanger.asking) or self._is_idle_burst():
            return 0.0
        until = min(self._rough_at, self._give_up_at, self._rouse_at, self._exchanger.late_at)
        until = min(until, self._supervisor.until(), self._leases.until(), self._unreached_at, self._timekeeper.until())
        until = min(until, self._permits.until())
        if not self._claims_nothing():
            until = min(until, self._fetcher.until())
        return min(until, self._write_at) if self._log.waits else until

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._wake, 4096)) == 4096:
                pass
        self._collect()

    # 2. obey signals and orders

    def _obey(self) -> None:
        if self._is_burst_asked:
            self._is_burst_asked, self.burst = False, True
            self._fetcher.call()  # the last look may be older than what came since
        if ticks() >= self._unreached_at:
            self._give_up_unreached()
        if self._supervisor.failure is not None:
            self._level = max(self._level, GENTLE)
        if ticks() >= self._rough_at:
            self._rough_at = FOREVER
            self._level = max(self._level, ROUGH)
        level = self._supervisor.level = self._level
        if level == self._obeyed:
            return
        if not self._obeyed:
            how = {GENTLE: "what runs may finish", ROUGH: "at once", KILL: "at once"}[level]
            self._log.say(f"pool stops: {how}{self._further}", what="stops")
            if self.settings.grace is not None:
                self._rough_at = ticks() + self.settings.grace
            self._supervisor.leave()
        if level == KILL:
            if self._give_up_at < FOREVER:
                self._give_up_at = min(self._give_up_at, ticks() + QUICK)
            self._supervisor.kill_all()
        self._obeyed = level

    def _give_up_unreached(self) -> None:
        """End a burst whose store has never answered: in a script, nobody would start that store later."""
        self._unreached_at = FOREVER if self._exchanger.has_reached else ticks() + UNREACHED
        if self.burst and not self._level and not self._exchanger.has_reached:
            away = self._exchanger.away
            what = f"{self._source.url} does not answer" if away is None else str(away)
            self._supervisor.failure = f"gave up after {UNREACHED:g} s: {what}"

    def _await_more_orders(self) -> None:
        if not self._orders.watching and not self._level:
            self._orders.watch(ticks() + ORDERS_WAIT)

    def _beaten(self, beaten: Beaten) -> None:
        for warning in beaten.warnings:
            self._warn(warning)
        self._leases.beaten(beaten)
        for slot in self._slots:
            for order in beaten.orders.get(slot.name, ()):
                self._follow(slot, order.text)

    def _warn(self, text: str) -> None:
        self._log.say(f"warning: {text}", what="warning", level=WARNING)

    def _follow(self, slot: Slot, order: str) -> None:
        """Follow an order that was sent to a worker."""
        verb, _, rest = order.partition(" ")
        if verb in _ORDERS:
            self.stop(_ORDERS[verb])
        elif verb == "cancel":
            self._leases.cancelled(slot, rest)
        elif verb == "schedules":
            self._timekeeper.told()

    # 3. exchange outcomes for claims

    def _exchange(self) -> None:
        if ticks() >= self._exchanger.late_at:
            self._exchanger.drop_channel()
        is_paused = self._claims_nothing()
        outcomes = self._completer.outcomes and not self._exchanger.asking
        if outcomes:
            self._permits.ending(self._completer.outcomes)
        wants = [] if is_paused else self._fetcher.wants(anyway=bool(outcomes))
        if outcomes or wants:
            done, reports = self._completer.take()
            ends = self._timekeeper.ends
            self._exchanger.carry(done, reports, wants, ends.runs(done, self._clock.now()) if ends and done else ())
            if not (self._source.is_far or any(slot.behind for slot in self._slots)):
                self._exchanger.linger(LINGER)
            self._collect()
        elif is_paused:
            self._fetcher.pause()
        elif not self._is_quiet_burst():
            self._fetcher.look_out()
        is_ending = self._level or (self.burst and self._is_at_rest())
        self._rouse_at = self._fetcher.rouse() if is_ending else FOREVER

    def _claims_nothing(self) -> bool:
        """Whether it stops, does not know whether its leases hold, or not yet which routes are paused."""
        return bool(self._level) or not self._leases.are_sure or not self._timekeeper.has_looked

    def _collect(self) -> None:
        self._tell_of_trouble()
        while self._exchanger.troubles:
            self._warn(self._exchanger.troubles.pop(0))
        for delivery in self._exchanger.collect():
            self._deliver(delivery)
        for beaten in self._heartbeat.collect():
            self._beaten(beaten)
        if self._timekeeper.has_news:
            self._looked()

    def _looked(self) -> None:
        """Take in what the timekeeper has found: what is paused waits from now on, but for what runs."""
        for warning in self._timekeeper.collect():
            self._warn(warning)
        for slot in self._fetcher.pause_routes(self._timekeeper.paused):
            self._completer.hand_back(slot, slot.take_back())

    def _deliver(self, delivery: Delivery) -> None:
        """Handle a delivery: report outcomes, start runs that were marked, hand out claims."""
        if delivery.outcomes:
            self._report(delivery)
            self._permits.ended(delivery)
            if self._timekeeper.minds_ends:
                self._timekeeper.ended(delivery.outcomes)
            if self._timekeeper.ends:
                self._call_handlers(delivery)
            self._start_marked(delivery)
        self._timekeeper.stir(delivery.outcomes, delivery.result.claims)
        if delivery.result.claims:
            self._leases.claimed(ticks() + delivery.now + self.settings.lease - self._clock.now())
            self._hand_out(delivery.result)
        if delivery.wants:
            self._permits.answered(delivery)
            self._fetcher.learn(delivery, self.burst)

    def _call_handlers(self, delivery: Delivery) -> None:
        """Look for the runs of handlers, which may be ours; put those that could not be known of before."""
        refused = delivery.result.refused
        if refused:
            runs = self._timekeeper.ends.of_refused(delivery.outcomes, refused, self._clock.now())
            self._exchanger.carry([], [], [], runs)
        self._fetcher.call()

    def _report(self, delivery: Delivery) -> None:
        result, outcomes = delivery.result, delivery.outcomes
        if len(result.taken) == len(outcomes) and not result.refused:
            self._log.say_all(delivery.reports)
            return
        for (claim, outcome), report in zip(outcomes, delivery.reports, strict=True):
            if claim.id in result.refused:
                self._log.say_all([not_kept(claim, report, result.refused[claim.id])])
            elif outcome.kind != "progress" or claim.id in result.taken:  # else it is told of when the run ends
                self._log.say_all([report if claim.id in result.taken else refused(claim, report)])

    def _start_marked(self, delivery: Delivery) -> None:
        """Start careful runs whose mark the source has taken: it must know of the start before they start."""
        marking = {slot.marking.claim.token: slot for slot in self._slots if slot.marking is not None}
        for claim, outcome in delivery.outcomes if marking else ():
            slot = marking.get(claim.token)
            if outcome.kind == "started" and slot is not None:
                self._marked(slot, claim, claim.id in delivery.result.taken)

    def _marked(self, slot: Slot, claim: Claim, is_taken: bool) -> None:
        held = slot.marking
        if held is None or held.claim.id != claim.id:
            return
        slot.marking = None
        if not is_taken:
            self._permits.gone(held.claim)
            self._fetcher.call()
        elif slot.body is None or slot.leaving:
            self._completer.hand_back(slot, [held])
        else:
            self._hand(slot, [held])

    def _hand_out(self, result: Exchange) -> None:
        """Admit each new claim, and hand them out by slot, in order."""
        batches: dict[Slot, list[Held]] = {}
        for claim in result.claims:
            slot = self._fetcher.slot_of(claim.token)
            if is_turn(claim[0][2]):
                self._permits.took(slot, claim, stops=bool(self._level))
                continue
            permit = self._permits.of(claim.token)
            if permit is not None and not self._permits.may_start(permit, claim, result.taken):
                self._completer.note(claim, Outcome.untouched())
                continue
            if claim.lapses:
                self._leases.claimed_anew(claim)
            held = self._completer.admit(slot, claim)
            if held is None:
                continue
            held.guarded = permit is not None and self._permits.is_guarded((claim.id, claim.token))
            # Another may be quicker than it is replaced, or than its route goes on.
            may_have = permit is None or self._permits.may_have(permit, slot, held)
            if slot.leaving or slot.paused or not slot.ready or slot.gave_back or not may_have:
                self._completer.hand_back(slot, [held])
            elif permit is not None and self._permits.follows(permit, held):
                slot.put_behind(permit.chain, held)
            elif held.careful:
                slot.waiting.append(held)
            else:
                batches.setdefault(slot, []).append(held)
        for slot, batch in batches.items():
            self._hand(slot, batch)

    def _hand(self, slot: Slot, batch: list[Held]) -> None:
        self._leases.hand_out(slot, batch)
        self._log.say_all([taken(slot, held) for held in batch])

    def _tell_of_trouble(self) -> None:
        away = self._exchanger.away
        if isinstance(away, WrongStore | StoreVersion) and not self._exchanger.has_reached:
            self._supervisor.failure = str(away)  # never right, and so not away: it does not get better by waiting
            return
        if away is not None and not self._was_away:
            what = str(away) if isinstance(away, StoreError) else named(away)
            sentence = f"{self._where} is away, trying again until it is back: {what}"
            self._log.say(sentence, what="store away", level=WARNING, error=what)
        elif away is None and self._was_away:
            self._log.say(f"{self._where} is back", what="store back")
            self._leases.beat_now()
        self._was_away = away is not None

    @property
    def _where(self) -> str:
        return "the store" if isinstance(self._source, Persister) else self._source.url

    # 4. end

    def _is_idle_burst(self) -> bool:
        """Whether, in a burst, the last look found nothing ripe, nothing runs, and nothing is under way."""
        return self._is_quiet_burst() and self._exchanger.idle

    def _is_quiet_burst(self) -> bool:
        has_looked = self._fetcher.looked and not self._fetcher.called and self._timekeeper.is_done
        return self.burst and not self._level and has_looked and self._is_at_rest()

    def _is_at_rest(self) -> bool:
        return (
            not self._completer.outcomes
            and self._permits.is_at_rest
            and all(slot.ready and not slot.busy and not slot.leaving for slot in self._slots)
        )

    def _is_over(self) -> bool:
        if self._is_idle_burst() or (not self._level and self._supervisor.all_done):
            self.stop(GENTLE)
        if not self._level or not self._supervisor.all_done:
            return False
        if (
            not self._completer.outcomes
            and self._permits.is_at_rest
            and (self._exchanger.idle or (self._was_away and not self._exchanger.owes))
        ):
            return True
        if self._give_up_at == FOREVER:
            self._give_up_at = ticks() + (QUICK if self._level >= KILL else self.settings.lease)
        return ticks() >= self._give_up_at

    def _close(self) -> None:
        self._fetcher.close()
        self._orders.close()
        self._timekeeper.elsewhere.close()
        self._exchanger.run(self._end_waits)
        self._exchanger.run(self._heartbeat.stop)
        self._exchanger.end_channel()
        self._attend()
        if not self._has_closed_exchanger() and self._exchanger.owes:
            sentence = "gave up on the store: runs whose outcome it lacks will be run again when their leases end"
            self._log.say(sentence, what="gave up", level=ERROR)
        self._supervisor.close()
        self._selector.close()
        os.close(self._wake)
        end, self._poke_end = self._poke_end, -1
        os.close(end)
        self._log.say(f"pool {self.settings.name} stopped", what="stopped")
        self._log.flush()

    def _has_closed_exchanger(self) -> bool:
        """Wait for what is left to send, no longer than a lease after the workers have ended."""
        give_up_at = min(self._give_up_at, ticks() + self.settings.lease)
        while not self._exchanger.close(SLICE):
            most = give_up_at if self._level < KILL else min(give_up_at, ticks() + QUICK)
            if not self._exchanger.works or ticks() >= most:
                return False
            give_up_at = most
        return True

    def _end_waits(self) -> None:
        """On the exchanger's thread: end waits. Repeated, as a wait may only be about to begin."""
        for _ in range(25):
            orders = self._orders.watching and self._source.rouse(self._order_keys)
            awaited = self._timekeeper.elsewhere.end_wait()
            if not (self._fetcher.end_wait() or orders or awaited):
                return
            sleep(0.02)

    def _write_log(self) -> None:
        """Have the log written, but not while runs are being reported."""
        if not self._log.waits:
            self._write_at = FOREVER
            self._log.flush()  # which lets a log that is far behind catch up
        elif self._write_at == FOREVER:
            self._write_at = ticks() + BREATH
        elif ticks() >= self._write_at:
            self._log.flush()

    def _about(self, slot: Slot) -> Callable[[], str]:
        """Makes the description of a worker, as JSON."""
        return lambda: describe(self.settings, slot, self._clock)
