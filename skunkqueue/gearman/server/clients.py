"""What clients ask: to submit jobs, and how these stand."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from skunkqueue.envelope import Envelope, Record, State
from skunkqueue.errors import StoreError
from skunkqueue.gearman.protocol import MAX_FUNCTION, MAX_UNIQUE, Packet, PacketType
from skunkqueue.gearman.server.bodies import KEEP_FAILED, body_of, head
from skunkqueue.gearman.server.cron import NoSuchTime, next_time
from skunkqueue.gearman.server.keys import SubmittedKeys
from skunkqueue.gearman.server.names import (
    PRIORITY,
    function_of,
    handle_of,
    id_of,
    job_name,
    key_of,
    route_of,
    unique_of,
)
from skunkqueue.gearman.server.peer import Owed, Peer
from skunkqueue.gearman.server.replies import error, number, reply
from skunkqueue.gearman.server.service import Service
from skunkqueue.ids import new_id
from skunkqueue.persistence import Persister
from skunkqueue.routes import HIGH, LOW, base_route, with_priorities

KIND: Final = PacketType
FOREGROUND: Final = frozenset({KIND.SUBMIT_JOB, KIND.SUBMIT_JOB_HIGH, KIND.SUBMIT_JOB_LOW, KIND.SUBMIT_REDUCE_JOB})
SUBMITS: Final = FOREGROUND | {
    KIND.SUBMIT_JOB_BG, KIND.SUBMIT_JOB_HIGH_BG, KIND.SUBMIT_JOB_LOW_BG, KIND.SUBMIT_JOB_SCHED, KIND.SUBMIT_JOB_EPOCH,
    KIND.SUBMIT_REDUCE_JOB_BACKGROUND,
}  # fmt: skip
REDUCE: Final = frozenset({KIND.SUBMIT_REDUCE_JOB, KIND.SUBMIT_REDUCE_JOB_BACKGROUND})
_BANDS: Final = {HIGH: 0, "": 1, LOW: 2}
_STATUS: Final = re.compile(r"(\d{1,10})/(\d{1,10})")
PAGE: Final = 500
MOST_SEARCHED: Final = 20_000
"""Open runs that are searched for a unique key that was not met here."""
EPOCH: Final = re.compile(rb"\s*(-?\d{1,15})\s*")


class ClientRequests:
    """Answers what clients send."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limited: dict[bytes, deque[Callable[[], None]]] = {}
        self._keys = SubmittedKeys()
        self.handlers: dict[PacketType, Callable[[Peer, Packet], None]] = {
            **dict.fromkeys(SUBMITS, self.submit),
            KIND.GET_STATUS: self.get_status,
            KIND.GET_STATUS_UNIQUE: self.get_status_unique,
            KIND.OPTION_REQ: self.option,
            KIND.ECHO_REQ: self.echo,
        }

    def echo(self, peer: Peer, packet: Packet) -> None:
        peer.send(reply(KIND.ECHO_RES, packet.data))

    def option(self, peer: Peer, packet: Packet) -> None:
        option = packet.args[0]
        if option.lower() != b"exceptions":
            peer.send(error("UNKNOWN_OPTION", "Server does not recognize given option"))
            return
        peer.wants_exceptions = True
        peer.send(reply(KIND.OPTION_RES, option))

    # submitting

    def submit(self, peer: Peer, packet: Packet) -> None:
        """Put the job; it is created once that has returned."""
        answer = peer.expect(sum(map(len, packet.args)))
        refusal = self._refusal(packet)
        if refusal is not None:
            answer.give(refusal)
            return
        try:
            envelope = self._envelope(packet)
        except NoSuchTime as reason:
            answer.give(error("INVALID_PACKET", str(reason)))
            return
        except StoreError as reason:
            answer.give(error("QUEUE_ERROR", str(reason)))
            return
        function = packet.args[0]
        self._service.know(function)
        is_foreground = packet.type in FOREGROUND
        limits = self._service.functions.get(function)
        limit = limits[_BANDS[PRIORITY.get(packet.type, "")]] if limits else 0
        if limit:
            self._put_within(limit, function, answer, envelope, is_foreground)
        else:
            self._put(answer, envelope, is_foreground)

    def _refusal(self, packet: Packet) -> bytes | None:
        function, unique, data = packet.args[0], packet.args[1], packet.args[-1]
        if not 0 < len(function) <= MAX_FUNCTION:
            return error("ARGUMENT_TOO_LARGE", f"a function's name is 1 to {MAX_FUNCTION} bytes")
        if len(unique) > MAX_UNIQUE:
            return error("ARGUMENT_TOO_LARGE", "Unique value too large")
        if len(data) > self._service.max_payload:
            size = f"{len(data):,} bytes; at most {self._service.max_payload:,} are taken"
            return error("ARGUMENT_TOO_LARGE", f"the job's data are {size}")
        return None

    def _envelope(self, packet: Packet) -> Envelope:
        service = self._service
        function, unique, data = packet.args[0], packet.args[1], packet.args[-1]
        now = service.queue.clock.now()
        is_foreground = packet.type in FOREGROUND
        reducer = packet.args[2] if packet.type in REDUCE else b""
        keep_failed = service.keep if is_foreground else max(service.keep, KEEP_FAILED)
        return Envelope(
            new_id(now),
            service.queue.name,
            route_of(function) + PRIORITY.get(packet.type, ""),
            self._due(packet, now),
            body_of(head(job_name(function), keep_failed), data, reducer),
            None,
            key_of(function, unique, data) if unique else None,
            service.keep,
        )

    def _due(self, packet: Packet, now: float) -> float:
        if packet.type == KIND.SUBMIT_JOB_EPOCH:
            found = EPOCH.match(packet.args[2])
            return max(now, float(found[1])) if found else now
        if packet.type == KIND.SUBMIT_JOB_SCHED:
            minute, hour, day, month, weekday = packet.args[2:7]
            return next_time(minute, hour, day, month, weekday, now=now)
        return now

    def _put(
        self, answer: Owed, envelope: Envelope, is_foreground: bool, then: Callable[[], None] = lambda: None
    ) -> None:
        if envelope.unique is not None and (known := self._keys.of(envelope.unique)):
            other = next((id for route, id in known.items() if route != envelope.route), None)
            if other is not None:  # with another priority, which a store takes for another job
                self._put_unless_open(other, answer, envelope, is_foreground, then)
                return
        self._put_now(answer, envelope, is_foreground, then)

    def _put_now(
        self, answer: Owed, envelope: Envelope, is_foreground: bool, then: Callable[[], None] = lambda: None
    ) -> None:
        def done(id: str | Exception) -> None:
            if isinstance(id, Exception):
                answer.give(error("QUEUE_ERROR", " ".join(str(id).split())[:500]))
            else:
                self._created(answer, envelope, id, is_foreground)
            then()

        self._service.calls.put(envelope, done)

    def _put_unless_open(
        self, other: str, answer: Owed, envelope: Envelope, is_foreground: bool, then: Callable[[], None]
    ) -> None:
        """Join the run with the same key and another priority, if that has not ended."""

        def done(found: Any) -> None:
            record = found.get(other) if isinstance(found, dict) else None
            if record is not None and record.open:
                self._created(answer, record.envelope, other, is_foreground, is_new=False)
                then()
            else:
                self._put_now(answer, envelope, is_foreground, then)

        self._service.calls.ask(lambda store, now: store.get([other]), done)

    def _created(self, answer: Owed, envelope: Envelope, id: str, is_foreground: bool, *, is_new: bool = True) -> None:
        """The run is in the store: say so, and wake a worker for it."""
        service = self._service
        is_new = is_new and id == envelope.id
        if envelope.unique is not None:
            self._keys.add(envelope.unique, envelope.route, id)
        job = service.jobs.get(id)
        peer = answer.peer
        if is_foreground and peer.is_open:
            job = job or service.jobs.find(id, envelope.route)
            service.jobs.attach(job, peer)
            job.is_ours_alone = job.is_ours_alone or is_new
        elif is_foreground and is_new:
            service.abandon([id])
        elif job is not None:
            job.is_ours_alone = False
        if peer.is_open:
            answer.give(reply(KIND.JOB_CREATED, job.handle if job else handle_of(id)))
        if not is_new:
            return
        if envelope.due <= service.queue.clock.now():
            service.wake_one(function_of(envelope.route))
        elif service.sleepers:
            service.look_by(envelope.due)

    def _put_within(self, limit: int, function: bytes, answer: Owed, envelope: Envelope, is_foreground: bool) -> None:
        """Put it if there is room: one after the other, as each has to count what was put before."""
        waiting = self._limited.setdefault(function, deque())

        def next_one() -> None:
            waiting.popleft()
            if waiting:
                waiting[0]()
            else:
                self._limited.pop(function, None)

        def counted(found: Any) -> None:
            if isinstance(found, StoreError):
                answer.give(error("QUEUE_ERROR", str(found)[:500]))
            elif found >= limit:
                answer.give(error("QUEUE_ERROR", "Job queue is full"))
            else:
                self._put(answer, envelope, is_foreground, next_one)
                return
            next_one()

        def begin() -> None:
            self._service.calls.ask(lambda store, now: self._room_taken(store, envelope), counted)

        waiting.append(begin)
        if len(waiting) == 1:
            begin()

    def _room_taken(self, store: Persister, envelope: Envelope) -> int:
        """On the store's thread: how many open runs there are of the function."""
        routes = with_priorities(base_route(envelope.route))
        open_states = (State.QUEUED, State.RUNNING)
        counts = store.count()
        return sum(counts.get((envelope.queue, route, str(state)), 0) for route in routes for state in open_states)

    def gone(self, peer: Peer) -> None:
        """A client has left: what only it wanted is not run, unless it runs."""
        self._service.abandon([job.id for job in self._service.jobs.leave(peer)])

    # how jobs stand

    def get_status(self, peer: Peer, packet: Packet) -> None:
        handle = packet.handle
        id = id_of(handle)
        answer = peer.expect()
        job = self._service.jobs.get(id) if id is not None else None
        if job is not None and job.peer is not None:
            answer.give(_status(handle, 1, 1, job.numerator, job.denominator))
        elif id is None:
            answer.give(_status(handle, 0, 0, 0, 0))
        else:
            asked = id
            self._service.calls.ask(
                lambda store, now: store.get([asked]).get(asked),
                lambda found: answer.give(_told(handle, found)),
                whose=peer,
            )

    def get_status_unique(self, peer: Peer, packet: Packet) -> None:
        unique = packet.args[0]
        answer = peer.expect()
        known = self._keys.ids_of(unique)

        def found(record: Any) -> None:
            clients, row = 0, (0, 0, 0, 0)
            if isinstance(record, Record):
                job = self._service.jobs.get(record.id)
                clients = len(job.clients) if job else 0
                running = (1, 1, job.numerator, job.denominator) if job and job.peer else None
                row = running or _row(record)
            answer.give(reply(KIND.STATUS_RES_UNIQUE, unique, *map(number, (*row, clients))))

        self._service.calls.ask(lambda store, now: self._search(store, now, known, unique), found, whose=peer)

    def _search(self, store: Persister, now: float, known: list[str], unique: bytes) -> Record | None:
        """On the store's thread: the open run with this key, whatever its function."""
        for start in range(0, len(known), PAGE):
            for record in store.get(known[start : start + PAGE]).values():
                if record.open:
                    return record
        open_runs = self._service.open_runs(store, now, MOST_SEARCHED)
        return next((record for record in open_runs if unique_of(record.envelope.unique) == unique), None)


def _status(handle: bytes, known: int, running: int, numerator: int, denominator: int) -> bytes:
    return reply(KIND.STATUS_RES, handle, *map(number, (known, running, numerator, denominator)))


def _told(handle: bytes, found: Any) -> bytes:
    if isinstance(found, StoreError):
        return error("QUEUE_ERROR", str(found)[:500])
    return _status(handle, *(_row(found) if isinstance(found, Record) else (0, 0, 0, 0)))


def _row(record: Record) -> tuple[int, int, int, int]:
    if not record.open:
        return 0, 0, 0, 0
    return 1, int(record.state == State.RUNNING), *progress_of(record)


def progress_of(record: Record) -> tuple[int, int]:
    """Numerator and denominator of a run, as a Gearman worker told them, or as a percentage."""
    if record.state != State.RUNNING or record.progress is None:
        return 0, 0
    found = _STATUS.fullmatch(record.note or "")
    return (int(found[1]), int(found[2])) if found else (round(record.progress * 100), 100)
