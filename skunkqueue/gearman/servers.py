"""The Gearman servers of a pool: connections, the jobs that it holds through them, and exchanges with all of them.

There is no packet that gives a job back. One that was not started, or is to be tried again, waits here, and is claimed
here again; what nobody here has started within a moment goes back by closing the connection, if it holds nothing else.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Exchange, Outcome, Want
from skunkqueue.gearman.asking import SLOW, Asking, route_of
from skunkqueue.gearman.connection import Hosts, parse_hosts
from skunkqueue.gearman.dialer import Dialer
from skunkqueue.gearman.held import HeldJob, HeldJobs, id_of, packet, packets
from skunkqueue.gearman.polled import GRAB_ANYWAY, PROVE, UNANSWERED
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.worker_connection import Assigned, ServerReply, WorkerConnection

GIVE_BACK: Final = 1.0
"""Seconds that a job which was not started waits for a worker here, before it is given back."""
SLICE: Final = 0.1
"""Seconds of one wait on a thread that may wait."""
_ENDS: Final = frozenset({"complete", "failed"})

Pack = Callable[[Assigned, str], bytes | None]
"""Makes the body of a run of a job and the run's id; None for a function that is not known here."""


class Attendant(Protocol):
    """Who reads the connections as they have something."""

    def attend(self, connection: WorkerConnection) -> None:
        """This connection is new, or blocked."""

    def signal(self) -> None:
        """Something has changed that no socket tells."""


class GearmanServers:
    """``functions`` are what workers of a route can do; the rest as for GearmanSource.

    For several threads: whoever calls a method holds ``lock``, but for those that say otherwise.
    """

    def __init__(
        self,
        servers: Hosts,
        functions: Mapping[str, Sequence[str]],
        pack: Pack,
        value_of: Callable[[bytes | None], bytes],
        *,
        client_id: str,
        say: Callable[[str], None],
    ) -> None:
        listed = parse_hosts(servers)
        self._has_several = len(listed) > 1
        self.url: str = "gearman://" + ",".join(map(str, listed))
        self.lock: threading.RLock = threading.RLock()
        self.attendant: Attendant | None = None
        self.read_parts: Callable[[], None] | None = None
        """Called before servers are told what became of jobs, for what is to be sent ahead of that."""
        self._up = threading.Condition(self.lock)
        self._is_open = False
        self._closed = threading.Event()
        self._pack = pack
        self._value_of = value_of
        self._say = say
        who = client_id.encode()
        self._routes = {
            route: [WorkerConnection(server, who, names) for server in listed] for route, names in functions.items()
        }
        self.connections: tuple[WorkerConnection, ...] = tuple(
            connection for several in self._routes.values() for connection in several
        )
        self._dialers: dict[WorkerConnection, Dialer] = {}
        self.held: HeldJobs = HeldJobs(functions)
        self._askings: list[Asking] = []
        self._settled: set[str] = set()  # taken by an exchange whose result nobody got
        self._looked_at = 0.0

    # connections

    @property
    def is_any_ready(self) -> bool:
        return any(connection.is_ready for connection in self.connections)

    def open(self) -> None:
        """Begin to connect, where that is not done."""
        if not self._is_open and self._has_several:
            self._closed = threading.Event()
            watch = partial(self._watch_slow, self._closed)
            threading.Thread(target=watch, name="skunkqueue-gearman-slow", daemon=True).start()
        self._is_open = True
        for connection in self.connections:
            if not connection.is_up:
                if connection not in self._dialers:
                    self._dialers[connection] = Dialer(connection, self._found, self._say)
                self._dialers[connection].dial()

    def close(self) -> None:
        """Close the connections: servers give the jobs that are still held here to other workers."""
        self._is_open = False
        for dialer in self._dialers.values():
            dialer.close()
        self._dialers.clear()
        for connection in self.connections:
            connection.close()
            for asking in self._askings:
                asking.lost(connection)
        if self.attendant is not None:
            self.attendant.signal()
        self.held.clear()
        self._closed.set()

    def tend(self) -> None:
        """Every few seconds: give up servers that do not answer, ask silent ones for a sign of life, give back jobs.

        Those that are gone are being dialed, unless there was no thread to do so.
        """
        self.close_unanswered()
        if self._is_open:
            self.open()
        for connection in self.connections:
            if connection.is_up and ticks() - connection.heard_at > PROVE and not connection.is_owing:
                connection.prove()
                self._after_sending(connection)
        self._give_back()

    def _watch_slow(self, closed: threading.Event) -> None:
        """On a thread: no server of several holds the others up."""
        while not closed.wait(SLICE):
            with self.lock:
                if self._leave_slow() and self.attendant is not None:
                    self.attendant.signal()

    def _leave_slow(self) -> bool:
        now = ticks()
        left = [asking.leave_slow(now) for asking in self._askings]
        return any(left)

    def _found(self, connection: WorkerConnection, found: socket.socket) -> None:
        """On a dialer's thread: use a new connection."""
        with self.lock:
            if not self._is_open or connection.is_up:
                found.close()
                return
            connection.adopt(found)
            if self.attendant is not None:
                self.attendant.attend(connection)
            self._after_sending(connection)
            self._up.notify_all()

    def close_unanswered(self) -> None:
        """Close connections that do not answer, and dial them anew."""
        now = ticks()
        for connection in self.connections:
            if connection.is_blocked:
                connection.flush()
                self._after_sending(connection)
            if connection.is_up and now - connection.asked_at > UNANSWERED:
                self._give_up(connection)

    def _give_up(self, connection: WorkerConnection) -> None:
        if connection.is_ready:
            self._say(f"{connection.server} does not answer: connecting anew")
        connection.close()
        self._lost(connection)

    def _after_sending(self, connection: WorkerConnection) -> None:
        if not connection.is_up:
            self._lost(connection)
        elif connection.is_blocked and self.attendant is not None:
            self.attendant.attend(connection)

    def _lost(self, connection: WorkerConnection) -> None:
        """The connection is gone, and the jobs that came through it are no longer ours."""
        for asking in self._askings:
            asking.lost(connection)
        self.held.lost(connection)
        if self._is_open:
            self.open()
        if self.attendant is not None:
            self.attendant.signal()

    def _give_back(self) -> None:
        """Close connections that hold nothing but jobs that nobody here has started for a while."""
        since = ticks() - GIVE_BACK
        for connection in self.connections:
            if self.held.is_nothing_begun(connection, since):
                connection.close()
                self._lost(connection)

    def await_first(self, timeout: float) -> None:
        """On a thread that may wait, without the lock: until a server is there."""
        end = ticks() + timeout
        while not self.is_any_ready and (left := end - ticks()) > 0:
            with self.lock:
                if not any(connection.is_up for connection in self.connections):
                    self._up.wait(left)
            self.wait_for_answers(min(left, SLICE))

    def wait_for_answers(self, timeout: float) -> None:
        """On a thread that may wait, without the lock: until a server has sent something, and read that."""
        poll = select.poll()
        with self.lock:
            for connection in self.connections:
                if connection.is_up:
                    poll.register(connection, select.POLLIN | (select.POLLOUT if connection.is_blocked else 0))
        is_there = bool(poll.poll(timeout * 1000))
        with self.lock:
            self.read()
            if is_there and self.attendant is not None:
                self.attendant.signal()  # a watch may have been waiting for just that

    def read(self) -> None:
        """Read what has come from all servers."""
        for connection in self.connections:
            if not connection.is_up:
                continue
            if connection.is_blocked:
                connection.flush()
            for answer in connection.receive():
                self._answered(connection, answer)
            self._after_sending(connection)

    # exchanges

    def begin(self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float) -> Asking:
        """Send outcomes and ask for jobs; the answers come with ``read``."""
        if outcomes and self.read_parts is not None:
            self.read_parts()
        asking = Asking(wants)
        told: dict[WorkerConnection, list[tuple[str, bytes]]] = {}
        for claim, outcome in outcomes:
            self._tell(asking, told, claim, outcome, now)
        grabs: dict[WorkerConnection, int] = {}
        if wants:
            self._look_anyway()
            for route, left in asking.left.items():
                for held in self.held.take_waiting(route, left, now):
                    asking.add(held)
                connection = self._next(asking, route)
                if connection is not None:
                    grabs[connection] = asking.grabs(route, connection)
            # Where they had nothing left the last time, one job does not mean that there are more. And before one has
            # ended here, more of them would wait here, while workers elsewhere have none.
            has_ended = any(outcome.kind in ("complete", "failed") for _, outcome in outcomes)
            asking.is_light = not has_ended or all(connection.was_empty for connection in grabs)
        self._askings.append(asking)
        for connection in {**told, **grabs}:
            self._ask(asking, connection, told.get(connection, ()), grabs.get(connection, 0))
        return asking

    def end(self, asking: Asking, now: float, until: float) -> Exchange:
        """The result of an exchange that is over."""
        self._askings.remove(asking)
        asking.is_cut = True
        claims = asking.deal(now, until)
        self._keep_found(asking)  # what more came than was asked for, as several servers were asked
        soonest = self.held.soonest(asking.left, now + GRAB_ANYWAY)
        if not asking.is_light and any(_may_have(each) for route in asking.left for each in self._routes[route]):
            soonest = now
        return Exchange(asking.taken, claims, min(soonest, now + GRAB_ANYWAY))

    def cut(self, asking: Asking) -> None:
        """Nobody waits for the result: remember what was taken, keep the jobs, drop servers that do not answer."""
        asking.is_cut = True
        for connection in list(asking.awaited):
            self._give_up(connection)
        self._askings.remove(asking)
        self._settled |= asking.taken
        self._keep_found(asking)

    def _keep_found(self, asking: Asking) -> None:
        """Keep the jobs that have come, and were not dealt out, for the next claim here."""
        for jobs in asking.found.values():
            while jobs:
                held = jobs.popleft()
                if held.is_ours:
                    self.held.keep(held, 0.0)

    def has_news(self, wants: Sequence[Want], now: float) -> bool:
        """Whether there may be a job for one of these."""
        routes = {route_of(want) for want in wants}
        return any(
            any(_may_have(connection) for connection in self._routes[route])
            or self.held.soonest((route,), float("inf")) <= now
            for route in routes
        )

    def _ask(self, asking: Asking, connection: WorkerConnection, told: Sequence[tuple[str, bytes]], grabs: int) -> None:
        if grabs:
            asking.asked.add(connection)
        asking.owes(connection, connection.ask(told, grabs, asking))
        self._after_sending(connection)

    def _look_anyway(self) -> None:
        """Every few seconds, ask servers for jobs that have said nothing of any."""
        now = ticks()
        if now - self._looked_at >= GRAB_ANYWAY:
            self._looked_at = now
            for connection in self.connections:
                connection.is_hot = connection.is_ready

    def _next(self, asking: Asking, route: str) -> WorkerConnection | None:
        """The server to ask now for jobs of a route; the others come first next time."""
        if asking.left[route] <= 0:
            return None
        several = self._routes[route]
        for connection in several:
            if _may_have(connection) and connection not in asking.asked:
                if len(several) > 1:
                    several.remove(connection)
                    several.append(connection)
                return connection
        return None

    def _answered(self, connection: WorkerConnection, answer: ServerReply) -> None:
        asking: Asking | None = answer.question.asker
        if asking is None:
            return
        if answer.question.told in asking.telling:
            self._learn(asking, answer.question.told, answer.refused)
        if answer.job is not None:
            self._admit(asking, connection, answer.job)
        asking.answered(connection)
        is_last = connection not in asking.awaited and not asking.is_cut
        if answer.question.is_grab and answer.job is None and is_last:
            for route in asking.left:
                other = self._next(asking, route) if connection in self._routes[route] else None
                if other is not None:
                    self._ask(asking, other, (), asking.grabs(route, other))

    def _learn(self, asking: Asking, id: str, refused: bool) -> None:
        held, ends = asking.telling.pop(id)
        if not refused:
            asking.taken.add(id)
        if ends or refused:
            self.held.forget(held)

    def _admit(self, asking: Asking, connection: WorkerConnection, job: Assigned) -> None:
        """A job has come."""
        route = next(route for route, several in self._routes.items() if connection in several)
        id = id_of(job, connection)
        body = self._pack(job, id)
        if body is None:
            connection.ask([("", packet(PacketType.WORK_FAIL, job))], 0)
            return
        held = HeldJob(id, job, connection, connection.generation, route, body)
        self.held.by_id[id] = held
        if asking.is_cut or route not in asking.found:
            self.held.keep(held, 0.0)
        else:
            asking.add(held)

    # jobs that are held

    def send_part(self, id: str, type: PacketType, data: bytes) -> None:
        """Send a part of a result, or a warning, about a job that runs here; nothing if it no longer does."""
        held = self.held.by_id.get(id)
        if held is not None and held.token and held.is_ours:
            held.connection.send(packet(type, held.job, data))
            self._after_sending(held.connection)

    def _tell(
        self,
        asking: Asking,
        told: dict[WorkerConnection, list[tuple[str, bytes]]],
        claim: Claim,
        outcome: Outcome,
        now: float,
    ) -> None:
        """Note what is to be sent about a job."""
        held = self.held.of(claim)
        if held is None:
            if claim.id in self._settled:
                self._settled.discard(claim.id)
                asking.taken.add(claim.id)
            return
        if outcome.notes is not None:
            held.notes = outcome.notes
        if outcome.kind not in _ENDS and outcome.kind != "progress":
            asking.taken.add(claim.id)
            if outcome.kind != "started":
                self.held.keep(held, outcome.due or 0.0, first=outcome.kind == "untouched")
            return
        sent = packets(held.job, outcome, self._value_of)
        told.setdefault(held.connection, []).extend(zip((claim.id, ""), sent, strict=False))
        asking.telling[claim.id] = held, outcome.kind in _ENDS


def _may_have(connection: WorkerConnection) -> bool:
    """Whether to ask this server for jobs: it may have some, and does not leave the last question unanswered."""
    return connection.is_hot and (not connection.is_owing or ticks() - connection.asked_at < SLOW)
