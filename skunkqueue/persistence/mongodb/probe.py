"""Asks a server what it can do. Its version says little: compatible servers lack what it should have."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from skunkqueue.persistence.mongodb.connect import RIPE_ORDER, Link

SORTS: Final = frozenset({"SORT", "Sort", "Incremental Sort"})
"""Stages of a plan that sort what an index should have given in order: MongoDB's, and PostgreSQL's."""


class Features(NamedTuple):
    """What a server can do."""

    sorts_by_index: bool
    """Whether the index gives ripe runs in order; else a claim asks for a short time at a time."""

    streams: bool
    """Whether there are change streams, which announce new runs."""


def features_of(link: Link) -> Features:
    """Ask the server. Raises what concerns the connection."""
    return Features(_sorts_by_index(link), _has_streams(link))


def _sorts_by_index(link: Link) -> bool:
    """By its plans for a claim, and for when to look again; where it explains none, it is believed to."""
    ripe = {"shelf": {"$in": ["probe/one", "probe/two"]}, "ripe": {"$lte": time.time()}}
    try:
        plan = [link.runs.find(ripe).sort(order).limit(1).explain() for order in (RIPE_ORDER, [("ripe", 1)])]
    except ConnectionFailure:
        raise
    except OperationFailure:
        return True
    return SORTS.isdisjoint(_stages(plan))


def _stages(plan: Any) -> Iterator[str]:
    """The names of all stages in a plan, without those that were only thought of."""
    if isinstance(plan, Mapping):
        for name, value in plan.items():
            if name in ("rejectedPlans", "allPlansExecution"):
                continue
            if name in ("stage", "Node Type") and isinstance(value, str):
                yield value
            yield from _stages(value)
    elif isinstance(plan, list):
        for each in plan:
            yield from _stages(each)


def _has_streams(link: Link) -> bool:
    """Only replica sets and sharded clusters have them; some servers say so and do not."""
    hello = link.hello()
    if not hello.get("setName") and hello.get("msg") != "isdbgrid":
        return False
    try:
        with link.runs.watch(max_await_time_ms=1) as stream:
            stream.try_next()
    except ConnectionFailure:
        raise
    except PyMongoError:
        return False
    return True


def has_transactions(link: Link) -> bool:
    """Whether a transaction can be committed: some servers begin one, and then write as if there were none."""
    try:
        with link.client.start_session() as session, session.start_transaction():
            link.runs.find_one({"_id": ""}, {"_id": 1}, session=session)
    except ConnectionFailure:
        raise
    except PyMongoError:
        return False
    return True
