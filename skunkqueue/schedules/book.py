"""The schedules that a store holds: declare one, find, end and read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from skunkqueue.envelope import OPEN, Filter, Record, State
from skunkqueue.errors import PayloadError, WrongCall
from skunkqueue.ids import new_id
from skunkqueue.limits.turns import put_with_turns
from skunkqueue.persistence import Persister
from skunkqueue.persistence.put import put
from skunkqueue.schedules.definition import TICKS, Definition, id_prefix, read
from skunkqueue.schedules.step import Memory, remembered
from skunkqueue.schedules.when import Adaptive, Cron, Interval

PAGE: Final = 500
LOOKS: Final = 5


def declare(store: Persister, definition: Definition, *, now: float) -> str:
    """See that the store holds this schedule, and no other of its name; returns the id of its run.

    One that is there already stays as it is. One that replaces another takes over its anchor and what it remembers, so
    that a change of the job's options does not shift the ticks; a change of the times starts anew.
    """
    definition, is_new = _numbered(store, definition)
    id = definition.id
    others = [record for record in named(store, definition.queue, definition.name, now=now) if record.id != id]
    envelope = _started(definition, others, now).envelope() if is_new else None
    _end(store, others, now)  # first: both together could make a tick twice
    if envelope is not None:
        put(store, [envelope])
    # Of two that were declared at the same moment one stays, the same for whoever looks.
    found = named(store, definition.queue, definition.name, now=now)
    _end(store, found[1:], now)
    return found[0].id if found else id


def _numbered(store: Persister, definition: Definition) -> tuple[Definition, bool]:
    """The definition with the first number that the store does not have or has open, and whether it is new.

    One that has ended is not opened again: what would have been its ticks meanwhile are not missed.
    """
    while (record := store.get([definition.id]).get(definition.id)) is not None and not record.open:
        definition = definition._replace(number=definition.number + 1)
    return definition, record is None


def _started(definition: Definition, others: list[Record], now: float) -> Definition:
    """The definition with its first tick, counted on from the schedule that it replaces, if that had the same times."""
    before = next(iter(readable(others)), None)
    if before is not None and before[1].when == definition.when:
        memory = before[2]
        start = memory.next or now
        return definition._replace(anchor=before[1].anchor, start=start, last=memory.last, interval=memory.interval)
    last = "" if before is None else before[2].last
    when = definition.when
    start = when.first(now) if isinstance(when, Interval | Cron) else now
    interval = float(when.least) if isinstance(when, Adaptive) else 0.0  # type: ignore[arg-type]
    return definition._replace(anchor=now, start=start, last=last, interval=interval)


def _end(store: Persister, records: Iterable[Record], now: float) -> int:
    ids = [record.id for record in records]
    return len(store.cancel(ids, now=now)) if ids else 0


def named(store: Persister, queue: str, name: str, *, now: float) -> list[Record]:
    """The open runs of the schedule with this name: one, but for moments."""
    prefix = id_prefix(queue, name)
    found: list[Record] = []
    after = prefix + "~"
    while True:
        page = store.find(Filter(queue), now=now, after=after, limit=4)
        ours = [record for record in page if record.id.startswith(prefix)]
        found += [record for record in ours if record.state in OPEN]
        if len(ours) < 4:
            return found
        after = ours[-1].id


def unschedule(store: Persister, queue: str, name: str, *, now: float) -> bool:
    """End the schedule with this name; returns whether there was one."""
    return _end(store, named(store, queue, name, now=now), now) > 0


def every(store: Persister, queue: str, *, now: float, routes: Iterable[str] | None = None) -> Iterator[Record]:
    """The open runs of all schedules of a queue, or of those whose jobs are on these routes."""
    there = Counter[str]()
    for (its, route, state), number in store.count().items():
        if its == queue and route.endswith(TICKS):
            there[route] += number if state in OPEN else 0
    wanted = None if routes is None else {route + TICKS for route in routes}
    for route in sorted(there):
        if wanted is None or route in wanted:
            yield from _open(store, queue, route, there[route], now)


def _open(store: Persister, queue: str, route: str, number: int, now: float) -> Iterable[Record]:
    """The open runs of a route, of which there were so many.

    One that a pool takes, or puts back, between two looks may be met in neither: then it is looked for again.
    """
    found: dict[str, Record] = {}
    for _ in range(LOOKS):
        for state in (State.QUEUED, State.RUNNING):
            found.update({record.id: record for record in _pages(store, Filter(queue, route, state), now)})
        if len(found) >= number:
            break
    return found.values()


def _pages(store: Persister, which: Filter, now: float) -> Iterator[Record]:
    after: str | None = None
    while page := store.find(which, now=now, after=after, limit=PAGE):
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def readable(records: Iterable[Record]) -> Iterator[tuple[Record, Definition, Memory]]:
    """Those that can be read, with what they remember."""
    for record in records:
        try:
            definition = read(record.envelope)
        except PayloadError:
            continue
        yield record, definition, remembered(definition, record.notes)


def forget_undeclared(
    store: Persister, queue: str, modules: Iterable[str], declared: Iterable[str], *, now: float
) -> int:
    """End the schedules that one of these modules had declared and does not declare any more; gives how many."""
    of, kept = frozenset(modules), frozenset(declared)
    gone = [
        record
        for record, definition, _ in readable(every(store, queue, now=now))
        if definition.module in of and definition.name not in kept
    ]
    return _end(store, gone, now)


def the(store: Persister, queue: str, name: str, *, now: float) -> tuple[Record, Definition, Memory]:
    """The schedule with this name. Raises WrongCall if there is none."""
    found = next(readable(named(store, queue, name, now=now)), None)
    if found is None:
        raise WrongCall(f"there is no schedule {name!r} on queue {queue} of {store.url}")
    return found


def fire(store: Persister, queue: str, name: str, *, now: float) -> list[str]:
    """Put a run of a schedule's job now, beside its ticks; gives the ids of the runs, one for each route."""
    _, definition, _ = the(store, queue, name, now=now)
    runs = [definition.run(new_id(now), route, now) for route in definition.routes]
    return put_with_turns(store, runs, now)
