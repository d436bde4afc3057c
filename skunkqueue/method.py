"""A job that was defined in a class body, accessed through an object: its first argument is that object."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

if TYPE_CHECKING:
    from skunkqueue.durations import Duration
    from skunkqueue.gates.after import Chain
    from skunkqueue.job import Call, Firing, Job
    from skunkqueue.options import Given
    from skunkqueue.plan import Plan
    from skunkqueue.run import Run, Runs
    from skunkqueue.times import When

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class BoundJob(Generic[P, R]):
    """``thing.build``, where ``build`` is a job in the class of ``thing``.

    Calling it calls the method. Firing it sends ``thing`` as the first argument. Everything else is as in the job.
    """

    def __init__(self, job: Job[Any, R], instance: Any, firing: Firing[Any, R] | None = None) -> None:
        self.job = job
        self.__self__ = instance
        self._firing: Firing[Any, R] = firing or job

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.job.function(self.__self__, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.job!r} bound to {self.__self__!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundJob):
            return NotImplemented
        return self._firing is other._firing and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self._firing), id(self.__self__)))

    def __getattr__(self, name: str) -> Any:
        if name in ("job", "_firing"):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.job, name)

    def __reduce__(self) -> Any:
        return BoundJob, (self.job, self.__self__, *(() if self._firing is self.job else (self._firing,)))

    def fire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``Job.fire``, with the object as first argument."""
        return self._firing.fire(self.__self__, *args, **kwargs)

    def fire_at(self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``Job.fire_at``, with the object as first argument."""
        return self._firing.fire_at(when, self.__self__, *args, **kwargs)

    async def afire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``Job.afire``, with the object as first argument."""
        return await self._firing.afire(self.__self__, *args, **kwargs)

    async def afire_at(self, when: Duration | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``Job.afire_at``, with the object as first argument."""
        return await self._firing.afire_at(when, self.__self__, *args, **kwargs)

    def fire_many(self, calls: Iterable[Call[P] | tuple[Any, ...] | list[Any]], /) -> Runs[R]:
        """``Job.fire_many``, with the object as first argument of each call."""
        from skunkqueue.job import Call, as_call

        pairs = (as_call(call) for call in calls)
        return self._firing.fire_many([Call((self.__self__, *args), dict(kwargs)) for args, kwargs in pairs])

    def args(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[P]:
        """The arguments of one call, without the object, for ``fire_many`` and ``queue.schedule``."""
        from skunkqueue.job import Call

        return Call(args, kwargs, self._firing, (self.__self__,))

    def options(
        self,
        /,
        *,
        unique: str | None = None,
        via: Any = None,
        headers: Mapping[str, str] | None = None,
        **changes: Unpack[Given],
    ) -> BoundJob[P, R]:
        """``Job.options``, with the object as first argument of what is fired."""
        job: Job[Any, R] = self._firing  # type: ignore[assignment] # a Prepared has no ``options``, and raises
        return BoundJob(self.job, self.__self__, job.options(unique=unique, via=via, headers=headers, **changes))

    def after(self, runs: Any, *, on: str = "succeeded", on_lost: str = "cancel") -> BoundJob[P, R]:
        """``Job.after``, with the object as first argument of what is fired."""
        return BoundJob(self.job, self.__self__, self._firing.after(runs, on=on, on_lost=on_lost))

    def then(self, job: Firing[[R], S] | BoundJob[[R], S]) -> Chain[P, S]:
        """``Job.then``: a chain that begins with this call."""
        from skunkqueue.gates.after import Chain

        return Chain([self]).then(job)

    @property
    def firing(self) -> Firing[Any, R]:
        """The job, or the job with other options, that fires."""
        return self._firing

    @property
    def _plan(self) -> Plan:
        return self._firing._plan

    def _fire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        return self._firing._fire(when, (self.__self__, *args), kwargs)

    def check(self, /, *args: Any, **kwargs: Any) -> None:
        """Raise the TypeError that calling the method with these arguments would raise."""
        self.job.check(self.__self__, *args, **kwargs)


if TYPE_CHECKING:

    class AsyncBoundJob(BoundJob[P, R]):
        """An ``async def`` job accessed through an object."""

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            ...
