"""What a queue has executed around its jobs, in the workers: ``@queue.around`` and ``@queue.lifespan``."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from types import FunctionType
from typing import Any, Final, NamedTuple

from skunkqueue.errors import WrongCall
from skunkqueue.printable import said
from skunkqueue.schedules.registry import registry

Around = Callable[[Any], Iterator[None]] | Callable[[Any], AsyncIterator[None]]
"""A generator function that yields once: what comes before is done before a run, what comes after, after it."""
Lifespan = Callable[[], Iterator[Mapping[str, Any] | None]]
"""A generator function that yields once, the state of a worker."""
Stamp = Callable[[Any], Mapping[str, str]]
"""A function of a job that is fired, which gives headers for the run."""

_GENERATOR: Final = 0x20  # inspect.CO_GENERATOR
_ASYNC_GENERATOR: Final = 0x200  # inspect.CO_ASYNC_GENERATOR


class Hooks:
    """The hooks of a queue, in the order in which they were given: the first is outermost."""

    def __init__(self) -> None:
        self.arounds: list[Around] = []
        self.lifespans: list[Lifespan] = []
        self.stamps: list[Stamp] = []
        self.handlers: list[tuple[Any, Any]] = []
        """Jobs that are called for runs that end, each with how they are declared; see ``queue.on``."""

    def __bool__(self) -> bool:
        return bool(self.arounds or self.lifespans or self.handlers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """They came with a job by value: the worker that has them now declares the handlers."""
        self.__dict__.update(state)
        for job, handles in state.get("handlers", ()):
            job.handles = handles
            registry.add_handler(job)

    def add_around(self, function: Any) -> None:
        """Raises WrongCall for what is no generator function."""
        if not _flags(function) & (_GENERATOR | _ASYNC_GENERATOR):
            raise WrongCall(f"around is for a generator function of the run, which yields once; got {said(function)}")
        self.arounds.append(function)

    def add_stamp(self, stamp: Stamp) -> None:
        """Have it called at each fire, where it is fired; unlike the others, it does not travel."""
        if stamp not in self.stamps:
            self.stamps.append(stamp)

    def stamped(self, job: Any, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        """The headers of a run that is fired now. Those that were given by hand come before those of stamps."""
        found: dict[str, str] = {}
        for stamp in self.stamps:
            found.update(stamp(job))
        return {**found, **(headers or {})}

    def add_lifespan(self, function: Any) -> None:
        """Raises WrongCall for what is no generator function, or an async one."""
        if not _flags(function) & _GENERATOR:
            raise WrongCall(
                f"lifespan is for a generator function that is not async, and yields once; got {said(function)}"
            )
        self.lifespans.append(function)


def _flags(function: Any) -> int:
    return function.__code__.co_flags if isinstance(function, FunctionType) else 0


class Worker(NamedTuple):
    """What a worker knows: the run that it executes, whether a function is async, whether a value is to be awaited."""

    current_run: Callable[[], Any]
    is_async: Callable[[Any], bool]
    is_awaitable: Callable[[Any], bool]


class Hooked:
    """A job with what its queue has executed around it; to a worker it is the job."""

    def __init__(self, job: Any, arounds: list[Around], worker: Worker) -> None:
        self._job = job
        if worker.is_async(job.function):
            self.function: Any = _around_async(job.function, arounds, worker)
        else:
            plain = [each for each in arounds if _flags(each) & _GENERATOR]
            self.function = _around_plain(job.function, plain, worker)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


def _around_plain(function: Any, arounds: list[Any], worker: Worker) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for each in arounds:
                stack.enter_context(contextmanager(each)(worker.current_run()))
            value = function(*args, **kwargs)
            if not worker.is_awaitable(value):
                return value
            rest = stack.pop_all()  # what it returned is the job: it ends when that does
            return _awaited(value, rest)
        raise RuntimeError(_KEPT)

    return call


async def _awaited(value: Any, stack: ExitStack) -> Any:
    with stack:
        return await value
    raise RuntimeError(_KEPT)


_KEPT: Final = "the job did not end well, and what is around it did not let that through"


def _around_async(function: Any, arounds: list[Any], worker: Worker) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with AsyncExitStack() as stack:
            for each in arounds:
                if _flags(each) & _ASYNC_GENERATOR:
                    await stack.enter_async_context(asynccontextmanager(each)(worker.current_run()))
                else:
                    stack.enter_context(contextmanager(each)(worker.current_run()))
            return await function(*args, **kwargs)
        raise RuntimeError(_KEPT)

    return call


class Lives:
    """The lifespans that have begun in this worker, each once, with the state that they have yielded.

    A worker that runs several at a time opens them on several threads, of which one begins a lifespan.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._states: dict[Any, Mapping[str, Any]] = {}
        self._lock = threading.RLock()

    def state(self, hooks: Hooks) -> dict[str, Any]:
        """What all of a queue's lifespans have yielded; those that have not begun begin now. Raises what they raise."""
        found: dict[str, Any] = {}
        with self._lock if hooks.lifespans else nullcontext():
            for lifespan in hooks.lifespans:
                found.update(self._state(lifespan))
        return found

    def _state(self, lifespan: Any) -> Mapping[str, Any]:
        # A function that came by value comes anew with each job of its script; other scripts have others of that name.
        key = (lifespan.__module__, lifespan.__qualname__, lifespan.__code__)
        if key not in self._states:
            yielded = self._stack.enter_context(contextmanager(lifespan)())
            self._states[key] = {} if yielded is None else yielded
        return self._states[key]

    def close(self) -> None:
        """End them, the last to begin first. Raises what they raise."""
        self._states.clear()
        self._stack.close()
