"""Extends the leases of a pool's claims, and stops runs whose lease is lost. All on the engine's thread.

The horizon is the time until which all runs handed out are known to be leased. A worker starts nothing after it. So a
pool that slept, or could not reach its source, starts nothing before it has asked which of its leases still hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim
from skunkqueue.pauses import pause_after
from skunkqueue.worker.pool.completer import told
from skunkqueue.worker.pool.heartbeat import Beaten, Heartbeat
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import WARNING
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Held, Slot

FOREVER: Final = float("inf")

Key = tuple[str, str]
"""Identifies a claim: its run's id, and its token."""


class Leases:
    """``run`` has a beat done on another thread; ``look`` is called when a slot can take more runs."""

    def __init__(
        self,
        slots: Sequence[Slot],
        settings: Settings,
        heartbeat: Heartbeat,
        log: Log,
        run: Callable[[Callable[[], None]], None],
        look: Callable[[], None],
        hand_back: Callable[[Slot, Sequence[Held]], None] = lambda slot, many: None,
    ) -> None:
        self._hand_back = hand_back
        self.horizon: float = ticks() + settings.lease
        """Ticks until which all runs handed out are known to be leased."""
        self.are_sure: bool = True
        """Whether the horizon is known to be in the future."""
        self._slots = slots
        self._settings = settings
        self._heartbeat = heartbeat
        self._log = log
        self._run = run
        self._look = look
        self._beat_at = 0.0
        self._failures = 0  # of beats, since the last one that succeeded
        self.others: Callable[[], Sequence[Claim]] = list
        """Gives claims that no slot executes, whose leases are extended all the same."""
        self.others_lost: Callable[[set[Key]], set[Key]] = lambda lost: set()
        """Is told of leases that are lost; gives the claims of runs that must not go on without them."""
        self.gone: Callable[[Claim], None] = lambda claim: None
        """Is told of runs that are dropped without an outcome."""
        self._unasked = FOREVER  # ticks until which claims are leased that are newer than the last beat

    def until(self) -> float:
        """Ticks when to beat."""
        return FOREVER if self._heartbeat.under_way else self._beat_at

    def beat_now(self) -> None:
        """Make the next beat due now: there may be orders, or the source is back."""
        self._beat_at = 0.0

    # beat

    def keep(self) -> None:
        """Beat, when it is time."""
        now = ticks()
        if now >= self._beat_at and not self._heartbeat.under_way:
            self._beat_at = now + self._settings.lease / 3
            self._heartbeat.under_way = True
            self._unasked = FOREVER
            claims = [held.claim for slot in self._slots for held in slot.in_hand()]
            claims += self.others()
            self._run(lambda: self._heartbeat.beat(claims))

    def beaten(self, beaten: Beaten) -> None:
        """Handle the result of a beat: which leases hold, and until when."""
        if beaten.until is not None:
            lost = {_key(claim) for claim in beaten.asked if claim.id not in beaten.held}
            self.lose(lost)
            if lost:
                self._end(self.others_lost(lost) - lost)
            self._set_horizon(min(beaten.until, self._unasked))
            self.are_sure = self.horizon > ticks()
        self._failures = 0 if beaten.is_whole else self._failures + 1
        if self._failures:
            self._beat_at = min(self._beat_at, ticks() + pause_after(self._failures))
        elif not self.are_sure:  # claims came meanwhile whose lease is shorter, or over
            self._beat_at = 0.0
        if self.are_sure:
            for slot in self._slots:
                slot.again()

    # the horizon

    def check(self) -> None:
        """Recall what is not started, if the horizon has passed."""
        if self.are_sure and ticks() > self.horizon:
            self._doubt()

    def claimed(self, until: float) -> None:
        """Note that new claims are leased until then (ticks): sooner than usual, if the source was slow to answer."""
        self._unasked = min(self._unasked, until)
        if until < self.horizon:
            self._set_horizon(until)
        if self.are_sure and self.horizon <= ticks():
            self._doubt()

    def _doubt(self) -> None:
        """The leases may have ended: recall what is not started until it is known which still hold."""
        self.are_sure = False
        self._beat_at = 0.0
        for slot in self._slots:
            slot.recalled.extend(slot.recall())

    def _set_horizon(self, horizon: float) -> None:
        self.horizon = horizon
        for slot in self._slots:
            if slot.body is not None:
                slot.body.pipes.set_horizon(horizon)

    def hand_out(self, slot: Slot, batch: list[Held]) -> None:
        """Hand runs to a slot; later, if it is not known whether the leases hold, or if earlier ones wait for that."""
        if self.are_sure and not slot.recalled:
            slot.hand(batch)
        else:
            slot.recalled += batch

    # lost leases

    def lose(self, lost: set[Key]) -> None:
        """Give up claims that are no longer ours: interrupt those that run, drop those that do not run yet."""
        for slot in self._slots:
            if not any(_key(held.claim) in lost for held in slot.in_hand()):
                continue
            slot.recalled.extend(slot.recall())
            for held in slot.drop(lost):
                text = ": its lease was taken away"
                self._log.say_all([told(slot, "dropped", held.claim, held.name, text, level=WARNING)])
                self.gone(held.claim)
                self._look()
            for held in list(slot.held.values()):
                if _key(held.claim) in lost:
                    slot.interrupt(held, "lost", self._settings.kill_after)
            if self.are_sure:
                slot.again()

    def _end(self, marks: set[Key]) -> None:
        """Interrupt what runs of these, hand back what does not run yet: the permits that they go under are lost."""
        for slot in self._slots:
            if not any(_key(held.claim) in marks for held in slot.in_hand()):
                continue
            slot.recalled.extend(slot.recall())
            self._hand_back(slot, slot.drop(marks))
            for held in list(slot.held.values()):
                if _key(held.claim) in marks:
                    slot.interrupt(held, "stop", self._settings.kill_after)
            if self.are_sure:
                slot.again()

    def cancelled(self, slot: Slot, id: str) -> None:
        """Give up a run that was cancelled, which took its lease away."""
        self.lose({_key(held.claim) for held in slot.in_hand() if held.claim.id == id})

    def claimed_anew(self, claim: Claim) -> None:
        """Give up older claims of the same run that this pool still holds: their lease is lost."""
        for slot in self._slots:
            self.lose(
                {_key(h.claim) for h in slot.in_hand() if h.claim.id == claim.id and h.claim.token != claim.token}
            )


def _key(claim: Claim) -> Key:
    return claim.id, claim.token
