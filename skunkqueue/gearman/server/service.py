"""What the parts of the job server share: the queue, the calls to its store, the jobs, the functions, the sleepers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Filter, Record, State
from skunkqueue.gearman.server.calls import StoreCalls
from skunkqueue.gearman.server.jobs import ServerJobs
from skunkqueue.gearman.server.loop import PeerLoop
from skunkqueue.gearman.server.peer import Peer
from skunkqueue.gearman.server.replies import NOOP
from skunkqueue.gearman.server.sleepers import Sleepers
from skunkqueue.persistence import Persister
from skunkqueue.queue import SkunkQueue
from skunkqueue.worker import Log

PAGE: Final = 500
MOST_ABILITIES: Final = 500
"""Functions of one worker."""
MOST_FUNCTIONS: Final = 10_000
"""Functions of all workers together, and those that are listed though nobody can do them at the moment."""
UNHEEDED: Final = 0.1
"""Seconds after which another worker is woken, where the one that was has not asked for the job."""

Limits = tuple[int, int, int]
"""Most jobs of a function, by priority: high, normal, low; 0 is no limit."""


@dataclass
class Service:
    """The state of one job server."""

    name: str
    queue: SkunkQueue
    store: Persister
    loop: PeerLoop
    calls: StoreCalls
    log: Log
    keep: float
    job_retries: int
    max_payload: int
    jobs: ServerJobs = field(default_factory=ServerJobs)
    functions: dict[bytes, Limits | None] = field(default_factory=dict)
    news: int = 0
    """How often there may have been something new for workers that had found nothing."""
    able: Counter[bytes] = field(default_factory=Counter)
    """How many workers can do each function that any can do."""
    sleepers: Sleepers = field(default_factory=Sleepers)
    look_at: float = float("inf")
    """When to look whether there is a job for the sleepers, in ticks."""
    is_alone: bool = False
    """Whether no other server is known to serve the queue."""
    is_leaving: bool = False
    """Whether it ends as soon as nothing runs and no client waits."""

    def know(self, function: bytes) -> None:
        """List this function."""
        if function not in self.functions and len(self.functions) < MOST_FUNCTIONS:
            self.functions[function] = None

    def abandon(self, ids: list[str]) -> None:
        """Cancel runs that are not run yet. Another server may have clients for them, so only where there is none."""
        if not ids or not self.is_alone:
            return

        def cancel(store: Persister, now: float) -> None:
            queued = [id for id, record in store.get(ids).items() if record.state == State.QUEUED]
            if queued:
                store.cancel(queued, now=now)

        self.calls.ask(cancel, lambda answer: None)

    # what workers can do

    def can_do(self, peer: Peer, function: bytes, timeout: float | None) -> bool:
        """It can do this from now on, for so many seconds; False if these are too many functions."""
        if function not in peer.abilities:
            is_new = function not in self.able
            if len(peer.abilities) >= MOST_ABILITIES or (is_new and len(self.able) >= MOST_FUNCTIONS):
                return False
            self.able[function] += 1
        with self._changing(peer):
            peer.abilities[function] = timeout
        self.know(function)
        return True

    def cannot_do(self, peer: Peer, functions: Iterable[bytes]) -> None:
        """It cannot do these any longer."""
        with self._changing(peer):
            for function in functions:
                if function in peer.abilities:
                    del peer.abilities[function]
                    self.able[function] -= 1
                    if not self.able[function]:
                        del self.able[function]

    @contextmanager
    def _changing(self, peer: Peer) -> Iterator[None]:
        """What it can do changes, whether it sleeps or not."""
        is_asleep = peer in self.sleepers
        self.sleepers.remove(peer)
        yield
        peer.changed_abilities()
        if is_asleep:
            self.sleepers.add(peer)

    def open_runs(self, store: Persister, now: float, most: int) -> Iterator[Record]:
        """On the store's thread: the open runs of the queue, those that run first."""
        # A store of this process sorts all runs for each page.
        page = most if self.queue.one_process else PAGE
        left = most
        for state in (State.RUNNING, State.QUEUED):
            after = None
            while left > 0:
                found = store.find(Filter(self.queue.name, None, state), now=now, after=after, limit=min(page, left))
                yield from found
                left -= len(found)
                if len(found) < page:
                    break
                after = found[-1].id

    # sleepers

    def sleep(self, peer: Peer, until: float) -> None:
        """Let it sleep until there is news, or until that store time at the latest."""
        self.sleepers.add(peer)
        self.look_by(until)

    def look_by(self, store_time: float) -> None:
        """Look at that time, in store time, at the latest."""
        if store_time != float("inf"):
            self.look_at = min(self.look_at, ticks() + store_time - self.queue.clock.now())

    def rise(self, peer: Peer) -> None:
        """It is awake, by itself or since it is gone."""
        self.sleepers.remove(peer)

    def wake(self, peer: Peer) -> None:
        """Have it ask for a job."""
        self.sleepers.remove(peer)
        peer.send(NOOP)

    def wake_one(self, function: bytes) -> None:
        """There is a new job for a sleeper that can do this."""
        self.news += 1
        peer = self.sleepers.first(function)
        if peer is not None:
            self.wake(peer)
            # It may be gone or busy by now: then the others are to be asked.
            self.look_at = min(self.look_at, ticks() + UNHEEDED)

    def wake_all(self) -> None:
        self.news += 1
        for peer in self.sleepers:
            self.wake(peer)
