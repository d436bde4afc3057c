"""Firing runs that wait for others: ``job.after(runs).fire(...)`` and chains of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar

from skunkqueue.envelope import GATED, Envelope
from skunkqueue.errors import WrongCall
from skunkqueue.gates.gate import ON, ON_LOST, Gate
from skunkqueue.gates.values import placed
from skunkqueue.job import Call, Firing, as_call
from skunkqueue.method import BoundJob
from skunkqueue.options import choice
from skunkqueue.printable import said
from skunkqueue.run import Run, Runs
from skunkqueue.times import NOW, When, when_of

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class After(Firing[P, R]):
    """A job whose runs wait for others, made by ``job.after``."""

    def __init__(self, firing: Firing[P, R], runs: Any, on: str, on_lost: str) -> None:
        self._plan = firing._plan
        self._via = firing._via
        self._headers = firing._headers
        self._on = choice("on", on, ON)
        self._on_lost = choice("on_lost", on_lost, ON_LOST)
        self._awaited = _all(runs)
        _check_can_wait(firing)
        queue = self._plan.job.queue
        for run in self._awaited:
            if run._queue.connection is not queue.connection:
                raise WrongCall(f"a run can wait for runs of its own store; run {run.id} is on {run._queue.url}")

    def _fire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        return super()._fire(when, *placed(args, kwargs, self._ids()))

    async def _afire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        import asyncio

        return await asyncio.to_thread(self._fire, when, args, kwargs)

    def fire_many(self, calls: Iterable[Any], /) -> Runs[R]:
        ids = self._ids()
        return super().fire_many([Call(*placed(*as_call(call), ids)) for call in calls])

    def _ids(self) -> frozenset[str]:
        return frozenset(run.id for run in self._awaited)

    def _envelopes(
        self, bodies: Any, when: When, limits: Sequence[str] = (), uniques: Sequence[str | None] = ()
    ) -> list[Envelope]:
        """Each run, due at the end of time, and behind it its gate."""
        now = self._plan.job.queue.now()
        ids = [run.id for run in self._awaited]
        found: list[Envelope] = []
        for envelope in super()._envelopes(bodies, When(at=GATED), limits):
            gate = Gate(envelope.id, ids, self._on, self._on_lost, when.due(now) if when != NOW else 0.0, now)
            found += envelope, gate.envelope(envelope.queue, envelope.route, envelope.keep)
        return found

    def _put(self, envelopes: Sequence[Envelope]) -> list[Run[Any]]:
        runs = super()._put(envelopes)[::2]  # without the gates
        for route in self._plan.options.routes:
            self._plan.job.queue.tell_pools_soon(route)
        return runs


def _check_can_wait(firing: Any) -> None:
    """Raise WrongCall for what cannot be fired to wait for other runs."""
    plan = firing._plan
    name = plan.job.name
    if isinstance(firing, After):
        raise WrongCall(f"{name} waits for other runs already: give all that it is to wait for to one after(...)")
    if firing._unique is not None or plan.spaced:
        raise WrongCall(f"a run that waits for others takes no unique key: {name} was given one")
    if plan.job.queue.broadcast:
        raise WrongCall(f"{name} is of a broadcast queue, whose runs have no fixed route: it cannot wait")
    if plan.options.expires is not None:
        raise WrongCall(f"a run that waits for others does not expire: {name} was given expires=")


def _all(runs: Any) -> list[Run[Any]]:
    """The runs that people name: a handle, handles of several, or an iterable of both."""
    if isinstance(runs, Run):
        return [runs]
    try:
        found = [run for each in runs for run in ([each] if isinstance(each, Run) else each)]
    except TypeError:
        found = []
    if not found or not all(isinstance(run, Run) for run in found):
        raise WrongCall(f"after is given the runs to wait for, at least one, as fire returned them; got {said(runs)}")
    return found


class Chain(Generic[P, R]):
    """Jobs that run one after the other, each with what the one before returned; made by ``job.then``."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        for place, job in enumerate(jobs):
            if not isinstance(job, Firing | BoundJob):
                raise WrongCall(f"a chain is made of jobs; got {said(job)}")
            if job._plan.several:
                raise WrongCall(f"a chain is made of jobs of one route; {job._plan.job.name} has several")
            if place:  # here, and not when the first of them has been fired
                _check_can_wait(getattr(job, "firing", job))
        self.jobs: tuple[Any, ...] = tuple(jobs)

    def __repr__(self) -> str:
        return f"<Chain {' > '.join(job._plan.job.name for job in self.jobs)}>"

    def then(self, job: Firing[[R], S] | BoundJob[[R], S]) -> Chain[P, S]:
        """The chain with one more job at its end."""
        return Chain((*self.jobs, *(job.jobs if isinstance(job, Chain) else (job,))))

    def fire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Queue the first job; gives the run of the last. ``run.after`` leads back to those before it."""
        return self._fire(NOW, args, kwargs)

    def fire_at(self, when: float | timedelta | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """The same for later."""
        return self._fire(when_of(when), args, kwargs)

    async def afire(self, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire`` without blocking the event loop."""
        return await self._afire(NOW, args, kwargs)

    async def afire_at(self, when: float | timedelta | datetime, /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """``fire_at`` without blocking the event loop."""
        return await self._afire(when_of(when), args, kwargs)

    async def _afire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        import asyncio

        return await asyncio.to_thread(self._fire, when, args, kwargs)

    def _fire(self, when: When, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run[R]:
        first, *others = self.jobs
        run: Run[R] = first._fire(when, args, kwargs)
        for job in others:
            run = job.after(run).fire(run)
        return run
