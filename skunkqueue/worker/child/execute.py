"""What a worker does with one run: open it, find its job, call it, and put what happened into one frame."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from time import perf_counter
from types import CoroutineType, GeneratorType, MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue import codec
from skunkqueue.clock import ticks
from skunkqueue.durations import seconds_left
from skunkqueue.envelope import Body, open_body
from skunkqueue.errors import Fail, NotAJob, PayloadError, Retry, UnknownJob
from skunkqueue.hooks import Hooked, Hooks, Lives, Worker
from skunkqueue.policy import Raised, Unknown
from skunkqueue.run import CurrentRun, Run, Runs, current_run
from skunkqueue.worker import frames
from skunkqueue.worker.child.resolve import Callee, Resolver, is_async
from skunkqueue.worker.hook import ShownResult

MOST_MESSAGE = 2000
MOST_WRAPPED = 1000
MOST_TEXT = 20_000
"""Characters kept of a traceback."""

_OF_OURS = (UnknownJob, NotAJob, PayloadError)  # whose sentence says all
_SHORT = frozenset({int, float, bool, type(None)})
VALUES: Final[frozenset[Any]] = _SHORT | {str, bytes, list, tuple, dict, set}
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
    headers: Mapping[str, str] = MappingProxyType({})
    state: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_async(self) -> bool:
        return is_async(self.job.function)

    def __call__(self) -> Any:
        """Call the function; a value that is_awaitable is to be awaited then."""
        return self.job.function(*self.args, **self.kwargs)


def is_awaitable(value: Any) -> bool:
    """Whether a job is not over with this value, but has to be awaited. The handle of a run counts as a value."""
    kind = type(value)
    if kind in VALUES:
        return False
    if hasattr(kind, "__await__"):
        return not isinstance(value, Run | Runs)
    return kind is GeneratorType and bool(value.gi_code.co_flags & 0x100)  # inspect.CO_ITERABLE_COROUTINE


_WORKER: Final = Worker(current_run, is_async, is_awaitable)


async def ended(value: Any) -> tuple[Any, BaseException | None]:
    """Await a value. What that raises is given, not raised: a SystemExit would end the event loop."""
    try:
        return await value, None
    except BaseException as error:
        return None, error


def discard(value: Any) -> None:
    """Close a coroutine that was never begun, which Python would warn of; one that has ended is left as it is."""
    if type(value) is CoroutineType:
        value.close()


class Executor:
    """Everything about a run but how it is called; that is up to the kind of worker."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        resolver: Resolver,
        *,
        max_result: int,
        imported: Callable[[], None] = lambda: None,
    ) -> None:
        self.resolver = resolver
        self.max_result = max_result
        self._write = write
        self._imported = imported
        self._lives = Lives()
        self._wrapped: dict[int, Hooked] = {}  # by the id of its job, which it keeps alive

    def open(self, task: Task, body: Body | None = None) -> Invocation:
        """Find the job and read its arguments; unpickles nothing whose signature has not been checked.

        ``body``: the run's, if ``async_body`` has opened it.
        """
        body = body or open_body(task.body)
        if body.head not in self.resolver.by_head and not self.resolver.knows(body):
            return self._open_first(task, body)
        name, job = self.resolver.find(body, task.id)
        return self._invocation(name, job, body)

    def _invocation(self, name: str, job: Callee, body: Body) -> Invocation:
        args, kwargs = _arguments(body.call)
        headers = codec.headers_of(body.call)
        hooks = job.hooks
        if not hooks:
            return Invocation(job, name, args, kwargs, headers)
        state = self._lives.state(hooks)
        return Invocation(self._hooked(job, hooks), name, args, kwargs, headers, state)

    def _hooked(self, job: Callee, hooks: Hooks) -> Callee | Hooked:
        """The job with what is around it; the same for all its runs, as whoever learns how quick it is needs."""
        if not hooks.arounds:
            return job
        found = self._wrapped.get(id(job))
        if found is None:
            if len(self._wrapped) >= MOST_WRAPPED:
                self._wrapped.clear()
            found = self._wrapped[id(job)] = Hooked(job, hooks.arounds, _WORKER)
        return found

    def close(self) -> None:
        """End the lifespans that have begun here; what they raise then is on stderr, and stops nothing."""
        try:
            self._lives.close()
        except Exception:
            import traceback

            traceback.print_exc()

    def _open(self, task: Task, body: Body) -> Invocation:
        try:
            name, job = self.resolver.find(body, task.id)
        except UnknownJob as error:
            error.is_of_every_run = True
            raise
        return self._invocation(name, job, body)

    def _open_first(self, task: Task, body: Body) -> Invocation:
        """The same for a job that may have to be imported. The pool is told, for a module may end the process."""
        self._write(frames.plain(frames.IMPORTING, task.number, b"\x01"))
        try:
            return self._open(task, body)
        finally:
            self._write(frames.plain(frames.IMPORTING, task.number, b"\x00"))
            self._imported()

    def async_body(self, task: Task) -> Body | None:
        """The body of a run, if a glance tells that its job is async and that opening it takes no time."""
        if not self.resolver.has_async:
            return None
        try:
            body = open_body(task.body)
            job = self.resolver.glance(body)
        except Exception:  # to be told when it is opened
            return None
        return body if job is not None and is_async(job.function) else None

    def current(self, task: Task, call: Invocation) -> CurrentRun:
        """What ``current_run()`` gives inside the job; it speaks through the pipe."""

        def report(fraction: float, note: str) -> None:
            self._write(frames.one(frames.PROGRESS, task.number, fraction, note.encode("utf-8", "replace")))

        return CurrentRun(task.id, task.attempt, report, call.name, call.headers, call.state)

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
        if call is None and not is_for_good(error):
            what = tuple(unopened(error))
            return frames.timed(frames.UNKNOWN, task.number, ticks(), took, _packed(what))
        return _raised_frame(task, describe(error, call, task.attempt), took)


def _arguments(call: bytes) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call, with the values of the runs that it has waited for."""
    args, kwargs = codec.decode_call(call)
    if not codec.is_pickled(call):
        return args, kwargs
    from skunkqueue.gates.values import read_values  # late: few runs wait for others

    return read_values(args, kwargs)


def _raised_frame(task: Task, what: Raised, took: float) -> bytes:
    return frames.timed(frames.RAISED, task.number, ticks(), took, _packed(tuple(what)))


def _packed(values: tuple[Any, ...]) -> bytes:
    packed: bytes = msgpack.packb(values, unicode_errors="replace")
    return packed


def is_for_good(error: BaseException) -> bool:
    """Whether a run that cannot be opened here for this error can be opened by no worker."""
    if not isinstance(error, NotAJob | PayloadError):
        return False  # a missing setting, a full disk, a module that raises whatever it likes
    return error.__cause__ is None or not _is_from_an_import(error.__cause__)


def _is_from_an_import(error: BaseException) -> bool:
    """Whether it was raised by a module while that was being imported."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":  # Python takes the frames of the import itself out
            return True
        trace = trace.tb_next
    return False


def unopened(error: BaseException) -> Unknown:
    """What is told of an error that kept a run from being opened here."""
    if isinstance(error, UnknownJob):
        cause = error.__cause__
        is_telling = cause is not None and not isinstance(cause, ModuleNotFoundError | ValueError)
        trace = _trace(cause, None) if cause is not None and is_telling else ""
        return Unknown(str(error)[:MOST_MESSAGE], trace, error.is_of_every_run)
    text = f"it cannot be opened here: {type(error).__name__}: {_message(error)}"
    return Unknown(text[:MOST_MESSAGE], _trace(error, None))


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
    return None if wished is None else seconds_left(wished, "time until the next attempt")


def _message(error: BaseException) -> str:
    try:
        return str(error)[:MOST_MESSAGE]
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
