"""Waiting at a FoundationDB: a watch for each key that somebody in this process waits for, shared by all who do.

A watch fires when a key has changed since it was armed; it says nothing else. So each thread remembers the signals it
has seen: one that changed between two waits ends the second one at once. A watch may be lost, and there are only so
many: each wait also looks for itself once a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from skunkqueue.errors import StoreAway
from skunkqueue.persistence import Key, RunKey, WorkerKey
from skunkqueue.persistence.fdb.client import keep_inherited
from skunkqueue.persistence.fdb.connect import Link
from skunkqueue.persistence.fdb.layout import Space
from skunkqueue.persistence.fdb.rows import read_row
from skunkqueue.persistence.fdb.step import Step
from skunkqueue.persistence.waits import Wait, Waits

LOOK: Final = 1.0
"""Seconds after which a wait looks for itself, in case a watch was lost."""

AWAY: Final = 0.25
"""Seconds that a wait takes at least while the cluster is away, so that callers do not loop without a pause."""

MOST: Final = 2000
"""Watches of one process. A connection has 10,000, if the cluster's operator has not changed that; what waits beyond
these looks once a second."""

IDLE: Final = 200
"""So many watches are kept armed that nobody waits for at the moment: a pool waits for the same keys again."""


class _Watch:
    """A watch that is armed: the value that the key had, and the client's future."""

    def __init__(self, value: bytes | None, future: Any) -> None:
        self.value = value
        self.future = future


class _Wait(Wait):
    """A wait that is under way, with the keys of the database that it looks at."""

    def __init__(self, keys: Sequence[Key], space: Space) -> None:
        super().__init__(keys)
        self.runs = {space.run_key(key.id): key.id for key in keys if isinstance(key, RunKey)}
        self.signals = [_signal(key, space) for key in keys if not isinstance(key, RunKey)]

    @property
    def names(self) -> list[bytes]:
        return [*self.signals, *self.runs]


def _signal(key: Key, space: Space) -> bytes:
    if isinstance(key, WorkerKey):
        return space.worker_signal(key.worker)
    assert not isinstance(key, RunKey)
    return space.work_signal(key.queue, key.route)


class Notifier:
    """The waits and the watches of one store."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waits: Waits[_Wait] = Waits()
        self._armed: dict[bytes, _Watch] = {}
        self._seen = threading.local()

    def rouse(self, keys: Sequence[Key]) -> None:
        """End the waits on one of these keys."""
        self._after_fork()
        self._waits.rouse(keys)

    def close(self) -> None:
        """Disarm all watches, and end the waits."""
        self._after_fork()
        with self._waits.lock:
            armed, self._armed = self._armed, {}
        self._waits.end()
        for watch in armed.values():
            watch.future.cancel()

    def _after_fork(self) -> None:
        """In a forked process there are neither the watches nor the waits."""
        if self._waits.after_fork():
            keep_inherited(self._armed)
            self._armed = {}

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Sleep until something may have happened to a key, at most ``timeout``; never raises StoreAway."""
        end = time.monotonic() + timeout
        self._after_fork()
        try:
            space = self._link.space(min(LOOK, max(0.1, timeout)))
        except StoreAway:
            time.sleep(max(0.0, min(AWAY, end - time.monotonic())))
            return
        wait = _Wait(keys, space)
        with self._waits(wait):
            self._wait(wait, end)
        self._disarm()

    def _wait(self, wait: _Wait, end: float) -> None:
        is_known = self._is_known(wait)
        while not wait.roused:
            pause = LOOK
            if not is_known:
                try:
                    if self._look(wait, min(LOOK, max(0.1, end - time.monotonic()))):
                        return
                except StoreAway:
                    pause = AWAY
            is_known = False
            if self._waits.sleep(wait, min(pause, end - time.monotonic())) and wait.signals:
                return  # perhaps it was a run that was only claimed: the caller looks again
            if time.monotonic() >= end:
                return

    # looking

    def _known(self) -> dict[bytes, bytes | None]:
        """The signals that this thread has seen, by key."""
        known: dict[bytes, bytes | None] = self._seen.__dict__.setdefault("signals", {})
        if len(known) > 1000:
            known.clear()
        return known

    def _is_known(self, wait: _Wait) -> bool:
        """Whether all keys are watched, and nothing happened to them that this thread has not seen."""
        known = self._known()
        with self._waits.lock:
            if wait.runs or not wait.signals:
                return False  # of a run, a look says whether it has ended
            return all(
                name in self._armed and name in known and self._armed[name].value == known[name]
                for name in wait.signals
            )

    def _look(self, wait: _Wait, seconds: float) -> bool:
        """Whether there is news for a wait. What is not watched yet is, from what is read here on."""
        names = wait.names
        if not names:
            return False
        with self._waits.lock:
            missing = [name for name in names if name not in self._armed][: max(0, MOST - len(self._armed))]
        fresh: dict[bytes, Any] = {}

        def look(step: Step) -> dict[bytes, bytes | None]:
            fresh.clear()
            # By snapshot: it writes nothing, so there is nothing to meet.
            asked = {name: step.tr.snapshot[name] for name in names}
            fresh.update((name, step.tr.watch(name)) for name in missing)
            return {name: future.value for name, future in asked.items()}

        values = self._link.run(look, seconds=seconds)
        for name, future in fresh.items():
            self._arm(name, _Watch(values[name], future))
        known = self._known()
        news = any(_has_ended(id, values[name]) for name, id in wait.runs.items())
        for name in wait.signals:
            news = news or known.get(name, values[name]) != values[name]
            known[name] = values[name]
        return news

    # watches

    def _arm(self, name: bytes, watch: _Watch) -> None:
        with self._waits.lock:
            is_new = self._armed.setdefault(name, watch) is watch
        if is_new:
            watch.future.on_ready(lambda future: self._fired(name, watch))
        else:
            watch.future.cancel()  # another thread was faster

    def _fired(self, name: bytes, watch: _Watch) -> None:
        """On the client's thread: a watch has fired, or was lost. The next look arms it again."""
        try:
            watch.future.wait()
        except Exception:  # cancelled, too many, or the connection broke: a look finds out
            is_lost = True
        else:
            is_lost = False
        with self._waits.lock:
            if self._armed.get(name) is watch:
                del self._armed[name]
        if not is_lost:
            self._waits.call(lambda wait: name in wait.runs or name in wait.signals)

    def _disarm(self) -> None:
        """Cancel watches that nobody waits for, if there are many."""
        if len(self._armed) <= IDLE:
            return
        with self._waits.lock:
            used = {name for wait in self._waits.under_way for name in wait.names}
            unused = [name for name in self._armed if name not in used][IDLE:]
            cancelled = [self._armed.pop(name) for name in unused]
        for watch in cancelled:
            watch.future.cancel()


def _has_ended(id: str, data: bytes | None) -> bool:
    row = None if data is None else read_row(id, data)
    return data is None or (row is not None and not row.open)
