"""Keeps the leases of what a pool has claimed, and stops what it has lost. All on the engine's thread.

A worker starts nothing after the horizon: the moment until which all that is handed out is surely leased. A pool that
slept, or could not reach its source, so starts nothing before it has asked which of its leases still hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim
from skunkqueue.worker.pool.completer import told
from skunkqueue.worker.pool.heartbeat import Beaten, Heartbeat
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import WARNING
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Held, Slot

AGAIN: Final = 1.0
"""Seconds after which a beat is tried again that failed."""
FOREVER: Final = float("inf")

Key = tuple[str, str]
"""What a claim is known by: its run's id, and its token."""


class Leases:
    """``run`` has a beat done on another thread; ``look`` is called when a slot has room again."""

    def __init__(
        self,
        slots: Sequence[Slot],
        settings: Settings,
        heartbeat: Heartbeat,
        log: Log,
        run: Callable[[Callable[[], None]], None],
        look: Callable[[], None],
    ) -> None:
        self.horizon = ticks() + settings.lease
        """Ticks until when all that is handed out is surely leased."""
        self.are_sure = True
        """Whether that is known to be in the future."""
        self._slots = slots
        self._settings = settings
        self._heartbeat = heartbeat
        self._log = log
        self._run = run
        self._look = look
        self._beat_at = 0.0
        self._unasked = FOREVER  # ticks until when those are leased that came after the last beat was put together

    def until(self) -> float:
        """Ticks when to beat."""
        return FOREVER if self._heartbeat.under_way else self._beat_at

    def beat_now(self) -> None:
        """The next beat is due: there may be orders, or the source is back."""
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
            self._run(lambda: self._heartbeat.beat(claims))

    def beaten(self, beaten: Beaten) -> None:
        """What a beat brought: which leases hold, and until when."""
        if beaten.until is not None:
            self.lose({_key(claim) for claim in beaten.asked if claim.id not in beaten.held})
            self._set_horizon(min(beaten.until, self._unasked))
            self.are_sure = self.horizon > ticks()
        if not self.are_sure or beaten.until is None:
            self._beat_at = min(self._beat_at, ticks() + AGAIN)
        if self.are_sure:
            for slot in self._slots:
                slot.again()

    # the horizon

    def check(self) -> None:
        """Have nothing started where the horizon has passed."""
        if self.are_sure and ticks() > self.horizon:
            self._doubt()

    def claimed(self, until: float) -> None:
        """New claims hold until then (ticks): less than usual, where the source took its time to answer."""
        self._unasked = min(self._unasked, until)
        if until < self.horizon:
            self._set_horizon(until)
        if self.are_sure and self.horizon <= ticks():
            self._doubt()

    def _doubt(self) -> None:
        """The leases may have ended: nothing more is started before it is known which still hold."""
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
        """Give a slot what it may start; later, where it is not known whether the leases hold."""
        if self.are_sure:
            slot.hand(batch)
        else:
            slot.recalled += batch

    # what is lost

    def lose(self, lost: set[Key]) -> None:
        """Claims that are no longer ours: what runs is interrupted, what does not run yet is let go."""
        for slot in self._slots:
            if not any(_key(held.claim) in lost for held in slot.in_hand()):
                continue
            slot.recalled.extend(slot.recall())
            for held in slot.drop(lost):
                text = ": its lease was taken away"
                self._log.say_all([told(slot, "dropped", held.claim, held.name, text, level=WARNING)])
                self._look()
            for held in list(slot.held.values()):
                if _key(held.claim) in lost:
                    slot.interrupt(held, "lost", self._settings.kill_after)
            if self.are_sure:
                slot.again()

    def cancelled(self, slot: Slot, id: str) -> None:
        """A run was cancelled, and so its lease taken away."""
        self.lose({_key(held.claim) for held in slot.in_hand() if held.claim.id == id})

    def claimed_anew(self, claim: Claim) -> None:
        """A run that this very pool still holds under an older token has been lost, and is now held anew."""
        for slot in self._slots:
            self.lose(
                {_key(h.claim) for h in slot.in_hand() if h.claim.id == claim.id and h.claim.token != claim.token}
            )


def _key(claim: Claim) -> Key:
    return claim.id, claim.token
