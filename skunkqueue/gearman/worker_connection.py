"""One connection of a worker to a job server: announces what it can do, grabs jobs, says what became of them."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.gearman.connection import JobServer
from skunkqueue.gearman.errors import ProtocolError
from skunkqueue.gearman.protocol import Decoder, Magic, Packet, PacketType, request

MOST_GRABBED: Final = 64
FEW: Final = 2
STALLED: Final = 30.0
"""Seconds after which a server that takes nothing of what waits for it counts as away."""


PRE_SLEEP: Final = request(PacketType.PRE_SLEEP)
GRAB: Final = request(PacketType.GRAB_JOB_UNIQ)
GRAB_PLAINLY: Final = request(PacketType.GRAB_JOB)
ECHO: Final = request(PacketType.ECHO_REQ, b"")


class Assigned(NamedTuple):
    """A job as a server gave it: its handle there, the function's name, its unique key, and its data."""

    handle: bytes
    function: bytes
    unique: bytes
    data: bytes


class Question(NamedTuple):
    """What a server owes an answer to. ``told`` is the id of the job whose WORK packet went just ahead of it; empty if
    none did. ``asker`` is whom the answer is for.

    A server says nothing of a WORK packet that it takes, and ERROR, without a handle, of one that it refuses. So an
    ERROR is about what went ahead of the question that is answered next.
    """

    is_grab: bool
    told: str
    asker: Any
    at: float


class ServerReply(NamedTuple):
    """The answer to a question: the job, if it brought one, and whether what was told ahead of it was refused."""

    question: Question
    job: Assigned | None
    refused: bool


class WorkerConnection:
    """A connection to ``server`` that never blocks, once it has a socket. Not thread-safe.

    ``is_hot`` says whether the server may have jobs: it is asked only then. A server that had none is told that this
    worker sleeps, and wakes it with a NOOP.
    """

    def __init__(self, server: JobServer, client_id: bytes, functions: Sequence[str]) -> None:
        self.server = server
        self.functions: tuple[str, ...] = tuple(functions)
        self.generation: int = 0
        """Counts connections: a job belongs to the one that it came through."""
        self.is_hot: bool = False
        self.is_ready: bool = False
        """Whether the server has answered: a process that hangs still accepts connections."""
        self.was_empty: bool = False
        """Whether the last answer to a grab was that there is no job."""
        self.window: int = 1
        """How many jobs to grab at a time: twice as many where there were as many, else as many as there were."""
        self._grabbed = 0
        self._client_id = client_id
        self._socket: socket.socket | None = None
        self._decoder = Decoder(Magic.RESPONSE)
        self._questions: deque[Question] = deque()
        self.refused: list[str] = []
        """What ``finish`` told, and the server refused; whoever reads it clears it."""
        self._finished = ""
        self._refused = False
        self._is_asleep = False
        self._is_woken = False
        """Whether the server has said that there is a job, and was not asked for it yet."""
        self._grab = b""
        """How jobs are grabbed, once it is known that the server understands it."""
        self._unsent = bytearray()
        self._moved_at = 0.0
        """When the server last took something of what was unsent, in ticks."""
        self.heard_at: float = 0.0
        self._takers: Mapping[PacketType, Callable[[tuple[bytes, ...], list[ServerReply]], None]] = {
            PacketType.NOOP: self._noop,
            PacketType.ERROR: self._error,
            PacketType.JOB_ASSIGN_UNIQ: self._job,
            PacketType.JOB_ASSIGN: self._plain_job,
            PacketType.NO_JOB: self._no_job,
            PacketType.ECHO_RES: self._echo,
        }

    def fileno(self) -> int:
        """The descriptor of the socket; -1 while it is not connected."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def is_up(self) -> bool:
        return self._socket is not None

    @property
    def is_blocked(self) -> bool:
        """Whether something waits to be sent until the server reads."""
        return bool(self._unsent)

    @property
    def is_owing(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._questions)

    @property
    def asked_at(self) -> float:
        """Ticks of the oldest question without an answer; infinite if there is none."""
        return self._questions[0].at if self._questions else float("inf")

    def adopt(self, found: socket.socket) -> None:
        """Use this socket: announce who this is and what it can do."""
        self.close()
        self._socket = found
        self._decoder = Decoder(Magic.RESPONSE)
        self._grab = b""
        self.generation += 1
        self.heard_at = ticks()
        who = request(PacketType.SET_CLIENT_ID, self._client_id) if self._client_id else b""
        self.send(who + self._abilities())
        self.prove()

    def announce(self, functions: Sequence[str]) -> None:
        """Announce other abilities from now on."""
        self.functions = tuple(functions)
        if self.is_up:
            self.send(request(PacketType.RESET_ABILITIES) + self._abilities())
            self.is_hot = True

    def _abilities(self) -> bytes:
        return b"".join([request(PacketType.CAN_DO, name.encode()) for name in self.functions])

    def close(self) -> None:
        """Close it. The server gives the jobs that came through it, and did not end, to others."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._questions.clear()
        self._unsent.clear()
        self.is_hot = self.is_ready = self._is_asleep = self._refused = False

    # sending

    def send(self, data: bytes) -> None:
        """Send as much as the socket takes now; the rest follows with ``flush``."""
        if self._socket is None:
            return  # it broke just now; what was to be said is said anew on the next one
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent += data[sent:]
            self._moved_at = ticks()

    def flush(self) -> None:
        """Send of what is unsent as much as the socket takes. A connection that fails, or has stalled, is closed."""
        while self._socket is not None and self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                if ticks() - self._moved_at > STALLED:
                    self.close()
                return
            except OSError:
                self.close()
                return
            del self._unsent[:sent]
            self._moved_at = ticks()

    def drain(self) -> None:
        """Send all that is unsent, waiting for the server as long as it takes some of it."""
        while self._socket is not None and self._unsent:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(1000)
            self.flush()

    def ask(self, told: Sequence[tuple[str, bytes]], grabs: int, asker: Any = None) -> int:
        """Tell what became of jobs, each as (id, packet), and grab so many; each is followed by a question.

        Returns how many answers will come.
        """
        now = ticks()
        parts: list[bytes] = []
        for number in range(max(len(told), grabs)):
            id, packets = told[number] if number < len(told) else ("", b"")
            is_grab = number < grabs
            parts += (packets, (self._grab or GRAB) if is_grab else ECHO)
            self._questions.append(Question(is_grab, id, asker, now))
        if grabs:
            self._grabbed = 0
            # Where there probably are no more, this saves a write; woken, it gets the job that it was woken for.
            self._is_asleep = self.window <= FEW and not self._is_woken
            self._is_woken = False
            if self._is_asleep:
                parts.append(PRE_SLEEP)
        self.send(b"".join(parts))
        return max(len(told), grabs)

    def finish(self, id: str, packet: bytes) -> None:
        """Tell what became of a job, and sleep: with one packet less each way than ``ask``, if there is no other job.

        If the server has one, it wakes this worker at once. If it refuses what it was told, ``refused`` has the id.
        """
        self._finished = id
        self.is_hot, self._is_asleep = False, True
        self.send(packet + PRE_SLEEP)

    def prove(self) -> None:
        """Ask for a sign of life."""
        self._questions.append(Question(False, "", None, ticks()))
        self.send(ECHO)

    # receiving

    def receive(self) -> list[ServerReply]:
        """Read what has come, without waiting. A connection that has ended, or speaks no Gearman, is closed."""
        if self._socket is None:
            return []
        answers: list[ServerReply] = []
        try:
            while self._socket is not None:
                room = self._decoder.room
                data = self._socket.recv(room)
                if not data:
                    self.close()
                    break
                for packet in self._decoder.feed(data):
                    if isinstance(packet, Packet) and (take := self._takers.get(packet.type)):
                        take(packet.args, answers)
                if len(data) < room:
                    break
        except BlockingIOError:
            pass
        except (OSError, ProtocolError):
            self.close()
        self.heard_at = ticks()
        return answers

    def _noop(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        self.is_hot, self._is_woken, self._is_asleep = True, True, False
        self._finished = ""

    def _error(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        oldest = self._questions[0] if self._questions else None
        if self._finished:
            self.refused.append(self._finished)
            self._finished = ""
        elif oldest is not None and oldest.is_grab and not oldest.told and self._grab != GRAB:
            # The server in Perl knows no GRAB_JOB_UNIQ; every grab of that kind that is under way meets this.
            self._grab = GRAB_PLAINLY
            self._questions.rotate(-1)
            self._is_asleep = False
            self.send(GRAB_PLAINLY)
        else:
            self._refused = True

    def _plain_job(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        handle, function, data = args
        self._job((handle, function, b"", data), answers)

    def _job(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        self._grab = self._grab or GRAB
        self.is_hot, self.was_empty = True, False
        self._grabbed += 1
        if self._grabbed >= self.window:
            self.window = min(2 * self.window, MOST_GRABBED)
        self._answer(True, Assigned(*args), answers)

    def _no_job(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        self._grab = self._grab or GRAB
        self.was_empty = True
        self.window = max(1, min(self.window, self._grabbed))
        self._answer(True, None, answers)
        if not any(question.is_grab for question in self._questions):
            # A sleeper gets a NOOP for what came meanwhile, so that it can be believed to have nothing now.
            self.is_hot = False
            if not self._is_asleep:
                self._is_asleep = True
                self.send(PRE_SLEEP)

    def _echo(self, args: tuple[bytes, ...], answers: list[ServerReply]) -> None:
        if not self.is_ready:
            self.is_ready = self.is_hot = True
        self._answer(False, None, answers)

    def _answer(self, is_grab: bool, job: Assigned | None, answers: list[ServerReply]) -> None:
        if not self._questions or self._questions[0].is_grab is not is_grab:
            raise ProtocolError("an answer without a question")
        answers.append(ServerReply(self._questions.popleft(), job, self._refused))
        self._refused = False
