"""Looks at runs: by id, by filter, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from skunkqueue.envelope import Filter, Record, State, base_route
from skunkqueue.persistence.fdb.layout import Lane, lane_of, read, read_lane, written
from skunkqueue.persistence.fdb.rows import QUEUED, RUNNING, STATES, damaged_row, read_row
from skunkqueue.persistence.fdb.step import COUNT, EXACT, Step

PAGE: Final = 500
"""Runs of one look, which has five seconds."""

FEW: Final = 2000
"""Up to so many runs of a state, it is always cheaper to sort those than to read others."""

Counts = Mapping[Lane, Sequence[int]]

Run = Callable[[Callable[[Step], Any]], Any]
"""Does a transaction."""


def get(run: Run, ids: Sequence[str]) -> dict[str, Record]:
    """The records of those runs that exist, in the order of the ids; in as many transactions as what is long takes."""
    found: dict[str, Record] = {}
    left = list(ids)
    while left:

        def some(step: Step, wanted: Sequence[str] = tuple(left)) -> tuple[dict[str, Record], list[str]]:
            rows = step.load(wanted)
            there = [id for id in wanted if id in rows]
            over = [row.id for row in step.fill([rows[id] for id in there])]
            return {id: rows[id].record() for id in there[: len(there) - len(over)]}, over

        records, left = run(some)
        found |= records
    return found


def counts(step: Step) -> dict[Lane, list[int]]:
    """How many runs each lane has in each state."""
    found: dict[Lane, list[int]] = {}
    for pair in step.tr.snapshot.get_range(*step.space.all(b"c")):
        lane = read_lane(pair.key[len(step.space.prefix) + 1 :])
        if lane is None or len(lane[1]) != 1 or lane[1][0] >= len(STATES) or len(pair.value) != COUNT.size:
            continue  # damaged
        found.setdefault(lane[0], [0] * len(STATES))[lane[1][0]] = max(0, COUNT.unpack(pair.value)[0])
    return found


def find(run: Run, which: Filter, now: float, after: str | None, limit: int) -> list[Record]:
    """Records, newest first: from all runs, or from those of a state, whichever is likely to be less."""
    if limit <= 0:
        return []
    lanes: Counts = run(counts)
    places = {lane: each for lane, each in lanes.items() if _fits(which, lane)}
    if which.state is not None and _sorting_is_cheaper(which.state, lanes, places, limit):
        return _sorted(run, which, list(places), now, after, limit)
    return _walked(run, which, now, after, limit)


def _fits(which: Filter, lane: Lane) -> bool:
    return which.queue in (None, lane[0]) and which.route in (None, base_route(lane[1]))


def _stored(state: State) -> int:
    return QUEUED if state is State.SCHEDULED else STATES.index(state)


def _sorting_is_cheaper(state: State, lanes: Counts, places: Counts, limit: int) -> bool:
    stored = _stored(state)
    matching = sum(each[stored] for each in places.values())
    if stored <= RUNNING:
        there = sum(each[QUEUED] + each[RUNNING] for each in places.values())
    else:
        there = sum(each[stored] for each in lanes.values())
    total = sum(sum(each) for each in lanes.values())
    return there <= FEW or there * matching <= limit * total


def _sorted(run: Run, which: Filter, places: Sequence[Lane], now: float, after: str | None, limit: int) -> list[Record]:
    """By the ids of the runs of a state, sorted."""
    assert which.state is not None
    stored = _stored(which.state)
    ids = _ids_of_open(run, places) if stored <= RUNNING else _ids_of_ended(run, stored, places)
    left = sorted((id for id in ids if after is None or id < after), reverse=True)
    found: list[Record] = []
    for start in range(0, len(left), PAGE):
        some = left[start : start + PAGE]
        found += [record for record in get(run, some).values() if which.fits(record, now)]
        if len(found) >= limit:
            break
    return found[:limit]


def _ids_of_open(run: Run, places: Iterable[Lane]) -> set[str]:
    ids: set[str] = set()
    for place in places:
        ids.update(read(key[9:]) for key, _ in _pages(run, b"i" + lane_of(*place)))
    return ids


def _ids_of_ended(run: Run, state: int, places: Iterable[Lane]) -> set[str]:
    names = {lane_of(*place) for place in places}
    pages = _pages(run, b"e" + bytes((state,)))
    return {read(key[8:]) for key, value in pages if value in names}


def _pages(run: Run, tag: bytes) -> list[tuple[bytes, bytes]]:
    """All keys that begin like this, and their values: what comes after it; page by page, each in a transaction."""
    found: list[tuple[bytes, bytes]] = []
    last = b""
    while True:

        def page(step: Step, last: bytes = last) -> tuple[int, list[Any]]:
            begin, end = step.space.all(tag)
            return len(begin), step.tr.snapshot.get_range(
                last or begin, end, limit=10 * PAGE, streaming_mode=EXACT
            ).to_list()

        size, pairs = run(page)
        found += [(pair.key[size:], pair.value) for pair in pairs]
        if len(pairs) < 10 * PAGE:
            return found
        last = pairs[-1].key + b"\0"


def _walked(run: Run, which: Filter, now: float, after: str | None, limit: int) -> list[Record]:
    """By reading all runs from the newest on."""
    found: list[Record] = []
    while len(found) < limit:

        def page(
            step: Step, after: str | None = after, room: int = limit - len(found)
        ) -> tuple[list[Record], list[str], str | None]:
            begin, end = step.space.all(b"r")
            if after is not None:
                end = step.space.run + written(after)
            pairs = step.tr.snapshot.get_range(begin, end, limit=PAGE, reverse=True, streaming_mode=EXACT).to_list()
            rows = []
            for pair in pairs:
                id = read(pair.key[len(step.space.run) :])
                rows.append(read_row(id, pair.value) or damaged_row(id, pair.value))
            fitting = [row for row in rows if which.fits(row.record(), now)][:room]
            left = [row.id for row in step.fill(fitting)]
            filled = fitting[: len(fitting) - len(left)]
            return [row.record() for row in filled], left, rows[-1].id if len(rows) == PAGE else None

        records, left, after = run(page)
        found += records
        found += [record for record in get(run, left).values() if which.fits(record, now)]
        if after is None:
            break
    return found[:limit]
