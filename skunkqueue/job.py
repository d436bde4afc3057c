"""Job: a function made fireable. What people hold in their hands, and what a worker looks for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import update_wrapper
from types import MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from weakref import ref

from skunkqueue.durations import seconds
from skunkqueue.envelope import Envelope, State, address, new_id
from skunkqueue.errors import PartialFire, StoreAway, StoreError, StoreRefused, WrongCall
from skunkqueue.importing import is_importing
from skunkqueue.importing import while_importing as while_importing
from skunkqueue.keys import default_keys
from skunkqueue.lookup import follow
from skunkqueue.method import BoundJob
from skunkqueue.options import Given, Options
from skunkqueue.plan import Carried as Carried
from skunkqueue.plan import Plan, Unsigned
from skunkqueue.run import Run, Runs, inert
from skunkqueue.stub import arguments_of

if TYPE_CHECKING:
    from skunkqueue.method import AsyncBoundJob
    from skunkqueue.queue import SkunkQueue

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

BATCH: Final = 500
"""Runs that ``fire_many`` gives the store in one call."""

MOST_KEPT: Final = 100
"""Runs of one firing that a job itself holds on to; of more it forgets the handles when nobody else has them."""

MOST_PREPARED: Final = 100
"""Sets of options that a job remembers, so that ``job.options(...).fire`` in a loop costs little."""

INERT: Final = "inert: fired while a worker imported the module that fires it"


class Call(NamedTuple):
    """The arguments of a call, for ``fire_many``; made by ``job.args``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Firing(Generic[P, R]):
    """Everything that fires: a job, and a job with other options.

    Of a job with one route ``fire`` gives a Run; of one with several routes, or on a broadcast queue, it gives Runs,
    whose ``wait`` and ``result`` are lists. (Types can only say the former.)
    """

    _plan: Plan
    _unique: str | None = None
    _via: Any = None

    def fire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Have it run as soon as possible. What was accepted will run.

        Raises TypeError for a wrong call, PayloadError for arguments that cannot travel, StoreAway or StoreRefused.
        """
        return self._fire(0.0, args, kwargs)

    def fire_at(
        self, when: float | timedelta | datetime, /, *args: P.args, **kwargs: P.kwargs
    ) -> Run[R]:  # positional only, so that a job may have a parameter named "when"
        """Have it run later: after seconds or a timedelta, or at a datetime, which without a time zone is local."""
        return self._fire(_delay(when), args, kwargs)

    async def afire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire`` without blocking the event loop; what is fired at the same time is put in one call, in order."""
        return await self._afire(0.0, args, kwargs)

    async def afire_at(self, when: float | timedelta | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire_at`` without blocking the event loop."""
        return await self._afire(_delay(when), args, kwargs)

    def fire_many(self, calls: Iterable[Call | tuple[Any, ...] | list[Any]], /) -> Runs[R]:
        """Fire many calls, given as tuples or by ``job.args(...)``, in as few trips to the store as it takes.

        All are encoded before the first is stored. Where some were stored and then the store failed, raises PartialFire
        with their runs as ``accepted``, the rest as ``missing``.
        """
        plan = self._plan
        pairs = [as_call(call) for call in calls]
        if is_importing():
            return Runs(_inert(plan, len(pairs)))
        code = plan.code() if pairs else b""
        keys = default_keys() if code else default_keys  # found once; for plain calls of an importable job, never
        bodies = [plan.body(code, *pair, keys) for pair in pairs]
        runs = Runs[R](self._put_batches(self._envelopes(bodies, 0.0)))
        plan.job._last = runs if len(runs) <= MOST_KEPT else ref(runs)
        return runs

    def _fire(self, delay: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        plan = self._plan
        if is_importing():
            runs = _inert(plan, 1)
        else:
            runs = self._put(self._envelopes([plan.body(plan.code(), args, kwargs)], delay))
        plan.job._last = fired = Runs(runs) if plan.several else runs[0]
        return cast("Run[R]", fired)

    async def _afire(self, delay: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        plan = self._plan
        if is_importing():
            return self._fire(delay, args, kwargs)
        if self._via is not None:  # a transaction of the user's own takes what is fired with it alone
            import asyncio

            return await asyncio.to_thread(self._fire, delay, args, kwargs)
        body = plan.body(plan.code(), args, kwargs)
        runs = await plan.job.queue.batcher.put(lambda: self._envelopes([body], delay))
        plan.job._last = fired = Runs(runs) if plan.several else runs[0]
        return cast("Run[R]", fired)

    def _envelopes(self, bodies: Sequence[bytes | Unsigned], delay: float) -> list[Envelope]:
        plan, options = self._plan, self._plan.options
        queue = plan.job.queue
        now = queue.now()
        due = now + delay
        expires = None if options.expires is None else due + options.expires
        routes = _addresses(queue, options.routes) if queue.broadcast and bodies else plan.routes
        name, unique, keep = queue.name, self._unique, options.keep
        return [
            Envelope(
                id := new_id(now), name, route, due,
                body if type(body) is bytes else cast(Unsigned, body).sealed(id, name), expires, unique, keep,
            )
            for body in bodies
            for route in routes
        ]  # fmt: skip

    def _put(self, envelopes: Sequence[Envelope]) -> list[Run[Any]]:
        return self._plan.job.queue.put(envelopes, via=self._via) if envelopes else []

    def _put_batches(self, envelopes: list[Envelope]) -> list[Run[Any]]:
        runs: list[Run[Any]] = []
        for start in range(0, len(envelopes), BATCH):
            try:
                runs += self._put(envelopes[start : start + BATCH])
            except StoreError as error:
                queue = self._plan.job.queue
                if isinstance(error, StoreRefused) and error.refused:
                    runs += error.accepted
                    start += len(error.accepted) + len(error.refused)
                    envelopes = [e for e in envelopes if e.id in error.refused] + envelopes[start:]
                    start = 0
                missing = Runs([Run[Any](queue, envelope.id, envelope) for envelope in envelopes[start:]])
                if runs:
                    raise PartialFire(_partially(error, runs, missing), Runs(runs), missing) from error
                if isinstance(error, StoreAway):
                    error.runs = missing
                raise
        return runs


class Job(Firing[P, R]):
    """A function with its options, made by ``@queue.event``. Called, it is the function."""

    def __init__(
        self,
        function: Callable[P, R],
        queue: SkunkQueue,
        name: str | None = None,
        options: Options = Options(),  # noqa: B008 - a tuple
    ) -> None:
        self._binding = type(function)
        if isinstance(function, staticmethod | classmethod):
            function = function.__func__
        update_wrapper(self, function, updated=())
        self.function = function
        self.queue = queue
        self.options_given = options
        self._last: Run[Any] | Runs[Any] | ref[Runs[Any]] | None = None
        self._module, self._qualname = _where(function)
        self.ref = f"{self._module}:{self._qualname}"
        self.name = _check_name(name) if name is not None else self._default_name()
        self._importable = False
        self._stub: Callable[..., None] | None = None
        self._plan = Plan(self, options)
        self._prepared: dict[Any, Plan] = {}

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: Any = None, /) -> Job[P, R]: ...
    @overload
    def __get__(self: Job[Concatenate[Any, Q], S], instance: object, owner: Any = None, /) -> BoundJob[Q, S]: ...
    def __get__(self, instance: object, owner: Any = None, /) -> Any:
        """In a class body a job binds as its function would: ``thing.build.fire(1)`` sends ``thing`` along."""
        if issubclass(self._binding, classmethod):
            return BoundJob(self, type(instance) if owner is None else owner)
        if instance is None or not _binds(self._binding):
            return self
        return BoundJob(self, instance)

    def __repr__(self) -> str:
        return f"<Job {self.name} of {self.queue.name}>"

    def __reduce__(self) -> Any:
        # By name where the name leads back here; else by value, which cloudpickle can do even where the function
        # mentions its own job.
        if self.is_importable():
            return _job_at, (self._module, self._qualname)
        function = self._binding(self.function) if issubclass(self._binding, _WRAPPERS) else self.function
        return Job, (function, self.queue, self.name, self.options_given)

    def _default_name(self) -> str:
        return self._qualname if self._module in _BY_VALUE else self.ref

    @property
    def last(self) -> Run[Any] | Runs[Any] | None:
        """What was last fired here. More than 100 runs at once only as long as somebody holds their handle."""
        return self._last() if type(self._last) is ref else cast("Run[Any] | Runs[Any] | None", self._last)

    @property
    def state(self) -> State | None:
        """The state of what was last fired here; None before that."""
        last = self.last
        return None if last is None else last.state

    @property
    def result(self) -> R | None:
        """The result of what was last fired here, once it succeeded; a list where it went to several routes."""
        last = self.last
        return None if last is None else cast("R | None", last.result)

    @property
    def retry_on(self) -> tuple[type[BaseException], ...]:
        return self.options_given.retry_on

    @property
    def give_up_on(self) -> tuple[type[BaseException], ...]:
        return self.options_given.give_up_on

    @property
    def delay_of(self) -> Callable[[int], Any] | None:
        """The user's own backoff function of the attempt."""
        return self.options_given.delay_of

    def args(self, /, *args: P.args, **kwargs: P.kwargs) -> Call:
        """The arguments of one call, for ``fire_many``."""
        return Call(args, kwargs)

    def options(self, /, *, unique: str | None = None, via: Any = None, **changes: Unpack[Given]) -> Prepared[P, R]:
        """The same job with other options, for the fires that follow: ``add.options(timeout=5).fire(4, 5)``.

        ``unique``: while a run of this job with that key is open on the route, firing again gives that run. ``via``: a
        transaction of the user's own, on stores that have such (a ``redis.Pipeline``, a ``sqlite3.Connection``), with
        which the run is stored or not.
        """
        return Prepared(self, self._plan_with(changes), unique, via)

    def _plan_with(self, changes: Mapping[str, Any]) -> Plan:
        if not changes:
            return self._plan
        try:
            key = tuple((name, type(value), value) for name, value in changes.items())  # True is not 1 here
            plan = self._prepared.get(key)
        except TypeError:  # something that cannot be a key, a list of routes for instance
            return Plan(self, self.options_given.changed(changes))
        if plan is None:
            if len(self._prepared) >= MOST_PREPARED:
                self._prepared.clear()
            plan = self._prepared[key] = Plan(self, self.options_given.changed(changes))
        return plan

    def is_importable(self) -> bool:
        """Whether ``module:qualname`` leads to this very job, so that a worker can import it."""
        if not self._importable and self._module not in _BY_VALUE:
            self._importable = follow(sys.modules.get(self._module), self._qualname) is self
        return self._importable

    def check(self, /, *args: Any, **kwargs: Any) -> None:
        """Raise the TypeError that calling the function so would raise."""
        if self._stub is None:
            self._stub = arguments_of(self.function)
        self._stub(*args, **kwargs)


if TYPE_CHECKING:

    class AsyncJob(Job[P, R]):
        """A job made of an ``async def`` function: its runs have the value that awaiting it would give."""

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            ...

        @overload
        def __get__(self, instance: None, owner: Any = None, /) -> AsyncJob[P, R]: ...
        @overload
        def __get__(
            self: AsyncJob[Concatenate[Any, Q], S], instance: object, owner: Any = None, /
        ) -> AsyncBoundJob[Q, S]: ...
        def __get__(self, instance: object, owner: Any = None, /) -> Any: ...


class Prepared(Firing[P, R]):
    """A job with other options, made by ``job.options``."""

    def __init__(self, job: Job[P, R], plan: Plan, unique: str | None, via: Any) -> None:
        self._plan = plan
        self._via = via
        if unique is not None:
            if not isinstance(unique, str) or not unique:
                raise WrongCall(f"unique is a key, some text; got {unique!r}")
            self._unique = f"{job.name}\n{_check_text(unique)}"


_BY_VALUE: Final = ("__main__", "__mp_main__")
"""Modules that mean another thing in every process."""


_WRAPPERS: Final = (staticmethod, classmethod)


def _binds(kind: type) -> bool:
    """Whether things of this type bind to an object when they are found in its class, as functions do."""
    return hasattr(kind, "__get__") and not issubclass(kind, (MethodType, *_WRAPPERS))


def _job_at(module: str, qualname: str) -> Any:
    """What a pickled job that can be imported becomes."""
    from importlib import import_module

    found = follow(import_module(module), qualname)
    if type(found) is not Job:
        raise AttributeError(f"there is no job {module}:{qualname} here")
    return found


def _where(function: Any) -> tuple[str, str]:
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(qualname, str):
        kind = type(function)
        module, qualname = kind.__module__, kind.__qualname__ + ".<instance>"
    return (module if isinstance(module, str) else "__main__"), qualname


def _check_text(unique: str) -> str:
    try:
        unique.encode()
    except UnicodeEncodeError as error:
        raise WrongCall(f"unique holds a lone surrogate, which no store takes; got {unique!r}") from error
    return unique


def _check_name(name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise WrongCall(f"the name of a job is 1 to 200 printable characters; got {name!r}")


def as_call(call: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if type(call) is Call:
        return call
    if isinstance(call, tuple | list):
        return tuple(call), _NO_KWARGS
    raise WrongCall(f"a call for fire_many is a tuple of its arguments, or made by job.args(...); got {call!r}")


_NO_KWARGS: Final[dict[str, Any]] = {}


def _delay(when: Any) -> float:
    """Seconds from now; a datetime in the past means now."""
    if isinstance(when, datetime):
        return max(0.0, when.timestamp() - time.time())
    return seconds(when, "the time of fire_at (or give a datetime)")


def _addresses(queue: SkunkQueue, routes: tuple[str, ...]) -> list[str]:
    """The routes of a broadcast: one for each worker alive."""
    alive = queue.alive_on(routes)
    if not alive:
        _log().warning(
            "nobody is alive on %s of queue %s, so this broadcast reaches nobody", ", ".join(routes), queue.name
        )
    return [address(worker) for worker in alive]


def _partially(error: StoreError, runs: Sequence[Any], missing: Sequence[Any]) -> str:
    return f"{len(runs)} runs were accepted, then the store failed; {len(missing)} are missing or in doubt: {error}"


def _inert(plan: Plan, calls: int) -> list[Run[Any]]:
    """Handles of runs that will never be; nothing is encoded, and the store stays closed."""
    queue, now = plan.job.queue, time.time()
    _log().warning("a fire of %s had no effect: it stands at the top level of a module a worker imports", plan.job.name)
    routes = plan.routes * calls
    return [inert(queue, Envelope(new_id(now), queue.name, route, now, b""), INERT) for route in routes]


def _log() -> Any:
    import logging  # late: whoever only fires does not need it

    return logging.getLogger("skunkqueue")
