"""One exchange with Gearman servers: outcomes are told, jobs are grabbed; it is over when all answers have come."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.envelope import Claim, Want
from skunkqueue.gearman.held import HeldJob
from skunkqueue.gearman.worker_connection import WorkerConnection
from skunkqueue.routes import base_route

SLOW: Final = 0.25
"""Seconds after which a server that owes an answer holds up the others no longer."""


@dataclass(eq=False)
class Asking:
    """An exchange under way. Kept up to date by the source, under its lock."""

    wants: Sequence[Want]
    is_light: bool = False
    """Whether the servers that were asked had nothing left the last time."""
    is_cut: bool = False
    """Whether nobody waits for it any more, or it has ended without servers that were slow."""
    taken: set[str] = field(default_factory=set)
    telling: dict[str, tuple[HeldJob, bool]] = field(default_factory=dict)
    """What was told without an answer yet, by id: the job, and whether that ends it."""
    found: dict[str, deque[HeldJob]] = field(default_factory=dict)
    """The jobs for each route wanted."""
    left: dict[str, int] = field(default_factory=dict)
    """How many more jobs each route wants."""
    asked: set[WorkerConnection] = field(default_factory=set)
    awaited: dict[WorkerConnection, int] = field(default_factory=dict)
    """How many answers each connection owes."""

    def __post_init__(self) -> None:
        for want in self.wants:
            route = route_of(want)
            self.left[route] = self.left.get(route, 0) + want.limit
            self.found.setdefault(route, deque())

    @property
    def is_over(self) -> bool:
        return not self.awaited

    def add(self, held: HeldJob) -> None:
        """A job for one of its routes."""
        self.found[held.route].append(held)
        self.left[held.route] -= 1

    def owes(self, connection: WorkerConnection, answers: int) -> None:
        """So many more answers will come."""
        if answers:
            self.awaited[connection] = self.awaited.get(connection, 0) + answers

    def answered(self, connection: WorkerConnection) -> None:
        """One answer has come."""
        left = self.awaited.get(connection, 0) - 1
        if left > 0:
            self.awaited[connection] = left
        else:
            self.awaited.pop(connection, None)

    def leave_slow(self, now: float) -> bool:
        """Await no longer what servers owe that are slow, where it is nothing but jobs; returns whether there was one.

        What they send later is kept for the next claim.
        """
        telling = {held.connection for held, _ in self.telling.values()}
        slow = [each for each in self.awaited if now - each.asked_at > SLOW and each not in telling]
        for connection in slow:
            del self.awaited[connection]
        return bool(slow)

    def lost(self, connection: WorkerConnection) -> None:
        """The connection is gone: its answers will not come, and what it was told may not have been read."""
        self.awaited.pop(connection, None)
        self.telling = {id: told for id, told in self.telling.items() if told[0].connection is not connection}
        for jobs in self.found.values():
            for held in [each for each in jobs if each.connection is connection]:
                jobs.remove(held)

    def grabs(self, route: str, connection: WorkerConnection) -> int:
        """How many jobs of a route to grab from a server now: at least one for each worker."""
        workers = sum(route_of(want) == route for want in self.wants)
        return min(self.left[route], max(connection.window, workers))

    def deal(self, now: float, until: float) -> list[Claim]:
        """The claims: the jobs are dealt out to the wants, one to each in turn."""
        claims: list[Claim] = []
        rooms = [(want, self.found[route_of(want)]) for want in self.wants]
        given = 0
        while rooms:
            rooms = [(want, jobs) for want, jobs in rooms if jobs and want.limit > given]
            claims += [jobs.popleft().claim(want, now, until) for want, jobs in rooms if jobs]
            given += 1
        return claims


def route_of(want: Want) -> str:
    """The route that a want is for, without priorities and addresses."""
    return base_route(next(route for route in want.routes if not route.startswith("@")))
