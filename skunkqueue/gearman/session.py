"""What a client has with its job servers: jobs under way on one connection, resubmitted on another when it breaks."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from skunkqueue.gearman.connection import Failover, Hosts, JobServer, ServerConnection, parse_hosts
from skunkqueue.gearman.errors import (
    GearmanException,
    JobUnfinished,
    ProtocolError,
    ServerRefused,
    ServerUnavailable,
)
from skunkqueue.gearman.protocol import MAX_PACKET, Line, Packet, PacketType
from skunkqueue.gearman.submission import Inquiry, Submission

PATIENCE: Final = 30.0
"""Seconds for which a client whose servers went away tries to get its jobs to one of them."""

PROVE: Final = 30.0
"""Seconds of silence after which a server is asked for a sign of life."""

UNANSWERED: Final = 10.0
"""Seconds after which a server that gave none counts as away."""

MOST_LOSSES: Final = 10
"""A job whose connection broke so often is submitted no more: it may be what breaks it."""

_EXCEPTIONS: Final = Packet.request(PacketType.OPTION_REQ, "exceptions")
_ECHO: Final = Packet.request(PacketType.ECHO_REQ, b"")

_WORK: Final = {
    PacketType.WORK_COMPLETE, PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION,
    PacketType.WORK_DATA, PacketType.WORK_WARNING, PacketType.WORK_STATUS,
}  # fmt: skip

_ANSWERS: Final = {
    PacketType.JOB_CREATED, PacketType.ERROR, PacketType.STATUS_RES, PacketType.STATUS_RES_UNIQUE,
    PacketType.ECHO_RES, PacketType.OPTION_RES,
}  # fmt: skip


class Session:
    """Jobs of one client, on one connection at a time. For any number of threads; survives a fork.

    One of the threads that wait reads for all of them. A server answers requests in their order, so an answer belongs
    to the oldest request without one; what a worker says bears the job's handle. When the connection breaks, all that
    is not done is sent again, to the first server that can be reached; a job that runs there meets its ``unique`` key.
    """

    def __init__(self, hosts: Hosts, *, patience: float = PATIENCE, max_packet: int = MAX_PACKET) -> None:
        self.servers: tuple[JobServer, ...] = parse_hosts(hosts)
        self.patience = patience
        self._max_packet = max_packet
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._failover = Failover(self.servers, self._open)
        self._changed = threading.Condition(threading.Lock())
        self._connection: ServerConnection | None = None
        self._reading = False
        self._unanswered: deque[Submission | Inquiry] = deque()
        self._jobs: dict[bytes, list[Submission]] = {}
        self._open_keys: dict[tuple[bytes, bytes, bytes], Submission] = {}
        self._lost: list[Submission | Inquiry] = []  # to be sent again
        self._lost_at = 0.0
        self._probed_at = 0.0
        self._watched: set[Submission] = set()
        self._pumping = False

    def _open(self, server: JobServer) -> ServerConnection:
        return ServerConnection(server, max_packet=self._max_packet)

    def _check_process(self) -> None:
        """A fork inherits the connection, and must leave it to its parent."""
        if self._pid != os.getpid():
            if self._connection is not None:
                self._connection.abandon()
            self._start_anew()

    def close(self) -> None:
        """Close the connection. Foreground jobs under way are given up by the server unless they run already."""
        self._check_process()
        with self._changed:
            lost = self._give_up()
            self._fail(lost, ServerUnavailable("the client was closed"))
            self._lost = []

    # sending

    def submit(self, wanted: Sequence[Submission]) -> list[Submission]:
        """Send jobs. Returns them, or instead of one the open job that it coalesces with.

        Raises ServerUnavailable if no server can be reached; nothing was submitted then.
        """
        self._check_process()
        with self._changed:
            self._connect()
            found = [self._opened(submission) for submission in wanted]
            new = [each for each, submission in zip(found, wanted, strict=True) if each is submission]
            self._send(new)
            return found

    def ask(self, inquiry: Inquiry, timeout: float | None) -> Packet:
        """Ask the server. Raises ServerRefused, ServerUnavailable, JobUnfinished if it does not answer in time."""
        self._check_process()
        with self._changed:
            self._connect()
            self._send([inquiry])
        if not self.wait(lambda: inquiry.is_done, timeout):
            raise JobUnfinished(f"the job server did not answer within {timeout:g} s")
        if inquiry.answer is None:
            raise inquiry.error or ServerUnavailable("the job server did not answer")
        return inquiry.answer

    def _opened(self, submission: Submission) -> Submission:
        """The open foreground job of the same key: then a second one would be told everything twice."""
        if submission.background:
            return submission
        return self._open_keys.setdefault(submission.key, submission)

    def _send(self, items: Sequence[Submission | Inquiry]) -> None:
        if self._connection is None:  # it is being connected again
            self._lost += items
            return
        self._unanswered += items
        try:
            self._connection.send_bytes(b"".join([item.encoded for item in items]))
        except (ServerUnavailable, ProtocolError):
            self._break()
            self._restore()

    # receiving

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Take what comes until ``done()``, or until ``timeout`` seconds are over; whether it is done."""
        self._check_process()
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not done():
                left = None if end is None else end - time.monotonic()
                if left is not None and left < 0:
                    return False
                if self._reading:
                    self._changed.wait(left)
                elif self._connection is None:
                    if not self._restore():
                        if not self._lost:
                            return done()
                        self._changed.wait(_least(self._failover.pause, left))
                else:
                    self._read(self._connection, left)
        return True

    def pump(self) -> None:
        """Take what has come, without waiting."""
        self._check_process()
        with self._changed:
            if self._connection is None:
                self._restore()
            elif not self._reading:
                self._take(self._connection)

    def _read(self, connection: ServerConnection, left: float | None) -> None:
        """Wait for one read on behalf of all threads, with the lock released meanwhile."""
        pause = max(0.1, self._silence_ends(connection) - time.monotonic())
        self._reading = True
        self._changed.release()
        try:
            connection.wait(_least(pause, left))
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        if connection is self._connection:
            self._take(connection)

    def _take(self, connection: ServerConnection) -> None:
        try:
            came = connection.take()
            for packet in came:
                self._dispatch(packet)
            if not came and time.monotonic() > self._silence_ends(connection):
                self._probe(connection)
        except (ServerUnavailable, ProtocolError):
            if connection is self._connection:
                self._break()
                self._restore()

    def _silence_ends(self, connection: ServerConnection) -> float:
        """When the server has to be asked for a sign of life, or to have given it."""
        return max(connection.heard + PROVE, self._probed_at + UNANSWERED)

    def _probe(self, connection: ServerConnection) -> None:
        if self._probed_at > connection.heard:
            raise ServerUnavailable(f"the job server {connection.server} does not answer")
        self._probed_at = time.monotonic()
        self._send([Inquiry(_ECHO, PacketType.ECHO_RES)])

    def _dispatch(self, packet: Packet | Line) -> None:
        if isinstance(packet, Line):
            raise ProtocolError(f"expected a packet; the job server sent the line {packet.text[:80]!r}")
        if packet.type in _WORK:
            self._take_work(packet)
        elif packet.type in _ANSWERS:
            self._take_answer(packet)

    def _take_work(self, packet: Packet) -> None:
        handle = packet.args[0]
        for submission in self._jobs.get(handle, ()):  # none: it was done, and this is its second ending
            submission.take(packet)
            if submission.is_done:
                self._jobs.pop(handle, None)
                self._forget(submission)

    def _take_answer(self, packet: Packet) -> None:
        if not self._unanswered:
            raise ProtocolError(f"the job server answered {packet.type.name}, but was not asked anything")
        item = self._unanswered.popleft()
        if packet.type is PacketType.ERROR:
            item.fail(ServerRefused(_text(packet.field("code")), _text(packet.field("text"))))
            self._forget(item)
        elif isinstance(item, Inquiry):
            if packet.type is not item.answered_by:
                raise ProtocolError(f"expected {item.answered_by.name}; the job server sent {packet.type.name}")
            item.answer = packet
        elif packet.type is PacketType.JOB_CREATED:
            item.accept(packet.args[0])
            if item.background:
                self._forget(item)
            else:
                self._jobs.setdefault(packet.args[0], []).append(item)
        else:
            self._unanswered.appendleft(item)
            raise ProtocolError(f"expected JOB_CREATED; the job server sent {packet.type.name}")

    def _forget(self, item: Submission | Inquiry) -> None:
        """It is done."""
        if isinstance(item, Submission):
            self._watched.discard(item)
            if self._open_keys.get(item.key) is item:
                del self._open_keys[item.key]

    # connecting

    def _connect(self) -> None:
        """Have a connection, unless one is being tried for already. Raises ServerUnavailable."""
        if self._connection is None and not self._lost:
            self._use(self._failover.connect())

    def _use(self, connection: ServerConnection) -> None:
        self._connection = connection
        again, self._lost = self._lost, []
        self._send([Inquiry(_EXCEPTIONS, PacketType.OPTION_RES), *again])

    def _break(self) -> None:
        """The connection broke: all that is not done has to be sent again."""
        if self._connection is not None:
            self._failover.lost(self._connection.server)
        lost = self._give_up()
        self._lost_at = time.monotonic()
        for item in lost:
            if isinstance(item, Inquiry):
                item.fail(ServerUnavailable("the connection to the job server was lost"))
                continue
            item.losses += 1
            if item.losses < MOST_LOSSES:
                self._lost.append(item)
            else:
                self._fail([item], ServerUnavailable(f"the connection broke {item.losses} times with this job"))

    def _give_up(self) -> list[Submission | Inquiry]:
        """Close the connection; what was under way on it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        open_jobs = [submission for jobs in self._jobs.values() for submission in jobs]
        lost = [*open_jobs, *self._unanswered]
        self._jobs.clear()
        self._unanswered.clear()
        return lost

    def _restore(self) -> bool:
        """Try each server once for what was lost; when patience has ended, all of it fails. Whether one was reached."""
        if self._connection is not None or not self._lost or self._failover.pause > 0:
            return self._connection is not None
        try:
            self._use(self._failover.connect())
        except ServerUnavailable as error:
            if time.monotonic() - self._lost_at > self.patience:
                lost, self._lost = self._lost, []
                self._fail(lost, error)
            return False
        self._changed.notify_all()
        return True

    def _fail(self, items: Sequence[Submission | Inquiry], error: GearmanException) -> None:
        for item in items:
            item.fail(error)
            self._forget(item)
        self._changed.notify_all()

    # for event loops

    def watch(self, submission: Submission, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, on some thread, whenever anything changes for the job, until it is done.

        From then on a thread of this session reads as long as there is such a job.
        """
        self._check_process()
        with self._changed:
            submission.listeners.append(listener)
            if submission.is_done:
                listener()
                return
            self._watched.add(submission)
            if not self._pumping:
                self._pumping = True
                threading.Thread(target=self._read_for_loops, name="skunkqueue-gearman-client", daemon=True).start()

    def unwatch(self, submission: Submission, listener: Callable[[], None]) -> None:
        """Call ``listener`` no more."""
        with self._changed:
            if listener in submission.listeners:
                submission.listeners.remove(listener)
            if not submission.listeners:
                self._watched.discard(submission)

    def _read_for_loops(self) -> None:
        while True:
            self.wait(lambda: not self._watched, None)
            with self._changed:
                if not self._watched:
                    self._pumping = False
                    return


def _least(first: float, second: float | None) -> float:
    return first if second is None else min(first, second)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
