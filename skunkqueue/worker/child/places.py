"""The runs that a worker executes at a time, which thread takes the next ticket, and which runs to interrupt."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from skunkqueue.errors import Interrupted
from skunkqueue.worker.child.interrupt import is_importing, raise_in_thread

Place: TypeAlias = "int | asyncio.Task[Any] | None"
"""The thread or task of a run; None before it has either."""

FREE: Final = 0
"""There is no leader, as all places are taken: the thread or loop that next ends a run becomes it."""
TAKING: Final = -1
"""A thread leads: it takes a ticket or waits for one."""
LOOP: Final = -2
"""The event loop leads."""


class Places:
    """Leader and followers: of all threads and the loop, one at a time takes tickets.

    ``lead`` is FREE, TAKING, LOOP, or the number of a run whose thread keeps the lead while it executes it, to take the
    next ticket itself. A lead that is kept too long can be taken away (``depose``).
    """

    def __init__(self, limit: int) -> None:
        self.lead: int = LOOP
        self.running: int = 0
        self.taken: int = 0
        """How many times tickets have been taken."""
        self.over: bool = False  # there are no more tickets
        self.spoilt: bool = False  # a module may be half imported
        self._limit = limit
        self._lock = threading.RLock()  # a signal handler may run while this thread holds it
        self._at: dict[int, Place] = {}
        self._hit: set[int] = set()  # of those, the ones to be interrupted
        self._early: set[int] = set()  # interrupts of runs that have not begun
        self._last = 0

    # the lead

    @property
    def free(self) -> int:
        """How many more runs can be executed now."""
        return self._limit - self.running

    def begin(self, numbers: Sequence[int], lead: int) -> None:
        """Note that the leader has taken these tickets. ``lead`` is the next leader, if a place is free."""
        with self._lock:
            for number in numbers:
                self._at[number] = None
                if number in self._early:
                    self._hit.add(number)
            self._early.clear()  # numbers only grow: the others had ended before their interrupt came
            self._last = numbers[-1]
            self.running += len(numbers)
            self.taken += 1
            self.lead = lead if self.running < self._limit else FREE

    def claim_loop(self) -> bool:
        """Whether the loop leads, and may take tickets now. Without a free place, it loses the lead."""
        with self._lock:
            if self.lead != LOOP:
                return False
            self.lead = TAKING if self.running < self._limit else FREE
            return self.lead == TAKING

    def move(self, lead: int) -> None:
        """Pass the lead on; called by the leader."""
        with self._lock:
            if not self.over:
                self.lead = lead

    def pass_on(self, number: int) -> bool:
        """Pass the lead from this run's thread to another thread; False if it did not have it."""
        with self._lock:
            if self.lead != number:
                return False
            self.lead = TAKING
            return True

    def depose(self, taken: int) -> bool:
        """Take the lead from a thread or loop that has kept it since ``taken``; True if another thread is to lead."""
        with self._lock:
            keeps = self.lead > 0 or self.lead == LOOP
            if not keeps or self.taken != taken or self.running >= self._limit:
                return False
            self.lead = TAKING
            return True

    def resume(self, number: int) -> bool:
        """Note that a run on a thread has ended. True if that thread leads now; the run's place is then free."""
        with self._lock:
            self.forget(number)
            if self.lead not in (FREE, number) or self.over:
                return False
            self.lead = TAKING
            self.running -= 1
            return True

    def vacate(self, heir: int) -> bool:
        """Free the place of a run whose outcome is written. True if its thread or loop leads now."""
        with self._lock:
            self.running -= 1
            if self.lead != FREE or self.over:
                return False
            self.lead = heir
            return True

    def close(self) -> None:
        """Note that there are no more tickets; called by the leader."""
        with self._lock:
            self.over = True
            self.lead = TAKING

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        with self._lock:
            return self.over and not self.running

    def numbers(self) -> list[int]:
        """The runs that have begun and not ended."""
        with self._lock:
            return list(self._at)

    # interrupts

    def enter(self, number: int, place: Place) -> None:
        """Note that the job begins: from now on it can be interrupted. Raises Interrupted if one came before."""
        with self._lock:
            self._at[number] = place
            if number in self._hit:
                raise Interrupted("interrupted by the pool")

    def leave(self, number: int) -> None:
        """Note that the job has ended: from here on it is not interrupted. (It may still be in this step.)"""
        with self._lock:
            place = self._at.pop(number, None)
        if number in self._hit and isinstance(place, int):
            raise_in_thread(place, None)  # takes back an interrupt that came too late

    def suspend(self, number: int) -> None:
        """Note that the job has left its thread and will go on in a task: an interrupt waits until it is there."""
        with self._lock:
            place = self._at.get(number)
            self._at[number] = None
        if number in self._hit and isinstance(place, int):
            raise_in_thread(place, None)

    def forget(self, number: int) -> None:
        """Forget a run that has ended."""
        with self._lock:
            self._at.pop(number, None)
            self._hit.discard(number)

    def was_hit(self, number: int) -> bool:
        """Whether an interrupt came for it."""
        return number in self._hit

    def interrupt(self, number: int) -> None:
        """Interrupt this run, once: now if it is running, else when it begins."""
        with self._lock:
            if number > self._last:
                self._early.add(number)
            elif number in self._at and number not in self._hit:
                self._hit.add(number)
                place = self._at[number]
                if isinstance(place, int) and is_importing(sys._current_frames().get(place)):
                    self.spoilt = True
                _interrupt(place)


def _interrupt(place: Place) -> None:
    if isinstance(place, int):
        raise_in_thread(place, Interrupted)
    elif place is not None:
        place.get_loop().call_soon_threadsafe(place.cancel)
