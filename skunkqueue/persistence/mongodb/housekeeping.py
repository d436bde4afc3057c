"""Workers and their orders, and what purge deletes and ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection

from skunkqueue.envelope import Order
from skunkqueue.ids import new_id
from skunkqueue.persistence import EXPIRED, WORKER_GONE
from skunkqueue.persistence.mongodb.documents import (
    OF_ENDED,
    PLACES,
    Document,
    beginning,
    in_one,
    place_of,
    readable,
    storable,
)
from skunkqueue.persistence.mongodb.end import UNSURE, cancelling, write
from skunkqueue.routes import base_route

# -- workers ---------------------------------------------------------------------------------------------------------


def beat(workers: Collection[Document], worker: str, about: str, seen: Sequence[str], until: float) -> list[Order]:
    """Register a worker, drop the orders it has seen; returns the others."""
    change: Document = {"$set": {"about": storable(about), "until": float(until)}}
    if seen:
        change["$pull"] = {"orders": {"id": {"$in": list(seen)}}}
    document = workers.find_one_and_update(
        {"_id": storable(worker)}, change, upsert=True, return_document=ReturnDocument.AFTER
    )
    left = document.get("orders", ()) if document is not None else ()
    return [Order(each["id"], readable(each["text"])) for each in left]


def tell(workers: Collection[Document], worker: str, order: str) -> None:
    told = {"id": new_id(time.time()), "text": storable(order)}
    change = {"$push": {"orders": told}, "$set": {"told": told["id"]}}
    workers.update_one({"_id": storable(worker)}, change, upsert=True)


def alive(workers: Collection[Document], now: float) -> dict[str, str]:
    """The ``about`` of each worker whose beat has not ended."""
    found = workers.find({"until": {"$gt": now}}, {"about": 1})
    return {readable(each["_id"]): readable(each.get("about", "")) for each in found}


# -- purge -----------------------------------------------------------------------------------------------------------


def purge(runs: Collection[Document], workers: Collection[Document], now: float, limit: int) -> int:
    """Purge up to ``limit`` things; returns how many it did."""
    done = _purge_ended(runs, now, limit)
    done += _purge_expired(runs, now, limit - done)
    done += _purge_workers(workers, now, limit - done)
    return done + _purge_addressed(runs, workers, now, limit - done)


def _purge_ended(runs: Collection[Document], now: float, limit: int) -> int:
    """Delete ended runs past their keep."""
    if limit <= 0:
        return 0
    past = {"shelf": beginning(OF_ENDED), "ripe": {"$lte": now}}
    found = runs.find(past, {"_id": 1}).sort([("shelf", 1), ("ripe", 1)])
    ids = [each["_id"] for each in found.limit(limit).batch_size(in_one(limit))]
    # What was reopened meanwhile is no longer on such a shelf.
    return runs.delete_many({"_id": {"$in": ids}, **past}).deleted_count if ids else 0


def _purge_expired(runs: Collection[Document], now: float, limit: int) -> int:
    """End open runs past their ``expires`` on which nobody's lease is."""
    return _end(runs, {"expiring": {"$lte": now}}, EXPIRED, now, limit, "expiring")


def _purge_workers(workers: Collection[Document], now: float, limit: int) -> int:
    """Delete workers whose beat has ended, and orders for workers that never sent one."""
    workers.delete_many({"until": {"$exists": False}})
    if limit <= 0:
        return 0
    gone = [each["_id"] for each in workers.find({"until": {"$lte": now}}, {"_id": 1}).limit(limit)]
    return workers.delete_many({"_id": {"$in": gone}, "until": {"$lte": now}}).deleted_count if gone else 0


def _purge_addressed(runs: Collection[Document], workers: Collection[Document], now: float, limit: int) -> int:
    """End open runs that are addressed to workers that are gone."""
    shelves = [shelf for shelf in _shelves(runs) if place_of(shelf).route.startswith("@")]
    if not shelves or limit <= 0:
        return 0
    there = alive(workers, now)
    lost = [shelf for shelf in shelves if base_route(place_of(shelf).route)[1:] not in there]
    return _end(runs, {"shelf": {"$in": lost}}, WORKER_GONE, now, limit, "_id") if lost else 0


def _shelves(runs: Collection[Document]) -> list[str]:
    """The shelves there are with open runs."""
    return [shelf for shelf in runs.distinct("shelf") if isinstance(shelf, str) and not shelf.startswith(OF_ENDED)]


def _end(runs: Collection[Document], which: Document, error: str, now: float, limit: int, order: str) -> int:
    """Cancel open runs that nobody's lease is on."""
    if limit <= 0:
        return 0
    unleased: list[Any] = [{"state": {"$ne": "running"}}, {"ripe": {"$lte": now}}]
    found = runs.find({**which, "$or": unleased}, PLACES).sort(order, 1)
    writes = [cancelling(document, error, now) for document in found.limit(limit).batch_size(in_one(limit))]
    done = write(runs, writes)
    return len(writes) if done == UNSURE else done
