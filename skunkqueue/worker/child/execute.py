"""What a worker does with one run: open it, find its job, call it, and put what happened into one frame."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import msgpack

from skunkqueue import codec
from skunkqueue.clock import ticks
from skunkqueue.durations import seconds
from skunkqueue.envelope import open_body
from skunkqueue.errors import Fail, NotAJob, PayloadError, Retry, UnknownJob
from skunkqueue.policy import Raised
from skunkqueue.run import CurrentRun
from skunkqueue.worker import frames
from skunkqueue.worker.child.resolve import Callee, Resolver, is_async
from skunkqueue.worker.hook import ShownResult

MOST_TEXT = 20_000
"""Characters kept of a traceback."""

_OF_OURS = (UnknownJob, NotAJob, PayloadError)  # whose sentence says all
_SHORT = frozenset({int, float, bool, type(None)})
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


class Task(NamedTuple):
    """A run as a worker gets it."""

    number: int
    attempt: int
    id: str
    body: bytes


class Invocation(NamedTuple):
    """A run opened: what to call, and with what."""

    job: Any  # a Callee, which mypy would bind here as a method
    name: str
    args: Any
    kwargs: dict[str, Any]

    @property
    def is_async(self) -> bool:
        return is_async(self.job.function)

    async def ended(self) -> tuple[Any, BaseException | None]:
        """Await an async job. What it raises is given, not raised: a SystemExit would end the event loop."""
        try:
            return await self.job.function(*self.args, **self.kwargs), None
        except BaseException as error:
            return None, error


class Executor:
    """Everything about a run but how it is called; that is up to the kind of worker."""

    def __init__(self, write: Callable[[bytes], None], resolver: Resolver, *, max_result: int) -> None:
        self.resolver = resolver
        self.max_result = max_result
        self._write = write

    def open(self, task: Task) -> Invocation:
        """Find the job and read its arguments; unpickles nothing whose signature has not been checked."""
        body = open_body(task.body)
        name, job = self.resolver.find(body, task.id)
        args, kwargs = codec.decode_call(body.call)
        return Invocation(job, name, args, kwargs)

    def is_async(self, task: Task) -> bool:
        """Whether a glance tells that the job is async, and that opening the run takes no time."""
        if not self.resolver.has_async:
            return False
        try:
            job = self.resolver.glance(open_body(task.body))
        except Exception:  # to be told when it is opened
            return False
        return job is not None and is_async(job.function)

    def current(self, task: Task) -> CurrentRun:
        """What ``current_run()`` gives inside the job; it speaks through the pipe."""

        def report(fraction: float, note: str) -> None:
            self._write(frames.one(frames.PROGRESS, task.number, fraction, note.encode("utf-8", "replace")))

        return CurrentRun(task.id, task.attempt, report)

    def returned(self, task: Task, call: Invocation, value: Any, began: float) -> bytes:
        """The frame for a value; a value that cannot be sent fails the run for good, for the work was done."""
        took = perf_counter() - began
        value, text = value if type(value) is ShownResult else (value, shown(value))
        try:
            data = codec.encode_value(value, codec.default_keys)
        except Exception as error:
            return self._unsendable(task, f"the result of {call.name}: {error}", took)
        if len(data) > self.max_result:
            size = f"{len(data):,} bytes, at most {self.max_result:,} are taken (max_payload of the pool)"
            return self._unsendable(task, f"the result of {call.name} is too large: {size}", took)
        return frames.done(task.number, ticks(), took, text.encode("utf-8", "replace"), data)

    def _unsendable(self, task: Task, message: str, took: float) -> bytes:
        return _raised_frame(task, Raised("PayloadError", message[:2000], final=True), took)

    def raised(self, task: Task, call: Invocation | None, error: BaseException, began: float) -> bytes:
        """The frame for an exception, from the job or from the way to it."""
        took = perf_counter() - began
        if call is None and isinstance(error, UnknownJob):
            return frames.timed(frames.UNKNOWN, task.number, ticks(), took, str(error).encode("utf-8", "replace"))
        return _raised_frame(task, describe(error, call, task.attempt), took)


def _raised_frame(task: Task, what: Raised, took: float) -> bytes:
    packed = msgpack.packb(tuple(what), unicode_errors="replace")
    return frames.timed(frames.RAISED, task.number, ticks(), took, packed)


def describe(error: BaseException, call: Invocation | None, attempt: int) -> Raised:
    """An exception as plain values, with what the job's own types and functions say of trying again."""
    asked = isinstance(error, Retry)
    final = isinstance(error, Fail) or (call is None and isinstance(error, NotAJob | PayloadError))
    after = None
    if call is not None and not final:
        try:
            final = not asked and not _worth_trying(error, call.job)
            after = _after(error, call.job, attempt)
        except Exception as second:  # retry_on, after or the backoff function is itself at fault
            error, final = second, True
    trace = "" if isinstance(error, _OF_OURS) else _trace(error, call)
    return Raised(type(error).__name__, _message(error), trace, final, asked, after)


def _worth_trying(error: BaseException, job: Callee) -> bool:
    if job.give_up_on and isinstance(error, job.give_up_on):
        return False
    return not job.retry_on or isinstance(error, job.retry_on)


def _after(error: BaseException, job: Callee, attempt: int) -> float | None:
    wished = getattr(error, "after", None) if isinstance(error, Retry) else None
    if wished is None and job.delay_of is not None:
        wished = job.delay_of(attempt)
    return None if wished is None else seconds(wished, "time until the next attempt")


def _message(error: BaseException) -> str:
    try:
        return str(error)[:2000]
    except BaseException as second:
        return f"(its message cannot be had: {type(second).__name__})"


def _trace(error: BaseException, call: Invocation | None) -> str:
    """The traceback as text, from the job's own frame on, with the sources that came with the job."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    try:
        text = _formatted(error, trace, getattr(call and call.job, "sources", b""))
    except BaseException as second:
        return f"(its traceback cannot be had: {type(second).__name__})"
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT // 2] + "\n...\n" + text[-MOST_TEXT // 2 :]


def _formatted(error: BaseException, trace: TracebackType | None, sources: bytes) -> str:
    import traceback  # late: jobs that go well need none

    if not sources:
        return "".join(traceback.format_exception(type(error), error, trace))
    from skunkqueue.function_pickle import known_to_tracebacks

    with known_to_tracebacks(sources):
        return "".join(traceback.format_exception(type(error), error, trace))


_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "")


def shown(value: Any) -> str:
    """The result as the log shows it: one short line."""
    try:
        text = repr(value) if type(value) in _SHORT else _repr.repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return text[:200].replace("\n", " ")
