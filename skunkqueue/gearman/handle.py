"""A job under way, as the caller of a client holds it: its result, status and updates, awaited or waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from skunkqueue.gearman.encoders import DataEncoder
from skunkqueue.gearman.errors import JobUnfinished, UnreadableAnswer
from skunkqueue.gearman.protocol import Packet, PacketType
from skunkqueue.gearman.session import Session
from skunkqueue.gearman.submission import Inquiry, JobStatus, Submission, Update, number

if TYPE_CHECKING:
    import asyncio

GET_RESULT: Final = 60.0
"""Seconds that ``get_result`` waits unless told otherwise."""
ANSWER: Final = 30.0
"""Seconds that a server may take to accept a job or to answer a question."""

Encoder: TypeAlias = type[DataEncoder] | DataEncoder


class JobHandle:
    """A job under way. ``await handle`` is its result; ``async for update in handle`` what its worker says before."""

    def __init__(self, session: Session, submission: Submission, encoder: Encoder) -> None:
        self._session = session
        self._submission = submission
        self._encoder = encoder

    def __repr__(self) -> str:
        return f"<JobHandle {self.function} {self.handle or self.unique}>"

    @property
    def function(self) -> str:
        """The function's name."""
        return self._submission.function

    @property
    def unique(self) -> str:
        """The job's unique key."""
        return self._submission.unique

    @property
    def handle(self) -> str:
        """What the server calls the job; empty until it has accepted it."""
        return self._submission.handle.decode("utf-8", "replace")

    def is_done(self) -> bool:
        """Whether the job has ended; for a background job, whether the server has accepted it. Never waits."""
        if not self._submission.is_done:
            self._session.pump()
        return self._submission.is_done

    def get_result(self, timeout: float | None = GET_RESULT) -> Any:
        """Wait for the result, at most ``timeout`` seconds (None: as long as it takes), and return it.

        Raises JobUnfinished when the job is not done by then, RemoteException with what its worker said,
        WorkFailed if it said nothing, ServerUnavailable, UnreadableAnswer: all GearmanException. The result of a
        background job is None.
        """
        submission = self._submission
        if not self._session.wait(lambda: submission.is_done, timeout):
            raise JobUnfinished(f"{self.function} was not done after {timeout:g} s; it goes on")
        return self._result()

    def wait_accepted(self, timeout: float | None = ANSWER) -> None:
        """Wait until the server has accepted the job. Raises like ``get_result``."""
        submission = self._submission
        if not self._session.wait(lambda: submission.is_accepted or submission.is_done, timeout):
            raise JobUnfinished(f"no job server accepted {self.function} within {timeout:g} s")
        if submission.error is not None:
            raise submission.error

    @property
    def status(self) -> JobStatus:
        """How far the job is (``numerator`` of ``denominator``), whether it runs, and whether the server knows it.

        Of a foreground job it is what the worker said last; of a background job the server is asked. Raises
        ServerUnavailable, JobUnfinished if it does not answer.
        """
        submission = self._submission
        if submission.background:
            return self.ask_status()
        if not submission.is_done:
            self._session.pump()
        is_open = submission.is_accepted and not submission.is_done
        return JobStatus(is_open, is_open and bool(submission.updates), *submission.status)

    def ask_status(self, timeout: float | None = ANSWER) -> JobStatus:
        """Ask the server, which forgets a job that has ended."""
        self.wait_accepted(timeout)
        packet = Packet.request(PacketType.GET_STATUS, self._submission.handle)
        answer = self._session.ask(Inquiry(packet, PacketType.STATUS_RES), timeout)
        known, running, numerator, denominator = map(number, answer.args[1:])
        return JobStatus(bool(known), bool(running), numerator, denominator)

    def updates(self, timeout: float | None = GET_RESULT) -> Iterator[Update]:
        """What the worker sends until the job ends: Update("data", value), ("warning", value) or ("status", (n, of)).

        ``timeout`` is how long to wait for each. Raises like ``get_result``, at the end as well.
        """
        submission, seen = self._submission, 0
        while True:
            if seen < len(submission.updates):
                seen += 1
                yield self._decoded(submission.updates[seen - 1])
            elif submission.is_done:
                self._result()
                return
            elif not self._session.wait(partial(submission.goes_beyond, seen), timeout):
                raise JobUnfinished(f"{self.function} sent nothing for {timeout:g} s; it goes on")

    def data(self, timeout: float | None = GET_RESULT) -> Iterator[Any]:
        """The parts of the result that the worker sends before the end (WORK_DATA). Like ``updates`` otherwise."""
        return (update.value for update in self.updates(timeout) if update.kind == "data")

    # in an event loop

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        async for _ in self._changes():
            continue
        return self._result()

    async def __aiter__(self) -> AsyncIterator[Update]:
        """What the worker sends until the job ends, like ``updates``."""
        seen = 0
        async for _ in self._changes():
            while seen < len(self._submission.updates):
                seen += 1
                yield self._decoded(self._submission.updates[seen - 1])
        self._result()

    async def _changes(self) -> AsyncIterator[None]:
        """One item whenever anything may have changed, the last after the job has ended."""
        import asyncio

        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        listener = _Listener(loop, changed)
        self._session.watch(self._submission, listener)
        try:
            while not self._submission.is_done:
                yield None
                await changed.wait()
                changed.clear()
            yield None
        finally:
            self._session.unwatch(self._submission, listener)

    # results

    def _result(self) -> Any:
        submission = self._submission
        if submission.error is not None:
            raise submission.error.with_traceback(None)
        return self.result_so_far()

    def result_so_far(self) -> Any:
        """The result, or None while there is none. Raises UnreadableAnswer."""
        data = self._submission.result
        return None if data is None else self._decode(data, "answer")

    def _decoded(self, update: Update) -> Update:
        return update if update.kind == "status" else Update(update.kind, self._decode(update.value, update.kind))

    def _decode(self, data: Any, what: str) -> Any:
        try:
            return self._encoder.decode(data)
        except Exception as error:
            shown = f"{data[:60]!r}{'...' if len(data) > 60 else ''}"
            message = f"the {what} of {self.function} cannot be decoded: {error}; it is {shown}"
            raise UnreadableAnswer(message, data) from error


class _Listener:
    """Sets an event of a loop, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._loop = loop
        self._event = event

    def __call__(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return  # the loop was closed: nobody waits any more
