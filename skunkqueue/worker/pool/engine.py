"""The engine of a pool: hears its workers, judges what happened, exchanges with the source, hands out what it got."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Sequence
from time import sleep
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim
from skunkqueue.errors import StoreError
from skunkqueue.persistence import Channel, Source, worker_key
from skunkqueue.worker.pool.completer import Completer, Reader
from skunkqueue.worker.pool.exchanger import Delivery, Exchanger
from skunkqueue.worker.pool.fetcher import Fetcher
from skunkqueue.worker.pool.heartbeat import Beaten, Heartbeat
from skunkqueue.worker.pool.listener import Listener
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.process import Guard, Process, Thread
from skunkqueue.worker.pool.settings import Settings, describe, make_workers
from skunkqueue.worker.pool.slot import Held, Slot

GENTLE: Final = 1
ROUGH: Final = 2
KILL: Final = 3

LINGER: Final = 0.02
"""Seconds that the engine waits for an exchange that is done in this process, before it goes on."""
AGAIN: Final = 1.0
"""Seconds after which a beat is tried again that failed."""
BREATH: Final = 0.002
"""Seconds of quiet before the log is written: who wants to know how a run ended does not wait for that."""
QUICK: Final = 2.0
"""Seconds that a pool told to kill waits for a store that is away."""
FOREVER: Final = float("inf")

_ORDERS: Final = {"gentle": GENTLE, "rough": ROUGH, "kill": KILL}


class Engine:
    """Runs on one thread from start to end; everything here happens on it, but ``stop`` and ``poke``."""

    def __init__(self, source: Source, clock: Clock, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.failure: str | None = None
        self.burst = False
        self._source = source
        self._clock = clock
        self._log = log
        self._workers = make_workers(settings)
        self._level = 0
        self._obeyed = 0
        self._rough_at = FOREVER
        self._give_up_at = FOREVER
        self._rouse_at = FOREVER
        self._completer = Completer(clock, log, settings.patience)
        self._reader = Reader(self._completer, self._look_again, self._broken)
        self._beat_at = 0.0
        self._horizon = 0.0  # ticks until when all that is handed out is surely leased
        self._unasked = FOREVER  # ticks until when those are leased that came after the last beat was put together
        self._overslept = False
        self._was_away = False
        self._line: Channel | None = None
        self._write_at = FOREVER  # ticks when the log is to be written
        self._wake, self._poke_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._poke_end, False)

    # from other threads

    def poke(self) -> None:
        """Have the engine look around."""
        with contextlib.suppress(OSError):  # a full pipe pokes as well
            os.write(self._poke_end, b"!")

    def stop(self, level: int) -> None:
        """Stop: GENTLE, ROUGH or KILL; never back."""
        self._level = max(self._level, level)
        self.poke()

    def _look_again(self) -> None:
        self._fetcher.call()

    def _broken(self, why: str) -> None:
        """A worker says that it can never start."""
        self.failure = why
        self.stop(GENTLE)

    def _await_orders(self, timeout: float) -> None:
        self._source.wait(self._order_keys, timeout)

    def _beat_now(self) -> None:
        """On the listener's thread: there may be orders."""
        self._beat_at = 0.0
        self.poke()

    # the story

    def run(self) -> None:
        """Work until told to stop, or until idle where ``burst`` is set."""
        self._open()
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._close()

    def _open(self) -> None:
        settings = self.settings
        routes = ", ".join(settings.routes)
        self._say(f"pool {settings.name} of queue {settings.queue} on {self._source.url} serves {routes}")
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._guard = None if settings.in_process else Guard()
        self._exchanger = Exchanger(self._source, self._clock, settings.queue, settings.lease, self.poke)
        self._exchanger.start()
        self._fetcher = Fetcher(self._source, self._clock, settings, self._workers, self._exchanger, self.poke)
        about = {worker.name: self._about(worker) for worker in self._workers}
        self._heartbeat = Heartbeat(self._source, self._clock, settings.lease, about, self._exchanger.run)
        self._order_keys = [worker_key(worker.name) for worker in self._workers]
        self._orders = Listener(self._await_orders, self._beat_now, "skunkqueue-orders")
        self._horizon = ticks() + settings.lease
        self._log.flush()

    def _turn(self) -> None:
        self._attend()
        self._listen()
        self._obey()
        self._keep_alive()
        self._enforce()
        for worker in self._workers:
            self._tend(worker)
        self._exchange()
        self._write_log()

    # 1. hear what happened

    def _attend(self) -> None:
        """Listen to the line that there is now; end the one before."""
        line = self._exchanger.line
        if line is self._line:
            return
        if self._line is not None:
            self._selector.unregister(self._line.asked)
            self._selector.unregister(self._line.stood)
            self._line.close()
        self._line = line
        if line is not None:
            self._selector.register(line.asked, selectors.EVENT_READ, self._hear_answer)
            self._selector.register(line.stood, selectors.EVENT_READ, self._hear_news)

    def _hear_answer(self) -> None:
        self._exchanger.hear()
        self._collect()

    def _hear_news(self) -> None:
        self._exchanger.hear_news()
        self._collect()

    def _listen(self) -> None:
        timeout = max(0.0, self._until() - ticks())
        for key, _ in self._selector.select(None if timeout == FOREVER else timeout):
            key.data()

    def _until(self) -> float:
        """Ticks when there is something to do though nothing happens."""
        if (self._completer.outcomes and not self._exchanger.asking) or self._is_idle_burst():
            return 0.0
        until = min(self._rough_at, self._give_up_at, self._rouse_at, self._exchanger.late_at)
        until = min(until, *(worker.next_deadline() for worker in self._workers))
        if not self._heartbeat.under_way:
            until = min(until, self._beat_at)
        if not self._level and not self._overslept:
            until = min(until, self._fetcher.until())
        if self._log.waits:
            until = min(until, self._write_at)
        if any(w.body is not None and w.body.death < 0 for w in self._workers):
            until = min(until, ticks() + 0.05)  # no word of deaths from this kernel: ask
        return until

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._wake, 4096)) == 4096:
                pass
        self._collect()

    def _hear(self, worker: Slot) -> None:
        """Take in what a worker says."""
        if worker.body is None:
            return  # buried a moment ago, for something else that the selector told of in the same breath
        try:
            said = worker.heard()
            if said is None:
                self._selector.unregister(worker.body.pipes.from_worker)
            else:
                self._reader.take_in(worker, *said)
        except Exception as error:  # its job has written into our pipe
            self._say(f"{worker.label} is killed: what it says cannot be read ({type(error).__name__}: {error})")
            worker.body.kill()
            self._died(worker)

    # 2. bury the dead

    def _died(self, worker: Slot) -> None:
        """A worker is dead: what it had finished counts, what it ran is judged, what it had not started goes back."""
        assert worker.body is not None
        if not worker.body.has_died():
            return
        self._forget(worker)
        try:
            self._reader.take_in(worker, *worker.last_words())
        except Exception as error:
            self._say(f"{worker.label} left what cannot be read ({type(error).__name__}: {error})")
        came_up, leaving, killed = worker.ready, worker.leaving, worker.killed
        how, running, back = worker.buried()
        self._completer.hand_back(worker, back)
        for held in running:
            if not self._completer.judge_death(worker, held, how, len(running) == 1, killed):
                self._fetcher.call()
        if self._level:
            worker.done = True
        elif not came_up:
            worker.start_later()
        how = "stopped" if leaving and not running else f"died ({how})"
        self._say(f"{worker.label} {how}")

    # 3. obey signals, orders and deadlines

    def _obey(self) -> None:
        if ticks() >= self._rough_at:
            self._rough_at = FOREVER
            self._level = max(self._level, ROUGH)
        level = self._level
        if level == self._obeyed:
            return
        if not self._obeyed:
            self._say("pool stops: " + {GENTLE: "what runs may finish", ROUGH: "at once", KILL: "at once"}[level])
            self._leave()
        if level == KILL:
            if self._give_up_at < FOREVER:
                self._give_up_at = min(self._give_up_at, ticks() + QUICK)
            self._kill()
        self._obeyed = level

    def _leave(self) -> None:
        if self.settings.grace is not None:
            self._rough_at = ticks() + self.settings.grace
        for worker in self._workers:
            self._completer.hand_back(worker, worker.leave())
            worker.leave_by = 0.0 if worker.held else ticks() + self.settings.kill_after
            worker.done = worker.body is None

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.body is not None:
                for held in worker.held.values():
                    held.cause = held.cause or "stop"
                self._kill_worker(worker)

    def _enforce(self) -> None:
        now = ticks()
        if now > self._horizon and not self._overslept:
            self._oversleep()
        for worker in self._workers:
            for held in worker.executing() if self._level >= ROUGH else worker.pressed():
                self._enforce_on(worker, held, now)
            if now >= worker.is_stuck_from and not worker.leaving:
                self._completer.hand_back(worker, worker.recall())
            if worker.leave_by and now >= worker.leave_by:
                self._kill_worker(worker)
            elif worker.body is not None and worker.body.death < 0:
                self._died(worker)

    def _enforce_on(self, worker: Slot, held: Held, now: float) -> None:
        timeout = held.seal.timeout
        if self._level >= ROUGH:  # here, for it may have started a moment ago
            worker.interrupt(held, "stop", self.settings.kill_after)
        if held.kill_at:
            if now >= held.kill_at and not worker.killed:
                self._say(
                    f"{worker.label} is killed: {held.claim.id} {held.name} does not come back from being interrupted"
                )
                self._kill_worker(worker)
        elif timeout is not None and held.since and now >= held.since + timeout:
            worker.interrupt(held, "timeout", self.settings.kill_after)

    def _kill_worker(self, worker: Slot) -> None:
        if worker.body is not None and not worker.killed:
            worker.killed = True
            worker.body.kill()
            self._died(worker)  # a thread that is given up is gone at once; of a process the kernel tells

    # 4. keep the leases

    def _oversleep(self) -> None:
        """The leases may have ended: nothing more is started before it is known which still hold."""
        self._overslept = True
        self._beat_at = 0.0
        for worker in self._workers:
            worker.recalled.extend(worker.recall())

    def _keep_alive(self) -> None:
        now = ticks()
        if now >= self._beat_at and not self._heartbeat.under_way:
            self._beat_at = now + self.settings.lease / 3
            self._heartbeat.under_way = True
            self._unasked = FOREVER
            claims = [held.claim for worker in self._workers for held in worker.in_hand()]
            self._exchanger.run(lambda: self._heartbeat.beat(claims))
        if not self._orders.watching and not self._level:
            self._orders.watch(30.0)

    def _beaten(self, beaten: Beaten) -> None:
        for warning in beaten.warnings:
            self._say(f"warning: {warning}")
        if beaten.until is not None:
            lost = {(claim.id, claim.token) for claim in beaten.asked if claim.id not in beaten.held}
            if lost:
                self._lose(lost)
            self._look_as_far_as(min(beaten.until, self._unasked))
            self._overslept = self._horizon <= ticks()
        if self._overslept or beaten.until is None:
            self._beat_at = min(self._beat_at, ticks() + AGAIN)
        if not self._overslept:
            for worker in self._workers:
                worker.again()
        for worker in self._workers:
            for order in beaten.orders.get(worker.name, ()):
                self._follow(worker, order.text)

    def _look_as_far_as(self, horizon: float) -> None:
        """What is handed out is surely leased until then (ticks); workers start nothing after it."""
        self._horizon = horizon
        for worker in self._workers:
            if worker.body is not None:
                worker.body.pipes.set_horizon(horizon)

    def _leased(self, until: float) -> None:
        """New claims hold until then (ticks): less than usual, where the source took its time to answer."""
        self._unasked = min(self._unasked, until)
        if until < self._horizon:
            self._look_as_far_as(until)
        if self._horizon <= ticks() and not self._overslept:
            self._oversleep()

    def _lose(self, lost: set[tuple[str, str]]) -> None:
        """Claims that are no longer ours: what runs is interrupted, what does not run yet is let go."""
        for worker in self._workers:
            if not any((held.claim.id, held.claim.token) in lost for held in worker.in_hand()):
                continue
            worker.recalled.extend(worker.recall())
            for held in worker.drop(lost):
                self._say(f"{worker.label} let go of {held.claim.id} {held.name}: its lease was taken away")
                self._fetcher.call()
            for held in list(worker.held.values()):
                if (held.claim.id, held.claim.token) in lost:
                    worker.interrupt(held, "lost", self.settings.kill_after)
            if not self._overslept:
                worker.again()

    def _follow(self, worker: Slot, order: str) -> None:
        """An order that somebody left for a worker."""
        verb, _, rest = order.partition(" ")
        if verb in _ORDERS:
            self.stop(_ORDERS[verb])
        elif verb == "cancel":
            for held in list(worker.in_hand()):
                if held.claim.id == rest:
                    self._lose({(held.claim.id, held.claim.token)})

    # 5. keep the workers

    def _tend(self, worker: Slot) -> None:
        if worker.body is None:
            if not worker.done and not self._level and ticks() >= worker.start_at:
                self._start(worker)
            return
        if worker.unsent:
            self._watch_room(worker)
        if worker.recalled and not self._overslept and not worker.leaving:
            worker.again()
        if worker.leaving:
            if not worker.held and not worker.leave_by:
                worker.leave_by = ticks() + self.settings.kill_after
        elif self.settings.max_runs and worker.runs >= self.settings.max_runs and not worker.held:
            self._completer.hand_back(worker, worker.leave())
        elif worker.waiting and not worker.held and worker.marking is None:
            worker.marking = worker.waiting.popleft()
            self._completer.mark(worker.marking)

    def _start(self, worker: Slot) -> None:
        settings = self.settings
        setup = {
            "concurrency": settings.concurrency,
            "max_result": settings.max_payload,
            "imports": list(settings.imports),
            "jobs": settings.jobs_from,
            "shared": settings.shared,
        }
        try:
            if self._guard is None:
                body: Process | Thread = Thread(setup, settings.jobs, f"skunkqueue-{worker.label}", self._horizon)
            else:
                body = Process(setup, {"SKUNKQUEUE_POOL_URL": settings.url}, self._guard, self._horizon)
        except OSError as error:
            worker.start_later()
            self._say(f"{worker.label} cannot be started ({error}); trying again")
            return
        worker.body = body
        self._selector.register(body.pipes.from_worker, selectors.EVENT_READ, lambda: self._hear(worker))
        if body.death >= 0:
            self._selector.register(body.death, selectors.EVENT_READ, lambda: self._died(worker))
        self._say(f"{worker.label} started, process {body.pid}")

    def _watch_room(self, worker: Slot) -> None:
        """A pipe is full: write on when there is room."""
        if worker.body is None:
            return
        fd = worker.body.pipes.to_worker
        if worker.send():
            with contextlib.suppress(KeyError):
                # Not only _tend calls it: where something else has written all, nothing but this stops the watching.
                self._selector.register(fd, selectors.EVENT_WRITE, lambda: self._watch_room(worker))
        elif fd in self._selector.get_map():
            self._selector.unregister(fd)

    def _forget(self, worker: Slot) -> None:
        """Listen no more to what is about to be buried."""
        assert worker.body is not None
        pipes = worker.body.pipes
        for fd in (pipes.from_worker, pipes.to_worker, worker.body.death):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)

    # 6. exchange outcomes for claims

    def _exchange(self) -> None:
        if ticks() >= self._exchanger.late_at:
            self._exchanger.hang_up()
        is_paused = self._level or self._overslept
        outcomes = self._completer.outcomes and not self._exchanger.asking
        wants = [] if is_paused else self._fetcher.wants(anyway=bool(outcomes))
        if outcomes or wants:
            self._exchanger.carry(*self._completer.take(), wants)
            if not self._source.is_far:
                self._exchanger.linger(LINGER)
            self._collect()
        elif is_paused:
            self._fetcher.pause()
        elif not self._is_quiet_burst():
            self._fetcher.look_out()
        is_ending = self._level or (self.burst and self._is_at_rest())
        self._rouse_at = self._fetcher.rouse() if is_ending else FOREVER

    def _collect(self) -> None:
        self._tell_of_trouble()
        for delivery in self._exchanger.collect():
            self._delivered(delivery)
        for beaten in self._heartbeat.collect():
            self._beaten(beaten)

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.outcomes:
            self._report(delivery)
            self._hear_of_marks(delivery)
        if delivery.result.claims:
            self._leased(ticks() + delivery.now + self.settings.lease - self._clock.now())
            self._received(delivery.result.claims)
        if delivery.wants:
            self._fetcher.learn(delivery, self.burst)

    def _report(self, delivery: Delivery) -> None:
        taken, outcomes = delivery.result.taken, delivery.outcomes
        if len(taken) == len(outcomes):
            self._log.say_all(delivery.reports)
            return
        for (claim, _), report in zip(outcomes, delivery.reports, strict=True):
            if claim.id in taken:
                self._log.say_all([report])
            else:
                self._say(f"refused: {report or claim.id} (its lease was taken away meanwhile; nothing was written)")

    def _hear_of_marks(self, delivery: Delivery) -> None:
        if all(worker.marking is None for worker in self._workers):
            return
        for claim, outcome in delivery.outcomes:
            if outcome.kind == "started":
                self._marked(claim, claim.id in delivery.result.taken)

    def _marked(self, claim: Claim, taken: bool) -> None:
        """A careful run is marked as started in the store: now it may start."""
        for worker in self._workers:
            held = worker.marking
            if held is not None and held.claim.id == claim.id and held.claim.token == claim.token:
                worker.marking = None
                if taken and worker.body is not None and not worker.leaving:
                    self._hand(worker, [held])
                elif taken:
                    self._completer.hand_back(worker, [held])
                else:
                    self._fetcher.call()

    def _received(self, claims: Sequence[Claim]) -> None:
        """New claims: admit each, hand them out by worker, in order."""
        batches: dict[str, list[Held]] = {}
        for claim in claims:
            worker = self._fetcher.worker_of(claim.token)
            if claim.lapses:
                self._drop_older(claim)
            held = self._completer.admit(worker, claim)
            if held is None:
                continue
            if worker.leaving or worker.body is None:
                self._completer.hand_back(worker, [held])
            elif held.careful:
                worker.waiting.append(held)
            else:
                batches.setdefault(claim.token, []).append(held)
        for token, batch in batches.items():
            self._hand(self._fetcher.worker_of(token), batch)

    def _hand(self, worker: Slot, batch: list[Held]) -> None:
        if self._overslept:
            worker.recalled += batch  # to be handed out when it is known that the leases hold
        else:
            worker.hand(batch)
        label = worker.label
        self._log.say_all([f"{label} took {held.claim.envelope.id} {held.name}" for held in batch])

    def _drop_older(self, claim: Claim) -> None:
        """A run that this very pool still holds under an older token has been lost, and is now held anew."""
        for worker in self._workers:
            for held in list(worker.in_hand()):
                if held.claim.id == claim.id and held.claim.token != claim.token:
                    self._lose({(held.claim.id, held.claim.token)})

    def _tell_of_trouble(self) -> None:
        away = self._exchanger.away
        if away is not None and not self._was_away:
            what = str(away) if isinstance(away, StoreError) else f"{type(away).__name__}: {away}"
            self._say(f"the store is away, trying again until it is back: {what}")
        elif away is None and self._was_away:
            self._say("the store is back")
            self._beat_at = 0.0
        self._was_away = away is not None

    # 7. end

    def _is_idle_burst(self) -> bool:
        """Nothing ripe as far as the last look tells, nothing running, and nothing under way."""
        return self._is_quiet_burst() and self._exchanger.idle

    def _is_quiet_burst(self) -> bool:
        has_looked = self._fetcher.looked and not self._fetcher.called
        return self.burst and not self._level and has_looked and self._is_at_rest()

    def _is_at_rest(self) -> bool:
        return not self._completer.outcomes and all(worker.ready and not worker.busy for worker in self._workers)

    def _is_over(self) -> bool:
        if self._is_idle_burst():
            self.stop(GENTLE)
        if not self._level or not all(worker.done for worker in self._workers):
            return False
        if not self._completer.outcomes and (self._exchanger.idle or (self._was_away and not self._exchanger.owes)):
            return True
        if self._give_up_at == FOREVER:
            self._give_up_at = ticks() + (QUICK if self._level >= KILL else self.settings.lease)
        return ticks() >= self._give_up_at

    def _close(self) -> None:
        self._fetcher.close()
        self._orders.close()
        self._exchanger.run(self._call_back)
        self._exchanger.hang_up()
        self._attend()
        if not self._exchanger.close(0.5):
            if self._exchanger.owes:
                self._say("gave up on the store: what it did not hear of will be run again when the leases end")
        else:
            self._heartbeat.stop()
        for worker in self._workers:
            if worker.body is not None:  # only when something went wrong here
                worker.body.kill()
                worker.buried()
        if self._guard is not None:
            self._guard.close()
        self._selector.close()
        os.close(self._wake)
        end, self._poke_end = self._poke_end, -1
        os.close(end)
        self._say(f"pool {self.settings.name} stopped")
        self._log.flush()

    def _call_back(self) -> None:
        """On the exchanger's thread: end all waits. One may just have been about to begin, so more than once."""
        for _ in range(25):
            orders = self._orders.watching and self._source.rouse(self._order_keys)
            if not (self._fetcher.hush() or orders):
                return
            sleep(0.02)

    def _write_log(self) -> None:
        """Have what was said written, but not amid what somebody waits for."""
        if not self._log.waits:
            self._write_at = FOREVER
            self._log.flush()  # which looks after what is far behind
        elif self._write_at == FOREVER:
            self._write_at = ticks() + BREATH
        elif ticks() >= self._write_at:
            self._log.flush()

    def _say(self, line: str) -> None:
        self._log.say(line)

    def _about(self, worker: Slot) -> Callable[[], str]:
        """What a worker says of itself, as JSON."""
        return lambda: describe(self.settings, worker)
