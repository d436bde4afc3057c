"""The workers that sleep until there is a job for them, by what they can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skunkqueue.gearman.server.names import route_of
from skunkqueue.routes import with_priorities

if TYPE_CHECKING:
    from skunkqueue.gearman.server.peer import Peer


class Sleepers:
    """Those who sent PRE_SLEEP, the longest asleep first. What they can do must not change while they are in here."""

    def __init__(self) -> None:
        self._peers: dict[Peer, None] = {}
        self._by_function: dict[bytes, dict[Peer, None]] = {}
        self._routes: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self._peers)

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._peers

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers))

    def add(self, peer: Peer) -> None:
        self.remove(peer)
        self._peers[peer] = None
        for function in peer.abilities:
            if function not in self._by_function:
                self._by_function[function] = {}
                self._routes = None
            self._by_function[function][peer] = None

    def remove(self, peer: Peer) -> None:
        """It is awake. Harmless if it was not asleep."""
        if peer not in self._peers:
            return
        del self._peers[peer]
        for function in peer.abilities:
            peers = self._by_function[function]
            del peers[peer]
            if not peers:
                del self._by_function[function]
                self._routes = None

    def first(self, function: bytes) -> Peer | None:
        """The one that is longest asleep of those that can do this."""
        return next(iter(self._by_function.get(function, ())), None)

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes, without priorities, of what they can do."""
        if self._routes is None:
            self._routes = tuple(sorted(map(route_of, self._by_function)))
        return self._routes

    @property
    def all_routes(self) -> tuple[str, ...]:
        """The same with all priorities."""
        return tuple(route for name in self.routes for route in with_priorities(name))
