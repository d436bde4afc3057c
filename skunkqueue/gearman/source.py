"""Gearman servers as a source of claims: a claim is GRAB_JOB_UNIQ, a commit is WORK_COMPLETE, WORK_EXCEPTION and so on.

A job belongs to the connection that it came through: there is no lease to extend, and when the connection ends, the
server gives the job to another worker. A result that comes too late is refused with JOB_NOT_FOUND: that is the fence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from skunkqueue.envelope import Claim, Exchange, Order, Outcome, Want
from skunkqueue.errors import StoreAway, StoreError
from skunkqueue.gearman.channel import GearmanChannel
from skunkqueue.gearman.connection import Hosts
from skunkqueue.gearman.servers import SLICE, GearmanServers, Pack
from skunkqueue.persistence import Channel, Key, Source, WorkKey

FIRST_WAIT: Final = 1.0
"""Seconds that an exchange waits for a server while none is there."""


class GearmanSource(Source):
    """Claims on the jobs of Gearman servers. ``functions`` are what workers of a route can do.

    ``pack`` makes bodies, ``value_of`` the bytes for the client of the value of an outcome. ``client_id`` is the name
    that servers list. ``say`` is told when a server is away, and when it is back.
    """

    is_far = True

    def __init__(
        self,
        servers: Hosts,
        functions: Mapping[str, Sequence[str]],
        pack: Pack,
        value_of: Callable[[bytes | None], bytes],
        *,
        client_id: str = "",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.servers: GearmanServers = GearmanServers(servers, functions, pack, value_of, client_id=client_id, say=say)
        self.url: str = self.servers.url
        self._closed = threading.Event()
        self._channel: GearmanChannel | None = None

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        servers = self.servers
        with servers.lock:
            servers.open()
        servers.await_first(FIRST_WAIT)
        with servers.lock:
            if not servers.is_any_ready:
                raise StoreAway(f"no Gearman server can be reached: {self.url}")
            asking = servers.begin(outcomes, wants, now=now)
        while not asking.is_over:
            servers.wait_for_answers(SLICE)
            with servers.lock:
                servers.close_unanswered()
        with servers.lock:
            return servers.end(asking, now, until)

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self.exchange((), wants, now=now, until=until).claims

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        return self.exchange(outcomes, (), now=now, until=now).taken

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self.servers.lock:
            return {claim.id for claim in claims if self.servers.held.of(claim) is not None}

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        if any(isinstance(key, WorkKey) for key in keys):
            self.servers.wait_for_answers(min(timeout, SLICE))
        else:
            self._closed.wait(timeout)

    def rouse(self, keys: Sequence[Key]) -> bool:
        with self.servers.lock:
            is_work = any(isinstance(key, WorkKey) for key in keys)
            return is_work and self._channel is not None and self._channel.rouse()

    def channel(self, queue: str) -> Channel | None:
        with self.servers.lock:
            self.servers.open()
            if not self.servers.is_any_ready:
                raise StoreError("no Gearman server is there yet")
            self._channel = GearmanChannel(self.servers)
            return self._channel

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        with self.servers.lock:
            self.servers.tend()
        return []

    def close(self) -> None:
        """Close the connections: servers give the jobs that are still held here to other workers."""
        with self.servers.lock:
            self.servers.close()
            self._closed.set()
            self._closed = threading.Event()
