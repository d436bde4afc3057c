"""What people do with schedules and pauses: the part of a queue that makes, lists, pauses and ends them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from skunkqueue.clock import ticks
from skunkqueue.envelope import Record, State
from skunkqueue.errors import StoreError, WrongCall
from skunkqueue.persistence import Persister
from skunkqueue.printable import said
from skunkqueue.routes import check_name, shown_route
from skunkqueue.run import Run, Runs
from skunkqueue.schedules.when import Cron
from skunkqueue.times import as_datetime, as_local, when_of

if TYPE_CHECKING:
    from skunkqueue.clock import Clock
    from skunkqueue.job import Call
    from skunkqueue.queue import SkunkQueue
    from skunkqueue.schedules.definition import Definition
    from skunkqueue.schedules.step import Memory
    from skunkqueue.schedules.when import Every

Until = float | timedelta | datetime


class Schedule:
    """A schedule as the store had it when it was asked for.

    ``every`` is text, ``next`` when its job runs next and ``due`` when it last ran, in local time; ``last`` is the last
    run, None before the first, and ``state`` the state that this has now. ``paused`` says whether it makes no runs;
    ``until`` is when that ends by itself. ``next`` is None where it follows a run that has not ended.
    """

    def __init__(
        self,
        queue: SkunkQueue,
        definition: Definition,
        memory: Memory,
        last: Record | None,
        pauses: Mapping[str, float | None],
    ) -> None:
        when = definition.when
        self._queue = queue
        self.name: str = definition.name
        self.job: str = definition.job
        self.routes: tuple[str, ...] = tuple(map(shown_route, definition.routes))
        self.every: str = str(when)
        self.zone: str | None = when.zone if isinstance(when, Cron) else None
        self.missed: str = definition.missed
        self.overlap: str = definition.overlap
        self.paused: bool = definition.name in pauses
        until = pauses.get(definition.name)
        self.until: datetime | None = None if until is None else as_local(as_datetime(until))
        self.next: datetime | None = as_local(as_datetime(memory.next)) if memory.next else None
        self.due: datetime | None = as_local(as_datetime(memory.tick)) if memory.tick else None
        self.last: Run[Any] | None = Run(queue, memory.last, None, last) if memory.last else None

    def __repr__(self) -> str:
        return f"<Schedule {self.name} {self.every}{' paused' if self.paused else ''}>"

    def _key(self) -> tuple[Any, ...]:
        return (self._queue.name, *(value for name, value in sorted(vars(self).items()) if name != "_queue"))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash((self._queue.name, self.name))

    @property
    def state(self) -> State | None:
        """The state of the last run; None before the first, or where that is no longer kept."""
        with suppress(StoreError):
            return None if self.last is None else self.last.state
        return None

    def fire(self) -> Run[Any] | Runs[Any]:
        """Run its job now, beside its ticks."""
        return self._queue.fire_schedule(self.name)

    def pause(self, until: Until | None = None) -> None:
        """Have it make no runs, until it is resumed or until then: seconds, a timedelta or a datetime."""
        self._queue.pause_schedule(self.name, until)

    def resume(self) -> bool:
        """Have it make runs again, from the next tick on; returns whether it was paused."""
        return self._queue.resume_schedule(self.name)


class Schedules:
    """A part of SkunkQueue."""

    name: str
    _told_at: dict[str, float]
    if TYPE_CHECKING:

        @property
        def store(self) -> Persister: ...
        @property
        def clock(self) -> Clock: ...

    def schedule(
        self,
        name: str,
        call: Call[Any],
        every: Every,
        *,
        zone: Any = None,
        missed: str | None = None,
        overlap: str | None = None,
    ) -> None:
        """Have a job run again and again: ``queue.schedule("digest", digest.args("bob"), every=timedelta(hours=6))``.

        It is kept in the store, in place of a schedule of the same name, and made by any pool that serves the job's
        route. ``every``: seconds, a timedelta or ``"90s"``, counted from now; cron text, read in ``zone`` (UTC); an
        Adaptive; or a function that gets the last run and gives the seconds until the next. ``missed``: what becomes
        of ticks when no pool was there: ``once`` (the last of them), ``all`` or ``skip``. ``overlap``: whether a tick
        is left out while the last run has not ended (``skip``) or not (``queue``). Raises WrongCall.
        """
        from skunkqueue.schedules.book import declare
        from skunkqueue.schedules.declared import asking, definition_of, rules_of

        rules = rules_of({"every": every, "zone": zone, "missed": missed, "overlap": overlap})
        firing = getattr(call, "firing", None)
        if firing is None or firing._plan.job.queue.name != self.name:
            raise WrongCall(
                f"what is scheduled is a call of a job of this queue, made by job.args(...); got {said(call)}"
            )
        if callable(every):
            rules = rules._replace(pace=_pace(firing, name, asking(every, self)))
        definition = definition_of(firing, _check_schedule(name), rules, *call.whole())
        declare(self.store, definition, now=self.clock.now_at_last())
        self._tell_pools()

    def unschedule(self, name: str) -> bool:
        """End a schedule; returns whether there was one. Runs that it has made stay."""
        from skunkqueue.schedules.book import unschedule

        return unschedule(self.store, self.name, _check_schedule(name), now=self.clock.now_at_last())

    def schedules(self) -> list[Schedule]:
        """The schedules of this queue, by name."""
        from skunkqueue.schedules.book import every, readable
        from skunkqueue.schedules.paused import SCHEDULE, paused, pauses

        now = self.clock.now_at_last()
        stopped = paused(pauses(self.store, self.name, now=now), SCHEDULE)
        found = list(readable(every(self.store, self.name, now=now)))
        last = self.store.get([memory.last for _, _, memory in found if memory.last]) if found else {}
        made = [Schedule(self, one, memory, last.get(memory.last), stopped) for _, one, memory in found]  # type: ignore[arg-type]
        return sorted(made, key=lambda schedule: schedule.name)

    def fire_schedule(self, name: str) -> Run[Any] | Runs[Any]:
        """Run the job of a schedule now, beside its ticks. Raises WrongCall if there is no such schedule."""
        from skunkqueue.schedules.book import fire

        ids = fire(self.store, self.name, _check_schedule(name), now=self.clock.now_at_last())
        runs = [Run[Any](self, id) for id in ids]  # type: ignore[arg-type]
        return runs[0] if len(runs) == 1 else Runs(runs)

    def pause_schedule(self, name: str, until: Until | None = None) -> None:
        """Have a schedule make no runs, until it is resumed or until then. Raises WrongCall if there is none."""
        from skunkqueue.schedules.book import the
        from skunkqueue.schedules.paused import SCHEDULE, pause

        now = self.clock.now_at_last()
        the(self.store, self.name, _check_schedule(name), now=now)
        pause(self.store, self.name, SCHEDULE, name, now=now, until=_until(until, now))

    def resume_schedule(self, name: str) -> bool:
        """Have a schedule make runs again; returns whether it was paused. Raises WrongCall if there is none."""
        from skunkqueue.schedules.book import the
        from skunkqueue.schedules.paused import SCHEDULE, resume

        now = self.clock.now_at_last()
        record, _, _ = the(self.store, self.name, _check_schedule(name), now=now)
        done = resume(self.store, self.name, SCHEDULE, name, now=now)
        self.store.promote([record.id], now=now)
        self._tell_pools()
        return done

    # routes

    def pause(self, route: str, until: Until | None = None) -> None:
        """Have all pools start no further run of a route, until it is resumed or until then.

        ``until``: seconds, a timedelta or a datetime. What runs ends as usual; what is fired waits. Pools take it up
        within moments, or where they do not hear of it within a third of their lease.
        """
        from skunkqueue.schedules.paused import ROUTE, pause

        now = self.clock.now_at_last()
        pause(self.store, self.name, ROUTE, check_name(route, "route"), now=now, until=_until(until, now))
        self._tell_pools()

    def resume(self, route: str) -> bool:
        """Have a route worked on again; returns whether it was paused."""
        from skunkqueue.schedules.paused import ROUTE, resume

        now = self.clock.now_at_last()
        done = resume(self.store, self.name, ROUTE, check_name(route, "route"), now=now)
        self._tell_pools()
        return done

    def paused(self) -> dict[str, datetime | None]:
        """The routes that are paused, by name: until when, in local time; None is until it is resumed."""
        from skunkqueue.schedules.paused import ROUTE, paused, pauses

        found = paused(pauses(self.store, self.name, now=self.clock.now_at_last()), ROUTE)
        return {route: None if end is None else as_local(as_datetime(end)) for route, end in sorted(found.items())}

    def tell_pools_soon(self, route: str) -> None:
        """The same as below, but not more than once a second for a route: pools that have met gates on one of theirs
        look often for a while.
        """
        now = ticks()
        if now - self._told_at.get(route, -1.0) >= 1.0:
            self._told_at[route] = now
            self._tell_pools()

    def _tell_pools(self) -> None:
        """Have each pool of this queue look at schedules and pauses now. They look every few seconds anyway."""
        import json  # late: who only fires needs it for nothing

        with suppress(StoreError):
            told: dict[str, str] = {}
            for worker, about in self.store.workers(now=self.clock.now()).items():
                with suppress(ValueError, KeyError, TypeError):
                    is_ours = json.loads(about)["queue"] == self.name
                    told.setdefault(str(json.loads(about)["pool"]) if is_ours else "", worker)
            told.pop("", None)
            for worker in told.values():
                self.store.tell(worker, "schedules")


def _pace(firing: Any, name: str, function: Any) -> Any:
    """A job that is made of the function that says when to run next; it always travels by value."""
    from skunkqueue.schedules.registry import registry

    plan = firing._plan
    function.__module__, function.__qualname__ = plan.job._module, f"{name}.every"
    job = type(plan.job)(function, plan.job.queue, f"{name} every"[:200], plan.options)
    registry.keep(plan.job.queue, name, job)
    return job


def _check_schedule(name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise WrongCall(f"the name of a schedule is 1 to 200 printable characters; got {said(name)}")


def _until(until: Until | None, now: float) -> float | None:
    return None if until is None else when_of(until).due(now)
