"""The jobs that this server has to do with now: those that its workers run, and those whose end its clients await."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Record, Seal, State
from skunkqueue.errors import PayloadError
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.server.bodies import answer_of, error_text
from skunkqueue.gearman.server.names import function_of, handle_of
from skunkqueue.gearman.server.replies import reply
from skunkqueue.notes import NONE, Notes

if TYPE_CHECKING:
    from skunkqueue.gearman.server.peer import Peer

MOST_STREAMED: Final = 1 << 20
"""Bytes of WORK_DATA of one job that become part of its stored result; none of them if there are more."""


class ServerJob:
    """A run, as far as this server has to do with it."""

    numerator: int
    denominator: int

    def __init__(self, id: str, function: bytes) -> None:
        self.id = id
        self.handle: bytes = handle_of(id)
        self.function = function
        self.clients: list[Peer] = []
        self.since: float = ticks()
        self.is_ours_alone = False
        """Whether nobody wants it but the clients here: then it ends with the last of them, unless it runs."""
        self.peer: Peer | None = None
        """The worker that runs it; None where none of ours does."""
        self.claim: Claim | None = None
        self.seal: Seal = Seal()
        self.notes: Notes = NONE
        self.numerator = self.denominator = 0
        self.streamed: list[bytes] | None = []
        """The WORK_DATA so far; None where that was too much."""
        self._streamed_bytes = 0
        self.late_at: float = float("inf")
        """When it has had all its time, in ticks."""
        self.limit: float = 0.0
        """The seconds that it may take."""
        self.progress_at: float = 0.0
        """When its progress was last written to the store, in ticks."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing left to do about it here."""
        return self.peer is None and not self.clients

    def assign(self, peer: Peer, claim: Claim, seal: Seal, notes: Notes) -> None:
        if self.claim is not None:  # its lease had run out, and what that worker says of it is late
            self.release()
        self.peer, self.claim, self.seal, self.notes = peer, claim, seal, notes
        self.numerator = self.denominator = 0
        self.streamed, self._streamed_bytes = [], 0
        peer.held[self.handle] = self

    def release(self) -> Claim:
        """No worker of ours runs it any longer; gives the claim."""
        assert self.claim is not None
        claim = self.claim
        if self.peer is not None:
            self.peer.held.pop(self.handle, None)
        self.peer = self.claim = None
        self.late_at = float("inf")
        return claim

    def stream(self, data: bytes) -> None:
        """Keep a piece of WORK_DATA for the stored result."""
        if self.streamed is None:
            return
        self._streamed_bytes += len(data)
        if self._streamed_bytes > MOST_STREAMED:
            self.streamed = None
        else:
            self.streamed.append(data)

    # telling clients

    def tell(self, type: PacketType, *args: bytes) -> None:
        """Send all clients a packet that begins with the handle."""
        if self.clients:
            data = reply(type, self.handle, *args)
            for client in self.clients:
                client.send(data)

    def tell_exception(self, text: bytes) -> None:
        """Send WORK_EXCEPTION to those who asked for it, and WORK_FAIL to the others. It ends the job."""
        for client in self.clients:
            if client.wants_exceptions:
                client.send(reply(PacketType.WORK_EXCEPTION, self.handle, text))
            else:
                client.send(reply(PacketType.WORK_FAIL, self.handle))

    def tell_end(self, record: Record | None) -> None:
        """Tell how it ended elsewhere."""
        if record is None or record.state == State.CANCELLED:
            self.tell(PacketType.WORK_FAIL)
        elif record.state == State.SUCCEEDED:
            try:
                answer = answer_of(record.value)
            except PayloadError as error:
                self.tell_exception(error_text(error).encode())
            else:
                self.tell(PacketType.WORK_COMPLETE, answer)
        elif record.error == FAILED:
            self.tell(PacketType.WORK_FAIL)
        else:
            self.tell_exception((record.error or "").encode("utf-8", "replace"))


FAILED: Final = "its worker sent WORK_FAIL"


class ServerJobs:
    """The jobs by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, ServerJob] = {}
        self.attached: int = 0
        """How often a client has begun to await a job."""

    def __iter__(self) -> Iterator[ServerJob]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> ServerJob | None:
        return self._by_id.get(id)

    def find(self, id: str, route: str) -> ServerJob:
        """The job of a run on this route, known from now on."""
        job = self._by_id.get(id)
        if job is None:
            job = self._by_id[id] = ServerJob(id, function_of(route))
        return job

    def attach(self, job: ServerJob, client: Peer) -> None:
        """This client awaits the end of the job."""
        self.attached += 1
        job.clients.append(client)
        client.awaited[job.id] = job

    def leave(self, client: Peer) -> list[ServerJob]:
        """The client is gone; gives the jobs that nobody wants any longer, and that do not run here."""
        orphans = []
        for job in client.awaited.values():
            job.clients = [other for other in job.clients if other is not client]
            if job.is_idle:
                self._by_id.pop(job.id, None)
                if job.is_ours_alone:
                    orphans.append(job)
        client.awaited.clear()
        return orphans

    def end(self, job: ServerJob) -> None:
        """It has ended, and all were told."""
        for client in job.clients:
            client.awaited.pop(job.id, None)
        job.clients = []
        self._by_id.pop(job.id, None)

    def forget(self, job: ServerJob) -> None:
        """Forget it if there is nothing left to do about it here."""
        if job.is_idle:
            self._by_id.pop(job.id, None)
