"""Looks at runs: by id, by filter, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo.collection import Collection

from skunkqueue.envelope import Filter, Record, State, with_priorities
from skunkqueue.persistence import BRIEF, expires_at
from skunkqueue.persistence.mongodb.documents import (
    UNSHOWN,
    WITHOUT_BODIES,
    WITHOUT_VALUES,
    Document,
    envelope_of,
    in_one,
    number_of,
    readable,
    record_of,
    shelf_of,
    state_of,
)

PAGE: Final = 5000
"""Ids of one question."""

_ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

_OPEN: Final = {"state": {"$nin": sorted(map(str, _ENDED))}}

Projection = Mapping[str, int]


def get(runs: Collection[Document], ids: Iterable[str], fields: Projection = UNSHOWN) -> dict[str, Record]:
    """The records of those runs that exist, in the order of the ids."""
    wanted = list(dict.fromkeys(ids))
    found = {each["_id"]: record_of(each) for each in _with_ids(runs, wanted, {}, fields)}
    return {id: found[id] for id in wanted if id in found}


def get_brief(runs: Collection[Document], ids: Iterable[str]) -> dict[str, Record]:
    return get(runs, ids, WITHOUT_BODIES)


def open_of(runs: Collection[Document], ids: Iterable[str]) -> dict[str, float]:
    """Those of these runs that are open, and from when each can only expire."""
    documents = _with_ids(runs, list(dict.fromkeys(ids)), _OPEN, {"state": 1, "expires": 1, "ripe": 1})
    return {each["_id"]: _expires_at(each) for each in documents}


def _expires_at(document: Document) -> float:
    is_running = state_of(document.get("state")) == State.RUNNING
    return expires_at(envelope_of(document), number_of(document.get("ripe"), 0.0) if is_running else None)


def _with_ids(
    runs: Collection[Document], ids: Sequence[str], which: Document, fields: Projection
) -> Iterator[Document]:
    for start in range(0, len(ids), PAGE):
        some = ids[start : start + PAGE]
        where: Any = some[0] if len(some) == 1 else {"$in": some}
        yield from runs.find({"_id": where, **which}, fields, batch_size=in_one(len(some)))


def find_brief(
    runs: Collection[Document], which: Filter, now: float, after: str | None, limit: int, values: int | None
) -> list[Record]:
    """As ``find``, without the rest of bodies, and without long values where none of those is wanted."""
    fields = WITHOUT_VALUES if values is not None and values <= BRIEF else WITHOUT_BODIES
    return find(runs, which, now, after, limit, fields)


def find(
    runs: Collection[Document],
    which: Filter,
    now: float,
    after: str | None,
    limit: int,
    fields: Projection = UNSHOWN,
) -> list[Record]:
    """Records, newest first. The server decides whether it reads by id, or sorts what lies on a shelf."""
    where = _where(which, now)
    if after is not None:
        where["_id"] = {"$lt": after}
    if limit <= 0:
        return []
    found = runs.find(where, fields).sort("_id", -1).limit(limit).batch_size(in_one(limit))
    return [record_of(document) for document in found]


def _where(which: Filter, now: float) -> Document:
    """The filter as MongoDB's: also by shelf, where it is known, so that the index can serve it."""
    queue, route, state = which
    where: Document = {}
    if queue is not None:
        where["queue"] = queue
    routes = () if route is None else with_priorities(route)
    if routes:
        where["route"] = {"$in": list(routes)}
    if state is None:
        return where
    where["state"] = str(State.QUEUED if state is State.SCHEDULED else state)
    if state is State.SCHEDULED:
        where["ripe"] = {"$gt": now}
    if state in _ENDED:
        where["shelf"] = str(state)
    elif queue is not None and routes:
        where["shelf"] = {"$in": [shelf_of(queue, each) for each in routes]}
    return where


def count(runs: Collection[Document]) -> dict[tuple[str, str, str], int]:
    """How many runs by queue, route and state, counted where they lie: so no count is ever wrong."""
    group = {"_id": {"queue": "$queue", "route": "$route", "state": "$state"}, "n": {"$sum": 1}}
    counts: dict[tuple[str, str, str], int] = {}
    for each in runs.aggregate([{"$group": group}]):
        place = each["_id"]
        key = (readable(place.get("queue", "?")), readable(place.get("route", "?")), str(state_of(place.get("state"))))
        counts[key] = counts.get(key, 0) + int(each["n"])
    return counts
