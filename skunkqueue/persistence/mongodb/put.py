"""Puts runs: one insert for a batch. Only a run whose unique key, or id, is there already is looked up afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from skunkqueue.envelope import Envelope
from skunkqueue.errors import StoreRefused
from skunkqueue.persistence.mongodb.connect import despite_conflicts
from skunkqueue.persistence.mongodb.documents import Document, document_of, in_one, key_of
from skunkqueue.persistence.mongodb.errors import DUPLICATE

ROUNDS: Final = 20
"""How often a run is put whose unique key was taken, and then free when its holder was asked for."""


def put(runs: Collection[Document], envelopes: Sequence[Envelope]) -> list[str]:
    """Put runs; the first envelope of an id stands. Returns for each its id, or the id of the run that has its key."""
    ids = [envelope.id for envelope in envelopes]
    left = list(range(len(envelopes)))
    for _ in range(ROUNDS):
        now, left = _first_of_each(envelopes, left)
        met = [now[n] for n in _insert(runs, [document_of(envelopes[i]) for i in now])]
        unsure = [i for i in met if envelopes[i].unique is not None]
        if unsure:
            held_by = _holders(runs, [envelopes[i] for i in unsure])
            for i in unsure:
                ids[i] = held_by.get(ids[i], "") or ids[i]
            left += [i for i in unsure if envelopes[i].id not in held_by]
        if not left:
            return ids
        left.sort()
    raise StoreRefused("its unique key changes hands too often")


def _first_of_each(envelopes: Sequence[Envelope], places: list[int]) -> tuple[list[int], list[int]]:
    """The places with the first envelope of each id and of each unique key, and the others, which are put later."""
    ids: set[str] = set()
    keys: set[Any] = set()
    first: list[int] = []
    later: list[int] = []
    for i in places:
        id, key = envelopes[i].id, key_of(envelopes[i])
        if id in ids or key in keys:
            later.append(i)
            continue
        first.append(i)
        ids.add(id)
        if key is not None:
            keys.add(key)
    return first, later


def _insert(runs: Collection[Document], documents: list[Document]) -> list[int]:
    """Insert documents; returns the places of those that met an id or a unique key that is there.

    On PostgreSQL two inserts of one unique key may wait for each other until one of them is undone; that is repeated.
    """
    try:
        if len(documents) == 1:
            despite_conflicts(lambda: runs.insert_one(documents[0]))
        elif documents:
            despite_conflicts(lambda: runs.insert_many(documents, ordered=False))
    except DuplicateKeyError:
        return [0]
    except BulkWriteError as error:
        errors = error.details["writeErrors"]
        if error.details.get("writeConcernErrors") or any(each["code"] != DUPLICATE for each in errors):
            raise
        return [each["index"] for each in errors]
    return []


def _holders(runs: Collection[Document], envelopes: Sequence[Envelope]) -> dict[str, str]:
    """For each id: the id that counts. An id that is there counts itself; one that is missing found its key free."""
    most = in_one(len(envelopes))
    ids = [envelope.id for envelope in envelopes]
    there = {each["_id"] for each in runs.find({"_id": {"$in": ids}}, {"_id": 1}, batch_size=most)}
    keys = [key_of(envelope) for envelope in envelopes]
    by_key = {each["key"]: each["_id"] for each in runs.find({"key": {"$in": keys}}, {"key": 1}, batch_size=most)}
    found = {e.id: e.id if e.id in there else by_key.get(key) for e, key in zip(envelopes, keys, strict=True)}
    return {id: holder for id, holder in found.items() if holder is not None}
