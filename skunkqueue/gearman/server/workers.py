"""What workers ask: what they can do, a job, to sleep; and what became of their jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.codec import FOREIGN
from skunkqueue.envelope import Claim, Outcome, Want, peek_head
from skunkqueue.errors import SkunkError
from skunkqueue.gearman.errors import PacketTooLarge, ProtocolError
from skunkqueue.gearman.protocol import MAX_FUNCTION, Packet, PacketType
from skunkqueue.gearman.server.bodies import error_text, payload_of
from skunkqueue.gearman.server.jobs import FAILED, ServerJob
from skunkqueue.gearman.server.names import function_of, unique_of
from skunkqueue.gearman.server.peer import Owed, Peer
from skunkqueue.gearman.server.replies import JOB_NOT_FOUND, NO_JOB, error, reply
from skunkqueue.gearman.server.service import MOST_ABILITIES, MOST_FUNCTIONS, Service
from skunkqueue.ids import new_token
from skunkqueue.notes import encode_notes
from skunkqueue.policy import Died, Entry, Raised, TimedOut, admit, judge, mark
from skunkqueue.printable import printable

KIND: Final = PacketType
LEAST_TIMEOUT: Final = 1.0
"""Seconds: gearmand takes what is less for that too."""
TELL: Final = 1.0
"""Seconds between two writes of a job's progress to the store."""
MOST_CLAIMED: Final = 100
"""Jobs that are claimed at a time for one worker that asks for many."""
SWEEP: Final = 0.05
"""Least seconds between two looks for jobs that have had all their time."""
_TIMEOUT: Final = re.compile(rb"\s*(\d{1,12})")
_NUMBER: Final = re.compile(rb"\s*(\d{1,10})")


class WorkerRequests:
    """Answers what workers send."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sweep_at = float("inf")
        self.handlers: dict[PacketType, Callable[[Peer, Packet], None]] = {
            KIND.CAN_DO: self.can_do,
            KIND.CAN_DO_TIMEOUT: self.can_do,
            KIND.CANT_DO: lambda peer, packet: self._service.cannot_do(peer, [packet.function]),
            KIND.RESET_ABILITIES: lambda peer, packet: self._service.cannot_do(peer, list(peer.abilities)),
            KIND.SET_CLIENT_ID: self.set_client_id,
            KIND.ALL_YOURS: lambda peer, packet: None,
            KIND.PRE_SLEEP: self.pre_sleep,
            KIND.GRAB_JOB: self.grab,
            KIND.GRAB_JOB_UNIQ: self.grab,
            KIND.GRAB_JOB_ALL: self.grab,
            KIND.WORK_DATA: self.work_data,
            KIND.WORK_WARNING: self.work_data,
            KIND.WORK_STATUS: self.work_status,
            KIND.WORK_COMPLETE: self.work_complete,
            KIND.WORK_FAIL: self.work_fail,
            KIND.WORK_EXCEPTION: self.work_exception,
        }

    def set_client_id(self, peer: Peer, packet: Packet) -> None:
        name = "_".join(packet.args[0][:200].decode("utf-8", "replace").split())
        peer.client_id = printable(name) or "-"

    def can_do(self, peer: Peer, packet: Packet) -> None:
        timeout = None
        if packet.type == KIND.CAN_DO_TIMEOUT:  # in milliseconds, other than its document says
            found = _TIMEOUT.match(packet.args[1])
            timeout = max(LEAST_TIMEOUT, int(found[1]) / 1000) if found and int(found[1]) else None
        is_name = 0 < len(packet.function) <= MAX_FUNCTION
        if not is_name or not self._service.can_do(peer, packet.function, timeout):
            most = f"{MOST_ABILITIES} functions of 1 to {MAX_FUNCTION} bytes, and all together {MOST_FUNCTIONS}"
            peer.send(error("ARGUMENT_TOO_LARGE", f"a worker can do {most}"))

    # sleeping

    def pre_sleep(self, peer: Peer, packet: Packet) -> None:
        news, next_ripe = peer.seen
        if news == self._service.news and next_ripe > self._service.queue.clock.now():
            self._service.sleep(peer, next_ripe)
            return
        self._service.sleep(peer, float("inf"))
        self._service.look_at = 0.0

    # jobs

    def grab(self, peer: Peer, packet: Packet) -> None:
        self._service.rise(peer)
        self._claim(peer, packet.type, peer.expect())

    def _claim(self, peer: Peer, kind: PacketType, answer: Owed) -> None:
        """Claim a job for this answer; while a claim for this worker is under way, with the next one."""
        peer.grabs.append((kind, answer))
        if not peer.is_claiming:
            self._claim_next(peer)

    def _claim_next(self, peer: Peer) -> None:
        service = self._service
        grabs = [peer.grabs.popleft() for _ in range(min(len(peer.grabs), MOST_CLAIMED))]
        if not peer.abilities or service.is_leaving or not peer.is_open:
            for _, answer in (*grabs, *peer.grabs):
                answer.give(NO_JOB)
            peer.grabs.clear()
            return
        news = service.news

        def done(claims: Sequence[Claim], next_ripe: float) -> None:
            peer.is_claiming = False
            for (kind, answer), claim in zip(grabs, claims, strict=False):
                self._take(peer, kind, answer, claim)
            if len(claims) < len(grabs):
                peer.seen = (news, next_ripe)
            for _, answer in grabs[len(claims) :]:
                answer.give(NO_JOB)
            if peer.grabs and not peer.is_claiming:
                self._claim_next(peer)

        peer.is_claiming = True
        service.calls.claim(Want(service.queue.name, peer.routes, service.name, new_token(), len(grabs)), done)

    def _take(self, peer: Peer, kind: PacketType, answer: Owed, claim: Claim) -> None:
        """A job was claimed: judge whether it may run, and give it to the worker."""
        service = self._service
        if not peer.is_open:
            service.calls.commit(claim, Outcome.untouched(), _ignore)
            service.wake_one(function_of(claim.envelope.route))
            return
        try:
            seal = peek_head(claim.envelope.body).seal
            entry = admit(claim, seal)
            payload, reducer = payload_of(claim.envelope.body)
        except SkunkError as problem:
            outcome = Outcome.failed(error_text(problem))
            self._end_unstarted(peer, kind, answer, claim, outcome)
            return
        if entry.outcome is not None:
            self._end_unstarted(peer, kind, answer, claim, entry.outcome)
            return
        job = service.jobs.find(claim.id, claim.envelope.route)
        # A server that vanishes is nothing that a job could do, so only what must never run twice is marked.
        if seal.at_most_once:
            self._mark_first(peer, kind, answer, claim, entry, job, (payload, reducer))
            return
        job.assign(peer, claim, seal, entry.notes)
        self._assign(peer, kind, answer, job, (payload, reducer))

    def _mark_first(
        self,
        peer: Peer,
        kind: PacketType,
        answer: Owed,
        claim: Claim,
        entry: Entry,
        job: ServerJob,
        payload: tuple[bytes, bytes],
    ) -> None:
        seal = peek_head(claim.envelope.body).seal

        def done(taken: bool, refusal: str) -> None:
            if taken and not refusal and peer.is_open:
                job.assign(peer, claim, seal, entry.notes)
                self._assign(peer, kind, answer, job, payload)
                return
            if taken and not refusal:
                self._service.calls.commit(claim, Outcome.untouched(notes=encode_notes(entry.notes)), _ignore)
            self._service.jobs.forget(job)
            if peer.is_open:
                self._claim(peer, kind, answer)

        self._service.calls.commit(claim, mark(claim, entry.notes), done)

    def _end_unstarted(self, peer: Peer, kind: PacketType, answer: Owed, claim: Claim, outcome: Outcome) -> None:
        """A job that may not run, or cannot; the worker gets another."""
        job = self._service.jobs.get(claim.id)

        def done(taken: bool, refusal: str) -> None:
            if taken and job is not None and outcome.kind == "failed":
                job.tell_exception((outcome.error or "").encode("utf-8", "replace"))
                self._service.jobs.end(job)

        self._service.calls.commit(claim, outcome, done)
        self._claim(peer, kind, answer)

    def _assign(self, peer: Peer, kind: PacketType, answer: Owed, job: ServerJob, payload: tuple[bytes, bytes]) -> None:
        claim = job.claim
        assert claim is not None
        data, reducer = payload
        unique = unique_of(claim.envelope.unique)
        if kind == KIND.GRAB_JOB:
            packet = reply(KIND.JOB_ASSIGN, job.handle, job.function, data)
        elif kind == KIND.GRAB_JOB_ALL and reducer:
            packet = reply(KIND.JOB_ASSIGN_ALL, job.handle, job.function, unique, reducer, data)
        else:
            packet = reply(KIND.JOB_ASSIGN_UNIQ, job.handle, job.function, unique, data)
        answer.give(packet)
        limits = [limit for limit in (peer.abilities.get(job.function), job.seal.timeout) if limit is not None]
        if limits:
            job.limit = min(limits)
            job.late_at = ticks() + job.limit
            self._sweep_by(job.late_at)

    def _sweep_by(self, when: float) -> None:
        """Look for late jobs then, or earlier."""
        if when < self._sweep_at:
            self._sweep_at = when
            self._service.loop.at(when, self._sweep)

    def _sweep(self) -> None:
        """Jobs that have had all their time go back, and what their workers say of them later is refused."""
        now = ticks()
        if now < self._sweep_at:
            return  # an earlier look has seen to it
        self._sweep_at = float("inf")
        held = [job for peer in self._service.loop.peers.values() for job in peer.held.values()]
        for job in held:
            if job.late_at <= now:
                self._late(job)
        soonest = min((job.late_at for job in held), default=float("inf"))
        if soonest < float("inf"):
            self._sweep_by(max(soonest, now + SWEEP))

    def _late(self, job: ServerJob) -> None:
        if job.seal.timeout is not None and job.limit == job.seal.timeout:
            self._judge(job, TimedOut(job.limit))
        else:
            self._return(job, f"did not end within {job.limit:g} s", behind=True)

    def confused(self, peer: Peer, problem: ProtocolError) -> None:
        """A worker sent what cannot be: a result that is too large would be just as large from another worker."""
        if isinstance(problem, PacketTooLarge) and len(peer.held) == 1:
            (job,) = peer.held.values()
            why = f"what its worker sent of it is too large: {problem}"
            self._judge(job, Raised("", why), why.encode())

    def gone(self, peer: Peer) -> None:
        """A worker has left: its jobs go back at once."""
        self._service.rise(peer)
        self._service.cannot_do(peer, list(peer.abilities))
        self._service.calls.forget(peer)
        peer.grabs.clear()
        for job in list(peer.held.values()):
            self._return(job, "the connection of its worker ended")

    def _return(self, job: ServerJob, why: str, *, behind: bool = False) -> None:
        """Put it back into the queue: into its place, or behind the others."""
        if job.seal.at_most_once:
            self._judge(job, Died(why))
            return
        notes = job.notes._replace(starts=job.notes.starts + 1, mark=None)
        most = self._service.job_retries
        if most and notes.starts >= most:
            outcome = Outcome.failed(f"{why}; it was tried {notes.starts} times", notes=encode_notes(notes))
        else:
            due = self._service.queue.clock.now() if behind else None
            outcome = Outcome.again(due=due, error=why, notes=encode_notes(notes))
        self._settle(job, outcome)

    def _judge(self, job: ServerJob, what: Raised | TimedOut | Died, text: bytes | None = None) -> None:
        self._settle(job, judge(what, job.seal, job.notes, now=self._service.queue.clock.now()), text)

    def _settle(self, job: ServerJob, outcome: Outcome, text: bytes | None = None, answer: Owed | None = None) -> None:
        """Commit what ends the claim of a job, and tell its clients if that ends the job.

        ``text`` is what a WORK_EXCEPTION said. ``answer`` is where the worker gets to know that it came too late.
        """
        service = self._service
        claim = job.release()

        def done(taken: bool, refusal: str) -> None:
            if answer is not None:
                answer.give(b"" if taken else JOB_NOT_FOUND)
            if not taken:
                service.jobs.forget(job)  # where it has clients, they are told when it ends elsewhere
            elif outcome.kind == "again":
                service.jobs.forget(job)
                if job.is_ours_alone and not job.clients:
                    service.abandon([job.id])
                elif outcome.due is None or outcome.due <= service.queue.clock.now():
                    service.wake_one(job.function)
                else:
                    service.look_by(outcome.due)
            else:
                self._tell_end(job, outcome, text, refusal)

        service.calls.commit(claim, outcome, done)

    def _tell_end(self, job: ServerJob, outcome: Outcome, text: bytes | None, refusal: str) -> None:
        if refusal:
            job.tell_exception(refusal.encode())
        elif outcome.kind == "complete":
            job.tell(KIND.WORK_COMPLETE, text or b"")
        elif text is not None:
            job.tell_exception(text)
        else:
            job.tell(KIND.WORK_FAIL)
        self._service.jobs.end(job)

    # what workers say of their jobs

    def _job(self, peer: Peer, packet: Packet) -> ServerJob | None:
        job = peer.held.get(packet.args[0])
        if job is None:
            peer.send(JOB_NOT_FOUND)
        return job

    def work_data(self, peer: Peer, packet: Packet) -> None:
        if job := self._job(peer, packet):
            if packet.type == KIND.WORK_DATA:
                job.stream(packet.data)
            job.tell(packet.type, packet.data)

    def work_status(self, peer: Peer, packet: Packet) -> None:
        job = self._job(peer, packet)
        if job is None or job.claim is None:
            return
        found = [_NUMBER.match(arg) for arg in packet.args[1:]]
        job.numerator, job.denominator = (int(number[1]) if number else 0 for number in found)
        job.tell(packet.type, *packet.args[1:])
        if ticks() - job.progress_at >= TELL and job.denominator:
            job.progress_at = ticks()
            share = min(1.0, job.numerator / job.denominator)
            outcome = Outcome.at(share, f"{job.numerator}/{job.denominator}")
            self._service.calls.progress(job.claim, outcome)

    def work_complete(self, peer: Peer, packet: Packet) -> None:
        if job := self._job(peer, packet):
            value = FOREIGN + b"".join(job.streamed or ()) + packet.data
            self._settle(job, Outcome.complete(value), packet.data, peer.expect())

    def work_fail(self, peer: Peer, packet: Packet) -> None:
        if job := self._job(peer, packet):
            outcome = judge(Raised("", FAILED), job.seal, job.notes, now=self._service.queue.clock.now())
            self._settle(job, outcome, None, peer.expect())

    def work_exception(self, peer: Peer, packet: Packet) -> None:
        if job := self._job(peer, packet):
            text = packet.data[:2000].decode("utf-8", "replace")
            what = Raised("", text or "its worker sent WORK_EXCEPTION")
            outcome = judge(what, job.seal, job.notes, now=self._service.queue.clock.now())
            self._settle(job, outcome, packet.data, peer.expect())


def _ignore(taken: bool, refusal: str) -> None:
    """Whether it was taken changes nothing."""
