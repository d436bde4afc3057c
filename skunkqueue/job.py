"""Job: a function that can be fired. Programs fire it, and workers look it up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial, update_wrapper
from itertools import repeat
from types import MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from weakref import ref

from skunkqueue.durations import Duration
from skunkqueue.envelope import Envelope, State
from skunkqueue.errors import PartialFire, StoreAway, StoreError, StoreRefused, WrongCall
from skunkqueue.ids import new_id
from skunkqueue.importing import is_importing, travels_by_value
from skunkqueue.importing import while_importing as while_importing
from skunkqueue.keys import default_keys
from skunkqueue.lookup import follow
from skunkqueue.method import BoundJob
from skunkqueue.options import Given, GivenRoutesApart, Options, Several
from skunkqueue.plan import Carried as Carried
from skunkqueue.plan import Plan, Unsigned
from skunkqueue.printable import said
from skunkqueue.routes import address
from skunkqueue.run import Run, Runs, inert
from skunkqueue.stub import arguments_of, is_generator
from skunkqueue.times import NOW, When, when_of

if TYPE_CHECKING:
    from skunkqueue.gates.after import After, Chain
    from skunkqueue.hooks import Hooks
    from skunkqueue.method import AsyncBoundJob
    from skunkqueue.queue import SkunkQueue

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

BATCH: Final = 500
"""Runs that ``fire_many`` gives the store in one call."""

MOST_KEPT: Final = 100
"""Most runs of one firing whose handles a job keeps. Of a larger firing it keeps only a weak reference."""

MOST_PREPARED: Final = 100
"""Sets of options that a job remembers, so that ``job.options(...).fire`` in a loop costs little."""

INERT: Final = "inert: fired while a worker imported the module that fires it"


class Call(Generic[P]):
    """The arguments of a call of one job, for ``fire_many`` and ``queue.schedule``; made by ``job.args``.

    ``firing`` is the job that made it, ``bound`` the object that it is bound to, in a tuple.
    """

    __slots__ = ("args", "bound", "firing", "kwargs")

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], firing: Any = None, bound: tuple[Any, ...] = ()
    ) -> None:
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs
        self.firing: Any = firing
        self.bound: tuple[Any, ...] = bound

    def whole(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the job's function."""
        return (*self.bound, *self.args), self.kwargs

    def __repr__(self) -> str:
        return f"Call({said(self.args)}, {said(self.kwargs)})"


class Firing(Generic[P, R]):
    """Everything that fires: a job, and a job with other options.

    ``fire`` returns a Run. For a job with several routes, or on a broadcast queue, it returns Runs, whose ``wait``
    and ``result`` are lists. Type checkers know it of ``queue_type="broadcast"`` and of routes given as a tuple.
    They cannot see how long a list is.
    """

    _plan: Plan
    _unique: str | None = None
    _via: Any = None
    _headers: Mapping[str, str] | None = None

    def fire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Queue a run, to be executed as soon as possible. A run that was accepted will run.

        Raises TypeError for a wrong call, PayloadError for arguments that cannot travel, StoreAway or StoreRefused.
        """
        return self._fire(NOW, args, kwargs)

    def fire_at(
        self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs
    ) -> Run[R]:  # positional only, so that a job may have a parameter named "when"
        """Queue a run for later: after seconds, a timedelta or a text like "5m", or at a datetime (local if without
        a time zone)."""
        return self._fire(when_of(when), args, kwargs)

    async def afire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire`` without blocking the event loop. Runs fired at the same time are put in one call, in order."""
        return await self._afire(NOW, args, kwargs)

    async def afire_at(self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire_at`` without blocking the event loop."""
        return await self._afire(when_of(when), args, kwargs)

    def fire_many(self, calls: Iterable[Call[P] | tuple[Any, ...] | list[Any]], /) -> Runs[R]:
        """Fire many calls, given as tuples or made by ``job.args(...)``, in as few calls to the store as possible.

        All are encoded before the first is stored. If the store fails after some were stored, raises PartialFire:
        ``accepted`` are the runs that were stored, ``missing`` are the others.
        """
        plan = self._plan
        try:
            each = iter(calls)
        except TypeError:
            raise WrongCall(f"fire_many takes calls, like [(1, 2), job.args(3)]; got {said(calls)}") from None
        pairs = [as_call(call) for call in each]
        if is_importing():
            return Runs(_inert(plan, len(pairs)))
        if plan.asks_first:
            runs = Runs[R](self._spaced(NOW, pairs))
        else:
            code = plan.code() if pairs else b""
            keys = default_keys() if code else default_keys  # looked up once; without code, only if a call is pickled
            bodies = [plan.body(code, *pair, keys, self._headers) for pair in pairs]
            runs = Runs[R](self._put_batches(self._envelopes(bodies, NOW, plan.keys(pairs), self._uniques(pairs))))
        plan.job._last = runs if len(runs) <= MOST_KEPT else ref(runs)
        return runs

    def args(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[P]:
        """The arguments of one call, for ``fire_many`` and ``queue.schedule``: a type checker looks at them, as it
        cannot at a tuple."""
        return Call(args, kwargs, self)

    def after(self, runs: Any, *, on: str = "succeeded", on_lost: str = "cancel") -> After[P, R]:
        """The same job, to be run when others have ended: ``report.after(pages).fire(pages)``.

        ``runs`` is a handle, or several. Where one of them is an argument as well, the job gets its value; of a run
        that did not succeed, the exception that waiting for it raises. ``on``: ``succeeded`` (all of them), ``failed``
        (one of them), or ``ended``. ``on_lost`` says what becomes of it where that can no longer come about: ``cancel``
        or ``run``. Raises WrongCall.
        """
        from skunkqueue.gates.after import After

        return After(self, runs, on, on_lost)

    def then(self, job: Firing[[R], S] | BoundJob[[R], S]) -> Chain[P, S]:
        """A chain: ``a.then(b).then(c).fire(1)``. Each job gets what the one before returned."""
        from skunkqueue.gates.after import Chain

        return Chain([self]).then(job)

    def _fire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        plan = self._plan
        if is_importing():
            runs = _inert(plan, 1)
        elif plan.asks_first:
            runs = self._spaced(when, [(args, kwargs)])
        else:
            body, pairs = plan.body(plan.code(), args, kwargs, headers=self._headers), [(args, kwargs)]
            runs = self._put(self._envelopes([body], when, plan.keys(pairs), self._uniques(pairs)))
        plan.job._last = fired = Runs(runs) if plan.several else runs[0]
        return cast("Run[R]", fired)

    async def _afire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        plan = self._plan
        if is_importing():
            return self._fire(when, args, kwargs)
        if (
            self._via is not None or plan.asks_first
        ):  # what is fired in a caller's transaction is not put together with other runs
            import asyncio

            return await asyncio.to_thread(self._fire, when, args, kwargs)
        body = plan.body(plan.code(), args, kwargs, headers=self._headers)
        keys, uniques = plan.keys([(args, kwargs)]), self._uniques([(args, kwargs)])
        runs = await plan.job.queue.batcher.put(lambda: self._envelopes([body], when, keys, uniques))
        plan.job._last = fired = Runs(runs) if plan.several else runs[0]
        return cast("Run[R]", fired)

    def _spaced(self, when: When, pairs: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> list[Run[Any]]:
        """Fire calls of which earlier ones with their keys say whether and when they run."""
        from skunkqueue.spacing import adjusted, put_spaced

        plan, options, queue = self._plan, self._plan.options, self._plan.job.queue
        if self._via is not None:
            raise WrongCall("via= does not go with window or debounce: they ask the store first")
        spaced: list[tuple[Envelope, bytes | Unsigned]] = []
        for (args, kwargs), key in zip(pairs, self._uniques(pairs) or repeat(self._unique, len(pairs)), strict=True):
            if key is None:
                name = plan.job.name
                raise WrongCall(f"window and debounce are for a unique key, and {name} was given none: unique=...")
            body = plan.body(plan.code(), args, kwargs, headers=self._headers)
            envelopes = self._envelopes([body], when, plan.keys([(args, kwargs)]))
            spaced += [(each._replace(unique=key), body) for each in envelopes]
        runs: list[Run[Any]] = []
        for place, (envelope, body) in enumerate(spaced):
            now = queue.now()
            envelope = adjusted(envelope, options, now)
            try:
                id = put_spaced(queue.store, envelope, options, partial(_sealed, body, queue.name), now=now)
                queue.put_turns([envelope])
            except StoreError as error:
                raise self._failed(error, runs, [left for left, _ in spaced[place:]]) from error
            runs.append(Run(queue, id, envelope if id == envelope.id else None))
        return runs

    def _uniques(self, pairs: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> Sequence[str | None]:
        """The unique keys that the job's own function makes of these calls; none at all if it has no such function."""
        plan = self._plan
        if self._unique is not None or plan.options.unique_of is None:
            return ()
        from skunkqueue.spacing import key_of

        return [key_of(plan.options, plan.job.name, args, kwargs) for args, kwargs in pairs]

    def _envelopes(
        self,
        bodies: Sequence[bytes | Unsigned],
        when: When,
        limits: Sequence[str] = (),
        uniques: Sequence[str | None] = (),
    ) -> list[Envelope]:
        """The runs of these bodies, of each on all routes. ``limits``: the digests of their keys, if they have any;
        ``uniques``: their unique keys, where these are not all the same.
        """
        plan, options = self._plan, self._plan.options
        queue = plan.job.queue
        now = queue.now()
        due = when.due(now)
        expires = None if options.expires is None else due + options.expires
        routes = _addresses(queue, options.routes) if queue.broadcast and bodies else plan.routes
        name, keep = queue.name, options.keep
        routes_of_each = map(plan.routes_of, limits) if limits else repeat(routes, len(bodies))
        return [
            Envelope(
                id := new_id(now), name, route, due,
                body if type(body) is bytes else cast(Unsigned, body).sealed(id, name), expires, unique, keep,
            )
            for body, its_routes, unique in zip(
                bodies, routes_of_each, uniques or repeat(self._unique, len(bodies)), strict=True
            )
            for route in its_routes
        ]  # fmt: skip

    def _put(self, envelopes: Sequence[Envelope]) -> list[Run[Any]]:
        return self._plan.job.queue.put(envelopes, via=self._via) if envelopes else []

    def _put_batches(self, envelopes: list[Envelope]) -> list[Run[Any]]:
        """Put them, some hundred at a time. Envelopes that the store refuses do not keep the others from being put."""
        runs: list[Run[Any]] = []
        refused: list[Envelope] = []
        refusal: StoreRefused | None = None
        for start in range(0, len(envelopes), BATCH):
            batch = envelopes[start : start + BATCH]
            try:
                runs += self._put(batch)
            except StoreError as error:
                if not (isinstance(error, StoreRefused) and error.refused):
                    raise self._failed(error, runs, refused + envelopes[start:]) from error
                refusal = error
                runs += error.accepted
                refused += [envelope for envelope in batch if envelope.id in error.refused]
        if refusal is not None:
            raise self._failed(refusal, runs, refused) from refusal
        return runs

    if not TYPE_CHECKING:  # a checker knows what is there

        def __getattr__(self, name: str) -> Any:
            from skunkqueue.elsewhere import OF_A_JOB, unknown_attribute  # late: only mistakes need it

            return unknown_attribute(self, name, OF_A_JOB)

    def _failed(self, error: StoreError, runs: list[Run[Any]], left: list[Envelope]) -> Exception:
        """What ``fire_many`` raises. ``left``: what is not stored, or may not be."""
        missing = Runs([Run[Any](self._plan.job.queue, envelope.id, envelope) for envelope in left])
        if runs or (isinstance(error, StoreRefused) and error.refused and len(left) > len(error.refused)):
            return PartialFire(_partially(error, runs, missing), Runs(runs), missing)
        if isinstance(error, StoreAway):
            error.runs = missing
        return error


class Job(Firing[P, R]):
    """A function with its options, made by ``@queue.event``. Calling the job calls the function."""

    schedule: Any = None
    """The rules of its schedule, if it was given ``every``."""
    handles: Any = None
    """How the runs end that it is called for, where it was made by ``queue.on``."""
    every: Job[[str], float]
    """The job that asks the function given as ``every`` when to run next; only there if it is a function."""

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
        if is_generator(function):
            raise WrongCall(_GENERATOR.format(_where(function)[1]))
        update_wrapper(self, function, updated=())
        self.function = function
        self.queue = queue
        self.options_given = options
        self._last: Run[Any] | Runs[Any] | ref[Runs[Any]] | None = None
        self._module, self._qualname = _where(function)
        self._by_value = travels_by_value(self._module)
        self.ref: str = f"{self._module}:{self._qualname}"
        self.name: str = _check_name(name) if name is not None else self._default_name()
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
        """A job in a class body binds as its function would: ``thing.build.fire(1)`` sends ``thing`` along."""
        if issubclass(self._binding, classmethod):
            return BoundJob(self, type(instance) if owner is None else owner)
        if instance is None or not _binds(self._binding):
            return self
        return BoundJob(self, instance)

    def __repr__(self) -> str:
        return f"<Job {self.name} of {self.queue.name}>"

    def __reduce__(self) -> Any:
        from skunkqueue.job_pickle import reduced  # late: few jobs are ever pickled

        return reduced(self, self._module, self._qualname)

    def __copy__(self) -> Job[P, R]:
        return self  # as copying a function does

    def __deepcopy__(self, memo: Any) -> Job[P, R]:
        return self

    def reduced_by_value(self) -> Any:
        """For our own pickler, which can pickle a job by value even if the function mentions that job."""
        if self.is_importable():
            return self.__reduce__()
        function = self._binding(self.function) if issubclass(self._binding, _WRAPPERS) else self.function
        return Job, (function, self.queue, self.name, self.options_given)

    def _default_name(self) -> str:
        return self._qualname if self._by_value else self.ref

    @property
    def last(self) -> Run[Any] | Runs[Any] | None:
        """What was last fired here. More than 100 runs at once are forgotten if nobody else keeps their handles."""
        return self._last() if type(self._last) is ref else cast("Run[Any] | Runs[Any] | None", self._last)

    @property
    def state(self) -> State | None:
        """The state of ``last``; None before anything was fired."""
        last = self.last
        return None if last is None else last.state

    @property
    def result(self) -> R | None:
        """The result of ``last``, once it succeeded; a list if it went to several routes."""
        last = self.last
        return None if last is None else cast("R | None", last.result)

    @property
    def hooks(self) -> Hooks:
        """What its queue has executed around it."""
        return self.queue.hooks

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

    @overload
    def options(  # type: ignore[overload-overlap] # the first that fits is meant
        self,
        /,
        *,
        routes: Several,
        unique: str | None = None,
        via: Any = None,
        headers: Mapping[str, str] | None = None,
        **changes: Unpack[GivenRoutesApart],
    ) -> SpreadPrepared[P, R]: ...
    @overload
    def options(
        self,
        /,
        *,
        unique: str | None = None,
        via: Any = None,
        headers: Mapping[str, str] | None = None,
        **changes: Unpack[Given],
    ) -> Prepared[P, R]: ...
    def options(
        self, /, *, unique: str | None = None, via: Any = None, headers: Mapping[str, str] | None = None, **changes: Any
    ) -> Any:
        """The same job with other options: ``add.options(timeout=5).fire(4, 5)``.

        ``unique``: while a run of this job with that key is open on the route, firing again returns that run.
        ``via``: a transaction of the caller, on stores that accept one (a ``redis.Pipeline``, a
        ``sqlite3.Connection``). The run is stored if the transaction is committed, and only then. ``headers``:
        texts by name that travel with the run, for ``run.headers`` and what is around the job.
        """
        return Prepared(self, self._plan_with(changes), unique, via, headers)

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
        if not self._importable and not self._by_value:
            self._importable = follow(sys.modules.get(self._module), self._qualname) is self
        return self._importable

    def check(self, /, *args: Any, **kwargs: Any) -> None:
        """Raise the TypeError that calling the function with these arguments would raise."""
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

    class Spread(Firing[P, R]):
        """What fires on several routes, or to all workers."""

        def fire(self, /, *args: P.args, **kwargs: P.kwargs) -> Runs[R]:  # type: ignore[override]
            ...

        def fire_at(self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Runs[R]:  # type: ignore[override]
            ...

        async def afire(self, /, *args: P.args, **kwargs: P.kwargs) -> Runs[R]:  # type: ignore[override]
            ...

        async def afire_at(self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Runs[R]:  # type: ignore[override]
            ...

    class SpreadJob(Spread[P, R], Job[P, R]):
        """A job of several routes, or of a broadcast queue: what it fires are Runs."""

        @property
        def result(self) -> list[R | None] | None:  # type: ignore[override]
            ...

        def options(  # type: ignore[override]
            self,
            /,
            *,
            unique: str | None = None,
            via: Any = None,
            headers: Mapping[str, str] | None = None,
            **changes: Unpack[Given],
        ) -> SpreadPrepared[P, R]: ...

    class AsyncSpreadJob(SpreadJob[P, R]):
        """The same, made of an ``async def`` function."""

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            ...

    class SpreadPrepared(Spread[P, R]):
        """A job with other options that fires on several routes."""


class Prepared(Firing[P, R]):
    """A job with other options, made by ``job.options``."""

    def __init__(
        self, job: Job[P, R], plan: Plan, unique: str | None, via: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        self._plan = plan
        self._via = via
        self._headers = None if headers is None else _check_headers(headers)
        if unique is not None:
            if not isinstance(unique, str) or not unique:
                raise WrongCall(f"unique is a key, a non-empty text; got {said(unique)}")
            self._unique = f"{job.name}\n{_check_text('unique', unique)}"


_GENERATOR: Final = (
    "{} is a generator function: called, it runs nothing, and what it would yield has no way back; "
    "return a list instead, or loop over it in a job"
)

_WRAPPERS: Final = (staticmethod, classmethod)


def _binds(kind: type) -> bool:
    """Whether things of this type bind to an object when they are found in its class, as functions do."""
    return hasattr(kind, "__get__") and not issubclass(kind, (MethodType, *_WRAPPERS))


def _where(function: Any) -> tuple[str, str]:
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(qualname, str):
        kind = type(function)
        module, qualname = kind.__module__, kind.__qualname__ + ".<instance>"
    return (module if isinstance(module, str) else "__main__"), qualname


def _check_text(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WrongCall(f"{what} holds a lone surrogate, which no store takes; got {said(text)}") from error
    return text


def _check_headers(headers: object) -> dict[str, str]:
    is_right = isinstance(headers, Mapping) and all(isinstance(text, str) for pair in headers.items() for text in pair)
    if is_right:
        check = partial(_check_text, "a header")
        return {check(name): check(value) for name, value in cast("Mapping[str, str]", headers).items()}
    raise WrongCall(f"headers are texts by name; got {said(headers)}")


def _check_name(name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise WrongCall(f"the name of a job is 1 to 200 printable characters; got {said(name)}")


def as_call(call: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if type(call) is Call:
        return call.args, call.kwargs
    if isinstance(call, tuple | list):
        return tuple(call), _NO_KWARGS
    raise WrongCall(f"a call for fire_many is a tuple of its arguments, or made by job.args(...); got {said(call)}")


_NO_KWARGS: Final[dict[str, Any]] = {}


def _sealed(body: bytes | Unsigned, queue: str, id: str) -> bytes:
    return body.sealed(id, queue) if isinstance(body, Unsigned) else body


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
    """Handles of runs that will never be executed. Nothing is encoded, and the store is not opened."""
    queue, now = plan.job.queue, time.time()
    _log().warning("a fire of %s had no effect: it stands at the top level of a module a worker imports", plan.job.name)
    routes = plan.routes * calls
    return [inert(queue, Envelope(new_id(now), queue.name, route, now, b""), INERT) for route in routes]


def _log() -> Any:
    import logging  # late: a program that only fires does not need it

    return logging.getLogger("skunkqueue")
