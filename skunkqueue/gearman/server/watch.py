"""Notices what happens in the store without this server: new jobs for workers that sleep, and the ends of jobs.

Where the store lives in other processes too, a thread waits for that. A store of this process alone is looked at.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any, Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Record, Want
from skunkqueue.errors import StoreError
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.server.clients import progress_of
from skunkqueue.gearman.server.jobs import ServerJob
from skunkqueue.gearman.server.loop import PeerLoop
from skunkqueue.gearman.server.replies import number
from skunkqueue.gearman.server.service import Service
from skunkqueue.ids import new_token
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Key, Persister, RunKey, WorkerKey, WorkKey

YOUNG: Final = 0.002
"""Seconds after which the end of a job is looked for elsewhere."""
OURS: Final = 0.1
"""The same where workers here can do it, and nobody else is known to do such jobs."""
REMEMBERED: Final = 60.0
"""Seconds for which it is known of a function that others do its jobs."""
POLL: Final = 0.05
"""Seconds between two looks at a store of this process alone."""
SAFETY: Final = 1.0
"""Seconds between two looks at a store that is waited for."""
MANY: Final = 100
"""Routes; to look at more costs so much that half of the time is enough for it."""
MOST_KEYS: Final = 200
"""Runs that are waited for at a time; the others are looked at."""
PACE: Final = 0.005
"""Least seconds between two waits."""
PAGE: Final = 500
SHORTEST: Final = 0.02
LONGEST: Final = 0.1
"""Seconds between two ticks, where there are jobs and where there are none."""


class StoreWatch:
    """Looks, once ``tick`` is called often enough or the thread has news."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiter = None if service.queue.one_process else StoreWaiter(service.store, service.loop, self._news)
        self._interval = SAFETY if self._waiter else POLL
        self._records_at = self._allowed_at = 0.0
        self._elsewhere: dict[bytes, float] = {}  # when a job of the function was last seen to end elsewhere
        self._is_looking = self._is_getting = False
        self._look_allowed_at = 0.0
        self._awaited: list[ServerJob] = []
        self._awaited_at = 0.0
        self._routes: tuple[str, ...] = ()
        self._work: frozenset[Key] = frozenset()

    def tick(self) -> float:
        """Look for what is to be looked for now; gives in how many seconds to call this again."""
        self.look()
        now = ticks()
        if self._awaited_at <= now:
            self._awaited = self._await(now)
            # At most a tenth of the time goes into this, however many there are.
            self._awaited_at = ticks() + 10 * (ticks() - now)
        if self._awaited and self._records_at <= now and not self._is_getting:
            self._get(self._awaited)
        if self._waiter is not None:
            self._waiter.attend(self._keys(self._awaited))
        service = self._service
        left = max(service.look_at, self._look_allowed_at) - now if service.sleepers else LONGEST
        if len(service.jobs):
            left = min(left, max(SHORTEST, self._awaited_at - now))
        return min(max(left, 0.001), LONGEST)

    def look(self) -> None:
        """Look for jobs for those who sleep, if it is time."""
        service = self._service
        if service.sleepers:
            now = ticks()
            service.look_at = min(service.look_at, now + self._interval)
            if service.look_at <= now and self._look_allowed_at <= now and not self._is_looking:
                self._look()

    def close(self) -> None:
        if self._waiter is not None:
            self._waiter.close()

    def _news(self) -> None:
        """The wait has ended: look at all of it."""
        self._service.look_at = 0.0
        self._records_at = min(self._records_at, self._allowed_at)
        self._service.news += 1
        self.tick()

    def _keys(self, awaited: Sequence[ServerJob]) -> frozenset[Key]:
        service = self._service
        if service.sleepers.routes is not self._routes:
            self._routes = service.sleepers.routes
            self._work = frozenset(WorkKey(service.queue.name, route) for route in self._routes)
        runs = (RunKey(job.id) for job in awaited[:MOST_KEYS])
        return self._work.union((WorkerKey(service.name), *runs))

    # jobs for sleepers

    def _look(self) -> None:
        """Ask when the next job is ripe for those who sleep; a want of none claims none."""
        service = self._service
        service.look_at = float("inf")
        routes = service.sleepers.all_routes
        if not routes:
            return
        want = Want(service.queue.name, routes, service.name, new_token(), 0)
        self._is_looking = True
        began = ticks()

        def look(store: Persister, now: float) -> float | None:
            return store.exchange([], [want], now=now, until=now).next_ripe

        def looked(next_ripe: Any) -> None:
            self._look_allowed_at = ticks() + (ticks() - began if len(routes) > MANY else 0.0)
            self._looked(next_ripe)

        service.calls.ask(look, looked)

    def _looked(self, next_ripe: Any) -> None:
        self._is_looking = False
        service = self._service
        if isinstance(next_ripe, StoreError):
            service.look_at = ticks() + SAFETY
        elif next_ripe is not None and next_ripe <= service.queue.clock.now():
            service.wake_all()
        elif next_ripe is not None:
            service.look_by(next_ripe)

    # jobs that others run

    def _await(self, now: float) -> list[ServerJob]:
        """The jobs that clients await and that no worker here runs; the longest awaited first."""
        patience: dict[bytes, float] = {}
        able = self._service.able
        found = []
        for job in self._service.jobs:
            if job.peer is None and job.clients:
                if job.function not in patience:
                    patience[job.function] = self._patience(job.function, now, job.function in able)
                if now - job.since >= patience[job.function]:
                    found.append(job)
        return found

    def _patience(self, function: bytes, now: float, is_able: bool) -> float:
        """Seconds for which jobs of this function are left to the workers here."""
        is_shared = now - self._elsewhere.get(function, -REMEMBERED) < REMEMBERED
        return YOUNG if is_shared or not is_able else OURS

    def _get(self, awaited: Sequence[ServerJob]) -> None:
        ids = [job.id for job in awaited]
        began = ticks()
        self._is_getting = True

        def get(store: Persister, now: float) -> dict[str, Record]:
            records: dict[str, Record] = {}
            for start in range(0, len(ids), PAGE):
                records.update(store.get(ids[start : start + PAGE]))
            return records

        def got(records: Any) -> None:
            self._is_getting = False
            # At most a tenth of the time goes into this, however many there are.
            self._allowed_at = ticks() + max(PACE, 10 * (ticks() - began))
            self._records_at = max(ticks() + self._interval, self._allowed_at)
            if not isinstance(records, StoreError):
                for job in awaited:
                    self._tell(job, records.get(job.id))

        self._service.calls.ask(get, got)

    def _tell(self, job: ServerJob, record: Record | None) -> None:
        if job.peer is not None or not job.clients:
            return  # it is run here by now, or nobody awaits it any longer
        if record is None or record.worker not in (None, self._service.name):
            self._elsewhere[job.function] = ticks()
        if record is None or not record.open:
            job.tell_end(record)
            self._service.jobs.end(job)
            return
        progress = progress_of(record)
        if progress != (job.numerator, job.denominator) and progress[1]:
            job.numerator, job.denominator = progress
            job.tell(PacketType.WORK_STATUS, *map(number, progress))


class StoreWaiter:
    """A thread that waits on keys of the store, and posts ``news`` to the loop when one of them may have changed."""

    def __init__(self, store: Persister, loop: PeerLoop, news: Any) -> None:
        self._store = store
        self._loop = loop
        self._news = news
        self._changed = threading.Condition()
        self._keys: frozenset[Key] = frozenset()
        self._is_closed = False
        self._is_told = False  # the loop has not dealt with the last news yet
        self._thread = threading.Thread(target=self._serve, name="skunkqueue-gearman-waiter", daemon=True)
        self._thread.start()

    def attend(self, keys: frozenset[Key]) -> None:
        """Wait on these from now on."""
        if keys == self._keys:
            return
        before = self._keys
        with self._changed:
            self._keys = keys
            self._changed.notify()
        # What is new may have happened meanwhile; what is no longer waited for may stay until the wait ends by itself.
        if keys - before and before:
            with contextlib.suppress(StoreError):  # then the wait has ended too
                self._store.rouse(list(before))

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        with contextlib.suppress(StoreError):
            self._store.rouse(list(self._keys))
        self._thread.join(2 * SAFETY)  # a wait on a closed store would open it again

    def _serve(self) -> None:
        failures = 0
        while True:
            with self._changed:
                while not self._is_closed and (not self._keys or self._is_told):
                    self._changed.wait()
                if self._is_closed:
                    return
                keys = self._keys
            began = ticks()
            try:
                self._store.wait(list(keys), SAFETY)
                failures = 0
            except StoreError:
                failures += 1
            except Exception:  # the store was closed meanwhile, or a driver fails: that is known to the calls
                failures += 1
            self._pause(pause_after(failures) if failures else PACE - (ticks() - began))

    def _pause(self, seconds: float) -> None:
        """Have the news told, and wait a moment, so that a busy queue does not wake this thread for each run."""
        with self._changed:
            if self._is_closed:
                return
            self._is_told = True
        self._loop.post(self._tell)
        if seconds > 0:
            threading.Event().wait(seconds)

    def _tell(self) -> None:
        """On the loop's thread."""
        self._news()
        with self._changed:
            self._is_told = False
            self._changed.notify()
