"""Keeps the workers of a pool: starts, reads, interrupts, kills and reaps them. All on the engine's thread."""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.connection import POOL_URL
from skunkqueue.worker.frames import LEASE_ENDED
from skunkqueue.worker.pool.completer import Completer, Reader, told
from skunkqueue.worker.pool.leases import Leases
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import ERROR, INFO, WARNING
from skunkqueue.worker.pool.orphans import Orphans
from skunkqueue.worker.pool.process import Guard, Process, Thread
from skunkqueue.worker.pool.renewal import Renewal
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Held, Slot
from skunkqueue.worker.pool.timekeeper import Timekeeper

GENTLE: Final = 1
ROUGH: Final = 2
KILL: Final = 3
"""How a pool stops: its runs may finish, are interrupted, or are killed."""

_LEASE_ENDED: Final = f"exit code {LEASE_ENDED}"
"""How a worker dies that ends itself since the leases of what it executes have ended: nothing of it is to blame."""

ASK: Final = 0.05
"""Seconds between checks for dead workers, where the kernel has no process descriptors."""


class Supervisor:
    """``level`` is how the pool stops; 0 while it runs. ``look`` is called when a worker may take more runs."""

    def __init__(
        self,
        slots: list[Slot],
        settings: Settings,
        selector: selectors.BaseSelector,
        completer: Completer,
        leases: Leases,
        log: Log,
        look: Callable[[], None],
        timekeeper: Timekeeper | None = None,
    ) -> None:
        self.level = 0
        self.failure: str | None = None
        """Why a worker can never start."""
        self._slots = slots
        self._settings = settings
        self._selector = selector
        self._completer = completer
        self._leases = leases
        self._log = log
        self._look = look
        self._timekeeper = timekeeper
        self._reader = Reader(completer, look, self._never_starts, self._announced)
        self._renewal = Renewal(settings, log)
        self._guard = None if settings.in_process else Guard()
        self._orphans = None if settings.in_process else Orphans()

    @property
    def all_done(self) -> bool:
        """Whether all workers have ended, and none will be replaced."""
        return all(slot.done for slot in self._slots)

    def until(self) -> float:
        """Ticks of the next deadline of a worker."""
        until = min(slot.next_deadline() for slot in self._slots)
        if any(slot.body is not None and slot.body.death < 0 for slot in self._slots):
            until = min(until, ticks() + ASK)
        return until if self._orphans is None else min(until, self._orphans.until())

    def _announced(self, slot: Slot, data: bytes) -> None:
        """Take in which schedules a worker's code declares; that of one which was replaced is no longer in force."""
        if self._timekeeper is not None and not slot.is_older:
            self._timekeeper.announce(data)

    def _never_starts(self, why: str) -> None:
        if not self._renewal.waits:
            self.failure = why

    # reloading

    def reload(self, why: str) -> None:
        """From any thread: have new workers take the place of all, in the next turn; the old ones finish their runs."""
        self._renewal.asked = why

    def _renew(self) -> None:
        self._renewal.begin()
        self._completer.forget_unknown()
        if self._timekeeper is not None:
            self._timekeeper.begin_anew()
        for slot in [slot for slot in self._slots if not slot.is_older]:
            slot.start_at, slot.failed_starts, slot.broken = 0.0, 0, ""
            if slot.body is not None:
                self._completer.hand_back(slot, slot.leave())
                self._slots.append(self._retired(slot))

    def _retired(self, slot: Slot) -> Slot:
        """The slot that now has the worker of this one, and that hears of it."""
        older = slot.retire()
        assert older.body is not None
        pipes, calls = (
            older.body.pipes,
            (lambda: self._read(older), lambda: self._died(older), lambda: self._write(older)),
        )
        for fd, call in zip((pipes.from_worker, older.body.death, pipes.to_worker), calls, strict=True):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.modify(fd, self._selector.get_key(fd).events, call)
        return older

    # starting

    def tend(self) -> None:
        """For each slot: start a missing worker, write what its pipe can take, hand out what waits."""
        if any(slot.is_older and slot.done for slot in self._slots):
            self._slots[:] = [slot for slot in self._slots if not (slot.is_older and slot.done)]
            for slot in self._slots:
                slot.older = [older for older in slot.older if not older.done]
        for slot in self._slots:
            self._tend(slot)
        if self._orphans is not None:
            self._orphans.reap([slot.body.pid for slot in self._slots if slot.body is not None])

    def _tend(self, slot: Slot) -> None:
        if slot.body is None:
            if not slot.done and not self.level and ticks() >= slot.start_at:
                self._start(slot)
            return
        if slot.unsent:
            self._write(slot)
        if slot.recalled and self._leases.are_sure and not slot.leaving:
            slot.again()
        most = self._settings.max_runs
        if slot.leaving:
            if not slot.held and not slot.leave_by:
                slot.leave_by = ticks() + self._settings.kill_after
        elif most and slot.runs >= most and not slot.held:
            self._completer.hand_back(slot, slot.leave())
        elif (held := slot.to_mark()) is not None:
            self._completer.mark(held)

    def _start(self, slot: Slot) -> None:
        try:
            slot.body = self._new_body(slot)
        except OSError as error:
            slot.start_later()
            self._say(slot, "not started", f"cannot be started ({error}); trying again", ERROR)
            return
        self._selector.register(slot.body.pipes.from_worker, selectors.EVENT_READ, lambda: self._read(slot))
        if slot.body.death >= 0:
            self._selector.register(slot.body.death, selectors.EVENT_READ, lambda: self._died(slot))
        self._say(slot, "started", f"started, process {slot.body.pid}")

    def _new_body(self, slot: Slot) -> Process | Thread:
        settings, horizon = self._settings, self._leases.horizon
        setup = {
            "queue": settings.queue,
            "title": f"{settings.queue} {slot.label}",
            "concurrency": settings.concurrency,
            "max_result": settings.max_payload,
            "imports": self._renewal.imports(self._slots),
            "hook": settings.hook and settings.hook.packed(),
        }
        if self._guard is None:
            setup["url"] = settings.url
            return Thread(setup, settings.jobs, f"skunkqueue-{slot.label}", horizon)
        process = Process(setup, {POOL_URL: settings.url, **self._renewal.env}, self._guard, horizon)
        if self._orphans is not None:
            self._orphans.note(process.pid)
        return process

    def _write(self, slot: Slot) -> None:
        """A pipe is full: continue when it is writable."""
        if slot.body is None:
            return
        fd = slot.body.pipes.to_worker
        if slot.send():
            with contextlib.suppress(KeyError):
                # Slot.hand writes too: if it has written everything, only this call unregisters the pipe.
                self._selector.register(fd, selectors.EVENT_WRITE, lambda: self._write(slot))
        elif fd in self._selector.get_map():
            self._selector.unregister(fd)

    # reading

    def _read(self, slot: Slot) -> None:
        """Read what a worker has written."""
        if slot.body is None:
            return  # reaped a moment ago, for another event of the same select
        try:
            said = slot.read()
            if said is None:
                self._selector.unregister(slot.body.pipes.from_worker)
            else:
                self._reader.take_in(slot, *said)
        except Exception as error:  # a job has written into our pipe
            self._say(slot, "killed", f"is killed: what it says cannot be read ({named(error)})", ERROR)
            slot.body.kill()
            self._died(slot)

    # deadlines

    def enforce(self) -> None:
        """Interrupt runs past their timeout; kill workers whose run does not end then."""
        if self._renewal.asked and not self.level:
            self._renew()
        now = ticks()
        for slot in self._slots:
            for held in slot.executing() if self.level >= ROUGH else slot.pressed():
                self._enforce_on(slot, held, now)
            if slot.rest_until and now >= slot.rest_until:
                slot.rest_until = 0.0
                self._look()
            if slot.has_come_out_of_lull():
                self._look()
            if not slot.leaving and (now >= slot.is_stuck_from or slot.is_overladen()):
                self._offer(slot)
            if slot.leave_by and now >= slot.leave_by:
                self._kill(slot)
            elif slot.body is not None and slot.body.death < 0:
                self._died(slot)

    def _offer(self, slot: Slot) -> None:
        """Hand back what it has not started, and have the others that are idle take no more of it than they start."""
        back = slot.take_back()
        if back:
            for other in self._slots:
                if other.route == slot.route:
                    other.doubt_pace()
            self._completer.hand_back(slot, back)

    def _enforce_on(self, slot: Slot, held: Held, now: float) -> None:
        timeout = held.seal.timeout
        if self.level >= ROUGH:  # in each turn, as it may have started just now
            slot.interrupt(held, "stop", self._settings.kill_after)
        if held.kill_at:
            if now >= held.kill_at and not slot.killed:
                text = " does not come back from being interrupted"
                self._log.say_all([told(slot, "killed", held.claim, held.name, text, level=WARNING)])
                self._kill(slot)
        elif timeout is not None and held.since and now >= held.since + timeout:
            slot.interrupt(held, "timeout", self._settings.kill_after)

    # ending

    def leave(self) -> None:
        """Have all workers end after their current runs; runs not started are handed back."""
        for slot in self._slots:
            self._completer.hand_back(slot, slot.leave())
            slot.leave_by = 0.0 if slot.held else ticks() + self._settings.kill_after
            slot.done = slot.body is None

    def kill_all(self) -> None:
        """Kill all workers; their runs count as stopped by the pool, not as failed."""
        for slot in self._slots:
            if slot.body is not None:
                for held in slot.held.values():
                    held.cause = held.cause or "stop"
                self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        if slot.body is not None and not slot.killed:
            slot.killed = True
            slot.body.kill()
            self._died(slot)  # a given-up thread counts as dead at once; the kernel reports the death of a process

    def _died(self, slot: Slot) -> None:
        """A worker is dead: finished runs count, current runs are judged, runs not started are handed back."""
        assert slot.body is not None
        if not slot.body.has_died():
            return
        self._forget(slot)
        try:
            self._reader.take_in(slot, *slot.read_rest())
        except Exception as error:
            self._say(slot, "unread", f"left what cannot be read ({named(error)})", ERROR)
        came_up, leaving, killed = slot.ready, slot.leaving, slot.killed
        how, running, back = slot.clear()
        killed = killed or (how == _LEASE_ENDED and any(held.guarded for held in running))
        self._completer.hand_back(slot, back)
        for held in running:
            if not self._completer.judge_death(slot, held, how, len(running) == 1, killed):
                self._look()
        if self.level or slot.is_older or not self._settings.restart:
            slot.done = True
        elif slot.broken and self._renewal.waits:
            self._renewal.broken(slot, self._slots)
        elif not came_up:
            slot.start_later()
        if leaving and not running:
            self._say(slot, "stopped", "stopped")
        elif not (slot.broken and self._renewal.waits):
            self._say(slot, "died", f"died ({how})", ERROR)

    def _forget(self, slot: Slot) -> None:
        """Stop listening to a worker that is about to be reaped."""
        assert slot.body is not None
        pipes = slot.body.pipes
        for fd in (pipes.from_worker, pipes.to_worker, slot.body.death):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)

    def close(self) -> None:
        """Kill and reap the processes that are left."""
        for slot in self._slots:
            if slot.body is not None:  # only after an error in the pool
                slot.body.kill()
                slot.clear()
        if self._guard is not None:
            self._guard.close()

    def _say(self, slot: Slot, what: str, text: str, level: int = INFO) -> None:
        self._log.say(f"{slot.label} {text}", what=what, worker=slot.label, level=level)


def named(error: BaseException) -> str:
    """An error's type and message."""
    return f"{type(error).__name__}: {error}"
