"""AdminClient: asks one job server what it does, and tells it what to do, by the admin protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from skunkqueue.durations import seconds
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import CONNECT_TIMEOUT, JobServer, ServerConnection, parse_hosts
from skunkqueue.gearman.errors import JobUnfinished, ProtocolError, ServerUnavailable
from skunkqueue.gearman.protocol import Line, Packet, PacketType
from skunkqueue.gearman.text import (
    END,
    Command,
    FunctionPriorities,
    FunctionStatus,
    JobInfo,
    WorkerInfo,
    parse_answer,
)

ROW: Final = 16 << 20
"""Bytes of a row at most: a worker's lists all that it can do."""

T = TypeVar("T")


class AdminClient:
    """Asks one server. Every call connects if it has to, and waits ``timeout`` seconds at most.

    Raises ServerUnavailable, JobUnfinished if the server does not answer in time, ServerRefused if it answers ERR,
    ProtocolError if what it says is not Gearman's; all of them are GearmanException. WrongCall for a wrong argument.
    """

    def __init__(self, host: str | tuple[str, int] | JobServer = "localhost:4730", *, timeout: float = 10.0) -> None:
        hosts = parse_hosts([host] if isinstance(host, tuple) else host)
        if len(hosts) != 1:
            raise WrongCall(f"an AdminClient is for one server; got {len(hosts)}: {', '.join(map(str, hosts))}")
        self.server: JobServer = hosts[0]
        self._timeout = seconds(timeout, "timeout")
        self._connection: ServerConnection | None = None
        self._read: list[Packet | Line] = []

    # look

    def status(self) -> list[FunctionStatus]:
        """Of each function: jobs that wait or run, those that run, workers that can do it."""
        return self._table("status", FunctionStatus.parse)

    def priorities(self) -> list[FunctionPriorities]:
        """Of each function: jobs that wait, by priority, and workers that can do it."""
        return self._table("prioritystatus", FunctionPriorities.parse)

    def workers(self) -> list[WorkerInfo]:
        """All connections, with the functions of those that are workers."""
        return self._table("workers", WorkerInfo.parse)

    def jobs(self) -> list[JobInfo]:
        """All jobs that wait or run."""
        return self._table("show jobs", JobInfo.parse)

    def uniques(self) -> list[str]:
        """The unique keys of all jobs that wait or run."""
        return self._table("show unique jobs", lambda line: line.text)

    def version(self) -> str:
        """The server's version."""
        return self._ask("version")

    def getpid(self) -> int:
        """The server's process."""
        answer = self._ask("getpid")
        if not answer.isdigit():
            raise ProtocolError(f"expected a process id; {self.server} sent {answer[:80]!r}")
        return int(answer)

    def ping(self) -> float:
        """Seconds until an echo comes back."""
        began = time.monotonic()
        self._call(Packet.request(PacketType.ECHO_REQ, b"ping").encode(), self._echo)
        return time.monotonic() - began

    # act

    def maxqueue(self, function: str, size: int | None = None, *by_priority: int) -> None:
        """Let at most ``size`` jobs of a function wait, or so many of high, normal and low priority; None: any."""
        sizes = () if size is None else (size, *by_priority)
        if len(sizes) not in (0, 1, 3):
            raise WrongCall(f"maxqueue takes one size, or three: high, normal and low; got {len(sizes)}")
        self._ask("maxqueue", function, *map(str, sizes))

    def create_function(self, function: str) -> None:
        """Have the server know a function before a worker or a job names it."""
        self._ask("create function", function)

    def drop_function(self, function: str) -> None:
        """Have the server forget a function that has no worker and no job."""
        self._ask("drop function", function)

    def cancel(self, handle: str) -> None:
        """Cancel a job that waits."""
        self._ask("cancel job", handle)

    def shutdown(self, graceful: bool = True) -> None:
        """End the server; gracefully, when the jobs that run have ended. gearmand 1.1.20 refuses: end it by signal."""
        try:
            self._ask("shutdown graceful" if graceful else "shutdown")
        except ServerUnavailable:
            return  # it has not waited to say so

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._read = None, []

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # one question

    def _ask(self, name: str, *args: str) -> str:
        # gearmand 1.1.20 takes the last letter of "create function x\n" for a carriage return, so it gets one
        line = Command(name, args).encode().removesuffix(b"\n") + b"\r\n"
        return self._call(line, lambda end: parse_answer(self._line(end)))

    def _table(self, name: str, parse: Callable[[Line], T]) -> list[T]:
        def rows(end: float) -> list[T]:
            found = []
            while (line := self._line(end)) != END:
                if line.text.startswith("ERR "):
                    parse_answer(line)
                found.append(parse(line))
            return found

        return self._call(Command(name).encode(), rows)

    def _call(self, data: bytes, read: Callable[[float], T]) -> T:
        """Send a question, on a new connection if the one there is has ended, and read the answer."""
        end = time.monotonic() + self._timeout
        is_new = self._connection is None
        try:
            self._open().send_bytes(data)
            return read(end)
        except ServerUnavailable:
            self.close()
            if is_new:
                raise
        except (ProtocolError, JobUnfinished):
            self.close()  # what comes later on it would be taken for the next answer
            raise
        return self._call(data, read)

    def _open(self) -> ServerConnection:
        if self._connection is None:
            timeout = min(CONNECT_TIMEOUT, self._timeout)
            self._connection = ServerConnection(self.server, connect_timeout=timeout, max_line=ROW)
        return self._connection

    def _next(self, end: float) -> Packet | Line:
        if not self._read:
            self._read = self._open().receive(max(0.0, end - time.monotonic()))
            if not self._read:
                raise JobUnfinished(f"the job server {self.server} did not answer within {self._timeout:g} s")
        return self._read.pop(0)

    def _line(self, end: float) -> Line:
        found = self._next(end)
        if not isinstance(found, Line):
            raise ProtocolError(f"expected a line of text; {self.server} sent {found.type.name}")
        return found

    def _echo(self, end: float) -> None:
        found = self._next(end)
        if not isinstance(found, Packet) or found.type is not PacketType.ECHO_RES:
            raise ProtocolError(f"expected ECHO_RES; {self.server} sent {found!r:.80}")
