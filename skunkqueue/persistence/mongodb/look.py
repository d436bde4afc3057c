"""Looks at runs: by id, by filter, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence import BRIEF, expires_at
from skunkqueue.persistence.mongodb.connect import RIPE
from skunkqueue.persistence.mongodb.documents import (
    OF_ENDED,
    UNSHOWN,
    WITHOUT_BODIES,
    WITHOUT_VALUES,
    Document,
    beginning,
    envelope_of,
    in_one,
    number_of,
    place_of,
    record_of,
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
    if route is not None:
        where["$or"] = [{"route": route}, {"route": beginning(f"{route}^")}]
    if state is None:
        return where
    where["state"] = str(State.QUEUED if state is State.SCHEDULED else state)
    if state is State.SCHEDULED:
        where["ripe"] = {"$gt": now}
    if state in _ENDED and queue is not None and route is not None:
        where["shelf"] = beginning(f"{OF_ENDED}{state}/{queue}/{route}^")
    elif state in _ENDED:
        where["shelf"] = beginning(f"{OF_ENDED}{state}/")
    elif queue is not None and route is not None:
        where["shelf"] = beginning(f"{queue}/{route}^")
    return where


def count(runs: Collection[Document]) -> dict[tuple[str, str, str], int]:
    """How many runs by queue, route and state, by the shelves that they lie on: so no count is ever wrong.

    The index has all that is asked for, but for the few that are running.
    """
    running = Counter({place_of(shelf): n for shelf, n in _by_shelf(runs, [{"$match": {"held": {"$exists": True}}}])})
    counts: Counter[tuple[str, str, str]] = Counter()
    for shelf, n in _lying(runs):
        queue, route, state = place = place_of(shelf)
        held = min(running[place], n)  # some of them may have ended meanwhile
        for each, number in ((state or State.QUEUED, n - held), (State.RUNNING, held)):
            counts[queue, route, str(each)] += number
    return {key: n for key, n in counts.items() if n}


def _lying(runs: Collection[Document]) -> list[tuple[Any, int]]:
    """How many runs lie on each shelf."""
    try:
        return _by_shelf(runs, [], hint=RIPE)
    except OperationFailure:  # a database that was dropped while it is used has no index
        return _by_shelf(runs, [])


def _by_shelf(runs: Collection[Document], which: list[Document], **options: Any) -> list[tuple[Any, int]]:
    groups = runs.aggregate([*which, {"$group": {"_id": "$shelf", "n": {"$sum": 1}}}], **options)
    return [(each["_id"], int(each["n"])) for each in groups]
