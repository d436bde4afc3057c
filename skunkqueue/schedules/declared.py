"""From a job and the options of its schedule to a definition, and how a worker tells its pool what it has imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.durations import seconds
from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.handlers.handler import EndHandler
from skunkqueue.options import choice
from skunkqueue.schedules.definition import Definition, Pieces
from skunkqueue.schedules.registry import origin_of, registry
from skunkqueue.schedules.step import MISSED, OVERLAP
from skunkqueue.schedules.when import When, is_fixed, when_of


class Rules(NamedTuple):
    """The options of a schedule, checked.

    ``pace`` is the job made of a function given as ``every``, ``origin`` what declared it, ``number`` its place.
    """

    when: When
    missed: str
    overlap: str
    pace: Any = None
    origin: str = ""
    number: int = 0


def rules_of(given: Mapping[str, Any]) -> Rules:
    """Check ``every``, ``zone``, ``missed`` and ``overlap``; None counts as not given. Raises WrongCall."""
    given = {name: value for name, value in given.items() if value is not None}
    if "every" not in given:
        raise WrongCall(f"{next(iter(given), 'a schedule')} needs every=, which says when to run")
    when = when_of(given["every"], given.get("zone"))
    missed = choice("missed", given.get("missed", "once"), MISSED)
    overlap = choice("overlap", given.get("overlap", "queue" if missed == "all" else "skip"), OVERLAP)
    if not is_fixed(when) and len(given) > 1:
        raise WrongCall(
            f"{', '.join(sorted(set(given) - {'every'}))} is for fixed times; this schedule follows its runs"
        )
    if missed == "all" and overlap == "skip":
        raise WrongCall('missed="all" makes every tick, overlap="skip" leaves some out: give one of them')
    return Rules(when, missed, overlap)


def give_schedule(job: Any, given: Mapping[str, Any]) -> None:
    """Give a job its schedule. Raises WrongCall, also where it cannot be called without arguments."""
    rules = rules_of(given)
    try:
        job.check()
    except TypeError as error:
        text = f"{job.name} is run by its schedule without arguments, but {error}; schedule a call with queue.schedule"
        raise WrongCall(text) from None
    if job.queue.broadcast:
        raise WrongCall(_BROADCAST.format(job.name))
    if job.options_given.is_spaced():
        raise WrongCall(_UNIQUE.format(job.name))
    if callable(given["every"]):
        function = asking(given["every"], job.queue)
        function.__module__, function.__qualname__ = job._module, f"{job._qualname}.every"
        job.every = type(job)(function, job.queue, f"{job.name} every"[:200], job.options_given)
        rules = rules._replace(pace=job.every)
    job.schedule = rules._replace(origin=origin_of(job._module, job._by_value), number=registry.draw())
    registry.add(job)


_UNIQUE: Final = (
    "{} has a unique key, a window or a debounce, which is for what is fired: what a schedule runs takes none; overlap "
    "says what becomes of a tick whose last run has not ended"
)
_BROADCAST: Final = "{} is of a broadcast queue, whose runs have no fixed route: it cannot be scheduled"


def asking(every: Callable[[Any], float | timedelta], queue: Any) -> Callable[[str], float]:
    """What a worker calls after a run: the author's function, given the handle of that run."""

    def pace(last: str) -> float:
        return seconds(every(queue.run(last)), "what the function given as every returns")

    return pace


def definition_of(firing: Any, name: str, rules: Rules, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Definition:
    """The definition of a schedule that fires this call. Raises what a fire would raise for it."""
    plan = firing._plan
    job, options = plan.job, plan.options
    if job.queue.broadcast:
        raise WrongCall(_BROADCAST.format(job.name))
    if firing._unique is not None or options.is_spaced():
        raise WrongCall(_UNIQUE.format(job.name))
    if firing._via is not None or getattr(firing, "_awaited", None):
        raise WrongCall(f"what a schedule runs takes no via and waits for no other runs: {job.name} was given one")
    pace = None if rules.pace is None else Pieces(*rules.pace._plan.pieces(("",), {}))
    routes = tuple(plan.routes_of("".join(plan.keys([(args, kwargs)]))))
    return Definition(
        name, job.queue.name, job.name, rules.when, rules.missed, rules.overlap, routes, options.expires,
        options.keep, rules.origin, Pieces(*plan.pieces(args, kwargs, firing._headers)), pace,
    )  # fmt: skip


class Announcement(NamedTuple):
    """What a process declares: all its schedules and handlers of a queue, and the modules whose jobs it knows.

    ``troubles`` are sentences about those that cannot be kept.
    """

    modules: frozenset[str]
    definitions: list[Definition]
    troubles: list[str]
    handlers: list[EndHandler]


def announced_here(queue: str, url: str | None = None) -> Announcement:
    """What this process declares."""
    definitions, troubles = [], []
    for job in registry.of(queue, url):
        try:
            definitions.append(definition_of(job, job.name, job.schedule, (), {}))
        except Exception as error:  # also what the key of a limit raises
            troubles.append(f"{job.name} cannot be scheduled: {error}")
    return Announcement(frozenset(registry.modules), definitions, troubles, _handlers_here(queue, url, troubles))


def _handlers_here(queue: str, url: str | None, troubles: list[str]) -> list[EndHandler]:
    found: list[EndHandler] = []
    for job in registry.handlers_of(queue, url):
        from skunkqueue.handlers.declared import handlers_of  # late: few programs have handlers

        try:
            found += handlers_of(job)
        except (SkunkError, TypeError) as error:
            troubles.append(f"{job.name} cannot be called for runs that end: {error}")
    return found


def packed(told: Announcement) -> bytes:
    """An announcement as bytes, for the pipe between a worker and its pool."""
    definitions = [one.packed() for one in told.definitions]
    handlers = [one.packed() for one in told.handlers]
    data: bytes = msgpack.packb((sorted(told.modules), definitions, told.troubles, handlers))
    return data


def unpacked(data: bytes, queue: str) -> Announcement:
    modules, definitions, troubles, handlers = msgpack.unpackb(data, use_list=False)
    found = [Definition.unpack(one, queue) for one in definitions]
    return Announcement(frozenset(modules), found, list(troubles), [EndHandler.unpack(one) for one in handlers])
