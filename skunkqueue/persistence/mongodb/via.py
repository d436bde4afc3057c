"""A transaction of the user's own: runs put in its session are stored when it is committed, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.client_session import ClientSession

from skunkqueue.envelope import Envelope
from skunkqueue.errors import WrongCall
from skunkqueue.persistence.mongodb.connect import RUNS, Link
from skunkqueue.persistence.mongodb.documents import document_of
from skunkqueue.persistence.mongodb.probe import has_transactions


def put_via(session: Any, envelopes: Sequence[Envelope], link: Link) -> list[str]:
    """Put runs within the transaction of a session. Raises WrongCall where that cannot be kept to."""
    _check(session, envelopes, link)
    link.database()  # makes the collection and its indexes, which a transaction cannot
    runs = session.client[link.target.dbname][RUNS]
    ids = [envelope.id for envelope in envelopes]
    # An insert that meets an id would end the whole transaction, so those that are there are left out.
    there = {each["_id"] for each in runs.find({"_id": {"$in": ids}}, {"_id": 1}, session=session)}
    new = {envelope.id: envelope for envelope in reversed(envelopes) if envelope.id not in there}
    if new:
        runs.insert_many([document_of(envelope) for envelope in reversed(new.values())], session=session)
    return ids


def _check(session: Any, envelopes: Sequence[Envelope], link: Link) -> None:
    if not isinstance(session, ClientSession):
        raise WrongCall(f"via is a pymongo ClientSession in a transaction; got {type(session).__name__}")
    if not session.in_transaction:
        raise WrongCall("via is in no transaction: call its start_transaction() first")
    if any(envelope.unique is not None for envelope in envelopes):
        raise WrongCall(
            "a run with a unique key cannot be fired in a transaction: it would see the keys as they were at its begin"
        )
    if not has_transactions(link):
        raise WrongCall(f"the server at {link.target.url} has no transactions: they need a replica set of MongoDB")
    ours, theirs = link.client.nodes, session.client.nodes
    if ours and theirs and ours.isdisjoint(theirs):
        raise WrongCall(f"via is a session of another server; the queue is at {link.target.url}")
