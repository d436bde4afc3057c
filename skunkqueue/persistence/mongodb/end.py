"""Writes what becomes of runs: outcomes of claims, and cancel, reopen, promote and discard from the desk.

Each write names the run and what proves the right to it: the token it is held under, or the shelf it lies on. So a
write that comes late, or twice, changes nothing.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

from pymongo import UpdateMany, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

from skunkqueue.envelope import Claim, Envelope, Outcome, Record, Want, old_place
from skunkqueue.errors import StoreRefused
from skunkqueue.persistence import REMEMBERED, kept_at_least
from skunkqueue.persistence.mongodb.documents import (
    OF_ENDED,
    PLACES,
    UNSHOWN,
    Document,
    beginning,
    date_of,
    envelope_of,
    field_of,
    in_one,
    kept_until,
    key_of,
    number_of,
    record_of,
    shelf_of,
    shelf_of_ended,
    shown_result,
    storable,
)
from skunkqueue.persistence.mongodb.errors import DUPLICATE, is_conflict

ATTEMPTS: Final = 6
"""How often a batch is written that meets other writes."""

UNSURE: Final = -1
"""In place of how many runs were as expected: what was done before counts no longer."""

LARGEST: Final = 16_000_000
"""Bytes that body and value may have together: a document holds 16 MiB."""

Pair = tuple[Claim, Outcome]


FREED: Final = {"held": "", "key": "", "expiring": ""}
"""What a run that ends no longer has."""


def write(runs: Collection[Document], writes: Sequence[UpdateOne | UpdateMany]) -> int:
    """Write in one batch, in no order; returns how many runs were as expected.

    Where it met another write it is repeated, which changes nothing where it was done before; then returns UNSURE.
    """
    if not writes:
        return 0
    for attempt in range(ATTEMPTS):
        try:
            found = runs.bulk_write(writes, ordered=False).matched_count
        except (BulkWriteError, OperationFailure) as error:
            if attempt + 1 == ATTEMPTS or not is_conflict(error):
                raise
            time.sleep(random.uniform(0.0, 0.02) * (attempt + 1))  # noqa: S311 - not a secret
        else:
            return UNSURE if attempt else found
    return UNSURE


# -- outcomes of claims ----------------------------------------------------------------------------------------------


def commit(runs: Collection[Document], outcomes: Sequence[Pair], now: float) -> set[str]:
    """Write outcomes; returns the ids taken: those whose run still bears the claim's token."""
    taken: set[str] = set()
    for pairs in _rounds(outcomes):
        found = write(runs, [UpdateOne({"_id": c.id, "held": c.token}, _change(c, o, now)) for c, o in pairs])
        taken |= {claim.id for claim, _ in pairs} if found == len(pairs) else bearing(runs, [c for c, _ in pairs])
    return taken


def are_apart(outcomes: Sequence[Pair], wants: Sequence[Want], now: float) -> bool:
    """Whether commit and claim can be done at the same time: the outcomes put nothing back that could be claimed, and
    no run of theirs can be claimed meanwhile, as its lease has not ended and nobody asks for what a token holds."""
    return bool(outcomes) and not (
        any(want.repeated for want in wants)
        or any(outcome.kind in ("again", "untouched") or claim.until <= now for claim, outcome in outcomes)
    )


def bearing(runs: Collection[Document], claims: Iterable[Claim]) -> set[str]:
    """The ids of those claims whose token the run bears: it is held under it, or was last."""
    tokens = {claim.id: claim.token for claim in claims}
    found = runs.find({"_id": {"$in": list(tokens)}}, {"held": 1, "token": 1}, batch_size=in_one(len(tokens)))
    return {each["_id"] for each in found if each.get("held", each.get("token")) == tokens[each["_id"]]}


def _rounds(outcomes: Sequence[Pair]) -> Iterable[list[Pair]]:
    """The outcomes, in order, such that no round has two of one run."""
    pairs = list(outcomes)
    while pairs:
        seen: set[str] = set()
        this: list[Pair] = []
        rest: list[Pair] = []
        for pair in pairs:
            id = pair[0].id
            (rest if id in seen else this).append(pair)
            seen.add(id)
        yield this
        pairs = rest


def _change(claim: Claim, outcome: Outcome, now: float) -> Document:
    size = len(claim.envelope.body) + len(outcome.value or b"")
    if size > LARGEST:
        raise StoreRefused(f"with the arguments it is {size:,} bytes, and a document of MongoDB holds 16 MB")
    change = _CHANGES[outcome.kind](claim, outcome, now)
    if outcome.notes is not None:
        change["$set"]["notes"] = outcome.notes
    return change


def _complete(claim: Claim, outcome: Outcome, now: float) -> Document:
    change = _ending("succeeded", claim.envelope, now, outcome.keep)
    change["$set"] |= {"token": claim.token, field_of(outcome.value): outcome.value}
    change["$unset"]["error"] = ""
    result = shown_result(outcome.value)
    if result is not None:
        change["$set"]["result"] = result
    return change


def _failed(claim: Claim, outcome: Outcome, now: float) -> Document:
    change = _ending("failed", claim.envelope, now, outcome.keep)
    change["$set"] |= {"token": claim.token, field_of(outcome.value): outcome.value, "error": _text(outcome.error)}
    return change


def _ending(state: str, envelope: Envelope, now: float, keep: float | None = None) -> Document:
    kept, shelf = kept_until(envelope, now, keep), shelf_of_ended(state, envelope.queue, envelope.route)
    shown = {"ripe_at": date_of(kept), "ended_at": date_of(now)}
    return {"$set": {"state": state, "shelf": shelf, "ripe": kept, "ended": now, **shown}, "$unset": dict(FREED)}


def _again(claim: Claim, outcome: Outcome, now: float) -> Document:
    change = _back(claim, old_place(claim.envelope.due, now) if outcome.due is None else outcome.due)
    change["$set"]["error"] = _text(outcome.error)
    return change


def _untouched(claim: Claim, outcome: Outcome, now: float) -> Document:
    return _back(claim, old_place(claim.envelope.due, now))


def _back(claim: Claim, ripe: float) -> Document:
    """Back into the queue. The token stays, so that a repeated commit is recognized; the worker is cleared."""
    written = {"state": "queued", "ripe": float(ripe), "ripe_at": date_of(ripe), "token": claim.token}
    return {"$set": written, "$unset": {"held": "", "worker": ""}}


def _started(claim: Claim, outcome: Outcome, now: float) -> Document:
    return {"$set": {"held": claim.token}}


def _progress(claim: Claim, outcome: Outcome, now: float) -> Document:
    return {"$set": {"progress": outcome.progress, "note": _text(outcome.note)}}


def _text(text: str | None) -> str | bytes | None:
    return None if text is None else storable(text)


_CHANGES: Final[Mapping[str, Callable[[Claim, Outcome, float], Document]]] = {
    "complete": _complete,
    "failed": _failed,
    "again": _again,
    "untouched": _untouched,
    "started": _started,
    "progress": _progress,
}


# -- the desk --------------------------------------------------------------------------------------------------------


def cancelling(document: Document, error: str | None, now: float, by: str = "") -> UpdateOne:
    """Ends an open run as cancelled. With an error, only where nobody's lease is on it, or it has ended."""
    where: Document = {"_id": document["_id"], "shelf": document["shelf"]}
    if error is not None:
        where["$or"] = [{"state": {"$ne": "running"}}, {"ripe": {"$lte": now}}]
    change = _ending("cancelled", envelope_of(document), now)
    change["$set"] |= {"value": None, "error": error, "by": by}
    change["$unset"] |= {"token": "", "result": "", "long": ""}
    return UpdateOne(where, change)


def cancel(runs: Collection[Document], ids: Sequence[str], now: float) -> list[Record]:
    """Cancel open runs; returns the records of those that this call cancelled."""
    open_ = {"_id": {"$in": ids}, "state": {"$nin": ["succeeded", "failed", "cancelled"]}}
    found = runs.find(open_, PLACES, batch_size=in_one(len(ids)))
    by = os.urandom(8).hex()
    writes = [cancelling(document, None, now, by) for document in found]
    if not write(runs, writes):
        return []
    done = runs.find({"_id": {"$in": ids}, "by": by}, UNSHOWN, batch_size=in_one(len(ids)))
    return [record_of(each) for each in done.sort("_id", 1)]


def reopen(runs: Collection[Document], ids: Sequence[str], now: float) -> set[str]:
    """Queue failed or cancelled runs again; returns those that this call reopened."""
    ended = {"_id": {"$in": ids}, "state": {"$in": ["failed", "cancelled"]}}
    found = runs.find(ended, PLACES, batch_size=in_one(len(ids)))
    by = os.urandom(8).hex()
    writes = [_reopening(each, now, by) for each in found if number_of(each.get("expires"), inf) > now]
    try:
        write(runs, writes)
    except BulkWriteError as error:
        if any(each["code"] != DUPLICATE for each in error.details["writeErrors"]):
            raise
    return _done_by(runs, ids, by) if writes else set()


def _reopening(document: Document, now: float, by: str) -> UpdateOne:
    envelope = envelope_of(document)
    written: Document = {
        "state": "queued", "shelf": shelf_of(envelope.queue, envelope.route), "ripe": now, "ripe_at": date_of(now),
        "by": by,
    }  # fmt: skip
    if envelope.expires is not None:
        written["expiring"] = envelope.expires
    if envelope.unique is not None:
        written["key"] = key_of(envelope)
    return UpdateOne(
        {"_id": document["_id"], "shelf": document["shelf"]},
        {"$set": written, "$unset": dict.fromkeys(_OF_AN_ATTEMPT, ""), "$inc": {"claimed": 1}},
    )


_OF_AN_ATTEMPT: Final = (
    "held", "token", "worker", "lapses", "notes", "value", "long", "error", "progress", "note", "ended", "ended_at",
    "result",
)  # fmt: skip
"""What a run has of its attempts, and a run that was never run has not."""


def promote(runs: Collection[Document], ids: Sequence[str], now: float) -> set[str]:
    """Make runs ripe that are queued for later; returns those that this call promoted."""
    by = os.urandom(8).hex()
    where = {"_id": {"$in": ids}, "state": "queued", "ripe": {"$gt": now}}
    change = {"$set": {"ripe": now, "ripe_at": date_of(now), "by": by}}
    return _done_by(runs, ids, by) if write(runs, [UpdateMany(where, change)]) else set()


def discard(runs: Collection[Document], ids: Sequence[str], now: float) -> set[str]:
    """Have ended runs kept no longer; returns those that have ended."""
    where = {"_id": {"$in": ids}, "shelf": beginning(OF_ENDED)}
    found = list(runs.find(where, {"shelf": 1, "ripe": 1, "ended": 1}, batch_size=in_one(len(ids))))
    write(runs, [_discarding(each, now) for each in found])
    return {each["_id"] for each in found}


def _discarding(document: Document, now: float) -> UpdateOne:
    ended = document.get("ended")
    kept = min(number_of(document.get("ripe"), inf), kept_at_least(number_of(ended, now - REMEMBERED), now))
    # One that was reopened meanwhile is left as it is, though it may have ended again.
    return UpdateOne(
        {"_id": document["_id"], "shelf": document["shelf"], "ended": ended},
        {"$set": {"ripe": kept, "ripe_at": date_of(kept)}},
    )


def _done_by(runs: Collection[Document], ids: Sequence[Any], by: str) -> set[str]:
    found = runs.find({"_id": {"$in": ids}, "by": by}, {"_id": 1}, batch_size=in_one(len(ids)))
    return {each["_id"] for each in found}
