"""Looks at runs: by id, by filter, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final, NamedTuple

from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence import expires_at
from skunkqueue.persistence.fdb.layout import Lane, lane_of, read, read_lane, written
from skunkqueue.persistence.fdb.rows import QUEUED, RUNNING, STATES, Long, Row, damaged_row, read_row
from skunkqueue.persistence.fdb.step import COUNT, EXACT, Step
from skunkqueue.routes import base_route

PAGE: Final = 500
"""Runs of one look, which has five seconds."""

FEW: Final = 2000
"""Up to so many runs of a state, it is always cheaper to sort those than to read others."""

Counts = Mapping[Lane, Sequence[int]]

Run = Callable[[Callable[[Step], Any]], Any]
"""Does a transaction."""


class Shown(NamedTuple):
    """What is read of runs: of bodies only the beginning if ``brief``, and values of at most so many bytes."""

    brief: bool = False
    values: float = inf


WHOLE: Final = Shown()
BRIEFLY: Final = Shown(brief=True)

Page = tuple[list[Record], list[str]]
"""Records, and the ids of those that are too much for the transaction that has these."""


def get(run: Run, ids: Sequence[str], shown: Shown = WHOLE) -> dict[str, Record]:
    """The records of those runs that exist, in the order of the ids; in as many transactions as what is long takes."""
    return {record.id: record for record in _fitting(run, ids, lambda record: True, len(ids), shown)}


def open_of(step: Step, ids: Sequence[str]) -> dict[str, float]:
    """Those of these runs that are open, and from when each can only expire. Nothing that is long is read."""
    rows = step.load(ids)
    return {
        id: expires_at(row.envelope(), row.ripe if row.state == RUNNING else None)
        for id in ids
        if (row := rows.get(id)) is not None and row.open
    }


def _fitting(run: Run, ids: Sequence[str], fits: Callable[[Record], bool], room: int, shown: Shown) -> list[Record]:
    """The first ``room`` records of these runs that fit. What is long is read of those only."""
    found: list[Record] = []
    left = list(ids)
    while left and len(found) < room:

        def some(step: Step, wanted: Sequence[str] = tuple(left), room: int = room - len(found)) -> Page:
            rows = step.load(wanted)
            return _filled(step, [rows[id] for id in wanted if id in rows], fits, room, shown)

        records, left = run(some)
        found += records
    return found


def _filled(step: Step, rows: Iterable[Row], fits: Callable[[Record], bool], room: int, shown: Shown) -> Page:
    """The first ``room`` records of these that fit, with what is shown of them."""
    fitting = [row for row in rows if fits(row.record())][:room]
    for row in fitting:
        if type(row.value) is Long and row.value.size > shown.values:
            row.value = None
    left = [row.id for row in step.fill(fitting, brief=shown.brief)]
    return [row.record() for row in fitting[: len(fitting) - len(left)]], left


def counts(step: Step) -> dict[Lane, list[int]]:
    """How many runs each lane has in each state."""
    found: dict[Lane, list[int]] = {}
    for pair in step.tr.snapshot.get_range(*step.space.all(b"c")):
        lane = read_lane(pair.key[len(step.space.prefix) + 1 :])
        if lane is None or len(lane[1]) != 1 or lane[1][0] >= len(STATES) or len(pair.value) != COUNT.size:
            continue  # damaged
        found.setdefault(lane[0], [0] * len(STATES))[lane[1][0]] = max(0, COUNT.unpack(pair.value)[0])
    return found


def find(run: Run, which: Filter, now: float, after: str | None, limit: int, shown: Shown = WHOLE) -> list[Record]:
    """Records, newest first: from all runs, or from those of a state, whichever is likely to be less."""
    if limit <= 0:
        return []
    lanes: Counts = run(counts)
    places = {lane: each for lane, each in lanes.items() if _fits(which, lane)}
    if which.state is not None and _sorting_is_cheaper(which.state, lanes, places, limit):
        ids = _ids_of(run, which.state, list(places), after)
        return _sorted(run, ids, lambda record: which.fits(record, now), limit, shown)
    return _walked(run, lambda record: which.fits(record, now), after, limit, shown)


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


def _sorted(run: Run, ids: Sequence[str], fits: Callable[[Record], bool], limit: int, shown: Shown) -> list[Record]:
    """Of these runs, in this order."""
    found: list[Record] = []
    for start in range(0, len(ids), PAGE):
        found += _fitting(run, ids[start : start + PAGE], fits, limit - len(found), shown)
        if len(found) >= limit:
            break
    return found


def _ids_of(run: Run, state: State, places: Sequence[Lane], after: str | None) -> list[str]:
    """The ids of the runs of a state, or of all open ones, newest first."""
    stored = _stored(state)
    ids = _ids_of_open(run, places) if stored <= RUNNING else _ids_of_ended(run, stored, places)
    return sorted((id for id in ids if after is None or id < after), reverse=True)


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


def _walked(run: Run, fits: Callable[[Record], bool], after: str | None, limit: int, shown: Shown) -> list[Record]:
    """By reading all runs from the newest on."""
    found: list[Record] = []
    while len(found) < limit:

        def page(step: Step, after: str | None = after, room: int = limit - len(found)) -> tuple[Page, str | None]:
            rows = _newest(step, after)
            return _filled(step, rows, fits, room, shown), rows[-1].id if len(rows) == PAGE else None

        (records, left), after = run(page)
        found += records
        found += _fitting(run, left, fits, len(left), shown)
        if after is None:
            break
    return found


def _newest(step: Step, after: str | None) -> list[Row]:
    """A page of runs, newest first; what is long stays where it is."""
    begin, end = step.space.all(b"r")
    if after is not None:
        end = step.space.run + written(after)
    pairs = step.tr.snapshot.get_range(begin, end, limit=PAGE, reverse=True, streaming_mode=EXACT).to_list()
    rows = []
    for pair in pairs:
        id = read(pair.key[len(step.space.run) :])
        rows.append(read_row(id, pair.value) or damaged_row(id, pair.value))
    return rows
