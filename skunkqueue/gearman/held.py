"""The jobs that a pool holds through its connections to Gearman servers: those that run here, and those that wait."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.gearman.protocol import PacketType, request
from skunkqueue.gearman.worker_connection import Assigned, WorkerConnection
from skunkqueue.ids import new_id

MOST_ID: Final = 150
SCALE: Final = 1000
"""The denominator of progress that was told as a share."""
_STATUS: Final = re.compile(r"(\d{1,18})/(\d{1,18})")


@dataclass(eq=False, slots=True)
class HeldJob:
    """A job that this pool holds, with the body of its run.

    ``generation`` is that of the connection it came through: when that is closed, its server gives it to others.
    While no worker here has it, ``token`` is empty, and ``ripe`` says when it may be claimed again.
    """

    id: str
    job: Assigned
    connection: WorkerConnection
    generation: int
    route: str
    body: bytes
    token: str = ""
    notes: bytes = b""
    ripe: float = 0.0
    waits_since: float = field(default_factory=ticks)

    @property
    def is_ours(self) -> bool:
        """Whether the connection that it came through still stands."""
        return self.connection.generation == self.generation and self.connection.is_up

    def claim(self, want: Want, now: float, until: float) -> Claim:
        """Its claim for this want."""
        self.token = want.token
        envelope = Envelope(self.id, want.queue, self.route, now, self.body)
        return Claim(envelope, want.token, want.worker, until, 0, self.notes)


class HeldJobs:
    """All of them. Those that wait are claimed here again, in their order."""

    def __init__(self, routes: Iterable[str]) -> None:
        self.by_id: dict[str, HeldJob] = {}
        self._waiting: dict[str, deque[HeldJob]] = {route: deque() for route in routes}

    def of(self, claim: Claim) -> HeldJob | None:
        """The job of a claim, if that still holds."""
        held = self.by_id.get(claim.id)
        return held if held is not None and held.token == claim.token and held.is_ours else None

    def forget(self, held: HeldJob) -> None:
        """It has ended."""
        if self.by_id.get(held.id) is held:
            del self.by_id[held.id]

    def keep(self, held: HeldJob, ripe: float, *, first: bool = False) -> None:
        """Keep a job for the next claim here."""
        held.token, held.ripe, held.waits_since = "", ripe, ticks()
        waiting = self._waiting[held.route]
        if first:
            waiting.appendleft(held)
        else:
            waiting.append(held)

    def take_waiting(self, route: str, most: int, now: float) -> list[HeldJob]:
        """Those that may be claimed now, no longer waiting."""
        waiting = self._waiting[route]
        found = [each for each in waiting if each.ripe <= now][:most]
        for held in found:
            waiting.remove(held)
        return found

    def soonest(self, routes: Iterable[str], otherwise: float) -> float:
        """When the next one that waits may be claimed."""
        return min((held.ripe for route in routes for held in self._waiting[route]), default=otherwise)

    def lost(self, connection: WorkerConnection) -> None:
        """The connection is gone, and the jobs that came through it are no longer ours."""
        for waiting in self._waiting.values():
            for held in [each for each in waiting if each.connection is connection]:
                waiting.remove(held)
        self.by_id = {id: held for id, held in self.by_id.items() if held.connection is not connection}

    def is_nothing_begun(self, connection: WorkerConnection, since: float) -> bool:
        """Whether all jobs of a connection, and there are some, have waited since then without ever being started."""
        held = [each for each in self.by_id.values() if each.connection is connection]
        return bool(held) and all(not each.token and not each.notes and each.waits_since < since for each in held)

    def clear(self) -> None:
        self.by_id.clear()
        for waiting in self._waiting.values():
            waiting.clear()


# -- what servers are told -------------------------------------------------------------------------------------------


def packets(job: Assigned, outcome: Outcome, value_of: Callable[[bytes | None], bytes]) -> list[bytes]:
    """What a server is told of an outcome; only the first packet is judged by its answer."""
    if outcome.kind == "complete":
        return [packet(PacketType.WORK_COMPLETE, job, value_of(outcome.value))]
    if outcome.kind == "progress":
        exact = _STATUS.fullmatch(outcome.note or "")
        share = (str(round((outcome.progress or 0.0) * SCALE)), str(SCALE))
        return [packet(PacketType.WORK_STATUS, job, *(exact.groups() if exact else share))]
    # For gearmand 1.1.20 the exception ends the job, and it refuses the failure behind it.
    why = (outcome.error or "it failed").encode("utf-8", "replace")
    return [packet(PacketType.WORK_EXCEPTION, job, why), packet(PacketType.WORK_FAIL, job)]


def packet(type: PacketType, job: Assigned, *args: bytes | str) -> bytes:
    """A packet about a job."""
    return request(type, job.handle, *[arg if isinstance(arg, bytes) else arg.encode() for arg in args])


def id_of(job: Assigned, connection: WorkerConnection) -> str:
    """The run's id: the handle, and whose it is, for two servers may give the same one."""
    handle = job.handle.decode("ascii", "replace")
    if len(handle) > MOST_ID or not handle.isprintable() or not handle.isascii():
        return new_id(0.0)
    return f"{handle}@{connection.server}"[: MOST_ID + 50]
