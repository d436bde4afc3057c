"""GearmanWorker: takes jobs from servers and calls a function for each, in this process, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from skunkqueue.clock import ticks
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.asking import SLOW
from skunkqueue.gearman.connection import Hosts, JobServer, parse_hosts
from skunkqueue.gearman.encoders import DataEncoder, JSONDataEncoder
from skunkqueue.gearman.job import GearmanJob, described
from skunkqueue.gearman.polled import PolledConnections, log
from skunkqueue.gearman.protocol import PacketType, check_function
from skunkqueue.gearman.worker_connection import ServerReply, WorkerConnection

HOLD: Final = 0.001
"""Seconds for which a result may wait for those of jobs that were taken with it."""
PROBE: Final = 16
"""While there is no other job when one ends, a worker looks for the next one at so many ends only."""
_NEXT: Final = object()
"""Marks a question for the next job at the end of one."""
FINISH: Final = 2.0
"""Seconds that a worker that stops waits until a server has read its last result."""

Callback = Callable[["GearmanWorker", "GearmanJob"], Any]


class GearmanWorker:
    """Takes jobs from any of ``host_list`` and calls the function registered for each, on the thread of ``work``.

    A function gets this worker and a GearmanJob; its value, through ``data_encoder``, is the client's answer. An
    exception reaches the client as WORK_EXCEPTION, then WORK_FAIL, and the worker goes on. Subclass it to use another
    ``data_encoder``, or to handle exceptions otherwise (``on_job_exception``). Servers that are away are tried again
    until they are back. Raises WrongCall for what is no server.
    """

    data_encoder: type[Any] = DataEncoder
    ahead: int = 1
    """How many jobs to take at a time, to be overridden. More makes many short jobs several times as fast; but a job
    that was taken waits here for those before it, also where another worker is idle."""

    def __init__(self, host_list: Hosts = ("localhost:4730",)) -> None:
        self.host_list: tuple[JobServer, ...] = parse_hosts(host_list)
        self.worker_abilities: dict[str, Callback] = {}
        self.worker_client_id: str = ""
        self._links: PolledConnections | None = None
        self._stopping = False
        self._is_changed = False  # what this worker can do
        self._queue: deque[GearmanJob] = deque()  # taken, not begun
        self._told: list[tuple[str, bytes]] = []  # what became of jobs, to be sent; all of one connection
        self._told_to: WorkerConnection | None = None
        self._told_since = 0.0
        self._took: dict[str, float] = {}  # seconds that a task takes, rather too long than too short
        self._ended = 0
        self._is_light = False  # whether there was no job left when the last one ended

    # what it can do

    def register_task(self, task: str, callback_function: Callback) -> str:
        """Have jobs of that name done by this function; one that is working takes it up at its next turn.

        Raises WrongCall.
        """
        self.worker_abilities[check_function(task)] = callback_function
        self._is_changed = True
        self._poke()
        return task

    def unregister_task(self, task: str) -> None:
        """Take no more jobs of that name."""
        self.worker_abilities.pop(task, None)
        self._is_changed = True
        self._poke()

    def set_client_id(self, client_id: str) -> str:
        """The name under which servers list this worker. Call it before ``work``."""
        if not client_id or not client_id.isprintable() or any(space in client_id for space in " \t"):
            raise WrongCall(f"a client id is text without spaces, like worker-1@host; got {client_id!r}")
        self.worker_client_id = client_id
        return client_id

    # working

    def work(self, poll_timeout: float = 60.0) -> None:
        """Work until ``shutdown``, or until ``after_poll`` returns False, which is called every ``poll_timeout``
        seconds at the latest. A job that is interrupted by an exception of this thread (KeyboardInterrupt) is given to
        others.
        """
        if self._links is not None:
            raise WrongCall("this GearmanWorker works already; a second one needs an object of its own")
        links = self._links = PolledConnections(self.host_list, self.worker_client_id)
        self._is_changed = True
        try:
            while not self._stopping:
                activity = self._poll(links, poll_timeout)
                if not self.after_poll(activity):
                    break
            self._finish(links)
        finally:
            self._send_rest()
            links.close()
            self._links, self._stopping = None, False

    def after_poll(self, any_activity: bool) -> bool:
        """Called after each wait; whether to go on. To be overridden."""
        return True

    def shutdown(self) -> None:
        """Stop after the current job. From any thread, from a job, or from a signal's handler."""
        self._stopping = True
        self._poke()

    # what becomes of a job; all to be overridden

    def on_job_execute(self, current_job: GearmanJob) -> bool:
        """Decode a job, call its function, and send what became of it."""
        try:
            current_job.data = self.data_encoder.decode(current_job.data)
        except Exception as error:
            return self.on_job_exception(current_job, error)
        try:
            function = self.worker_abilities[current_job.task]
            return self.on_job_complete(current_job, function(self, current_job))
        except Exception as error:
            return self.on_job_exception(current_job, error)

    def on_job_exception(self, current_job: GearmanJob, error: Exception) -> bool:
        """A job that raised, or whose data or value could not be decoded or encoded: tell its client."""
        log.warning("%s %s failed: %s: %s", current_job.task, current_job.handle, type(error).__name__, error)
        self.send_job_exception(current_job, described(error))
        return False

    def on_job_complete(self, current_job: GearmanJob, job_result: Any) -> bool:
        """A job that returned: send its value."""
        self.send_job_complete(current_job, job_result)
        return True

    def send_job_status(self, current_job: GearmanJob, numerator: int, denominator: int) -> None:
        """Tell the client how far the job is."""
        self._send(current_job, current_job.packet(PacketType.WORK_STATUS, numerator, denominator))

    def send_job_data(self, current_job: GearmanJob, data: Any) -> None:
        """Send the client a part of the result."""
        self._send(current_job, current_job.packet(PacketType.WORK_DATA, self.data_encoder.encode(data)))

    def send_job_warning(self, current_job: GearmanJob, data: Any) -> None:
        """Send the client a warning."""
        self._send(current_job, current_job.packet(PacketType.WORK_WARNING, self.data_encoder.encode(data)))

    def send_job_complete(self, current_job: GearmanJob, data: Any) -> None:
        """End the job with this value."""
        self._end(current_job, current_job.packet(PacketType.WORK_COMPLETE, self.data_encoder.encode(data)))

    def send_job_failure(self, current_job: GearmanJob) -> None:
        """End the job as failed."""
        self._end(current_job, current_job.packet(PacketType.WORK_FAIL))

    def send_job_exception(self, current_job: GearmanJob, data: bytes | str) -> None:
        """End the job as failed, with a text that says why."""
        text = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
        # For gearmand 1.1.20 the exception ends the job, and it refuses the failure; so only the first is judged.
        exception = current_job.packet(PacketType.WORK_EXCEPTION, text)
        self._end(current_job, exception, current_job.packet(PacketType.WORK_FAIL))

    # one turn

    def _poll(self, links: PolledConnections, timeout: float) -> bool:
        """Wait for something to happen, do the jobs that came; returns whether anything did happen."""
        if self._is_changed or links.is_due:
            self._is_changed = False
            links.tend(tuple(self.worker_abilities))
        self._grab(links)
        ready = links.wait(timeout)
        for connection in ready:
            for reply in connection.receive():
                self._take(connection, reply)
            while connection.refused:
                _tell_refused(connection.refused.pop(), connection)
            if not connection.is_up:
                links.lost(connection)
        if self._queue:
            self._execute()
        return bool(ready)

    def _execute(self) -> None:
        """Do the jobs that were taken."""
        while self._queue and not self._stopping:
            job = self._queue.popleft()
            if not job.is_ours:
                continue
            if job.task in self.worker_abilities:
                began = ticks()
                self.on_job_execute(job)
                self._took[job.task] = max(ticks() - began, 0.9 * self._took.get(job.task, 0.0))
            else:
                self.send_job_failure(job)
        if self._told:
            self._tell()

    def _grab(self, links: PolledConnections) -> None:
        """Ask for a job, the server next in turn; while an answer is awaited, not before that is slow to come."""
        hot = None
        for connection in links.all:
            if connection.is_owing:
                if connection.is_ready and ticks() - connection.asked_at < SLOW:
                    return
            elif hot is None and connection.is_hot:
                hot = connection
        if hot is not None and not self._stopping:
            hot.ask((), self._most(hot))
            links.in_turn(hot)

    def _most(self, connection: WorkerConnection) -> int:
        """How many jobs to take from a server now."""
        return max(1, min(self.ahead, connection.window))

    def _take(self, connection: WorkerConnection, reply: ServerReply) -> None:
        if reply.refused and reply.question.told:
            _tell_refused(reply.question.told, connection)
        if reply.question.asker is _NEXT and reply.question.is_grab:
            self._is_light = reply.job is None
        if reply.job is None:
            return
        if self._stopping:
            connection.close()  # so that the server gives it to another
            return
        self._queue.append(GearmanJob(reply.job, connection))

    def _end(self, job: GearmanJob, packet: bytes, unjudged: bytes = b"") -> None:
        """Send what ends a job; where other jobs wait here, within a moment and with what ends those."""
        connection = job.connection
        if connection is None or not job.is_ours:
            log.warning("%s %s ended after its server was lost: another worker gets it", job.task, job.handle)
            return
        if self._told and self._told_to is not connection:
            self._tell()
        if not self._told:
            self._told_since, self._told_to = ticks(), connection
        self._told.append((f"{job.task} {job.handle}", packet))
        if unjudged:
            self._told.append(("", unjudged))
        if not self._queue or ticks() - self._told_since > HOLD or self._took.get(self._queue[0].task, 1.0) > HOLD:
            self._tell()

    def _tell(self) -> None:
        """Send what became of jobs, and ask for the next, if none waits here and no other server has its turn."""
        told, self._told = self._told, []
        connection, links = self._told_to, self._links
        if connection is None or not connection.is_up or links is None:
            return
        self._ended += 1
        if self._queue or self._stopping or any(other.is_hot for other in links.all if other is not connection):
            connection.ask(told, 0)
        elif self._is_light and len(told) == 1 and self._ended % PROBE:
            connection.finish(*told[0])
        else:
            connection.ask(told, self._most(connection), asker=_NEXT)
        if not connection.is_up:
            links.lost(connection)

    def _send(self, job: GearmanJob, packet: bytes) -> None:
        """Send at once, and whole, what does not end a job."""
        if job.connection is not None and job.is_ours:
            job.connection.send(packet)
            job.connection.drain()

    # the end

    def _finish(self, links: PolledConnections) -> None:
        """Wait until the servers have read what was sent: closing earlier could lose it."""
        end = ticks() + FINISH
        self._stopping = True
        self._send_rest()
        for connection in links.all:
            if connection.is_ready and not connection.is_owing:
                connection.prove()
        while ticks() < end and any(each.is_ready and each.is_owing for each in links.all):
            for connection in links.wait(0.1):
                for reply in connection.receive():
                    self._take(connection, reply)

    def _send_rest(self) -> None:
        """Send what ends the jobs that are done; those that were not begun go to others when their connection ends."""
        self._queue.clear()
        if self._told and self._told_to is not None:
            self._told_to.ask(self._told, 0)
        self._told = []

    def _poke(self) -> None:
        """Have a worker that waits look again."""
        links = self._links
        if links is not None:
            links.wake()


class JsonWorker(GearmanWorker):
    """A GearmanWorker whose jobs and answers are JSON."""

    data_encoder = JSONDataEncoder


def _tell_refused(what: str, connection: WorkerConnection) -> None:
    log.warning("%s was refused: %s has given it to another worker", what, connection.server)
