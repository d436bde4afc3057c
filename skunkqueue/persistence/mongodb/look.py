"""Looks at runs: by id, by filter, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pymongo.collection import Collection

from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence.mongodb.documents import UNSHOWN, Document, in_one, readable, record_of, state_of

PAGE: Final = 5000
"""Ids of one question."""

_ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


def get(runs: Collection[Document], ids: Iterable[str]) -> dict[str, Record]:
    """The records of those runs that exist, in the order of the ids."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Record] = {}
    for start in range(0, len(wanted), PAGE):
        some = wanted[start : start + PAGE]
        where: Any = some[0] if len(some) == 1 else {"$in": some}
        documents = runs.find({"_id": where}, UNSHOWN, batch_size=in_one(len(some)))
        found.update((each["_id"], record_of(each)) for each in documents)
    return {id: found[id] for id in wanted if id in found}


def find(runs: Collection[Document], which: Filter, now: float, after: str | None, limit: int) -> list[Record]:
    """Records, newest first. The server decides whether it reads by id, or sorts what lies on a shelf."""
    where = _where(which, now)
    if after is not None:
        where["_id"] = {"$lt": after}
    if limit <= 0:
        return []
    found = runs.find(where, UNSHOWN).sort("_id", -1).limit(limit).batch_size(in_one(limit))
    return [record_of(document) for document in found]


def _where(which: Filter, now: float) -> Document:
    """The filter as MongoDB's: also by shelf, where it is known, so that the index can serve it."""
    queue, route, state = which
    where: Document = {}
    if queue is not None:
        where["queue"] = queue
    if route is not None:
        where["$or"] = [{"route": route}, {"route": _beginning(f"{route}^")}]
    if state is None:
        return where
    where["state"] = str(State.QUEUED if state is State.SCHEDULED else state)
    if state is State.SCHEDULED:
        where["ripe"] = {"$gt": now}
    if state in _ENDED:
        where["shelf"] = str(state)
    elif queue is not None and route is not None:
        where["shelf"] = _beginning(f"{queue}/{route}^")
    return where


def _beginning(text: str) -> Document:
    """What a text fits that begins with this one."""
    return {"$gte": text, "$lt": text[:-1] + chr(ord(text[-1]) + 1)}


def count(runs: Collection[Document]) -> dict[tuple[str, str, str], int]:
    """How many runs by queue, route and state, counted where they lie: so no count is ever wrong."""
    group = {"_id": {"queue": "$queue", "route": "$route", "state": "$state"}, "n": {"$sum": 1}}
    counts: dict[tuple[str, str, str], int] = {}
    for each in runs.aggregate([{"$group": group}]):
        place = each["_id"]
        key = (readable(place.get("queue", "?")), readable(place.get("route", "?")), str(state_of(place.get("state"))))
        counts[key] = counts.get(key, 0) + int(each["n"])
    return counts
